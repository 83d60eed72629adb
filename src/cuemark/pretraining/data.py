"""The one sampler under every objective: annotated videos in, batches of clips with labels and sentences out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from cuemark import ranks
from cuemark.batch import ClipBatch, normalised
from cuemark.clips import Clip, ClipSet, ahead
from cuemark.errors import DataError, within
from cuemark.segments import Segment
from cuemark.text import PROMPTS, TextEncoder, clip_sentence


@dataclass
class ClipData:
    """Batches for :mod:`cuemark.loop`; every batch depends on (seed, epoch) alone, not on ``workers``.

    Where several processes train together, each gets its own rows of every batch; in validation, where nothing looks
    across rows, each gets its own batches.
    """

    clips: ClipSet
    classes: Sequence[str]
    batch: int
    text: TextEncoder | None = None
    """Embeds each clip's sentence, for objectives that read."""
    captions: Mapping[str, Sequence[Segment]] = field(default_factory=dict)
    """Dense captions by video id."""
    background_captions: bool = True
    """False: background clips always get the synthetic prompt (CLAP's dagger)."""
    global_features: Mapping[str, np.ndarray] | None = None
    """Frozen ``(F,)`` feature of each video, for TSP's region head."""
    workers: int = 2

    def __post_init__(self) -> None:
        self._class = {name: i for i, name in enumerate(self.classes)}
        self.batch = min(self.batch, len(self.clips))
        within("sampling.prompts", self.clips.sampling.prompts, 1, len(PROMPTS))
        if self.global_features is not None:
            missing = [v for v in self.clips.truth if v not in self.global_features]
            if missing:
                raise DataError(f"{len(missing)} videos have no global video feature, '{missing[0]}' first; "
                                "extract features for every video of the truth.")

    def __len__(self) -> int:
        """Batches in an epoch: full ones only in training (BatchNorm and negatives see one batch size)."""
        n = len(self.clips) / self.batch
        return math.floor(n) if self.clips.training else math.ceil(n)

    def epoch(self, number: int, skip: int = 0) -> Iterator[ClipBatch]:
        """The batches of an epoch, leaving out the first ``skip``."""
        order = self.clips.order(number).tolist()[: len(self) * self.batch]
        batches = [order[i : i + self.batch] for i in range(skip * self.batch, len(order), self.batch)]
        if self.clips.training:
            batches = [ranks.mine(batch) for batch in batches]
        else:
            batches = batches[ranks.rank() :: ranks.count()]
        # a batch reads each of its videos once
        groups = [group for batch in batches for group in self.clips.by_video(batch)]
        found = ahead(lambda group: self._draw(group, number), groups, self.workers)
        for batch in batches:
            drawn: dict[int, tuple[Clip, str | None]] = {}
            while len(drawn) < len(batch):
                drawn |= next(found)
            yield self._collate([drawn[n] for n in batch])

    def _draw(self, numbers: Sequence[int], epoch: int) -> dict[int, tuple[Clip, str | None]]:
        """Clips of one video, by their number, and their sentences."""
        drawn = self.clips.draw_together(numbers, epoch)
        return {number: (clip, self._sentence(clip, rng)) for number, (clip, rng) in zip(numbers, drawn, strict=True)}

    def _sentence(self, clip: Clip, rng: np.random.Generator) -> str | None:
        if self.text is None:
            return None
        region = clip.region
        return clip_sentence(
            clip.start, clip.end, region.near, region.foreground, self.captions.get(region.video, ()), rng,
            self.clips.sampling.p_caption, self.background_captions, self.clips.sampling.prompts,
        )

    def _collate(self, drawn: Sequence[tuple[Clip, str | None]]) -> ClipBatch:
        regions = [clip.region for clip, _ in drawn]
        label = torch.tensor([self._class.get(r.label, -1) if r.label else -1 for r in regions])
        batch = ClipBatch(
            clips=normalised(np.stack([clip.frames for clip, _ in drawn]), self.clips.clip.mean, self.clips.clip.std),
            label=label,
            foreground=torch.tensor([r.foreground for r in regions]),
        )
        if self.text is not None:
            sentences = [s or "" for _, s in drawn]
            batch.text = self.text.encode(sentences)
            batch.text_id = torch.tensor([_number(s) for s in sentences])
        if self.global_features is not None:
            stacked = np.stack([self.global_features[r.video] for r in regions])
            batch.global_feature = torch.from_numpy(stacked.astype(np.float32))
        return batch


def _number(sentence: str) -> int:
    """The same for the same sentence, in every process."""
    return int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=8).digest(), "big") >> 1
