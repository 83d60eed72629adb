"""Dense captioning: events found in a video and told in sentences, as densevid_eval scores them, and SODA_c.

The task and the evaluator are those of Krishna et al., "Dense-Captioning Events in Videos" (ICCV 2017): the ActivityNet
Captions challenge. SODA_c is of Fujita et al., "SODA: Story Oriented Dense Video Captioning Evaluation Framework" (ECCV
2020). All figures are printed times 100.

Conventions
    * Times are seconds. ``IoU = |a ∩ b| / (|a ∪ b| + 1e-8)``: never quite 1.
    * The truth is one set of references or several (ActivityNet's val_1 and val_2, by different people). A video counts
      if any of them has a sentence for it; annotations without a sentence take no part.
    * Every figure is a mean over all videos of the truth. One without predictions counts 0 everywhere, so predictions
      for a part of the videos scale every figure down (``missing`` counts them): choose the truth to fit.
      Predictions for other videos are left out and counted in ``unknown``.
    * Of each video the first ``max_proposals`` predictions in file order count. Their scores play no part.
    * Words are those of :mod:`cuemark.metrics.tokens`.

Sentences, at each tIoU of 0.3, 0.5, 0.7, 0.9
    1. A prediction is paired with each sentence of each reference whose IoU is ``>=`` the threshold; one that has none
       is paired with one meaningless word, so that a sentence in the wrong place costs. (Officially a new random string
       of 10 to 20 letters each time; here a fixed word that no caption has. The figures are the same: a string
       matches nothing, and its spelling counts nowhere.)
    2. BLEU@1 … BLEU@4, METEOR, ROUGE-L and CIDEr of each video are counted over its pairs alone, each pair having one
       reference (:mod:`cuemark.metrics.ngrams`, :mod:`cuemark.metrics.meteor`), even CIDEr's rarity of words; a
       video with many predictions weighs no more than others.
    3. Mean over videos, then over thresholds. Perfect captions do not reach 100: what overlaps a neighbour is also
       paired with the neighbour's sentence.

Places, at each tIoU
    Precision is the share of a video's predictions that have an IoU ``>`` the threshold with any sentence, recall the
    share of its sentences likewise; of several references each video takes the best, for either figure alone.

SODA_c
    For a video, predictions and the sentences of one reference are both put in order of their start. Of all matchings
    that keep both orders (each side once at most) the one with the largest sum of ``IoU * METEOR`` is found by
    dynamic programming; the sum over the number of predictions is the precision, over the number of sentences the
    recall, and the harmonic mean of the two the score. Of several references each video takes the best score (the
    program's --multi_reference). Two quirks of the program are kept: METEOR, which is not symmetric, takes the
    sentence of the truth for the hypothesis and the prediction for the reference; and of several references the
    sentences stay in file order. One departure: the program leaves videos without predictions out of its mean, here
    they count 0 as everywhere else.

METEOR, and so SODA_c, need Java and pycocoevalcap; without them both are None and are no figures. Everything else is
plain numpy. A score for captions at true segments and one for captions at proposals are of different scale: a model's
METEOR at true segments (10.7) exceeds a second person's at that person's own segments (7.9). Never compare the two.

Cost: n log n in pairs; 16,000 predictions take a second or two, METEOR and SODA_c some 25 s more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cuemark.errors import DataError, within
from cuemark.metrics import meteor as meteor_program
from cuemark.metrics import ngrams
from cuemark.metrics.counting import levels_of, weights_of
from cuemark.metrics.tokens import tokenize
from cuemark.segments import Predictions, Segment, Truth, times

TIOUS: NDArray[np.float64] = np.array([0.3, 0.5, 0.7, 0.9])
"""densevid_eval's thresholds."""
TIOUS.flags.writeable = False

_FILLER = "zqxjkvbpw"
"""What a prediction that meets no sentence is compared with."""


