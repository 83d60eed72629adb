"""A searchable collection of videos: index a folder, ask a sentence, get moments.

A library is a folder::

    library.json          what it was made with: encoder, its weights, how it looks, store
    encoder.safetensors   the encoder: a library opens with nothing beside it
    features/             extraction's own folder (:mod:`cuemark.feature_folder`), float16
    library.db            SQLite (WAL): videos, texts (full text), segments, near-identical footage
    clips-0.f16           the vectors of all clips where sentences are compared (:mod:`cuemark.vectors`), and
    stretches-0.f16       of pieces between changes of shot
    thumbnails/           JPEG, made when asked for, the oldest removed beyond :data:`THUMBNAILS` bytes
    corrections.json      what people said is right, as a truth file (:func:`cuemark.segments.read_truth`)

**Indexing** looks at what is new or has another content (:func:`cuemark.video.mark`), hides what is gone, follows what
was moved. A video is in the library when one transaction says so, after its features and vectors are on disk: a process
may be killed at any moment, and the next run goes on with what is not there. A broken video is named, and ends
nothing.

**Searching** has two stages. The sentence is compared with all clips; then the videos of the best are looked at more
closely: their whole curve becomes moments (:mod:`cuemark.similarity`), or a localizer that is asked sentences says
where they begin and end. What was said (subtitles beside the video) or written (sentences of annotations, names) is
found by words, and both become one list (:mod:`cuemark.ranking`), in which footage that is in the library twice
(:mod:`cuemark.copies`) answers once.

**How strong a match is.** A cosine means something only beside others of its library. So the library is asked
:data:`NOTHING`, sentences about what no picture shows, and the mean and deviation of *their best* cosines are kept. An
answer's score is the normal distribution's share below its own cosine: 0.95 says that of twenty sentences about nothing
one has a better answer here. Below ``floor`` nothing is found. That bounds how often nonsense is answered; it does not
say how often an answer is right, and a library of one kind of footage answers nearly any sentence about that kind.
"""

from __future__ import annotations

import fcntl
import io
import json
import logging
import math
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cuemark import copies, ranking, similarity, video
from cuemark.datasets.format import Reading
from cuemark.datasets.subtitles import srt_parse, vtt_parse
from cuemark.encoders.video_encoder import VideoEncoder
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError, within
from cuemark.extraction import ExtractConfig, Extraction, Outcomes, extracted, features_of, fill
from cuemark.feature_folder import MANIFEST, Book, FeatureFolder, mapped, state
from cuemark.filters import Filter, match_of
from cuemark.folders import bounded, locked, unwritable
from cuemark.grid import Features, Grid
from cuemark.localizers.questions import Question
from cuemark.localizers.trained import Shown, TrainedLocalizer
from cuemark.progress import say
from cuemark.ranking import Candidate
from cuemark.segments import Segment, Truth, VideoTruth, read_json, read_truth, replacing, write_json, write_truth
from cuemark.similarity import NOTHING, Space, chance, space_of
from cuemark.vectors import FileVectors, Ints, QdrantVectors, opened, owners_of, threads, unit

Floats = NDArray[np.float32]

DESCRIPTION, DATABASE, ENCODER = "library.json", "library.db", "encoder.safetensors"
FEATURES, PICTURES, CORRECTIONS = "features", "thumbnails", "corrections.json"
VERSION = 1
THUMBNAILS = 256 << 20
"""Bytes that thumbnails may take together."""
THUMBNAIL_HEIGHT = 144
FLOOR = 0.95
"""How strong a match has to be."""
SHOTS = 10_000
"""Videos whose shots are remembered."""
WORDS = 100
"""Texts that are found by words at most."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value);
CREATE TABLE roots (path TEXT PRIMARY KEY);
CREATE TABLE videos (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, path TEXT UNIQUE NOT NULL,
    size INTEGER, modified REAL, mark TEXT, state TEXT NOT NULL, reason TEXT,
    duration REAL, start REAL, step REAL, window REAL,
    clip INTEGER, clips INTEGER DEFAULT 0, stretch INTEGER, stretches INTEGER DEFAULT 0);
CREATE INDEX videos_by_mark ON videos (mark);
CREATE TABLE segments (
    video INTEGER NOT NULL, kind TEXT NOT NULL, start REAL NOT NULL, end REAL NOT NULL,
    label TEXT, score REAL, sentence TEXT);
CREATE INDEX segments_by_video ON segments (video, kind);
CREATE INDEX segments_by_label ON segments (label);
CREATE TABLE texts (id INTEGER PRIMARY KEY, video INTEGER NOT NULL, kind TEXT NOT NULL, start REAL, end REAL,
    text TEXT NOT NULL);
CREATE INDEX texts_by_video ON texts (video, kind);
CREATE VIRTUAL TABLE words USING fts5(text, content='texts', content_rowid='id',
    tokenize='unicode61 remove_diacritics 2');
CREATE TRIGGER texts_in AFTER INSERT ON texts BEGIN
    INSERT INTO words (rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER texts_out AFTER DELETE ON texts BEGIN
    INSERT INTO words (words, rowid, text) VALUES ('delete', old.id, old.text); END;
CREATE TABLE copies (a INTEGER NOT NULL, b INTEGER NOT NULL, shift REAL NOT NULL, correlation REAL NOT NULL,
    PRIMARY KEY (a, b));
"""
_SUBTITLES = re.compile(r"(\.[\w-]{2,12})?\.(srt|vtt)")
"""What follows the name of a video."""
_log = logging.getLogger("cuemark")


# ---------------------------------------------------------------------------------------------- what is said


@dataclass(frozen=True)
class Entry:
    """A video of a library."""

    id: str
    path: Path
    state: str
    """``"ok"``; ``"failed"`` (``reason`` says why); ``"gone"``: its file is not there."""
    duration: float
    """Seconds; 0 where nothing is known."""
    clips: int
    modified: float
    """When its file was written, in seconds since 1970."""
    size: int
    reason: str | None = None


@dataclass(frozen=True)
class Hit:
    """An answer of :meth:`Library.search`."""

    video: str
    path: Path
    segment: Segment
    """When, in seconds; its ``query`` is what was asked. Its ``score``, 0 to 1, says how strong the match is: the share
    of sentences about nothing whose best answer here is less like them. It does not say that the answer is right. Of an
    example it is the cosine."""
    similarity: float | None
    """The best cosine of its clips; None where only words led there."""
    picture: float
    """Seconds of the moment to show (:meth:`Library.thumbnail`)."""
    why: str
    """What led there, for people."""
    also: tuple[str, ...] = ()
    """Videos that hold the same footage, whose answers are this one."""

    def to_json(self) -> dict[str, Any]:
        """As ``cuemark search --json`` prints it."""
        s = self.segment
        return {"video": self.video, "path": str(self.path), "segment": [round(s.start, 3), round(s.end, 3)],
                "score": None if s.score is None else round(s.score, 4),
                "similarity": None if self.similarity is None else round(self.similarity, 4),
                "picture": round(self.picture, 3), "why": self.why, "also": list(self.also)}


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    hits: list[Hit]
    """Best first; empty where nothing is above the floor."""
    floor: float | None
    """How strong a match had to be; None: there was no floor."""
    best: float | None
    """How strong the best match was, above the floor or not."""
    seconds: float


