"""Proposal lists, which P-GCN and SSN train on: of each video its truth, and what another localizer proposes in it.

    # 0
    /frames/video_test_0000004
    1012
    1
    2
    5 6 33
    5 218 283
    3
    5 0.8571 0.9000 7 37
    0 0.0000 0.0000 40 60
    5 0.2063 0.2063 190 505

After a line that begins with ``#``: the video (a path; its last part counts), its frames and a factor on them, how many
truths, each with its class, start and end, how many proposals, each with the class of the truth that it overlaps most,
their tIoU, the share of the proposal inside that truth, start and end. Classes count from 1, 0 is background. Times are
frames from 0; in *normalised* lists (SSN's as downloaded, MMAction2's), told by the point in their numbers, shares of
the video.

Rules: a list is read as predictions, the proposals in their order, which have neither class nor score: the class that
stands there is the truth's. A list without any proposal is a truth. Frames become seconds by the factor where it is
above 1, else by ``reading.fps``; a normalised list needs the lengths of its videos (``reading.durations``), or their
frames and a rate. ``reading.meta`` is a file of class names, one a line, in the order of their numbers; without one the
numbers are the names. The split is the one that the file's name tells. Segments that end before they start are dropped.

What it cannot hold: scores (proposals are written in their order), times between frames, sentences, ids. On writing,
classes are numbered in the alphabetical order of the labels that occur in the truth that is given, and a proposal's
class, tIoU and share come from it, in seconds before they are rounded to frames.

Traps: 20 classes of THUMOS14 need a truth without ``Ambiguous``, or that is number 1. What is proposed in training and
in testing has to come from one proposer. P-GCN passes over proposals that are empty in frames. Its own lists hold BSN's
proposals before suppression.

Sources: Zeng et al., *P-GCN*, ICCV 2019 (github.com/Alvin-Zeng/PGCN, data/bsn_test_proposal_list.txt); Zhao et al.,
*SSN*, ICCV 2017 (github.com/yjxiong/action-detection).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cuemark.datasets.files import file_id
from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import above_0, lines, number, seconds, split_of, whole, write_text
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, labels_of, times, tiou

_WHAT = "proposal list"
_START = re.compile(r"\ufeff?\s*#[^\n]*\n[^\n]+\n\s*[\d.]+\s*\n\s*[\d.]+\s*\n\s*\d+\s*\n")
_PROPOSAL = re.compile(r"^[ \t]*\d+(?:[ \t]+[\d.]+){4}[ \t]*\r?$", re.MULTILINE)
_Row = tuple[str, list[str]]
"""A line's place and its words."""


class _Video(NamedTuple):
    """One video of a list, its times as they stand."""

    where: str
    frames: float
    factor: float
    truth: list[_Row]
    proposals: list[_Row]


def parse(path: Path, reading: Reading) -> Truth:
    """Read the truth of a list.

    Raises:
        DataError: a line is not what it should be, or how long a video or a frame is is told nowhere.
    """
    names = _names(reading)
    videos = _videos(path)
    shares, subset = _normalised(videos), split_of(path, reading.subset)
    truth: Truth = {}
    for vid, video in videos.items():
        unit, duration, fps = _clock(vid, video, reading, shares)
        found = [segment for where, words in video.truth
                 if (segment := _segment(where, words, 1, unit, reading, _label(words[0], where, names))) is not None]
        truth[vid] = VideoTruth(duration, tuple(found), subset, fps)
    return truth


def parse_predictions(path: Path, reading: Reading) -> Predictions:
    """Read the proposals of a list, in their order.

    Raises:
        DataError: as :func:`parse`.
    """
    videos = _videos(path)
    shares = _normalised(videos)
    found: Predictions = {}
    for vid, video in videos.items():
        unit, _, _ = _clock(vid, video, reading, shares)
        found[vid] = [segment for where, words in video.proposals
                      if (segment := _segment(where, words, 3, unit, reading, None)) is not None]
    return found


def _videos(path: Path) -> dict[str, _Video]:
    """The videos of a list by their ids."""
    found: dict[str, _Video] = {}
    rows = list(lines(path, _WHAT))
    starts = [i for i, (_, line) in enumerate(rows) if line.startswith("#")]
    if not starts or starts[0] != 0:
        raise DataError(f"'{path}' is no {_WHAT}: its first line does not begin with #.")
    for first, last in zip(starts, [*starts[1:], len(rows)]):
        vid, video = _entry(rows[first][0], iter(rows[first + 1 : last]))
        if vid in found:
            raise DataError(f"{video.where}: video '{vid}' is there twice; leave one out.")
        found[vid] = video
    return found


def _entry(where: str, given: Iterator[tuple[str, str]]) -> tuple[str, _Video]:
    """One video of a list from its lines after the first, which is at ``where``."""

    def line(what: str) -> tuple[str, str]:
        row = next(given, None)
        if row is None:
            raise DataError(f"{where}: this video's entry ends before {what}.")
        return row

    def block(what: str, count: int) -> list[_Row]:
        at, text = line(f"the number of {what}")
        rows: list[_Row] = []
        for _ in range(whole(text, at, f"the number of {what}")):
            at, text = line(f"the last of its {what}")
            if len(words := text.split()) != count:
                raise DataError(f"{at}: expected {count} numbers for one of the {what}, got {text[:60]!r}.")
            rows.append((at, words))
        return rows

    vid = file_id(line("the video")[1])
    at, text = line("its frames")
    frames = seconds(text, at, "the video's frames")
    at, text = line("the factor on its frames")
    factor = above_0(text, at, "a factor on the frames")
    video = _Video(where, frames, factor, block("truths", 3), block("proposals", 5))
    if (more := next(given, None)) is not None:
        raise DataError(f"{more[0]}: expected the next video, which begins with #, got {more[1][:60]!r}.")
    return vid, video