@dataclass(frozen=True, eq=False)
class CaptionScore:
    """Every video's scores. Properties are means over videos and thresholds, fractions in 0..1 (CIDEr: 0..10)."""

    videos: tuple[str, ...]
    """The V videos of the truth that have a sentence, in order of first appearance."""
    tious: NDArray[np.float64]
    """``(T,)`` the thresholds."""
    values: Mapping[str, NDArray[np.float64]]
    """Name of a figure -> ``(V, T)`` scores of videos at thresholds; SODA_c, which has no threshold: ``(V, 1)``."""
    missing: int
    """How many of the videos have no prediction, and so count 0."""
    unknown: int
    """How many predictions are of videos without a sentence, and were left out."""

    def figures(self, weights: ArrayLike | None = None) -> dict[str, float]:
        """Means over videos and thresholds in percent.

        Args:
            weights: ``(V,)`` how many times each video counts; None: once. NaN if all weigh 0.

        Raises:
            CallError: there is not one weight for each video.
        """
        return {name: float(x.mean()) for name, x in self.by_tiou(weights).items()}

    def by_tiou(self, weights: ArrayLike | None = None) -> dict[str, NDArray[np.float64]]:
        """Means over videos in percent, ``(T,)`` for the thresholds; SODA_c ``(1,)``. ``weights`` as above."""
        w = np.ones(len(self.videos)) if weights is None else weights_of(weights, self.videos)
        total = w.sum()
        return {name: 100 * ((w[:, None] * x).sum(axis=0) / total) if total > 0 else np.full(x.shape[1], np.nan)
                for name, x in self.values.items()}

    def _mean(self, name: str) -> float:
        return float(self.values[name].mean(axis=0).mean())

    @property
    def bleu(self) -> tuple[float, ...]:
        """BLEU@1 … BLEU@4."""
        return tuple(self._mean(f"BLEU@{n}") for n in range(1, ngrams.N + 1))

    @property
    def meteor(self) -> float | None:
        """None where METEOR was left out."""
        return self._mean("METEOR") if "METEOR" in self.values else None

    @property
    def rouge(self) -> float:
        """ROUGE-L."""
        return self._mean("ROUGE-L")

    @property
    def cider(self) -> float:
        """CIDEr, in 0..10."""
        return self._mean("CIDEr")

    @property
    def soda(self) -> float | None:
        """SODA_c with METEOR; None where METEOR was left out."""
        return self._mean("SODA_c") if "SODA_c" in self.values else None

    @property
    def recall(self) -> float:
        """Share of sentences whose place was found."""
        return self._mean("recall")

    @property
    def precision(self) -> float:
        """Share of predictions that are at the place of a sentence."""
        return self._mean("precision")


def captions(references: Truth | Sequence[Truth], predictions: Predictions, tious: ArrayLike = TIOUS,
             meteor: bool | None = None, max_proposals: int = 1000) -> CaptionScore:
    """Score captioned predictions against truth with sentences; the module's docstring is the definition.

    Args:
        references: video id -> what is known about it, or several such sets. Annotations with a ``sentence`` count.
        predictions: video id -> segments with a ``sentence`` (it may be empty), in the file's order.
        tious: thresholds in 0..1, at least one.
        meteor: count METEOR and SODA_c; None to count them if Java and pycocoevalcap are there.
        max_proposals: how many predictions of a video count, the first ones.

    Raises:
        DataError: the truth has no sentence, a prediction has none, or METEOR is demanded and cannot run.
        CallError: ``tious`` is not a row of numbers in 0..1, or ``max_proposals`` is below 1.
    """
    levels = levels_of(tious)
    within("max_proposals", max_proposals, 1)
    with_meteor = meteor_program.missing() is None if meteor is None else meteor
    for vid, segments in predictions.items():
        for i, s in enumerate(segments):
            if s.sentence is None:
                raise DataError(f"video '{vid}', prediction {i}: there is no sentence to score; give every prediction "
                                'one (an empty one, "", is allowed).')

    told = [{vid: found for vid, v in truth.items() if (found := [s for s in v.annotations if s.sentence is not None])}
            for truth in ([references] if isinstance(references, Mapping) else references)]
    videos = tuple(dict.fromkeys(vid for reference in told for vid in reference))
    if not videos:
        raise DataError("the truth has no sentence to compare captions with; check the file and the subset chosen.")
    work = _Work(levels, sort_sentences=len(told) == 1)
    for v, vid in enumerate(videos):
        real = [reference[vid] for reference in told if vid in reference]
        work.add(v, predictions.get(vid, [])[:max_proposals], real)
    return CaptionScore(
        videos, levels, work.score(len(videos), with_meteor),
        missing=sum(not predictions.get(vid) for vid in videos),
        unknown=sum(len(segments) for vid, segments in predictions.items() if vid not in set(videos)))


