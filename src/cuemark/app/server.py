"""The library over HTTP: pages, their ``.json`` twins, films by ranges, jobs with events.

Every page is the same document, ``page/index.html``; its modules ask the page's twin, so that a program sees what a
person sees: ``/search?q=…`` and ``/search.json?q=…``, ``/video?id=…`` and ``/video.json?id=…``. Videos are named by id
in the query, which can hold any id there is. ``/openapi.json`` describes all of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, TypeVar
from urllib.parse import quote

import torch
from fastapi import FastAPI, File, Query, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cuemark.app import answers
from cuemark.app.export import choices
from cuemark.app.guard import LOOPBACK, Guard, Limits
from cuemark.app.jobs import Job
from cuemark.app.metrics import Metrics
from cuemark.app.service import LONGEST, MOMENTS, Missing, Moment, Service
from cuemark.errors import CallError, CuemarkError, DataError, VideoError
from cuemark.library import FLOOR, Filter

P = ParamSpec("P")
T = TypeVar("T")
PAGE = Path(__file__).parent / "page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
READERS, SEEKERS, PAINTERS = 6, max(2, os.cpu_count() or 1), 3
"""Threads that look things up, that search, and that decode pictures and write files: a film that plays must not wait
behind a hundred people who search."""

REFUSALS = {
    400: "it cannot be meant", 401: "a token is needed", 403: "changes are taken from the library's own page only",
    404: "it is not there", 409: "it cannot be done now", 413: "it is too large", 421: "not a name of this server",
    422: "it is not of the right form, or a file that it needs is damaged", 429: "too much at once"}
"""What any request may be answered, and why."""

Id = Annotated[str, Query(max_length=400, description="id of a video, as /videos.json lists it")]
Seconds = Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False, description="seconds of the video")]
Top = Annotated[int, Query(ge=1, le=200, description="answers at most")]
Text = Annotated[str | None, Query(max_length=LONGEST)]
Length = Annotated[Annotated[float, Field(ge=0, allow_inf_nan=False)] | None, Query(description="seconds")]
Day = Annotated[Annotated[str, Field(max_length=LONGEST, json_schema_extra={"format": "date"})] | None,
                Query(description="a day such as 2026-01-31")]


class Refusal(BaseModel):
    """Why something was not done."""

    error: str = Field(description="one sentence: what is wrong, where, what to do", pattern=r"\.$")


class Told(BaseModel):
    """A moment, as clients say it."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(max_length=400, description="id of a video")
    start: float = Field(ge=0, le=1e7, allow_inf_nan=False, description="seconds")
    end: float = Field(ge=0, le=1e7, allow_inf_nan=False)
    label: str | None = Field(None, max_length=LONGEST)
    sentence: str | None = Field(None, max_length=LONGEST)
    query: str | None = Field(None, max_length=LONGEST)
    score: float | None = Field(None, allow_inf_nan=False)

    def moment(self) -> Moment:
        """The same, for the service."""
        return Moment(**self.model_dump())


class Corrections(BaseModel):
    """What is right in a video; nothing: take back what was said."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(max_length=400)
    segments: list[Told] = Field(max_length=MOMENTS)


class Wanted(BaseModel):
    """Moments to download."""

    model_config = ConfigDict(extra="forbid")
    format: str = Field(max_length=40, description="name of a format, as /formats.json lists them",
                        json_schema_extra={"enum": [one["name"] for one in choices()]})
    moments: list[Told] = Field(min_length=1, max_length=MOMENTS)


class Cutting(Told):
    """A moment to download as a film."""

    exact: bool = Field(False, description="encode again, exactly; else packets are copied")


class Indexing(BaseModel):
    """Look for new videos in the library's folders."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["index"]


