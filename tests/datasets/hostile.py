"""What tests of annotation formats share: broken copies of a good file, and truths to write and read again."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, Truth, VideoTruth

BAD_VALUES: tuple[Any, ...] = (None, True, -1, 10**400, math.nan, math.inf, "", "x", "nan", [], {}, [[]], [1], {"x": 1},
                               [None, None], "\ud800")
BAD_CELLS = ("", "x", "nan", "-1", "1e999", "1_0", "[1, 2]", "Ö", "99:99:99", '"', "a,b")


def broken_json(document: Any) -> Iterator[str]:
    """The document as JSON text with each of its nodes replaced by each bad value, and with each key left out."""

    def nodes(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            yield from nodes(item, (*path, key))

    for path in nodes(document, ()):
        for bad in BAD_VALUES:
            whole = [copy.deepcopy(document)]
            place: Any = whole
            for step in (0, *path[:-1]) if path else ():
                place = place[step]
            place[path[-1] if path else 0] = bad
            yield json.dumps(whole[0])
        if path and isinstance(path[-1], str):
            whole = copy.deepcopy(document)
            place = whole
            for step in path[:-1]:
                place = place[step]
            del place[path[-1]]
            yield json.dumps(whole)


def broken_table(text: str) -> Iterator[str]:
    """The table with each of its cells replaced by each bad one, with a cell too few and one too many."""
    rows = list(csv.reader(io.StringIO(text)))

    def written(changed: list[list[str]]) -> str:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(changed)
        return out.getvalue()

    for i, row in enumerate(rows):
        for j in range(len(row)):
            for bad in BAD_CELLS:
                yield written([*rows[:i], [*row[:j], bad, *row[j + 1:]], *rows[i + 1:]])
        yield written([*rows[:i], row[:-1], *rows[i + 1:]])
        yield written([*rows[:i], [*row, "more"], *rows[i + 1:]])
    yield ""
    yield text + '"'


def survives(path: Path, texts: Iterator[str], parse: Callable[[Path, Reading], Any]) -> tuple[int, int]:
    """Parse each text from ``path``: it is read, or refused with one sentence. How many were read, how many refused."""
    read = refused = 0
    for text in texts:
        path.write_text(text, encoding="utf-8")
        try:
            parse(path, Reading())
            read += 1
        except DataError as error:
            message = str(error)
            assert str(path.parent) in message, message
            assert "\n" not in message, message
            assert len(message) - len(str(path)) * message.count(str(path)) < 400, message
            refused += 1
    return read, refused


def times(resolution: int = 100, most: int = 20_000) -> st.SearchStrategy[float]:
    """Seconds that are multiples of ``1 / resolution``."""
    return st.integers(0, most).map(lambda n: n / resolution)


def truths(labels: st.SearchStrategy[Any], ids: st.SearchStrategy[str], subsets: tuple[str, ...] = ("training",),
           fps: st.SearchStrategy[float | None] | None = None, resolution: int = 100, empty: bool = True,
           **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Truth]:
    """Truths of up to three videos with up to four annotations; ``empty``: a video may have none."""
    segment = st.builds(
        lambda ends, label, **more: Segment(min(ends), max(ends), label, **more),
        st.tuples(times(resolution), times(resolution)), labels, **fields)
    video = st.builds(
        VideoTruth, times(resolution), st.lists(segment, min_size=0 if empty else 1, max_size=4).map(tuple),
        st.sampled_from(subsets), fps if fps is not None else st.none())
    return st.dictionaries(ids, video, max_size=3)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1, max_size=6)
"""Any text that a file can hold."""
