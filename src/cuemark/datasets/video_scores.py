"""What is shown in a video as a whole, and how sure a classifier is: scores of labels, video by video.

Not a format of annotations: no times. ActivityNet's systems propose segments without a name and multiply them with such
scores (:func:`cuemark.localizers.classify.name_predictions`). Layouts::

    .json   {"results": {"sJFgo9H6zNo": {"Fun sliding down": 0.93, "Snow tubing": 0.04}}}
            {"results": {"sJFgo9H6zNo": [{"label": "Fun sliding down", "score": 0.93}, …]}}      ActivityNet's challenge
            {"class": ["Applying sunscreen", …], "results": {"sJFgo9H6zNo": [0.001, …]}}         CUHK 2017
    .csv    video,label,score            a row for each video and label
            video,Long jump,Surfing,…    a row for each video, a column for each label
    .npy    (1574, 101)                  UntrimmedNet on THUMOS14, as G-TAD ships it (uNet_test.npy)

``results`` may be missing around the videos. CUHK's file is ``cuhk_val_simp_share.json``, with the 200 scores of each
validation video (also as a list of one list). UntrimmedNet's rows are the test videos in the order of their numbers,
``video_test_0000001`` first (1010 rows: the validation videos), and its columns the 101 classes of UCF101; without a
list of classes, the 20 of the detection task are read, with which its best guess is right for 195 of the 212 test
videos that have annotations. A row sums to about 2.

Traps: names with ``v_`` before them in every place lose it only where the file is CUHK's; scores are what the
classifier says, logits in some files (HACS's), and multiplying needs scores that are not negative, so negative ones are
refused; a video that is there twice, or a label twice in a video, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cuemark.datasets.files import bare_ids
from cuemark.datasets.rows import number, table
from cuemark.datasets.thumos import CLASS_IDS
from cuemark.errors import DataError
from cuemark.segments import read_json

VideoScores = dict[str, dict[str, float]]
"""Video id -> label -> score."""

_ROWS = {1574: "video_test_{:07d}", 1010: "video_validation_{:07d}"}
"""THUMOS14's untrimmed videos -> how they are called."""
_UCF101 = 101


def read_video_scores(path: str | Path, classes: Sequence[str] | None = None) -> VideoScores:
    """Read a file of any of the layouts above.

    Args:
        classes: labels of the columns of a ``.npy`` file, in order (:func:`cuemark.datasets.splits.read_classes`);
            only needed where they are not UCF101's.

    Raises:
        DataError: naming the file, the video and what is wrong with it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json(path)
    if suffix == ".csv":
        return _csv(path)
    if suffix == ".npy":
        return _npy(path, classes)
    raise DataError(f"'{path}' is no file of video-level scores that is known here; they are .json, .csv or .npy.")


def _json(path: Path) -> VideoScores:
    data = read_json(path, "video score", unique=True)
    videos = data.get("results", data) if isinstance(data, dict) else None
    if not isinstance(videos, dict) or not videos:
        raise DataError(f"'{path}' has no video; a file of video-level scores is "
                        '{"results": {video: {label: score}}}.')
    if isinstance(data.get("class"), list):
        labels = data["class"]
        bare = bare_ids(videos)
        return _checked(((f"'{path}', video '{vid}'", bare[vid], zip(labels, _row(row, len(labels), path, vid)))
                         for vid, row in videos.items()))
    return _checked((f"'{path}', video '{vid}'", vid, _pairs(row, f"'{path}', video '{vid}'"))
                    for vid, row in videos.items())


def _row(row: Any, width: int, path: Path, vid: str) -> list[Any]:
    while isinstance(row, list) and len(row) == 1 and isinstance(row[0], list):
        row = row[0]
    if not isinstance(row, list) or len(row) != width:
        raise DataError(f"'{path}', video '{vid}': expected {width} scores, one for each of \"class\", got "
                        f"{len(row) if isinstance(row, list) else str(row)[:40]}.")
    return row


def _pairs(row: Any, where: str) -> list[tuple[Any, Any]]:
    """``{label: score}`` or a list of ``{"label", "score"}``."""
    if isinstance(row, dict):
        return list(row.items())
    try:
        return [(item["label"], item["score"]) for item in row]
    except (TypeError, KeyError):
        raise DataError(f'{where}: expected {{label: score}} or a list of {{"label", "score"}}, got {str(row)[:40]}.'
                        ) from None


def _csv(path: Path) -> VideoScores:
    rows = list(table(path, "video score", ["video"]))
    if rows and {"label", "score"} <= rows[0][1].keys():
        found: VideoScores = {}
        for where, row in rows:
            for vid, scores in _checked([(where, row["video"], [(row["label"], row["score"])])]).items():
                mine = found.setdefault(vid, {})
                if scores.keys() & mine.keys():
                    raise DataError(f"{where}: label '{row['label']}' is there twice for video '{vid}'; keep one.")
                mine.update(scores)
        return found
    return _checked((where, row["video"], [(k, v) for k, v in row.items() if k != "video"]) for where, row in rows)


def _npy(path: Path, classes: Sequence[str] | None) -> VideoScores:
    try:
        data = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"video score file '{path}' does not exist; check the path.") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read as an array ({error}).") from None
    if data.ndim != 2 or len(data) not in _ROWS or not np.issubdtype(data.dtype, np.number):
        raise DataError(f"'{path}' holds {data.dtype} of shape {data.shape}; expected a row for each of THUMOS14's "
                        f"{' or '.join(map(str, _ROWS))} videos.")
    columns = {name: number - 1 for name, number in CLASS_IDS.items()}
    if classes is not None:
        columns = {name: i for i, name in enumerate(classes)}
    if data.shape[1] != (_UCF101 if classes is None else len(columns)):
        raise DataError(f"'{path}' has {data.shape[1]} columns, but "
                        + (f"there are {len(columns)} classes; give those of its columns, in order."
                           if classes is not None else
                           f"UCF101 has {_UCF101} classes; give a list of those of its columns, in order."))
    chosen = data[:, list(columns.values())].tolist()
    name = _ROWS[len(data)]
    return _checked((f"'{path}', row {i}", name.format(i), zip(columns, row)) for i, row in enumerate(chosen, 1))


def _checked(videos: Iterable[tuple[str, Any, Iterable[tuple[Any, Any]]]]) -> VideoScores:
    """``(where, video, (label, score) …)`` as scores, each video and label once."""
    found: VideoScores = {}
    for where, vid, pairs in videos:
        if not isinstance(vid, str) or not vid.strip():
            raise DataError(f"{where}: expected the name of a video, got {vid!r}.")
        if vid in found:
            raise DataError(f"{where}: video '{vid}' is there twice; keep one.")
        scores = found[vid] = {}
        for label, value in pairs:
            if not isinstance(label, str) or not label.strip():
                raise DataError(f"{where}: expected a label, got {label!r}; scores are told by the names of classes.")
            if label in scores:
                raise DataError(f"{where}: label '{label}' is there twice; keep one.")
            scores[label] = number(value, where, f"the score of '{label}'")
            if scores[label] < 0:
                raise DataError(f"{where}: the score of '{label}' is {scores[label]:g}; scores that segments are "
                                "multiplied with cannot be negative: turn logits into probabilities.")
    return found