class Converting(BaseModel):
    """Make of a video what a browser can play."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["proxy"]
    id: str = Field(max_length=400, description="of the video")


@dataclass(frozen=True)
class Asked:
    """A page that is known, read once."""

    body: bytes
    type: str
    tag: str


class _Measured:
    """Counts every request under its route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 500
        taken = None

        async def sent(message: Message) -> None:
            nonlocal status, taken
            if message["type"] == "http.response.start":
                status, taken = int(message["status"]), time.monotonic() - began
            await send(message)

        try:
            await self.app(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
            self.metrics.request(method, route, status, taken if taken is not None else time.monotonic() - began)


def create(service: Service, *, token: str | None = None, limits: Limits | None = None,
           hosts: tuple[str, ...] = ()) -> ASGIApp:
    """The application that answers for a library.

    Args:
        token: what whoever asks has to know; None: nothing, and only this machine's own names are answered.
        limits: how much and how often.
        hosts: further names under which it is asked without a token.
    """
    limits = limits or Limits()
    readers, painters = (ThreadPoolExecutor(count, f"cuemark-{name}") for count, name in (
        (READERS, "read"), (PAINTERS, "paint")))
    # as many search as there are cores, each on one: teams of threads would wait for each other
    seekers = ThreadPoolExecutor(SEEKERS, "cuemark-seek", lambda: torch.set_num_threads(1))
    metrics, pages = Metrics(), _pages()

    async def on(pool: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # threads of our own: each has its connection to the database, and none may grow without end
        return await asyncio.get_running_loop().run_in_executor(pool, lambda: work(*args, **kwargs))

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        seekers.submit(service.warm)
        yield
        for pool in (readers, seekers, painters):
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(service.close)

    app = FastAPI(title="cuemark", summary="When does this happen in the video?", version="1", lifespan=alive,
                  docs_url=None, redoc_url=None,
                  responses={status: {"model": Refusal, "description": why} for status, why in REFUSALS.items()})

    # ------------------------------------------------------------------ errors

    def refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": service.hidden(sentence)}, status, headers)

    @app.exception_handler(CuemarkError)
    async def known(request: Request, error: CuemarkError) -> Response:
        status = (404 if isinstance(error, Missing) else 400 if isinstance(error, CallError)
                  else 422 if isinstance(error, (VideoError, DataError)) else 409)
        return refused(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return refused(422, f"{where[:100]}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:  # the router names the methods of one route; a path may have several
            headers["Allow"] = ", ".join(sorted({
                method for route in app.routes if route.matches(request.scope)[0] is not Match.NONE
                for method in getattr(route, "methods", None) or ()}))
        return refused(error.status_code, f"{error.detail}.", headers)

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        return refused(500, "something went wrong that nobody thought of; the server's log says what.")

    # ------------------------------------------------------------------ pages

    def page(name: str, request: Request) -> Response:
        asked = pages[name]
        headers = {"ETag": asked.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == asked.tag:
            return Response(status_code=304, headers=headers)
        return Response(asked.body, media_type=asked.type, headers=headers)

    @app.get("/", include_in_schema=False)
    @app.get("/search", include_in_schema=False)
    @app.get("/videos", include_in_schema=False)
    @app.get("/video", include_in_schema=False)
    async def document(request: Request) -> Response:
        return page("index.html", request)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        if name not in pages:
            raise HTTPException(404, "there is no such file")
        return page(name, request)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return page("icon.svg", request)

    # ------------------------------------------------------------------ their twins

    @app.get("/index.json", tags=["pages"])
    async def overview() -> answers.Start:
        """The library as a whole: how many videos, which classes."""
        about = await on(readers, service.overview)
        return {**about, "uploads": limits.upload, "formats": choices()}

    @app.get("/videos.json", tags=["pages"])
    async def videos(limit: Annotated[int, Query(ge=1, le=500)] = 60, offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
                     label: Text = None, longer: Length = None, shorter: Length = None,
                     since: Day = None, until: Day = None, said: Text = None) -> answers.Videos:
        """Videos by name."""
        filter = Filter(label, None, longer, shorter, since, until, said)
        return await on(readers, service.videos, filter, limit, offset)

    @app.get("/search.json", tags=["pages"])
    async def search(q: Annotated[str, Query(max_length=LONGEST, description="a sentence")] = "", top: Top = 24,
                     label: Text = None, longer: Length = None, shorter: Length = None,
                     since: Day = None, until: Day = None, said: Text = None,
                     any: Annotated[bool, Query(description="show the most similar, however weak the match")] = False,
                     refine: Annotated[bool, Query(description="let the localizer say where moments begin and end")]
                     = False, like: Annotated[str | None, Query(max_length=400, description="id of a video, whose "
                                                                "moment from start to end is the example")] = None,
                     start: Seconds = 0.0, end: Seconds = 0.0) -> answers.Found:
        """Moments that a sentence says, that carry a class, or that are like an example; best first.

        The `score` of a sentence's moment, 0 to 1, says how far the match stands out from chance: the share of
        sentences about nothing whose best answer here is less like them. It does not say that the answer is right.
        Below `floor` nothing is found, unless `any`; `best` is the score of the nearest. Of an example the score is the
        cosine, of a class what its source says.
        """
        filter = Filter(label, None, longer, shorter, since, until, said)
        if like is not None:
            return await on(seekers, service.alike, like, start, end, filter, top)
        return await on(seekers, service.search, q, filter, top, 0.0 if any else FLOOR, refine)

    @app.get("/video.json", tags=["pages"])
    async def video(id: Id, q: Annotated[list[Annotated[str, Field(max_length=LONGEST)]], Query(max_length=6)] = []  # noqa: B006
                    ) -> answers.Shown:
        """A video: what is known of it as lanes, and a curve for each sentence."""
        queries = [one for one in q if one.strip()]
        return await on(seekers if queries else readers, service.video, id, queries)

    @app.get("/formats.json", tags=["export"])
    async def formats() -> answers.Formats:
        """Every format that moments can be written in."""
        return {"formats": choices()}

    @app.get("/corrections.json", tags=["corrections"])
    async def corrections() -> answers.Corrections:
        """What people said is right."""
        return await on(readers, service.corrections)

    @app.post("/corrections.json", tags=["corrections"])
    async def correct(told: Corrections) -> answers.Correction:
        """Say what is right in a video, in place of what was said before."""
        return await on(readers, service.correct, told.id, [one.moment() for one in told.segments])

    # ------------------------------------------------------------------ pictures and films

    @app.get("/thumbnail.jpg", tags=["media"], response_class=Response,
             responses={200: {"content": {"image/jpeg": {}}}})
    async def thumbnail(id: Id, t: Seconds = 0.0, h: Annotated[int, Query(ge=32, le=720)] = 180) -> Response:
        """The picture shown at a moment."""
        data = await on(painters, service.thumbnail, id, t, h)
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"})

    @app.head("/media", include_in_schema=False)
    @app.get("/media", tags=["media"], response_class=FileResponse,
             responses={200: {"content": {"video/mp4": {}, "video/webm": {}}}, 206: {"description": "a range"},
                        416: {"description": "outside the file"}})
    async def film(id: Id) -> Response:
        """The film, whole or by ranges: the file itself, or its proxy."""
        path, type = await on(readers, service.playable, id)
        return FileResponse(path, media_type=type, headers={"Cache-Control": "private, no-cache"})

    # ------------------------------------------------------------------ taking away

    @app.post("/export", tags=["export"], response_class=Response,
              responses={200: {"content": {"application/octet-stream": {}}}})
    async def download(wanted: Wanted) -> Response:
        """Chosen moments as a file of any format."""
        made = await on(painters, service.export, [one.moment() for one in wanted.moments], wanted.format)
        return _attached(made.name, made.type, made.data)

    @app.post("/cut", tags=["export"], response_class=Response, responses={200: {"content": {"video/mp4": {}}}})
    async def cut(wanted: Cutting) -> Response:
        """A moment as a film of its own."""
        told = wanted.model_dump(exclude={"exact"})
        made = await on(painters, service.clip, Moment(**told), wanted.exact)
        return _attached(made.name, made.type, made.data)

    # ------------------------------------------------------------------ jobs

    @app.get("/jobs.json", tags=["jobs"])
    async def jobs() -> answers.States:
        """What is being done, and what was."""
        return {"jobs": [job.to_json() for job in service.jobs.all()]}

    @app.post("/jobs", tags=["jobs"], status_code=202)
    async def begin(task: Annotated[Indexing | Converting, Field(discriminator="kind")]) -> answers.State:
        """Look for new videos in the library's folders, or make a proxy."""
        if isinstance(task, Indexing):
            return (await on(readers, service.index)).to_json()
        return (await on(readers, service.make_proxy, task.id)).to_json()

    @app.post("/upload", tags=["jobs"], status_code=202)
    async def upload(file: Annotated[UploadFile, File(description="a video")]) -> answers.State:
        """Send a video; it is indexed in the background."""
        if not limits.upload:
            raise CallError("this server takes no videos; start it with --upload.")
        return (await on(painters, service.add, file.filename or "", file.file, limits.upload)).to_json()

    def job_of(number: int) -> Job:
        job = service.jobs.get(number)
        if job is None:
            raise Missing(f"there is no job {number} (any more).")
        return job

    @app.get("/jobs/{number}.json", tags=["jobs"])
    async def job(number: int) -> answers.State:
        """How far a job is: `share` from 0 to 1 where it is known, `done` of `total` videos."""
        return job_of(number).to_json()

    @app.post("/jobs/{number}/cancel", tags=["jobs"], status_code=202)
    async def cancel(number: int) -> answers.State:
        """Want no more of a job. What is indexed stays; a film that is being converted is finished all the same."""
        service.jobs.cancel(job_of(number))
        return job_of(number).to_json()

    @app.get("/jobs/{number}/events", tags=["jobs"], response_class=StreamingResponse,
             responses={200: {"content": {"text/event-stream": {}}}})
    async def events(number: int) -> Response:
        """The same whenever it changes, until the job has ended (server-sent events)."""
        found = job_of(number)

        async def lines() -> AsyncIterator[str]:
            async for state in service.jobs.events(found):
                yield f"data: {json.dumps(state)}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    # ------------------------------------------------------------------ for whoever runs it

    @app.get("/health", tags=["operations"])
    async def health() -> answers.Health:
        """Whether it answers, and the library with it."""
        await on(readers, len, service.library)
        return {"status": "ok"}

    @app.get("/metrics", tags=["operations"], response_class=Response,
             responses={200: {"content": {"text/plain": {}}}})
    async def measured() -> Response:
        """Counts and times, for Prometheus."""
        videos = await on(readers, len, service.library)
        waiting = sum(not job.ended for job in service.jobs.all())
        return Response(metrics.text({"videos": videos, "jobs_unfinished": waiting}),
                        media_type="text/plain; version=0.0.4; charset=utf-8")

    return Guard(_Measured(app, metrics), token, limits, (*LOOPBACK, *hosts))


def _attached(name: str, type: str, data: bytes) -> Response:
    disposition = f"attachment; filename*=utf-8''{quote(name)}"
    return Response(data, media_type=type, headers={"Content-Disposition": disposition})


def _pages() -> dict[str, Asked]:
    """The files of the page, which are few and small; nothing else is ever read for a name that a client gives."""
    found = {}
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES:
            body = path.read_bytes()
            found[path.name] = Asked(body, TYPES[path.suffix], f'"{blake2b(body, digest_size=8).hexdigest()}"')
    return found
