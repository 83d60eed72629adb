"""TACoS: sentences about stretches of cooking videos, in frames (Regneri et al., TACL 2013; Gao et al., ICCV 2017).

The layout is 2D-TAN's, which those after it took over; ``train.json``, ``val.json``, ``test.json``:

    {"s17-d69.avi": {"timestamps": [[224, 358], [418, 732], …], "sentences": ["The person gets out …", …],
                     "fps": 29.4, "num_frames": 18405}}

Here times are seconds: frame / fps, and a video lasts num_frames / fps. Ends beyond the video (43 of the training file,
5 of the test file) are kept as written, as 2D-TAN keeps them. A row that ends before it starts is dropped, and one
without words. Blanks around a sentence are dropped. An id keeps its ``.avi``. Where a video tells no ``fps``, it is
``Reading.fps``.

A file holds times to the frame, no subset (it is what the file's name tells, else ``Reading.subset``), no label, id or
score. Writing needs a rate.
"""

from __future__ import annotations

import re
from pathlib import Path

from cuemark.datasets.format import Format, Kind, Reading
from cuemark.datasets.rows import number, seconds, split_of
from cuemark.datasets.sentences import timed_sentences, words
from cuemark.datasets.timeline import rate_of
from cuemark.errors import DataError
from cuemark.segments import Truth, VideoTruth, read_json, write_json


def parse(path: Path, reading: Reading) -> Truth:
    """Read a TACoS file; times in seconds, each video with its rate.

    Raises:
        DataError: naming the file, the video and the position of what is wrong.
    """
    data = read_json(path, "TACoS", unique=True)
    if not isinstance(data, dict):
        raise DataError(f"'{path}' is not a TACoS file; expected an object with one entry per video.")
    subset = split_of(path, reading.subset)
    truth: Truth = {}
    for vid, entry in data.items():
        where = f"'{path}', video '{vid}'"
        rows = timed_sentences(entry, where, reading)
        frames = seconds(entry.get("num_frames"), where, '"num_frames", a count')
        told = entry.get("fps")
        rate = reading.rate(where, None if told is None else number(told, where, 'frames a second as "fps"'))
        found = [reading.segment(number(first, at, "frames") / rate, number(last, at, "frames") / rate, at,
                                 sentence=sentence) for at, first, last, sentence in rows]
        truth[vid] = VideoTruth(frames / rate, tuple(s for s in found if s is not None), subset, rate)
    return truth


def write(path: Path, truth: Truth) -> None:
    """Write a TACoS file; times are rounded to frames.

    Raises:
        DataError: a video has no rate, or an annotation no sentence.
    """
    data = {}
    for vid, video in truth.items():
        fps = rate_of(vid, video, "TACoS' file")
        data[vid] = {
            "timestamps": [[round(s.start * fps), round(s.end * fps)] for s in video.annotations],
            "sentences": [words(s, vid) for s in video.annotations],
            "fps": fps,
            "num_frames": round(video.duration * fps),
        }
    write_json(path, data)


def looks(path: Path, head: str) -> Kind | None:
    """An object of objects with ``timestamps`` and ``sentences`` that count frames."""
    if not re.match(r'\s*\{\s*"[^"]*"\s*:\s*\{', head):
        return None
    both = all(re.search(rf'"{key}"\s*:\s*\[', head) for key in ("timestamps", "sentences"))
    return "truth" if both and re.search(r'"num_frames"\s*:', head) else None


FORMAT = Format(
    name="tacos",
    title="TACoS (2D-TAN's files)",
    source="Regneri et al., Grounding Action Descriptions in Videos, TACL 2013; layout: 2D-TAN, AAAI 2020",
    layout='JSON {"id.avi": {"timestamps": [[first, last]], "sentences": [text], "fps", "num_frames"}}, frames',
    looks=looks, parse=parse, write=write,
    traps="Times are frames at 29.4 a second. Several people described each video, so sentences repeat and overlap; "
          "some annotations end after the video does.",
)