def _normalised(videos: dict[str, _Video]) -> bool:
    """Whether times are shares of the video: they are written with a point."""
    return any("." in word for video in videos.values() for _, words in (*video.truth, *video.proposals)
               for word in words[-2:])


def _clock(vid: str, video: _Video, reading: Reading, shares: bool) -> tuple[float, float, float | None]:
    """Seconds of a unit of time, seconds of the video, and its frames a second where they are told."""
    fps = video.factor if video.factor > 1 else None
    known = reading.durations.get(vid)
    if shares and known is not None:
        return float(known), float(known), fps
    frames = video.frames * video.factor
    if shares and frames <= 1:
        raise DataError(f"{video.where}: times are shares of video '{vid}', whose length the list does not tell; name "
                        "a list that counts frames, or the videos.")
    rate = reading.rate(video.where, fps)
    duration = frames / rate if known is None else float(known)
    return (duration if shares else 1 / rate), duration, rate


def _segment(where: str, words: Sequence[str], at: int, unit: float, reading: Reading, label: str | None
             ) -> Segment | None:
    start, end = (number(word, where, "a start and an end") * unit for word in words[at : at + 2])
    for word in words[1:at]:
        number(word, where, "a tIoU and a share")
    return reading.segment(start, end, where, label=label)


def _names(reading: Reading) -> list[str]:
    return [] if reading.meta is None else [line for _, line in lines(reading.meta, "class")]


def _label(word: str, where: str, names: Sequence[str]) -> str | None:
    """The name of a class number; None of the background's."""
    index = whole(word, where, "a class's number")
    if index < 0 or (names and index > len(names)):
        raise DataError(f"{where}: class {index} is none of the {len(names)} that are named; name the right file of "
                        "classes with --meta." if names else f"{where}: expected a class's number, got {index}.")
    if index == 0:
        return None
    return names[index - 1] if names else str(index)


# ---------------------------------------------------------------------------------------------- writing


def write(path: Path, truth: Truth) -> None:
    """Write a list without proposals.

    Raises:
        DataError: as :func:`write_predictions`.
    """
    write_predictions(path, {vid: [] for vid in truth}, truth)


def write_predictions(path: Path, predictions: Predictions, truth: Truth) -> None:
    """Write a list in frames: the proposals of each video in their order, beside its truth.

    Raises:
        DataError: a video's length or rate is not told.
    """
    index = {name: i + 1 for i, name in enumerate(labels_of({v: truth[v] for v in predictions if v in truth}))}
    text = []
    for i, (vid, proposals) in enumerate(predictions.items()):
        if vid not in truth:
            raise DataError(f"nothing tells how long video '{vid}' is, which a {_WHAT} must; give the truth of the "
                            "videos with --truth.")
        video = truth[vid]
        fps = rate_of(vid, video, f"a {_WHAT}")
        known = [s for s in video.annotations if s.label is not None]
        spans, theirs = times(proposals), times(known)
        frames = np.rint(spans * fps).astype(np.int64)
        text += [f"# {i}", vid, str(round(video.duration * fps)), "1", str(len(known))]
        text += [f"{index[str(s.label)]} {round(s.start * fps)} {round(s.end * fps)}" for s in known]
        text.append(str(len(proposals)))
        if not proposals:
            continue
        overlap = tiou(spans, theirs) if known else np.zeros((len(spans), 1))
        best = overlap.argmax(axis=1)
        most = overlap[np.arange(len(best)), best]
        inside = np.zeros(len(best))
        if known:
            inter = (np.minimum(spans[:, 1], theirs[best, 1]) - np.maximum(spans[:, 0], theirs[best, 0])).clip(min=0)
            inside = np.divide(inter, spans[:, 1] - spans[:, 0], out=inside, where=most > 0)
        labels = [index[str(known[k].label)] if value > 0 else 0 for k, value in zip(best.tolist(), most.tolist())]
        text += [f"{label} {value:.4f} {share:.4f} {a} {b}" for label, value, share, (a, b) in zip(
            labels, most.tolist(), inside.tolist(), frames.tolist())]
    write_text(path, "".join(f"{line}\n" for line in text))


def looks(path: Path, head: str) -> Kind | None:
    """A line with #, a name, two numbers and a count; predictions where any line has five numbers."""
    if path.is_dir() or not _START.match(head.replace("\r\n", "\n")):
        return None
    return "predictions" if _PROPOSAL.search(head) else "truth"


FORMAT = Format(
    name="proposal-list",
    title="Proposal lists of P-GCN and SSN",
    source="Zeng et al., P-GCN, ICCV 2019; github.com/Alvin-Zeng/PGCN",
    layout="text: # number, video, frames, factor, count, `class start end` each, count, `class tIoU share start end` "
           "each; frames, or shares of the video",
    looks=looks, parse=parse, write=write, parse_predictions=parse_predictions, write_predictions=write_predictions,
    traps="Frames need --fps, shares the videos' lengths; the class of a proposal is the truth's; proposals have no "
          "score, their order counts.",
)
