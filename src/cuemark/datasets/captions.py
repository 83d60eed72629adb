"""ActivityNet Captions: sentences about stretches of a video (Krishna et al., *Dense-Captioning Events in Videos*).

    {"v_QOlSCBRmfWY": {"duration": 82.73, "timestamps": [[0.83, 19.86], …], "sentences": ["A young woman …", …]}}

Ids carry a ``v_`` in the file and none in memory, so that they meet ActivityNet's own: it is stripped on reading
(from a file whose ids all have one) and added on writing. Blanks around a sentence are dropped (most of the official
ones begin with one). The official training file has two rows that end before they start; such rows are dropped,
counted and logged. Zero length and ends beyond the video are kept as written, as everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cuemark.datasets.activitynet import bare_ids
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json

_log = logging.getLogger("cuemark")


def parse(path: str | Path) -> dict[str, list[Segment]]:
    """Read a caption file: for each video its captions in the order of the file, each with its ``sentence``.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    return {vid: list(video.annotations) for vid, video in truth(path).items()}


def truth(path: str | Path, subset: str = "training") -> Truth:
    """The same with each video's duration in seconds: the truth of a grounding task. The files name no subset.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    data = read_json(path, "caption")
    if not isinstance(data, dict):
        raise DataError(f"'{path}' is not a caption file; expected an object with one entry per video.")
    videos: Truth = {}
    ids = bare_ids(data)
    backwards: list[str] = []
    for name, entry in data.items():
        where = f"'{path}', video '{name}'"
        duration, stamps, sentences = _entry(entry, where)
        captions = []
        for i, (stamp, sentence) in enumerate(zip(stamps, sentences)):
            caption = _caption(stamp, sentence, f"{where}, caption {i}")
            if caption is None:
                backwards.append(f"caption {i} of video '{name}'")
            else:
                captions.append(caption)
        videos[ids[name]] = VideoTruth(duration, tuple(captions), subset)
    if backwards:
        _log.warning("'%s': dropped %d caption(s) that end before they start, the first is %s.",
                     path, len(backwards), backwards[0])
    return videos


def write(path: str | Path, captions: Mapping[str, Sequence[Segment]], durations: Mapping[str, float]) -> None:
    """Write a caption file in ActivityNet Captions' form; a segment without a ``sentence`` is left out.

    Args:
        captions: for each video its captions.
        durations: for each of these videos its length in seconds.

    Raises:
        DataError: a video has no duration.
    """
    data = {}
    for vid, segments in captions.items():
        if vid not in durations:
            raise DataError(f"video '{vid}' has captions but no duration; name its length in seconds.")
        told = [s for s in segments if s.sentence is not None]
        data[f"v_{vid}"] = {
            "duration": durations[vid],
            "timestamps": [[s.start, s.end] for s in told],
            "sentences": [s.sentence for s in told],
        }
    write_json(path, data)


def _entry(entry: Any, where: str) -> tuple[float, list[Any], list[Any]]:
    try:
        duration, stamps, sentences = float(entry["duration"]), entry["timestamps"], entry["sentences"]
    except (TypeError, KeyError, ValueError):
        raise DataError(f'{where}: expected an object with "duration" (seconds), "timestamps" and "sentences".'
                        ) from None
    if not 0 <= duration < float("inf"):
        raise DataError(f'{where}: "duration" must be a number of seconds, got {duration}.')
    if not (isinstance(stamps, list) and isinstance(sentences, list) and len(stamps) == len(sentences)):
        raise DataError(f'{where}: "timestamps" and "sentences" must be lists of one length.')
    return duration, stamps, sentences


def _caption(stamp: Any, sentence: Any, where: str) -> Segment | None:
    """One caption, or None when its end is before its start."""
    try:
        start, end = map(float, stamp)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected [start, end] in seconds, got {str(stamp)[:80]}.") from None
    if not isinstance(sentence, str):
        raise DataError(f"{where}: expected a sentence, got {str(sentence)[:80]}.")
    if end < start:
        return None
    try:
        return Segment(start, end, sentence=sentence.strip())
    except ValueError as error:
        raise DataError(f"{where}: {error}; mend or remove this caption.") from None