class _Work:
    """Pairs to score, gathered video by video."""

    def __init__(self, tious: NDArray[np.float64], sort_sentences: bool) -> None:
        self.tious = tious
        self.sort_sentences = sort_sentences
        self.number: dict[str, int] = {}  # of each different caption
        self.pairs: list[tuple[int, int, int, float, float]] = []
        """Video, prediction's and sentence's caption (-1: the filler), and that it counts at ``low < tIoU <= high``."""
        self.places: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        """Video -> ``(T,)`` recall and precision."""
        self.stories: list[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        """Video, captions of its predictions and of one reference's sentences in order of time, ``(p, s)`` IoU."""

    def add(self, video: int, found: Sequence[Segment], references: Sequence[Sequence[Segment]]) -> None:
        """Pair one video's predictions with the sentences of every reference that has it."""
        if not found:
            return
        found_times, mine = times(found), self._captions(found)
        best = np.full(len(found), -1.0)
        recall = precision = np.zeros(len(self.tious))
        for real in references:
            theirs = self._captions(real)
            real_times = times(real)
            iou = _iou(found_times, real_times)
            for p, s in zip(*np.nonzero(iou >= self.tious.min())):
                self.pairs.append((video, mine[p], theirs[s], -1.0, iou[p, s]))
            best = np.maximum(best, iou.max(axis=1))
            over = iou > self.tious[:, None, None]
            precision = np.maximum(precision, over.any(axis=2).mean(axis=1))
            recall = np.maximum(recall, over.any(axis=1).mean(axis=1))
            first = np.argsort(found_times[:, 0], kind="stable")
            second = np.argsort(real_times[:, 0], kind="stable") if self.sort_sentences else np.arange(len(real))
            self.stories.append((video, mine[first], theirs[second], iou[np.ix_(first, second)]))
        self.pairs += [(video, caption, -1, high, np.inf)
                       for caption, high in zip(mine, best) if high < self.tious.max()]
        self.places[video] = recall, precision

    def _captions(self, segments: Sequence[Segment]) -> NDArray[np.int64]:
        return np.array([self.number.setdefault(s.sentence or "", len(self.number)) for s in segments], np.int64)

    def score(self, videos: int, with_meteor: bool) -> dict[str, NDArray[np.float64]]:
        """Figure -> ``(videos, T)``."""
        words = [tokenize(caption) for caption in self.number]
        filler, known = _FILLER, {word for caption in words for word in caption}
        while filler in known:
            filler += "q"
        words.append([filler])
        columns = np.array(self.pairs, np.float64).reshape(-1, 5)
        video, mine, theirs = columns[:, :3].T.astype(np.int64)
        theirs[theirs < 0] = len(words) - 1
        used = [(columns[:, 3] < t) & (t <= columns[:, 4]) for t in self.tious]

        pairs = ngrams.pair(ngrams.grams(words), video, videos, mine, theirs)
        bleu = np.stack([ngrams.bleu(pairs, u) for u in used], axis=1)
        values = {f"BLEU@{n + 1}": bleu[:, :, n] for n in range(ngrams.N)}
        if with_meteor:
            # Different spellings may be the same words: a pair of words is asked for once.
            texts: dict[str, int] = {}
            text = np.array([texts.setdefault(" ".join(caption), len(texts)) for caption in words])
            counts, swapped = self._align(list(texts), text, mine, theirs)
            values["METEOR"] = np.stack([meteor_program.score(meteor_program.total(counts[u], video[u], videos))
                                         for u in used], axis=1)
        lcs = ngrams.rouge(words, mine, theirs)
        values["ROUGE-L"] = np.stack([np.bincount(video[u], lcs[u], minlength=videos)
                                      / np.bincount(video[u], minlength=videos).clip(min=1) for u in used], axis=1)
        values["CIDEr"] = np.stack([ngrams.cider(pairs, u) for u in used], axis=1)
        if with_meteor:
            values["SODA_c"] = self._soda(videos, swapped)
        values["recall"], values["precision"] = places = np.zeros((2, videos, len(self.tious)))
        for v, both in self.places.items():
            places[:, v] = both
        return values

    def _align(self, texts: list[str], text: NDArray[np.int64], mine: NDArray[np.int64], theirs: NDArray[np.int64]
               ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
        """METEOR's counts of the pairs, and its score of every prediction and sentence of ``stories``, swapped."""
        asked = [text[mine] * len(texts) + text[theirs]]
        for _, p, s, iou in self.stories:  # where the IoU is 0 the score does not matter
            i, j = np.nonzero(iou)
            asked.append(text[s[j]] * len(texts) + text[p[i]])
        each, place = np.unique(np.concatenate(asked), return_inverse=True)
        counts = meteor_program.align([(texts[i], texts[j]) for i, j in zip(*np.divmod(each, len(texts)))])
        score = meteor_program.score(counts)[place[len(mine):]]
        swapped, at = [], 0
        for (_, _, _, iou), keys in zip(self.stories, asked[1:]):
            similar = np.zeros_like(iou)
            similar[np.nonzero(iou)] = score[at:at + len(keys)]
            swapped.append(similar)
            at += len(keys)
        return counts[place[:len(mine)]], swapped

    def _soda(self, videos: int, similar: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """``(videos, 1)`` SODA_c."""
        score = np.zeros((videos, 1))
        for (v, p, s, iou), meteor in zip(self.stories, similar):
            matched = _best_in_order(iou * meteor)
            precision, recall = matched / len(p), matched / len(s)
            if matched > 0:
                score[v] = max(score[v, 0], 2 * precision * recall / (precision + recall))
        return score


def _iou(found: NDArray[np.float64], real: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(p, s)`` IoU as densevid_eval has it: the union is at most the hull, and 1e-8 longer."""
    a, b = found[:, None], real[None]
    inter = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return inter / (np.minimum(hull, b[..., 1] - b[..., 0] + a[..., 1] - a[..., 0]) + 1e-8)


def _best_in_order(gain: NDArray[np.float64]) -> float:
    """The largest sum of ``(p, s)`` gains >= 0, at most one in a row or column, each below and right of the last."""
    best = np.zeros(gain.shape[1] + 1)
    for row in gain:
        best[1:] = np.maximum.accumulate(np.maximum(best[1:], best[:-1] + row))
    return float(best[-1])