@dataclass
class Indexed:
    """What became of each video that was indexed."""

    done: list[str] = field(default_factory=list)
    """New, or with another content."""
    same: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Path -> why not."""
    copies: int = 0
    """Pairs of videos that turned out to hold the same footage."""
    stopped: bool = False
    """Whether it was told to stop before all was done."""
    clips: int = 0
    seconds: float = 0.0
    index: dict[str, float] | None = None
    """What was made of an index, where one was."""


class _Stopped(Exception):
    """Whoever watches an indexing run wants no more of it."""


@dataclass(frozen=True)
class _Live:
    """What of the vectors lives, as of one state of the database."""

    change: int
    generation: int
    clips: Ints
    """``(n, 3)``: video, first number, one past the last."""
    stretches: Ints
    shots: dict[int, Ints] = field(default_factory=dict)
    """Place in ``clips`` of a video that was looked at closely -> the first clip of each of its shots but the first."""


class _Connection(sqlite3.Connection):
    """Closes when nobody holds it any more: closed under a thread that uses it, SQLite ends the process."""

    def __del__(self) -> None:
        self.close()


# ---------------------------------------------------------------------------------------------- the library


class Library:
    """A library that is open; made by :meth:`create` or :meth:`open`. Its functions may be called from any thread."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self.folder, self.told = folder, told
        self._local = threading.local()
        self._closed = False
        self._guard = threading.RLock()
        self._live: _Live | None = None
        self._stores: dict[tuple[str, int], FileVectors | QdrantVectors] = {}
        self._nothing: tuple[float, float] | None = None
        self._thumbnails = 0

    # ------------------------------------------------------------------ opening

    @classmethod
    def create(cls, folder: str | Path, encoder: VideoEncoder, *, text: str | None = None,
               config: ExtractConfig | None = None, store: str = "file") -> Library:
        """Make an empty library.

        Args:
            encoder: what looks at its videos, from now on. One that shares no space with sentences
                (:func:`cuemark.similarity.space_of`) still finds more of what it is shown, and words.
            text: what reads sentences; by default what the encoder says it was trained with.
            config: how it looks; by default clips side by side, in float16.
            store: where vectors are (:func:`cuemark.vectors.opened`).

        Raises:
            DataError: there is a library already, or the folder cannot be written.
            CallError, CuemarkError: a store that is none, or does not answer.
        """
        folder = Path(folder)
        if (folder / DESCRIPTION).exists():
            raise DataError(f"'{folder}' is a library already; open it, or give another folder.")
        config = replace(config or ExtractConfig(stride=encoder.clip.frames), dtype="float16")
        told: dict[str, Any] = {
            "version": VERSION, "encoder": encoder.name, "weights": encoder.weights, "text": text, "store": store,
            "config": {k: v for k, v in asdict(config).items() if k != "batch"}}
        try:
            told["dim"] = space_of(encoder, text).dim
            told["space"] = True
        except ModelError as error:
            if text is not None:
                raise
            say(f"{error} Sentences are found by words alone.")
            told |= {"dim": encoder.dim, "space": False}
        told["name"] = blake2b(f"{time.time_ns()} {folder.resolve()}".encode(), digest_size=6).hexdigest()
        opened(store, folder, f"{told['name']}-clips", told["dim"], 0)  # refuses before anything is written
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DATABASE).unlink(missing_ok=True)
            with closing(sqlite3.connect(folder / DATABASE)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.executescript(_SCHEMA)
                db.executemany("INSERT INTO meta VALUES (?, ?)",
                               [("change", 0), ("generation", 0), ("clip", 0), ("stretch", 0)])
                db.commit()
            encoder.save(folder / ENCODER)
            write_json(folder / DESCRIPTION, told)  # last: without it, there is no library
        except (OSError, sqlite3.Error) as error:
            raise unwritable(folder, error) from None
        return cls(folder, told)

    @classmethod
    def open(cls, folder: str | Path) -> Library:
        """Open a library.

        Raises:
            DataError: there is none, or it is damaged or of a later cuemark.
        """
        folder = Path(folder)
        if not (folder / DESCRIPTION).exists():
            raise DataError(f"'{folder}' is no library; make one with cuemark index VIDEOS --library {folder} "
                            "--encoder ENCODER.")
        told = read_json(folder / DESCRIPTION, "library")
        if not isinstance(told, dict) or not {"version", "dim", "weights", "config", "store", "name"} <= told.keys():
            raise DataError(f"'{folder / DESCRIPTION}' does not describe a library; index into another folder.")
        if told["version"] != VERSION:
            raise DataError(f"'{folder}' is a library of version {told['version']}, and this cuemark knows {VERSION}; "
                            "use the cuemark that made it.")
        if not (folder / DATABASE).is_file():
            raise DataError(f"'{folder}' has lost its {DATABASE}; remove the folder and index again.")
        return cls(folder, told)

    def close(self) -> None:
        """Let go of the database; what other threads are doing in it ends with a :class:`CallError`, or is done."""
        self._closed = True
        self._local = threading.local()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def encoder(self) -> VideoEncoder:
        """What looks at its videos."""
        return VideoEncoder.load(self.folder / ENCODER)

    @cached_property
    def space(self) -> Space | None:
        """Where clips and sentences are compared; None: the encoder shares none with sentences."""
        return space_of(self.encoder, self.told.get("text")) if self.told.get("space") else None

    @property
    def config(self) -> ExtractConfig:
        """How it looks."""
        return ExtractConfig(**self.told["config"])

    @property
    def _db(self) -> sqlite3.Connection:
        """This thread's connection.

        Raises:
            CallError: the library was closed.
        """
        if self._closed:
            raise CallError(f"the library '{self.folder}' is closed; open it again.")
        local = self._local
        db: sqlite3.Connection | None = getattr(local, "db", None)
        if db is None:
            db = sqlite3.connect(self.folder / DATABASE, timeout=30, check_same_thread=False, isolation_level=None,
                                 factory=_Connection)
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA synchronous = NORMAL")
            local.db = db
        return db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing. Readers notice afterwards."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("UPDATE meta SET value = value + 1 WHERE key = 'change'")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _meta(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _store(self, name: str, generation: int) -> FileVectors | QdrantVectors:
        with self._guard:
            key = name, generation
            if key not in self._stores:
                where = self.told["store"]
                named = name if where == "file" else f"{self.told['name']}-{name}"
                self._stores[key] = opened(where, self.folder, named, int(self.told["dim"]), generation)
            return self._stores[key]

    def _alive(self) -> _Live:
        """What lives now; read again when the database has changed."""
        with self._guard:
            db = self._db
            db.execute("BEGIN")  # one state for all that is read
            try:
                change = int(self._meta("change"))
                if self._live is None or self._live.change != change:
                    clips, stretches = (np.array(db.execute(
                        f"SELECT number, {one}, {one} + {many} FROM videos WHERE state = 'ok' AND {many} > 0 "
                        f"ORDER BY {one}").fetchall(), np.int64).reshape(-1, 3)
                        for one, many in (("clip", "clips"), ("stretch", "stretches")))
                    self._live = _Live(change, int(self._meta("generation")), clips, stretches)
                return self._live
            finally:
                db.execute("COMMIT")

    # ------------------------------------------------------------------ indexing

    def index(self, videos: Sequence[str | Path], *, truth: Truth | None = None, prune: bool = False,
              workers: int | None = None, device: torch.device | str = "cpu",
              progress: Callable[[int, int, float], bool] | None = None) -> Indexed:
        """Bring files and folders into the library, or what has changed in them since.

        What is in these folders no more is hidden from searches; its features stay, so that footage that was moved or
        is on another disk today costs nothing when it is back. Subtitles beside a video (``NAME.srt``,
        ``NAME.en.vtt``) are read with it.

        Args:
            truth: known segments of videos, by id or by name: their labels and sentences can be searched and filtered.
            prune: forget what is gone.
            workers, device: see :func:`cuemark.extraction.extract`.
            progress: told twice a second how many videos are done with, of how many, and the share of the work (0 to
                1, which never falls); False ends the run, and what is finished stays.

        Raises:
            VideoError: a path that is neither there nor the name of a video.
            DataError: the library cannot be written; what was finished stays.
            CuemarkError: another run is at work in it.
        """
        began = time.monotonic()
        result = Indexed()
        given = [Path(os.path.abspath(path)) for path in videos]
        files = [Path(os.path.abspath(path)) for path in video.expand(given, leave_out=self.folder)]
        try:
            with self._alone():
                jobs = self._look(given, files, result)
                try:
                    if jobs:
                        self._fill(jobs, result, workers, device, progress)
                except _Stopped:
                    result.stopped = True
                if truth is not None:
                    self.annotate(truth)
                if prune:
                    self._prune()
                self._settle(result)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.folder, error) from None
        result.seconds = time.monotonic() - began
        return result

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One run at a time."""
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder))
            except CuemarkError:
                raise CuemarkError(f"another run is indexing into '{self.folder}'; wait until it has finished."
                                   ) from None
            yield

    def _look(self, given: Sequence[Path], files: Sequence[Path], result: Indexed) -> dict[str, Path]:
        """What has to be looked at, id -> file; what else has changed is noted in the database."""
        roots = {os.path.realpath(path) for path in given}
        known = {row["path"]: row for row in self._db.execute("SELECT * FROM videos")}
        states: dict[str, tuple[int, float]] = {}
        for path in dict.fromkeys(files):
            name = str(path)
            if name != name.encode(errors="replace").decode():
                result.failed[name.encode(errors="backslashreplace").decode()] = (
                    "its name is not in UTF-8; rename it.")
            elif not _inside(path, roots):
                result.failed[name] = "it is a link that leads out of the folder that was given; give its own folder."
            else:
                size, nanoseconds, _ = state(path)
                states[name] = size, nanoseconds / 1e9
        unsure = [name for name, now in states.items()
                  if name not in known or (known[name]["size"], known[name]["modified"]) != now
                  or known[name]["state"] != "ok"]
        marks = dict(zip(unsure, video.marks(unsure)))
        away = {row["mark"]: row for row in known.values()
                if row["mark"] and row["path"] not in states and not os.path.exists(row["path"])}
        jobs: dict[str, Path] = {}
        taken = {row["id"] for row in known.values()}
        features = _manifest(self.folder / FEATURES)
        with self._writing() as db:
            db.executemany("INSERT OR IGNORE INTO roots VALUES (?)", [(root,) for root in roots])
            for name, (size, modified) in states.items():
                row, mark = known.get(name), marks.get(name)
                if row is None and mark is not None and mark in away:
                    row = away.pop(mark)
                    db.execute("UPDATE videos SET path = ? WHERE number = ?", (name, row["number"]))
                    if row["state"] != "failed":
                        result.moved.append(row["id"])
                        db.execute("UPDATE videos SET state = 'ok' WHERE number = ? AND clips > 0", (row["number"],))
                if row is None:
                    vid = _named(Path(name), taken)
                    taken.add(vid)
                    db.execute("INSERT INTO videos (id, path, size, modified, state) VALUES (?, ?, ?, ?, 'waiting')",
                               (vid, name, size, modified))
                    jobs[vid] = Path(name)
                elif (row["state"] in ("ok", "gone") and row["clips"] and row["id"] in features
                      and (name not in marks or row["mark"] == mark)):
                    db.execute("UPDATE videos SET size = ?, modified = ?, state = 'ok' WHERE number = ?",
                               (size, modified, row["number"]))
                    result.same.append(row["id"])
                else:
                    db.execute("UPDATE videos SET size = ?, modified = ? WHERE number = ?",
                               (size, modified, row["number"]))
                    jobs[row["id"]] = Path(name)
            for name, row in known.items():
                if (name not in states and row["state"] != "gone" and row["id"] not in result.moved
                        and not os.path.exists(name) and any(_under(name, str(root)) for root in given)):
                    db.execute("UPDATE videos SET state = 'gone' WHERE number = ?", (row["number"],))
                    result.gone.append(row["id"])
        beside = _Beside()
        for vid in result.same:  # subtitles may have come since
            self._read_texts(vid, beside)
        return jobs

    def _fill(self, jobs: Mapping[str, Path], result: Indexed, workers: int | None, device: torch.device | str,
              progress: Callable[[int, int, float], bool] | None) -> None:
        """Extraction, with every video entered as it is finished."""
        out, beside = self.folder / FEATURES, _Beside()
        settled, far = 0, 0.0

        def tick(part: float) -> None:
            nonlocal far
            far = max(far, (settled + part) / len(jobs))  # others' parts are not asked for when a video is finished
            if progress is not None and not progress(settled, len(jobs), far):
                raise _Stopped

        def work(missing: Mapping[str, Path]) -> Outcomes:
            nonlocal settled
            for vid in [vid for vid in jobs if vid not in missing]:  # of a run that was killed in between
                self._enter(vid, result, beside)
                settled += 1
            tick(0.0)
            with closing(extracted(missing, self.encoder, out, self.config, workers, device, tick=tick)) as outcomes:
                for vid, outcome in outcomes:
                    yield vid, outcome
                    if not isinstance(outcome, CuemarkError):
                        self._enter(vid, result, beside, outcome)
                    settled += 1
                    tick(0.0)

        made: Extraction = fill(jobs, self.encoder, out, self.config, work)
        for vid, reason in made.failed.items():
            result.failed[str(jobs[vid])] = reason
            with self._writing() as db:
                self._empty(db, self._number(vid))
                db.execute("UPDATE videos SET state = 'failed', reason = ?, clips = 0, stretches = 0 WHERE id = ?",
                           (reason, vid))

    def _enter(self, vid: str, result: Indexed, beside: _Beside, told: Mapping[str, Any] | None = None) -> None:
        """A video whose features are there: its vectors, then one transaction."""
        told = told or _manifest(self.folder / FEATURES)[vid]
        grid = Grid.from_json(told["grid"])
        data = np.asarray(mapped(self.folder / FEATURES / f"{vid}.npy"), np.float32)
        rows = self._seen(data)
        cells = copies.stretches(rows, grid)
        means = copies.means(rows, cells)
        row = self._row(vid)
        number, generation = int(row["number"]), int(self._meta("generation"))
        first, stretch = int(self._meta("clip")), int(self._meta("stretch"))
        self._store("clips", generation).put(number, first, rows.astype(np.float16))
        self._store("stretches", generation).put(number, stretch, means.astype(np.float16))
        labels = self._labels(data, cells)
        edges = grid.seconds(cells.astype(np.float64))
        edges[0], edges[-1] = 0.0, max(float(told["duration"]), edges[-2])
        with self._writing() as db:
            self._empty(db, number)
            db.execute(
                "UPDATE videos SET state = 'ok', reason = NULL, mark = ?, duration = ?, start = ?, step = ?, "
                "window = ?, clip = ?, clips = ?, stretch = ?, stretches = ? WHERE number = ?",
                (told.get("mark"), told["duration"], grid.start, grid.step, grid.window, first, len(rows), stretch,
                 len(means), number))
            db.executemany("INSERT INTO segments VALUES (?, 'stretch', ?, ?, ?, ?, NULL)",
                           [(number, float(a), float(b), label, score)
                            for a, b, (label, score) in zip(edges[:-1], edges[1:], labels)])
            db.execute("UPDATE meta SET value = value + ? WHERE key = 'clip'", (len(rows),))
            db.execute("UPDATE meta SET value = value + ? WHERE key = 'stretch'", (len(means),))
        self._read_texts(vid, beside)
        if row["state"] != "waiting":  # else there are none of an earlier content
            self._forget_pictures(number)
        result.done.append(vid)
        result.clips += len(rows)

    def _seen(self, data: np.ndarray) -> Floats:
        """Features to the rows that are compared; on one core, as encoders have the others while videos are indexed."""
        if self.space is not None:
            return threads().submit(self.space.see, data).result()
        return np.asarray(unit(np.asarray(data, np.float32)), np.float32)

    def _labels(self, data: np.ndarray, cells: Ints) -> list[tuple[str | None, float | None]]:
        """What the encoder's class head calls each stretch, and how sure it is."""
        encoder = self.encoder
        if not (encoder.class_head and encoder.classes) or not len(data):
            return [(None, None)] * (len(cells) - 1)
        weight, bias = (encoder.class_head[k].float().numpy() for k in ("weight", "bias"))
        logits = np.add.reduceat(data @ weight.T + bias, cells[:-1], axis=0) / np.diff(cells)[:, None]
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        return [(encoder.classes[k], float(row[k])) for row, k in zip(shares, shares.argmax(1))]

    def _empty(self, db: sqlite3.Connection, number: int) -> None:
        """Take out what was made of a video's earlier content; what people said of it stays."""
        db.execute("DELETE FROM segments WHERE video = ? AND kind = 'stretch'", (number,))
        db.execute("DELETE FROM copies WHERE a = ? OR b = ?", (number, number))

    def _read_texts(self, vid: str, beside: _Beside) -> None:
        """Its name, and the subtitles beside it, where they are not what they were."""
        row = self._row(vid)
        path, number = Path(row["path"]), int(row["number"])
        found: list[tuple[str, float | None, float | None, str]] = [
            ("name", None, None, re.sub(r"[\W_]+", " ", f"{path.parent.name} {path.stem}"))]
        for file in beside.subtitles(path):
            try:
                parse = srt_parse if file.suffix.lower() == ".srt" else vtt_parse
                for told in parse(file, Reading()).values():
                    found += [("said", s.start, s.end, s.sentence) for s in told.annotations if s.sentence]
            except CuemarkError as error:
                say(f"subtitles left out: {error}")
        held = [tuple(r) for r in self._db.execute(
            "SELECT kind, start, end, text FROM texts WHERE video = ? AND kind IN ('name', 'said') ORDER BY id",
            (number,))]
        if held != found:
            with self._writing() as db:
                db.execute("DELETE FROM texts WHERE video = ? AND kind IN ('name', 'said')", (number,))
                db.executemany("INSERT INTO texts (video, kind, start, end, text) VALUES (?, ?, ?, ?, ?)",
                               [(number, *row) for row in found])

    def _prune(self) -> None:
        """Forget what is gone: its rows, its features, its pictures."""
        rows = self._db.execute("SELECT number, id FROM videos WHERE state = 'gone'").fetchall()
        if not rows:
            return
        numbers = [(int(row["number"]),) for row in rows]
        with self._writing() as db:
            for table, column in (("videos", "number"), ("segments", "video"), ("texts", "video"), ("copies", "a"),
                                  ("copies", "b")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", numbers)
        for name in ("clips", "stretches"):
            self._store(name, self._alive().generation).drop([number for number, in numbers])
        out = self.folder / FEATURES
        with locked(out):
            book = Book.open(out, self.config.described(self.encoder))
            for row in rows:
                book.entries.pop(row["id"], None)
                book.failed.pop(row["id"], None)
            book.write(complete=True)
            for row in rows:
                (out / f"{row['id']}.npy").unlink(missing_ok=True)
                self._forget_pictures(int(row["number"]))

    def _settle(self, result: Indexed) -> None:
        """What is worth doing when all are in: copies, a smaller file, an index."""
        before, end = self._count("copies"), int(self._meta("clip"))
        new = self._db.execute("SELECT number, clip FROM videos WHERE state = 'ok' AND clip >= ? ORDER BY clip",
                               (self._meta("compared") or 0,)).fetchall()  # those of a run that was killed, too
        pairs: set[tuple[int, int]] = set()
        for number, clip in new:
            self._find_copies(number, pairs)
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('compared', ?)", (clip + 1,))
        result.copies = self._count("copies") - before
        live = self._alive()
        clips, stretches = (self._store(name, live.generation) for name in ("clips", "stretches"))
        if not (isinstance(clips, FileVectors) and isinstance(stretches, FileVectors)):
            return
        if end > 2 * int((live.clips[:, 2] - live.clips[:, 1]).sum()) and end > 1000:
            (new_clips, moved), (_, pieces) = clips.compacted(live.clips), stretches.compacted(live.stretches)
            with self._writing() as db:
                db.execute("UPDATE videos SET clip = NULL, stretch = NULL, clips = 0, stretches = 0 "
                           "WHERE state != 'ok'")
                db.executemany("UPDATE videos SET clip = ? WHERE number = ?", moved[:, 1::-1].tolist())
                db.executemany("UPDATE videos SET stretch = ? WHERE number = ?", pieces[:, 1::-1].tolist())
                end = int(moved[:, 2].max(initial=0))
                for key, value in (("generation", new_clips.generation), ("clip", end), ("compared", end),
                                   ("stretch", int(pieces[:, 2].max(initial=0)))):
                    db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
            live = self._alive()
            clips, stretches = (self._store(name, live.generation) for name in ("clips", "stretches"))
        assert isinstance(clips, FileVectors)
        assert isinstance(stretches, FileVectors)
        clips.sweep()
        stretches.sweep()
        result.index = clips.settle(live.clips, end)
        if result.index is not None:  # it may find what another did not: also of what no picture shows
            self._db.execute("DELETE FROM meta WHERE key = 'nothing'")

    # ------------------------------------------------------------------ near-identical footage

    def _count(self, table: str) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def _find_copies(self, number: int, pairs: set[tuple[int, int]]) -> None:
        """Compare a video with those that have stretches like its own, and note which hold the same footage.

        Args:
            pairs: what has been compared already; this adds to it.
        """
        live = self._alive()

        def rows_of(video: int) -> Floats:
            place, = np.flatnonzero(live.clips[:, 0] == video)
            return np.asarray(self._vectors(live, int(place)), np.float32)

        mine, grid = rows_of(number), self._grid(number)
        asked = copies.means(mine, copies.stretches(mine, grid))
        scores, numbers = self._store("stretches", live.generation).nearest(asked, 8, live.stretches, True)
        near = owners_of(numbers[scores >= copies.ALIKE], live.stretches)
        owners, counts = np.unique(live.stretches[near[near >= 0], 0], return_counts=True)
        others = [n for n in owners[np.argsort(-counts, kind="stable")][:16].tolist() if n != number]
        rows = self._rows_by([number, *others])
        found = []
        for other in others:
            pair = (min(number, other), max(number, other))
            if pair in pairs:
                continue
            pairs.add(pair)
            if rows[number]["mark"] == rows[other]["mark"]:
                found.append((*pair, 0.0, 1.0))
            elif abs(rows[number]["step"] - rows[other]["step"]) < 1e-6:
                shift, correlation = copies.aligned(mine, rows_of(other))
                if correlation >= copies.SAME:
                    shift = shift if number < other else -shift
                    found.append((*pair, shift * grid.step, correlation))
        if found:
            with self._writing() as db:
                db.executemany("INSERT OR REPLACE INTO copies VALUES (?, ?, ?, ?)", found)

    def _standing(self, numbers: Sequence[int]) -> dict[int, tuple[int, float]]:
        """Of each video the one that stands for its footage among these (:func:`cuemark.copies.standing`)."""
        known = list(dict.fromkeys(numbers))
        marks = ",".join("?" * len(known))
        return copies.standing(known, self._db.execute(
            f"SELECT a, b, shift FROM copies WHERE a IN ({marks}) AND b IN ({marks})", [*known, *known]).fetchall())

    # ------------------------------------------------------------------ what is there

    def videos(self, filter: Filter | None = None, limit: int | None = None, offset: int = 0) -> list[Entry]:
        """Its videos by name; with a filter, those that are there and pass it.

        Raises:
            CallError: a filter that cannot be meant.
        """
        where, values = ("1", []) if filter is None else filter.condition()
        rows = self._db.execute(f"SELECT * FROM videos WHERE {where} ORDER BY id LIMIT ? OFFSET ?",
                                [*values, -1 if limit is None else limit, offset])
        return [_entry(row) for row in rows]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM videos WHERE state = 'ok'").fetchone()[0])

    def roots(self) -> list[str]:
        """Files and folders that were given to :meth:`index`, wherever links lead."""
        return [str(path) for path, in self._db.execute("SELECT path FROM roots ORDER BY path")]

    def video(self, vid: str) -> Entry:
        """One of its videos.

        Raises:
            CallError: it has no such video.
        """
        return _entry(self._row(vid))

    def file(self, vid: str) -> Path:
        """The file of a video, wherever links lead: one inside what was given to :meth:`index`.

        Raises:
            CallError: it has no such video.
            VideoError: its file is not there, or leads out of the library's folders by now.
        """
        path = Path(self._row(vid)["path"])
        if not _inside(path, set(self.roots())):
            raise VideoError(f"video '{vid}' leads out of the folders of the library; index the folder it is in.")
        if not path.is_file():
            raise VideoError(f"video '{path}' does not exist; index its folder again.")
        return Path(os.path.realpath(path))

    def features(self, vid: str) -> Features:
        """What the encoder saw of a video.

        Raises:
            CallError: it has no such video.
            DataError: they are damaged or not there.
        """
        row = self._row(vid)
        if not row["clips"]:
            raise DataError(f"video '{vid}' is not indexed{f' ({reason})' if (reason := row['reason']) else ''}; index "
                            "its folder again.")
        data = mapped(self.folder / FEATURES / f"{vid}.npy")
        if len(data) != row["clips"]:
            raise DataError(f"the features of '{vid}' are not those that were indexed; index its folder again.")
        return Features(np.asarray(data, np.float32), self._grid_of(row), float(row["duration"]))

    def curve(self, vid: str, query: str) -> tuple[NDArray[np.float64], Floats]:
        """How like a sentence each clip of a video is: seconds of their centres, and cosines.

        Raises:
            CallError: it has no such video.
            ModelError: the encoder shares no space with sentences.
        """
        features = self.features(vid)
        return features.grid.centres, self._seen(features.data) @ self._asked(query)

    def segments(self, vid: str, kind: str | None = None) -> list[Segment]:
        """Known segments of a video, by time: ``"annotation"``, ``"correction"``, ``"stretch"``, or all of them."""
        rows = self._db.execute("SELECT start, end, label, score, sentence FROM segments WHERE video = ? AND "
                                "(? IS NULL OR kind = ?) ORDER BY start, end", (self._number(vid), kind, kind))
        return [Segment(*row) for row in rows]

    def labels(self) -> dict[str, int]:
        """Every label that a segment of a video that is there carries, and how many do; the commonest first."""
        rows = self._db.execute(
            "SELECT label, count(*) AS n FROM segments JOIN videos ON number = video WHERE label IS NOT NULL AND "
            "state = 'ok' GROUP BY label ORDER BY n DESC, label")
        return {str(row[0]): int(row[1]) for row in rows}

    def copies(self) -> list[tuple[str, str, float, float]]:
        """Pairs of videos that hold the same footage: their ids, the seconds to add to a time of the first for the same
        picture in the second, and the correlation."""
        rows = self._db.execute("SELECT x.id, y.id, shift, correlation FROM copies JOIN videos x ON x.number = a "
                                "JOIN videos y ON y.number = b ORDER BY x.id, y.id")
        return [tuple(row) for row in rows]

    def thumbnail(self, vid: str, seconds: float, height: int = THUMBNAIL_HEIGHT) -> bytes:
        """The picture shown at a moment, as a JPEG file; kept for the next time.

        Args:
            seconds: clamped to the video, and rounded to tenths.
            height: in pixels, 32 to 720.

        Raises:
            CallError: it has no such video, or these are no numbers.
            VideoError: its file cannot be used.
        """
        within("seconds", seconds, -math.inf if math.isinf(seconds) else -1e9, 1e9)
        within("height", height, 32, 720)
        row = self._row(vid)
        at = round(min(max(seconds, 0.0), float(row["duration"] or 0.0)), 1)
        kept = self.folder / PICTURES / f"{row['number']}-{round(10 * at)}-{int(height)}.jpg"
        try:
            data = kept.read_bytes()
            os.utime(kept)
            return data
        except OSError:
            pass
        from PIL import Image  # here: nothing else in this file needs it

        picture = Image.fromarray(video.frames_at(self.file(vid), [at])[0])
        picture.thumbnail((int(height) * 4, int(height)))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        try:
            with replacing(kept, "wb") as file:
                file.write(buffer.getvalue())
        except OSError:  # a full disk, a library that is read only
            return buffer.getvalue()
        self._thumbnails += 1
        if self._thumbnails % 64 == 1:
            self._bound_pictures()
        return buffer.getvalue()

    def _bound_pictures(self) -> None:
        bounded(self.folder / PICTURES, "*.jpg", THUMBNAILS)

    def _forget_pictures(self, number: int) -> None:
        for path in (self.folder / PICTURES).glob(f"{number}-*.jpg"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------ what people say

    def annotate(self, truth: Truth) -> int:
        """Take known segments of videos, by id or by the file's name: what is there of these videos is replaced.

        Returns:
            How many of the truth's videos are in the library.
        """
        by_stem = {Path(row["path"]).stem: int(row["number"])
                   for row in self._db.execute("SELECT number, path FROM videos ORDER BY number DESC")}
        by_id = {row["id"]: int(row["number"]) for row in self._db.execute("SELECT number, id FROM videos")}
        count = 0
        with self._writing() as db:
            for vid, told in truth.items():
                number = by_id.get(vid, by_stem.get(vid))
                if number is not None:
                    self._say(db, number, "annotation", told.annotations)
                    count += 1
        return count

    def corrections(self) -> Truth:
        """What people said is right.

        Raises:
            DataError: the file is damaged.
        """
        path = self.folder / CORRECTIONS
        return read_truth(path) if path.exists() else {}

    def correct(self, vid: str, segments: Sequence[Segment]) -> None:
        """Say what is right in a video, in place of what was said before; nothing: take it back.

        :data:`CORRECTIONS` is written whole, atomically, by one at a time; tomorrow's training reads it.

        Raises:
            CallError: it has no such video, or a segment lies outside it.
            DataError: the file cannot be written.
        """
        entry = self.video(vid)
        for s in segments:
            if not (0 <= s.start <= s.end <= entry.duration + 1e-3):
                raise CallError(f"a correction of '{vid}' must lie within its {entry.duration:.2f} s, got "
                                f"[{s.start:g}, {s.end:g}].")
        try:
            with self._guard, open(self.folder / f".{CORRECTIONS}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                told = self.corrections()
                if segments:
                    told[vid] = VideoTruth(entry.duration, tuple(segments))
                else:
                    told.pop(vid, None)
                write_truth(self.folder / CORRECTIONS, told)
                with self._writing() as db:
                    self._say(db, self._number(vid), "correction", segments)
        except (OSError, sqlite3.Error) as error:
            raise unwritable(self.folder / CORRECTIONS, error) from None

    def _say(self, db: sqlite3.Connection, number: int, kind: str, segments: Sequence[Segment]) -> None:
        for table in ("segments", "texts"):
            db.execute(f"DELETE FROM {table} WHERE video = ? AND kind = ?", (number, kind))
        db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)",
                       [(number, kind, s.start, s.end, s.label, s.score, s.sentence) for s in segments])
        db.executemany("INSERT INTO texts (video, kind, start, end, text) VALUES (?, ?, ?, ?, ?)",
                       [(number, kind, s.start, s.end, text) for s in segments
                        if (text := " ".join(t for t in (s.label, s.sentence) if t))])

    # ------------------------------------------------------------------ searching

    def search(self, query: str | Shown, top: int = 20, filter: Filter | None = None, *,
               localizer: TrainedLocalizer | None = None, floor: float | None = FLOOR,
               config: similarity.Config | None = None) -> Found:
        """The moments that a sentence says, or that are like an example.

        Args:
            query: a sentence; or a stretch of a video file, in the library or not.
            top: answers at most.
            filter: what to look among.
            localizer: what says where moments begin and end in the videos of the best clips: one that is asked
                sentences, trained on features of the library's encoder at its stride. None: no training
                (:func:`cuemark.similarity.moments`).
            floor: how strong a match has to be, 0 to 1 (see the module); None: any. Examples have none.
            config: how cosines become moments.

        Raises:
            CallError: a setting that cannot be meant, or a localizer that is not asked sentences.
            ModelError: the localizer does not fit the library, or what reads sentences is not here.
            VideoError: the example cannot be used.
        """
        began = time.monotonic()
        within("top", top, 1, 1000)
        if floor is not None:
            within("floor", floor, 0, 1)
        if isinstance(query, str) and not query.strip():
            raise CallError("there is nothing to look for; say it in a sentence.")
        self._fits(localizer, query)
        filter = filter or Filter()
        where, values = filter.condition()
        asked = self._asked(query) if isinstance(query, Shown) or self.space is not None else None
        live = self._alive()  # after what takes long: an indexing run may put a smaller file in the place of this one's
        spans = live.clips
        if not filter.empty:
            allowed = [n for n, in self._db.execute(f"SELECT number FROM videos WHERE {where}", values)]
            spans = live.clips[np.isin(live.clips[:, 0], allowed)]
            if filter.label is not None:
                spans = self._labelled(spans, filter.label)
        seen: list[Candidate] = []
        best = None
        if asked is not None:
            (cosines,), (numbers,) = self._store("clips", live.generation).nearest(
                asked[None], 50 + 10 * top, spans, filter.empty)
            strength = self._strength(live) if isinstance(query, str) else None
            if strength is not None and floor is not None:  # what would be left out afterwards need not be looked at
                worth = np.array([strength.cdf(float(c) + 1e-3) >= floor for c in cosines])
                worth[0] = True  # how near the best came is said all the same
                numbers = numbers[worth]
            seen = self._refined(query, asked, numbers, live, top, localizer, config)
            for candidate in seen:
                assert candidate.similarity is not None
                score = strength.cdf(candidate.similarity) if strength is not None else candidate.similarity
                candidate.segment = replace(candidate.segment, score=score)
            best = max((c.segment.score or 0.0 for c in seen), default=None)
            if strength is not None and floor is not None:
                seen = [c for c in seen if (c.segment.score or 0.0) >= floor]
        told = self._by_words(query, where, values) if isinstance(query, str) else []
        candidates = ranking.fused(seen, told)
        if filter.label is not None:
            candidates = [c for c in candidates if self._overlaps(c, filter.label)]
        hits = self._hits(ranking.once(candidates, self._standing([c.number for c in candidates]))[:top], query)
        return Found(hits, floor if isinstance(query, str) else None, best, time.monotonic() - began)

    def _fits(self, localizer: TrainedLocalizer | None, query: str | Shown) -> None:
        if localizer is None:
            return
        if localizer.network.asked != "sentence" or isinstance(query, Shown):
            raise CallError(f"this {localizer.name} cannot refine {'an example' if isinstance(query, Shown) else 'it'};"
                            " give a localizer that is asked sentences, and a sentence.")
        told = {**self.config.described(self.encoder), "videos": {}}
        localizer.fits(FeatureFolder(self.folder / FEATURES, json.loads(json.dumps(told))))

    def _asked(self, query: str | Shown) -> Floats:
        """What is compared with clips: ``(D,)`` of length 1."""
        if isinstance(query, str):
            if self.space is None:
                raise ModelError(f"the encoder '{self.told['encoder']}' of this library cannot compare videos with "
                                 "sentences; index with one that was pre-trained by CLAP, or with a CLIP.")
            return np.asarray(self.space.read([query])[0], np.float32)
        where = self._db.execute("SELECT id FROM videos WHERE path = ? AND clips > 0",
                                 (os.path.abspath(query.file),)).fetchone()
        features = (self.features(where["id"]) if where is not None
                    else features_of(query.file, self.encoder, self.config)[0])
        share = features.grid.covered(np.array([[query.start, query.end]]))
        if not share.any():
            raise CallError(f"the example {query.file}:{query.start:g}-{query.end:g} shows no clip of its video "
                            f"({features.duration:.1f} s).")
        mean = (self._seen(features.data) * share[:, None]).sum(0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-6), np.float32)

    def _labelled(self, spans: Ints, label: str) -> Ints:
        """Of the clips of some videos, those in segments with a label."""
        found = [np.zeros((0, 3), np.int64)]
        for number, first, last in spans.tolist():
            row = self._rows_by([number]).get(number)
            if row is None:  # forgotten under the search
                continue
            segments = self._db.execute("SELECT start, end FROM segments WHERE video = ? AND label = ?",
                                        (number, label)).fetchall()
            inside = self._grid_of(row).covered(np.array([tuple(s) for s in segments], np.float64).reshape(-1, 2)) > 0
            edges = np.flatnonzero(np.diff(np.r_[False, inside[: last - first], False].astype(np.int8)))
            found.append(np.array([(number, first + a, first + b) for a, b in edges.reshape(-1, 2).tolist()],
                                  np.int64).reshape(-1, 3))
        return np.concatenate(found)

    def _refined(self, query: str | Shown, asked: Floats, numbers: Ints, live: _Live, top: int,
                 localizer: TrainedLocalizer | None, config: similarity.Config | None) -> list[Candidate]:
        """The second stage: the videos of the best clips, looked at closely. Best first by cosine."""
        real, spans = numbers >= 0, live.clips
        places = owners_of(numbers[real], spans)
        clips: dict[int, list[int]] = {}
        for place, number in zip(places.tolist(), (numbers[real] - spans[places, 1]).tolist()):
            clips.setdefault(place, []).append(number)
        chosen = list(clips)[: max(2 * top, 20)]
        rows = self._rows_by(spans[chosen, 0].tolist())
        seen: dict[int, np.ndarray] = {}
        for place in chosen:
            number, first, last = spans[place].tolist()
            with _leaving_out():
                if number in rows and rows[number]["clips"] == last - first:  # else changed under the search
                    seen[place] = self._vectors(live, place)
        if len(live.shots) > SHOTS:
            live.shots.clear()

        def compared(place: int) -> tuple[np.ndarray, np.ndarray]:
            data = torch.from_numpy(seen[place]).float()
            return data.numpy(), torch.mv(data, heard).numpy()

        heard = torch.from_numpy(asked)
        looked = dict(zip(seen, threads().map(compared, seen)))
        shots = {place: known for place in looked if (known := live.shots.get(place)) is not None}
        new = [place for place in looked if place not in shots]
        shots |= zip(new, similarity.boundaries_of([looked[place][0] for place in new]))
        live.shots.update(shots)
        curves = {place: similarity.Curve(cosines, self._grid_of(row), float(row["duration"]), shots[place])
                  for place, (_, cosines) in looked.items() for row in [rows[int(spans[place, 0])]]}
        if localizer is not None and isinstance(query, str):
            moments = self._localized(query, {place: rows[int(spans[place, 0])]["id"] for place in curves}, localizer)
            why = f"looks like it, bounds by {localizer.name}"
        else:
            moments = dict(zip(curves, similarity.moments_of(list(curves.values()), config)))
            why = "looks like it" if isinstance(query, str) else "looks like the example"
        found = [candidate for place, answers in moments.items() for candidate in ranking.around(
            int(spans[place, 0]), curves[place], clips[place], answers, why, localizer is not None)]
        return sorted(found, key=lambda c: -(c.similarity or 0.0))

    def _vectors(self, live: _Live, place: int) -> np.ndarray:
        """The clips of a video, by its row in ``live.clips``, where they are compared: as they are searched, where that
        is a file."""
        number, first, last = live.clips[place].tolist()
        store = self._store("clips", live.generation)
        return store.rows(last)[first:last] if isinstance(store, FileVectors) else self._rows_of(number)

    def _localized(self, query: str, ids: Mapping[int, str], localizer: TrainedLocalizer) -> dict[int, list[Segment]]:
        """The three best answers of a localizer in each of some videos, under the numbers that they came with."""
        features: dict[int, Features] = {}
        for place, vid in ids.items():
            with _leaving_out():
                features[place] = self.features(vid)
        answers = localizer.predict({ids[place]: told for place, told in features.items()},
                                    {ids[place]: [Question(query)] for place in features})
        return {place: answers[ids[place]][:3] for place in features}

    def _strength(self, live: _Live) -> NormalDist:
        """How strong a match is by its cosine: see the module. Measured again when the library has grown by a tenth."""
        with self._guard:
            count = int((live.clips[:, 2] - live.clips[:, 1]).sum())
            kept = json.loads(self._meta("nothing") or "null")
            if kept is None or not 0.9 * kept[2] <= count <= 1.1 * kept[2]:
                assert self.space is not None
                best = self._store("clips", live.generation).nearest(self.space.read(NOTHING), 1, live.clips, True)[0]
                best = best[np.isfinite(best)]
                nonsense = chance(best) if len(best) else NormalDist(1.0, 1e-3)
                kept = [nonsense.mean, nonsense.stdev, count if len(best) else 0]
                with suppress(sqlite3.OperationalError):  # a library that is read only
                    self._db.execute("INSERT OR REPLACE INTO meta VALUES ('nothing', ?)", (json.dumps(kept),))
            return NormalDist(kept[0], kept[1])

    def _by_words(self, query: str, where: str, values: Sequence[Any]) -> list[Candidate]:
        """Texts that hold all the words of a sentence, by bm25, of the videos that a condition leaves."""
        if not (words := match_of(query)):
            return []
        rows = self._db.execute(
            "SELECT t.video, t.kind, t.start, t.end, t.text, v.duration FROM words JOIN texts t ON t.id = words.rowid "
            "JOIN videos v ON v.number = t.video WHERE words MATCH ? AND v.number IN (SELECT number FROM videos WHERE "
            f"{where}) ORDER BY bm25(words) LIMIT ?", (words, *values, WORDS)).fetchall()
        found = []
        for row in rows:
            start, end = (0.0, row["duration"]) if row["start"] is None else (row["start"], row["end"])
            end = min(end, row["duration"])
            if not start <= end:
                continue
            word = {"said": "said", "name": "its name is", "annotation": "described as",
                    "correction": "described as"}[row["kind"]]
            text = row["text"] if len(row["text"]) <= 120 else row["text"][:119] + "…"
            found.append(Candidate(row["video"], Segment(start, end, None, 1.0), None, (start + end) / 2,
                                    [f"{word} “{text}”"]))
        return found

    def _overlaps(self, candidate: Candidate, label: str) -> bool:
        s = candidate.segment
        return self._db.execute(
            "SELECT 1 FROM segments WHERE video = ? AND label = ? AND start <= ? AND end >= ? LIMIT 1",
            (candidate.number, label, s.end, s.start)).fetchone() is not None

    def _hits(self, candidates: Sequence[Candidate], query: str | Shown) -> list[Hit]:
        rows = self._rows_by([number for c in candidates for number in (c.number, *c.also)])
        asked = query if isinstance(query, str) else f"{query.file}:{query.start:g}-{query.end:g}"
        return [Hit(rows[c.number]["id"], Path(rows[c.number]["path"]), replace(c.segment, query=asked), c.similarity,
                    c.picture, "; ".join(c.why), tuple(rows[number]["id"] for number in c.also if number in rows))
                for c in candidates if c.number in rows]

    # ------------------------------------------------------------------ rows

    def _row(self, vid: str) -> sqlite3.Row:
        row = self._db.execute("SELECT * FROM videos WHERE id = ?", (vid,)).fetchone()
        if row is None:
            raise CallError(f"the library has no video '{vid}'; list those it has.")
        return row

    def _row_of(self, number: int) -> sqlite3.Row:
        row: sqlite3.Row = self._db.execute("SELECT * FROM videos WHERE number = ?", (number,)).fetchone()
        return row

    def _rows_by(self, numbers: Sequence[int]) -> dict[int, sqlite3.Row]:
        """Of each of these videos its row, where it is still there."""
        marks = ",".join("?" * len(numbers))
        return {row["number"]: row
                for row in self._db.execute(f"SELECT * FROM videos WHERE number IN ({marks})", list(numbers))}

    def _number(self, vid: str) -> int:
        return int(self._row(vid)["number"])

    def _grid(self, number: int) -> Grid:
        return self._grid_of(self._row_of(number))

    def _grid_of(self, row: sqlite3.Row) -> Grid:
        return Grid(row["start"], row["step"], row["clips"], row["window"])

    def _rows_of(self, number: int) -> Floats:
        """The clips of a video where they are compared."""
        return self._seen(self.features(self._row_of(number)["id"]).data)


