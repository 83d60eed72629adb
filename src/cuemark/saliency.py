"""How well each stretch of a video answers what it was asked: rows of numbers over time, beside the segments.

Highlights are such rows (QVHighlights rates every 2 s), and so is what frame mAP ranks: every class at every frame.

A file of them is a ``.npz``, which ``numpy.load`` opens: for each video and what it was asked an array ``(n, Q)``
float32, row ``i`` about ``[i·every, (i+1)·every)`` seconds; ``about.json`` in it names videos and columns.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuemark.errors import DataError, within
from cuemark.segments import replacing

ABOUT = "about.json"


@dataclass(frozen=True, eq=False)
class Saliency:
    """How well each stretch of ``every`` seconds answers each question."""

    asked: tuple[str, ...]
    """The Q sentences or classes."""
    data: np.ndarray
    """``(n, Q)`` float32: higher is better; nothing else is said of their scale."""
    every: float
    """Seconds."""

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """``(len(seconds), Q)``: the rows around these seconds; after the last row, the last."""
        return self.data[np.clip(np.asarray(seconds) / self.every, 0, len(self.data) - 1).astype(np.int64)]

    def only(self, columns: Sequence[int]) -> Saliency:
        """Some of its columns."""
        return Saliency(tuple(self.asked[i] for i in columns), self.data[:, list(columns)], self.every)


class Heard:
    """Scores of frames, gathered view by view: each row is the mean of the frames whose middle is in it.

    Raises:
        CallError: ``every`` is less than a millisecond.
    """

    def __init__(self, every: float) -> None:
        within("every", every, 1e-3)
        self.every = every
        self._sums: dict[str, np.ndarray] = {}
        self._counts: dict[str, np.ndarray] = {}

    def begin(self, vid: str, duration: float, questions: int) -> None:
        """A video of so many seconds that is asked so much."""
        shape = max(1, math.ceil(duration / self.every - 1e-6)), questions
        self._sums[vid], self._counts[vid] = np.zeros(shape), np.zeros(shape, np.int32)

    def add(self, vid: str, first: int, seconds: np.ndarray, scores: np.ndarray) -> None:
        """``(q, T)`` scores of the questions from number ``first`` on, of frames with their middle at ``seconds``."""
        sums, counts = self._sums[vid], self._counts[vid]
        row = np.clip(seconds / self.every, 0, len(sums) - 1).astype(np.int64)
        mine = slice(first, first + len(scores))
        np.add.at(sums[:, mine], row, scores.T)
        np.add.at(counts[:, mine], row, 1)

    def of(self, vid: str, asked: Sequence[str]) -> Saliency:
        """What was heard of a video, which is forgotten; rows without a frame lie on the line between their
        neighbours."""
        sums, counts = self._sums.pop(vid), self._counts.pop(vid)
        found = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        rows = np.arange(len(found))
        for column in np.flatnonzero((counts == 0).any(axis=0) & (counts > 0).any(axis=0)):
            there = counts[:, column] > 0
            found[:, column] = np.interp(rows, rows[there], found[there, column])
        return Saliency(tuple(asked), found.astype(np.float32), self.every)


# ---------------------------------------------------------------------------------------------- files


class Writer:
    """Writes a file of saliency, video by video (:func:`writing`)."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        self._rows: list[dict[str, Any]] = []
        self._asked: dict[tuple[str, ...], int] = {}

    def add(self, vid: str, saliency: Saliency) -> None:
        """What one video says to some questions; others may follow."""
        name = f"{len(self._rows)}.npy"
        with self._file.open(name, "w", force_zip64=True) as target:
            np.lib.format.write_array(target, np.ascontiguousarray(saliency.data, np.float32), allow_pickle=False)
        number = self._asked.setdefault(saliency.asked, len(self._asked))
        self._rows.append({"video": vid, "array": name.removesuffix(".npy"), "asked": number, "every": saliency.every})

    def end(self) -> None:
        """Say what is in the file."""
        self._file.writestr(ABOUT, json.dumps({"asked": list(self._asked), "rows": self._rows}))


@contextmanager
def writing(path: str | Path) -> Iterator[Writer]:
    """A file that is there when all of it is written.

    Raises:
        DataError: it cannot be written.
    """
    with replacing(Path(path), "wb") as target, zipfile.ZipFile(target, "w") as file:
        writer = Writer(file)
        yield writer
        writer.end()


def read_saliency(path: str | Path) -> Mapping[str, Saliency]:
    """A file of saliency: video -> what it says, read when it is asked for.

    Raises:
        DataError: no such file, or none of these; also when a video of a damaged one is asked for.
    """
    rows: dict[str, list[tuple[str, tuple[str, ...], float]]] = {}
    try:
        file = zipfile.ZipFile(path)  # stays open: of thousands of videos, its list takes a while to read
        about = json.loads(file.read(ABOUT))
        for row in about["rows"]:
            asked = tuple(str(name) for name in about["asked"][row["asked"]])
            if not 0 < row["every"] < math.inf:
                raise ValueError
            rows.setdefault(str(row["video"]), []).append((f"{row['array']}.npy", asked, float(row["every"])))
    except OSError as error:
        raise DataError(f"'{path}' cannot be read ({error.strerror or error}); name a file that cuemark localize "
                        "--saliency wrote.") from None
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, IndexError):
        raise _strange(path) from None
    return _File(Path(path), file, rows)


class _File(Mapping[str, Saliency]):
    def __init__(self, path: Path, file: zipfile.ZipFile, rows: Mapping[str, list[tuple[str, tuple[str, ...], float]]]
                 ) -> None:
        self._path, self._file, self._rows = path, file, rows

    def __getitem__(self, vid: str) -> Saliency:
        parts = self._rows[vid]
        try:
            arrays = []
            for name, asked, _ in parts:
                with self._file.open(name) as source:
                    arrays.append(np.lib.format.read_array(source, allow_pickle=False))
                array = arrays[-1]
                if array.dtype.kind != "f" or array.shape != (max(len(array), 1), len(asked)) or np.isnan(array).any():
                    raise ValueError
            return Saliency(tuple(name for _, asked, _ in parts for name in asked), np.concatenate(arrays, axis=1),
                            parts[0][2])
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError):
            raise _strange(self._path) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def _strange(path: str | Path) -> DataError:
    return DataError(f"'{path}' is no file of saliency, or a damaged one; write it again with cuemark localize "
                     "--saliency.")
