"""What the server answers, as plain values: everything here can be called without HTTP.

Clients name videos by their ids and never by paths; a path of this machine is in no answer, not even in a reason.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cuemark import cutting, video
from cuemark.app import answers, media
from cuemark.app.export import Export, export
from cuemark.app.jobs import Job, Jobs
from cuemark.errors import CallError, CuemarkError, DataError, VideoError, within
from cuemark.library import FLOOR, Entry, Filter, Hit, Library
from cuemark.localizers.trained import Shown, TrainedLocalizer
from cuemark.nn.nms import hard_nms
from cuemark.segments import Predictions, Segment, Truth, VideoTruth, times

UPLOADS, PROXIES = "uploads", "proxies"
SENTENCES = 1024
"""Sentences whose vectors are kept."""
LONGEST = 500
"""Characters of a sentence or a label."""
MOMENTS = 1000
"""Of one request."""
APART, FAINT, SHOWN = 0.3, 0.1, 40
"""Of a file's answers to a video: the tIoU up to which two are shown beside each other, the share of the best score
from which one is shown, and how many are."""
POINTS = 2000
"""Of a curve; longer ones keep the highest of each stretch."""
CLIP = 600.0
"""Seconds of a clip to download."""


class Missing(CallError):
    """Something was asked for that is not there."""


@dataclass(frozen=True)
class Moment:
    """A stretch of a video, as a client says it."""

    id: str
    start: float
    end: float
    label: str | None = None
    sentence: str | None = None
    query: str | None = None
    score: float | None = None

    def segment(self) -> Segment:
        """The same.

        Raises:
            CallError: it ends before it starts, or times are no numbers.
        """
        for text in (self.label, self.sentence, self.query):
            if text is not None and len(text) > LONGEST:
                raise CallError(f"a label or a sentence may have {LONGEST} characters at most.")
        try:
            return Segment(self.start, self.end, self.label or None, self.score, self.sentence or None,
                           self.query or None)
        except ValueError as error:
            raise CallError(f"a moment of '{self.id}' cannot be meant: {error}.") from None


class Service:
    """A library and what may be asked of it."""

    def __init__(self, library: Library, predictions: Mapping[str, Predictions] | None = None,
                 localizer: TrainedLocalizer | None = None, device: str = "cpu") -> None:
        self.library, self.localizer, self.device = library, localizer, device
        self.predictions = dict(predictions or {})
        self.jobs = Jobs()
        self._sentences: OrderedDict[str, np.ndarray] = OrderedDict()
        self._guard = threading.Lock()
        self._looks: dict[tuple[str, int, int], media.Look | str] = {}
        self._roots = library.roots()
        if library.space is not None:
            read = library.space.read

            def once(sentences: Sequence[str]) -> np.ndarray:
                # tokenizers cannot be shared by threads, and people repeat themselves
                with self._guard:
                    missing = [s for s in dict.fromkeys(sentences) if s not in self._sentences]
                    if missing:
                        self._sentences.update(zip(missing, read(missing)))
                    rows = np.stack([self._sentences[s] for s in sentences])
                    for sentence in sentences:
                        self._sentences.move_to_end(sentence)
                    while len(self._sentences) > SENTENCES:
                        self._sentences.popitem(last=False)
                    return rows

            library.space = replace(library.space, read=once)

    def warm(self) -> None:
        """Load what reads sentences before the first person waits for it."""
        if self.library.space is not None:
            with suppress(CuemarkError):  # the first question will say why
                self.library.search("warm", 1)

    def close(self) -> None:
        """Let go of everything; what still runs ends, or ends with the process, and goes on when it is begun again."""
        self.jobs.close()
        self.library.close()

    # ------------------------------------------------------------------ what is there

    def overview(self) -> answers.Overview:
        """What the first page shows: the library as a whole."""
        return {"name": self.library.folder.resolve().name, "videos": len(self.library),
                "sentences": self.library.space is not None, "refines": self.localizer is not None, "floor": FLOOR,
                "labels": [{"label": label, "count": count} for label, count in [*self.library.labels().items()][:200]],
                "predictions": list(self.predictions)}

    def videos(self, filter: Filter, limit: int, offset: int) -> answers.Videos:
        """Videos by name."""
        entries = self.library.videos(None if filter.empty else filter, limit, offset)
        return {"offset": offset, "videos": [self._entry(entry) for entry in entries]}

    def entry(self, vid: str) -> Entry:
        """One of the videos.

        Raises:
            Missing: there is none of this id.
        """
        try:
            return self.library.video(vid)
        except CallError as error:
            raise Missing(str(error)) from None

    def _entry(self, entry: Entry) -> answers.Video:
        return {"id": entry.id, "file": entry.path.name, "state": entry.state,
                "reason": None if entry.reason is None else self.hidden(entry.reason),
                "duration": round(entry.duration, 3), "size": entry.size, "modified": round(entry.modified, 1)}

    def video(self, vid: str, queries: Sequence[str] = ()) -> answers.Shown:
        """A video with all that is known of it, and how like each sentence each of its moments is."""
        entry = self.entry(vid)
        lanes: list[answers.Lane] = [
            {"name": "Truth", "kind": "annotation",
             "segments": [_told(s) for s in self.library.segments(vid, "annotation")]},
            {"name": "Corrected", "kind": "correction",
             "segments": [_told(s) for s in self.library.segments(vid, "correction")]}]
        for query in queries:
            found = self.search(query, Filter(ids=(vid,)), 10, floor=0.0)
            lanes.append({"name": query, "kind": "answer", "segments": [
                {"start": hit["segment"][0], "end": hit["segment"][1], "label": None, "score": hit["score"],
                 "sentence": None, "query": query} for hit in found["hits"]]})
        for name, predictions in self.predictions.items():
            told = predictions.get(vid, predictions.get(entry.path.stem, []))
            lanes.append({"name": name, "kind": "prediction", "of": len(told),
                          "segments": [_told(s) for s in outstanding(told)]})
        seen = [s for s in self.library.segments(vid, "stretch") if s.label is not None]
        if seen:
            lanes.append({"name": "Encoder", "kind": "stretch", "segments": [_told(s) for s in seen]})
        return {**self._entry(entry), "media": self.media(vid), "lanes": lanes,
                "curves": [self.curve(vid, query) for query in queries] if self.library.space is not None else []}

    def curve(self, vid: str, query: str) -> answers.Curve:
        """Seconds, and cosines with a sentence there."""
        self.entry(vid)
        seconds, cosines = self.library.curve(vid, _asked(query))
        step = -(-len(cosines) // POINTS)
        if step > 1:  # the highest of each stretch: peaks are what is looked for
            first = np.arange(0, len(cosines), step)
            best = np.array([a + int(cosines[a:a + step].argmax()) for a in first])
            seconds, cosines = seconds[best], cosines[best]
        return {"query": query, "seconds": [round(float(s), 3) for s in seconds],
                "cosines": [round(float(c), 4) for c in cosines]}

    # ------------------------------------------------------------------ searching

    def search(self, query: str, filter: Filter, top: int, floor: float | None = FLOOR, refine: bool = False
               ) -> answers.Found:
        """The moments that a sentence says; without one, those that carry the label of the filter."""
        if not query.strip():
            if filter.label is None:
                raise CallError("there is nothing to look for; say it in a sentence, or choose a class.")
            return {"query": "", "floor": None, "best": None, "seconds": 0.0, "hits": self._labelled(filter, top)}
        if refine and self.localizer is None:
            raise CallError("this server was started without a localizer; leave refine out.")
        found = self.library.search(_asked(query), top, filter, floor=floor,
                                    localizer=self.localizer if refine else None)
        return {"query": query, "floor": found.floor, "best": _rounded(found.best),
                "seconds": round(found.seconds, 4), "hits": [self._hit(hit) for hit in found.hits]}

    def alike(self, vid: str, start: float, end: float, filter: Filter, top: int) -> answers.Found:
        """Moments like one of a video."""
        self.entry(vid)
        if not 0 <= start < end:
            raise CallError(f"an example must have a length, got [{start:g}, {end:g}].")
        found = self.library.search(Shown(self.library.file(vid), start, end), top, filter)
        return {"query": f"like {vid} {start:.1f}–{end:.1f} s", "floor": None, "best": _rounded(found.best),
                "seconds": round(found.seconds, 4), "hits": [self._hit(hit) for hit in found.hits]}

    def _hit(self, hit: Hit) -> answers.Hit:
        told = hit.to_json()
        return {"id": hit.video, "file": hit.path.name, "segment": told["segment"], "score": told["score"],
                "similarity": told["similarity"], "picture": told["picture"], "label": hit.segment.label,
                "why": self.hidden(hit.why), "also": told["also"]}

    def _labelled(self, filter: Filter, top: int) -> list[answers.Hit]:
        """Known segments with a label: what people said first, then the surest."""
        found = []
        for entry in self.library.videos(filter, top):
            for rank, kind in enumerate(("correction", "annotation", "stretch")):
                for s in self.library.segments(entry.id, kind):
                    if s.label == filter.label:
                        found.append((rank, -(s.score or 1.0), entry, s, kind))
        found.sort(key=lambda row: row[:2])
        why = {"correction": "corrected", "annotation": "annotated", "stretch": "the encoder says so"}
        return [{"id": entry.id, "file": entry.path.name, "segment": [round(s.start, 3), round(s.end, 3)],
                 "score": _rounded(s.score), "similarity": None, "picture": round(s.middle, 3), "label": s.label,
                 "why": why[kind], "also": []} for _, _, entry, s, kind in found[:top]]

    # ------------------------------------------------------------------ pictures and films

    def thumbnail(self, vid: str, seconds: float, height: int) -> bytes:
        """A JPEG of what is shown at a moment."""
        self.entry(vid)
        self._look(self._file(vid))
        return self.library.thumbnail(vid, seconds, height)

    def _file(self, vid: str) -> Path:
        self.entry(vid)
        return self.library.file(vid)

    def _look(self, path: Path) -> media.Look:
        """What is known of a file's header, asked once for each state of the file."""
        try:
            told = path.stat()
        except OSError:
            raise VideoError(f"video '{path}' is not there; index its folder again.") from None
        key = str(path), told.st_size, told.st_mtime_ns
        found = self._looks.get(key)
        if found is None:
            try:
                found = media.look(path)
            except VideoError as error:
                found = str(error)
            if len(self._looks) > 10_000:
                self._looks.clear()
            self._looks[key] = found
        if isinstance(found, str):
            raise VideoError(found)
        return found

    def media(self, vid: str) -> answers.Media:
        """Whether and how a browser can play a video: ``direct``, ``proxy``, ``needed`` (a proxy) or ``broken``."""
        try:
            path = self._file(vid)
            look = self._look(path)
            if look.type is not None:
                return {"state": "direct", "type": look.type}
            ready = media.touched(media.place(self.library.folder / PROXIES, path))
            return {"state": "proxy" if ready else "needed", "type": "video/mp4", "codec": look.codec}
        except (VideoError, DataError) as error:
            return {"state": "broken", "reason": self.hidden(str(error))}

    def playable(self, vid: str) -> tuple[Path, str]:
        """The file that a browser plays, and its media type.

        Raises:
            Missing: there is none yet; a job makes one (:meth:`make_proxy`).
            VideoError: the file cannot be used.
        """
        path = self._file(vid)
        look = self._look(path)
        if look.type is not None:
            return path, look.type
        proxy = media.place(self.library.folder / PROXIES, path)
        if not media.touched(proxy):
            raise Missing(f"browsers cannot play '{vid}' ({look.codec}); ask for a proxy first.")
        return proxy, "video/mp4"

    def make_proxy(self, vid: str) -> Job:
        """Begin to make what a browser can play of a video."""
        path = self._file(vid)
        self._look(path)
        proxy = media.place(self.library.folder / PROXIES, path)

        def work(job: Job) -> None:
            job.note = "converting"
            if not media.touched(proxy):
                media.make(path, proxy)
            job.note = ""

        return self.jobs.start("proxy", vid, work, self.hidden)

    def clip(self, moment: Moment, exact: bool) -> Export:
        """A moment as a film of its own."""
        path, segment = self._file(moment.id), moment.segment()
        self._look(path)
        if segment.duration > CLIP:
            raise CallError(f"clips to download last {CLIP:g} s at most; cuemark cut makes longer ones.")
        suffix = ".mp4" if exact or path.suffix.lower() not in cutting.CONTAINERS else path.suffix.lower()
        out = self.library.folder / PROXIES / f".clip-{uuid.uuid4().hex}{suffix}"
        try:
            cutting.cut(path, segment, out, exact)
            data = out.read_bytes()
        finally:
            out.unlink(missing_ok=True)
        name = re.sub(r"[^\w-]+", "-", moment.id).strip("-")[:60] or "clip"
        kind = {".webm": "video/webm", ".mkv": "video/x-matroska"}.get(suffix, "video/mp4")
        return Export(f"{name}_{segment.start:.2f}-{segment.end:.2f}{suffix}", kind, data)

    # ------------------------------------------------------------------ what people say

    def corrections(self) -> answers.Corrections:
        """All of them, by video."""
        return {"corrections": {vid: [_told(s) for s in told.annotations]
                                for vid, told in self.library.corrections().items()}}

    def correct(self, vid: str, moments: Sequence[Moment]) -> answers.Correction:
        """Say what is right in a video, in place of what was said before."""
        self.entry(vid)
        if len(moments) > MOMENTS:
            raise CallError(f"{MOMENTS} moments of a video can be corrected at most.")
        segments = sorted((m.segment() for m in moments), key=lambda s: (s.start, s.end))
        self.library.correct(vid, segments)
        return {"id": vid, "segments": [_told(s) for s in segments]}

    def export(self, moments: Iterable[Moment], format: str) -> Export:
        """Chosen moments as a file."""
        chosen: dict[str, list[Segment]] = {}
        for count, moment in enumerate(moments):
            if count >= MOMENTS:
                raise CallError(f"{MOMENTS} moments can be exported at once.")
            chosen.setdefault(moment.id, []).append(moment.segment())
        truth: Truth = {}
        for vid, segments in chosen.items():
            entry = self.entry(vid)
            try:
                fps: float | None = self._look(self._file(vid)).fps
            except VideoError:  # its file is away today: formats that count frames will say so
                fps = None
            # a layout without a place for a query has one for a label: what was asked is what the moment is
            truth[vid] = VideoTruth(entry.duration, tuple(
                replace(s, label=s.label or s.query or s.sentence or "moment")
                for s in sorted(segments, key=lambda s: (s.start, s.end))), "testing", fps)
        return export(truth, format)

    # ------------------------------------------------------------------ more videos

    def index(self) -> Job:
        """Look for what is new in the folders that the library was made of."""
        def work(job: Job) -> dict[str, Any]:
            folders = [Path(root) for root in self.library.roots() if os.path.exists(root)]
            return self._indexed(job, folders)

        return self.jobs.start("index", "the library's folders", work, self.hidden)

    def add(self, name: str, file: BinaryIO, limit: int) -> Job:
        """Take a video that was sent, and index it.

        Raises:
            CallError: its name is no video's, or it is too large.
            VideoError: it cannot be read, or claims to be larger than anything real.
        """
        stem, suffix = os.path.splitext(os.path.basename(name.replace("\\", "/")))
        if suffix.lower() not in video.EXTENSIONS:
            raise CallError("the name must end as a video's does, such as .mp4.")
        stem = re.sub(r"[^\w -]+", "_", stem).strip("_ ")[:80] or "video"
        folder = self.library.folder / UPLOADS
        folder.mkdir(exist_ok=True)
        path = folder / f"{stem}{suffix.lower()}"
        if path.exists():
            path = folder / f"{stem}-{uuid.uuid4().hex[:6]}{suffix.lower()}"
        temporary = folder / f".{uuid.uuid4().hex}{suffix.lower()}"
        try:
            size = 0
            with open(temporary, "xb") as out:
                while piece := file.read(1 << 20):
                    size += len(piece)
                    if size > limit:
                        raise CallError(f"a video may have {limit >> 20} MB at most.")
                    out.write(piece)
            media.look(temporary)
            os.replace(temporary, path)
        except CuemarkError as error:
            raise type(error)(str(error).replace(str(temporary), Path(name).name[:80])) from None
        finally:
            temporary.unlink(missing_ok=True)
        return self.jobs.start("upload", path.name, lambda job: self._indexed(job, [path]), self.hidden)

    def _indexed(self, job: Job, paths: Sequence[Path]) -> dict[str, Any]:
        job.note = "looking"

        def progress(done: int, total: int, share: float) -> bool:
            job.note = ""
            return job.progress(done, total, share)

        made = self.library.index(paths, device=self.device, progress=progress)
        job.note = ""
        return {"done": made.done, "gone": made.gone, "moved": made.moved, "same": len(made.same),
                "stopped": made.stopped,
                "failed": {self.hidden(path): self.hidden(reason) for path, reason in made.failed.items()}}

    def hidden(self, text: str) -> str:
        """A sentence without this machine's paths."""
        for folder in sorted({str(self.library.folder.resolve()), str(self.library.folder), *self._roots},
                             key=len, reverse=True):
            if len(folder) > 1:
                text = text.replace(folder + os.sep, "").replace(folder, "…")
        return text


def outstanding(told: Sequence[Segment]) -> list[Segment]:
    """What a person would look at of the hundred answers that localizers give to a video, best first.

    Of answers that overlap the best, whatever they are called, and none that is far less sure than the surest. One
    without a score counts as sure; where all scores are negative (logarithms, say), none is too faint.
    """
    if not told:
        return []
    scores = np.array([1.0 if s.score is None else s.score for s in told])
    best, _ = hard_nms(times(told), scores, APART, keep=SHOWN)
    least = FAINT * scores.max() if scores.max() > 0 else -np.inf
    return [told[i] for i in best if scores[i] >= least]


def _told(s: Segment) -> answers.Moment:
    return {"start": round(s.start, 3), "end": round(s.end, 3), "label": s.label, "score": _rounded(s.score),
            "sentence": s.sentence, "query": s.query}


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 4)


def _asked(query: str) -> str:
    within("characters of a sentence", len(query), 1, LONGEST)
    return query


