"""What is answered, field by field; ``/openapi.json`` describes answers by these.

Times are seconds of the video; what has a ``| None`` is null where nothing is known of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]


class Count(TypedDict):
    """A class, and how many moments carry it."""

    label: str
    count: int


class Choice(TypedDict):
    """A format that moments can be written in."""

    name: str
    title: str
    group: str


class Formats(TypedDict):
    """All of them."""

    formats: list[Choice]


class Overview(TypedDict):
    """The library as a whole."""

    name: str
    videos: int
    sentences: Annotated[bool, Field(description="whether it can be asked in sentences")]
    refines: Annotated[bool, Field(description="whether a localizer can say where moments begin and end")]
    floor: Annotated[float, Field(description="the score from which a match counts as found")]
    labels: list[Count]
    predictions: Annotated[list[str], Field(description="the lanes of predictions that videos have")]


class Start(Overview):
    """The library, and what this server lets one do with it."""

    uploads: Annotated[int, Field(description="bytes of a video that is sent, at most; 0: none is taken")]
    formats: list[Choice]


class Moment(TypedDict):
    """A stretch of a video."""

    start: float
    end: float
    label: str | None
    score: float | None
    sentence: str | None
    query: str | None


class Video(TypedDict):
    """What is known of a video's file."""

    id: str
    file: Annotated[str, Field(description="its name, without its folder")]
    state: Annotated[str, Field(description="ok, or what is wrong with it")]
    reason: str | None
    duration: float
    size: Annotated[int, Field(description="bytes")]
    modified: Annotated[float, Field(description="seconds since 1970")]


class Videos(TypedDict):
    """Some of the videos."""

    offset: int
    videos: list[Video]


class Media(TypedDict):
    """Whether and how a browser can play a video."""

    state: Annotated[Literal["direct", "proxy", "needed", "broken"], Field(
        description="as it is, by its proxy, by a proxy that a job has to make first, or not at all")]
    type: NotRequired[Annotated[str, Field(description="media type of what /media sends")]]
    codec: NotRequired[str]
    reason: NotRequired[Annotated[str, Field(description="why it is broken")]]


class Lane(TypedDict):
    """Moments of one origin."""

    name: str
    kind: Literal["annotation", "correction", "answer", "prediction", "stretch"]
    segments: list[Moment]
    of: NotRequired[Annotated[int, Field(description="how many there are; the outstanding ones are shown")]]


class Curve(TypedDict):
    """How like a sentence a video is, over time."""

    query: str
    seconds: list[float]
    cosines: list[float]


class Shown(Video):
    """A video with all that is known of it."""

    media: Media
    lanes: list[Lane]
    curves: list[Curve]


class Hit(TypedDict):
    """A moment that was found."""

    id: Annotated[str, Field(description="of the video")]
    file: str
    segment: Annotated[list[float], Field(min_length=2, max_length=2, description="start and end")]
    score: float | None
    similarity: Annotated[float | None, Field(description="the best cosine of its clips")]
    picture: Annotated[float, Field(description="seconds of the picture to show")]
    label: str | None
    why: Annotated[str, Field(description="what led there, for people")]
    also: Annotated[list[str], Field(description="videos that hold the same footage")]


class Found(TypedDict):
    """What a search came to."""

    query: str
    floor: float | None
    best: Annotated[float | None, Field(description="score of the nearest, found or not")]
    seconds: Annotated[float, Field(description="how long it took")]
    hits: list[Hit]


class Correction(TypedDict):
    """What people said is right in a video."""

    id: str
    segments: list[Moment]


class Corrections(TypedDict):
    """The same of every video that has some, by id."""

    corrections: dict[str, list[Moment]]


class State(TypedDict):
    """How far a job is."""

    number: int
    kind: str
    about: str
    state: JobState
    done: Annotated[int, Field(description="videos that are done with")]
    total: Annotated[int | None, Field(description="of `done`")]
    share: Annotated[float | None, Field(ge=0, le=1, description="how much of it is done")]
    note: str
    result: dict[str, Any]
    began: Annotated[float, Field(description="seconds since 1970")]


class States(TypedDict):
    """What is being done, and what was."""

    jobs: list[State]


class Health(TypedDict):
    """That it answers."""

    status: Literal["ok"]