# ---------------------------------------------------------------------------------------------- helpers


@contextmanager
def _leaving_out() -> Iterator[None]:
    """What is damaged is told in the log, and the others go on."""
    try:
        yield
    except CuemarkError as error:
        _log.warning("%s", error)


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(row["id"], Path(row["path"]), row["state"], float(row["duration"] or 0.0), int(row["clips"] or 0),
                 float(row["modified"] or 0.0), int(row["size"] or 0), row["reason"])


def _manifest(out: Path) -> dict[str, Any]:
    """What the features folder lists, finished or not."""
    if not (out / MANIFEST).exists():
        return {}
    told = read_json(out / MANIFEST, "features")
    return dict(told.get("videos") or {}) if isinstance(told, dict) else {}


def _inside(path: Path, roots: set[str]) -> bool:
    """Whether a file is one of these, or in one of them, wherever links lead."""
    real = os.path.realpath(path)
    return any(_under(real, root) for root in roots)


def _under(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _named(path: Path, taken: set[str]) -> str:
    """An id that can be a file's name: the stem, or with a digest of the path where that is taken."""
    stem = path.stem.encode()[:180].decode(errors="ignore") or "video"
    stem = stem if not stem.startswith(".") else f"video{stem}"
    if stem not in taken and not (stem.startswith("failed") or stem.startswith("features")):
        return stem
    return f"{stem}-{blake2b(str(path).encode(), digest_size=4).hexdigest()}"


class _Beside:
    """What lies beside videos; each folder is listed once."""

    def __init__(self) -> None:
        self._found: dict[Path, list[Path]] = {}

    def subtitles(self, path: Path) -> list[Path]:
        """``NAME.srt``, ``NAME.vtt`` and ``NAME.LANGUAGE.srt`` … of a video."""
        if path.parent not in self._found:
            try:
                self._found[path.parent] = sorted(p for p in path.parent.iterdir()
                                                  if p.suffix.lower() in (".srt", ".vtt") and p.is_file())
            except OSError:
                self._found[path.parent] = []
        stem = path.stem.lower()
        return [p for p in self._found[path.parent]
                if p.name.lower().startswith(stem) and _SUBTITLES.fullmatch(p.name.lower()[len(stem):])]
