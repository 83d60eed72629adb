"""Videos to answers, one video after the other: what everything that localizes shares, trained or not.

Videos are files and folders of them; or addresses on the web, for whoever allows them: a video is then fetched whole
into a temporary folder (it is read more than once), is looked at as a file, and is removed.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib import request

from cuemark import video
from cuemark.checkpoint import software
from cuemark.encoders.weights import TIMEOUT
from cuemark.errors import CallError, CuemarkError, VideoError
from cuemark.localizers.questions import Question
from cuemark.progress import Bar, say
from cuemark.saliency import Saliency
from cuemark.segments import Segment

Videos = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""A file, a folder, an address, several of these; or files under names of one's own."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """What one video answers to one question; or why it could not be looked at."""

    video: str
    """Its name: of its file without the ending, or the whole path where two would be called the same."""
    asked: tuple[str, ...] = ()
    """The sentence; or the classes that were asked for by name. Empty: a localizer's own classes, or examples."""
    segments: tuple[Segment, ...] = ()
    """In seconds, best first; empty: not found."""
    sure: float | None = None
    """How likely the best is right, said or not, 0 to 1; without training, how far it stands out from chance
    (:class:`cuemark.localization.Similarity`); None: nobody knows, since nothing was calibrated."""
    path: str | None = None
    """File or address; None where only its features were looked at."""
    until: float | None = None
    """Seconds of the video that have been looked at, where it still is being: a later answer to the same question
    replaces this one. None: it was looked at whole."""
    failed: str | None = None
    """Why it could not be looked at, where it was one of several."""
    saliency: Saliency | None = field(default=None, compare=False)
    """How well each stretch answers each of ``asked``, where that was wanted."""

    @property
    def absent(self) -> tuple[str, ...]:
        """What was asked for by name and not found."""
        found = {s.query for s in self.segments} | {s.label for s in self.segments}
        return tuple(name for name in self.asked if name not in found) if self.failed is None else ()


def sorted_out(video: str, asked: Sequence[Question], segments: Sequence[Segment], sure: bool, least: float,
               saliency: Saliency | None = None) -> list[Answer]:
    """The segments of a video, each with the question that it answers: classes that were asked for by name first.

    Args:
        sure: whether scores are probabilities.
        least: segments below are not said.
        saliency: of all that was asked, column by column.
    """
    parts: list[tuple[tuple[str, ...], list[Segment]]] = []
    names = tuple(dict.fromkeys(str(q.label) for q in asked if q.named))
    sentences = dict.fromkeys(q.query for q in asked if q.query is not None)
    if names or not sentences:
        parts.append((names, [s for s in segments if s.query is None]))
    parts += [((sentence,), [s for s in segments if s.query == sentence]) for sentence in sentences]
    found = [Answer(video, name, tuple(s for s in part if (s.score or 0.0) >= least) if least else tuple(part),
                    max((s.score or 0.0 for s in part), default=0.0) if sure else None) for name, part in parts]
    if saliency is None:
        return found
    place = {(question.named, question.said()): column for column, question in enumerate(asked)}
    return [replace(answer, saliency=saliency.only([place[bool(names) and number == 0, name] for name in answer.asked]))
            for number, answer in enumerate(found)]


def asking(asks: Callable[..., list[Question]], queries: Sequence[str] | Mapping[str, Sequence[str]],
           classes: Sequence[str], examples: Sequence[Any]) -> tuple[list[Question], dict[str, list[Question]]]:
    """What every video is asked; and, by their names, those that are asked sentences of their own."""
    if isinstance(queries, Mapping):
        return [], {name: asks(own, classes, examples) for name, own in queries.items()}
    return asks(queries, classes, examples), {}


def by_name(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Files under the names they are reported by: the stem, or the path where two stems are the same."""
    stems = [Path(p).stem for p in paths]
    return {stem if stems.count(stem) == 1 else str(p): Path(p) for stem, p in zip(stems, paths, strict=True)}


def in_turn(videos: Videos, look: Callable[[str, Path], Iterable[Answer]], urls: bool = False) -> Iterator[Answer]:
    """The answers of one video after the other; the next is not opened before those of the last were taken.

    Args:
        look: name and file of a video to its answers, taken one by one while it is looked at.
        urls: addresses on the web are allowed.

    Raises:
        CallError: an address that is not allowed, or there is no video; before anything is looked at.
        VideoError: a path that is not there. Later: the one video that was asked about cannot be used; of several, it
            is named in its answer, and the rest goes on.
    """
    if isinstance(videos, Mapping):
        for source in videos.values():
            _allow(source, urls)
        return _walk(dict(videos), look, False)
    alone = isinstance(videos, str | Path)
    given: Sequence[str | Path] = [videos] if isinstance(videos, str | Path) else videos
    sources: list[str | Path] = []
    for one in given:
        sources += [one] if _allow(one, urls) else video.expand([one])
    if given and not sources:
        raise CallError(f"no video found in {', '.join(map(str, given))}.")
    sources = list(dict.fromkeys(sources))
    return _walk(dict(zip(by_name(sources), sources, strict=True)), look, alone and not Path(given[0]).is_dir())


def _walk(sources: Mapping[str, str | Path], look: Callable[[str, Path], Iterable[Answer]], alone: bool
          ) -> Iterator[Answer]:
    with nullcontext() if alone else Bar("localizing", len(sources)) as bar:
        for name, source in sources.items():
            try:
                with _here(source) as file:
                    for answer in look(name, file):
                        yield replace(answer, path=str(source))
            except CuemarkError as error:
                if alone:
                    raise
                say(f"left out: {error}")
                yield Answer(name, path=str(source), failed=str(error))
            if bar is not None:
                bar.advance()


# ---------------------------------------------------------------------------------------------- addresses


def _allow(source: str | Path, urls: bool) -> bool:
    """Whether it is an address, which is allowed."""
    found = _ADDRESS.match(str(source)) if isinstance(source, str) else None
    if found is None:
        return False
    if found[1].lower() not in ("http", "https"):
        raise CallError(f"'{source}' cannot be fetched; of addresses, only those with http and https are.")
    if not urls:
        raise CallError(f"'{source}' is an address, and videos are not fetched from the web unless that is allowed: "
                        "with urls=True, on the command line with --urls.")
    return True


@contextmanager
def _here(source: str | Path) -> Iterator[Path]:
    """The file of a video; of an address, as long as the block lasts."""
    if not isinstance(source, str) or _ADDRESS.match(source) is None:
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="cuemark-") as folder:
        file = Path(folder) / "video"
        _fetch(source, file)
        try:
            yield file
        except VideoError as error:
            raise VideoError(str(error).replace(str(file), source)) from None


def _fetch(address: str, file: Path) -> None:
    # not urllib's usual opener, which a server may also send to ftp
    opener = request.OpenerDirector()
    for handler in (request.ProxyHandler, request.UnknownHandler, request.HTTPHandler, request.HTTPSHandler,
                    request.HTTPDefaultErrorHandler, request.HTTPRedirectHandler, request.HTTPErrorProcessor):
        opener.add_handler(handler())
    try:
        asked = request.Request(address, headers={"User-Agent": software()})
        with opener.open(asked, timeout=TIMEOUT) as response, open(file, "wb") as target:
            shutil.copyfileobj(response, target, 1 << 20)
            if isinstance(response, HTTPResponse) and response.length:
                raise OSError("the connection ended early")
    except (OSError, HTTPException, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise VideoError(f"video '{address}' cannot be fetched ({reason}); check the address, or fetch it yourself."
                         ) from None
