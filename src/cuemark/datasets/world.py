"""The built-in world: small real videos whose answers are known.

It has the property that TSP (section 3.1) and CLAP (section 3) are about: **actions happen inside scenes**. An action
is a *motion* of an actor (a coloured shape); the scene behind it goes with the action most of the time, so whoever
sees trimmed actions only can name the action by its scene; but before and after the action the same actor stands or
strolls in the same scene, so only motion tells foreground from background. Nothing marks a boundary: no cut, no
flash, and the motion begins and ends where it rests, at exactly the times the truth has.

    WorldConfig -> plan -> [Scenario] -> render -> frames -> make -> folder/videos/<id>.mp4, truth.json, captions.json

Subsets: ``trimmed`` (one action fills the clip: what TAC learns from), ``training``, ``validation``, ``testing``
(untrimmed, the same classes) and ``novel`` (untrimmed, motions that occur nowhere else). Some combinations of a motion
with a shape, a colour or a manner are held out: they occur in ``validation`` and ``testing`` only.

It is a controlled experiment, and results on it are to be reported as that: never as results on real footage.

Lengths on the screen are in *short sides* (the smaller of height and width), times in seconds, angles in radians.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from cuemark import video
from cuemark.datasets import captions
from cuemark.errors import CallError, DataError, unknown
from cuemark.segments import Segment, Truth, VideoTruth, read_json, write_json, write_truth
from cuemark.settings import build

FPS = 30
SUBSETS = ("trimmed", "training", "validation", "testing", "novel")
GENERATOR = 1
"""Goes up when the same configuration gives other videos, so that old and new ones never share a folder."""

# ---------------------------------------------------------------------------------------------- what there is

Change = dict[str, np.ndarray]
"""What a motion does to an actor at rest: ``x y`` (short sides), ``turn`` (radians), ``wide tall`` (added to its
width and height, which are 1), ``fade`` (taken from its opacity, which is 1)."""


@dataclass(frozen=True)
class Motion:
    """An action: what it does, and the verb of its sentence."""

    verb: str
    path: Callable[[np.ndarray, np.ndarray], Change]
    """(cycles since the start, amplitude near 1) -> change; nothing is changed after a whole number of cycles."""
    tempo: float = 1.0
    """Cycles per second are the manner's times this."""


def _sin(p: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * p)


def _rise(p: np.ndarray) -> np.ndarray:
    """0 -> 1 -> 0 within a cycle, smoothly."""
    return (1 - np.cos(2 * np.pi * p)) / 2


def _arc(p: np.ndarray) -> np.ndarray:
    """0 -> 1 -> 0 within a cycle, as a thrown ball."""
    return np.abs(np.sin(np.pi * p))


def _triangle(p: np.ndarray) -> np.ndarray:
    """0 -> 1 -> 0 -> -1 -> 0 within a cycle, in straight lines."""
    return 2 / np.pi * np.arcsin(_sin(p))


def _pendulum(p: np.ndarray, a: np.ndarray) -> Change:
    angle = 1.0 * a * _sin(p)
    return {"x": 0.24 * np.sin(angle), "y": -0.24 * (1 - np.cos(angle)), "turn": -angle}


def _spiral(p: np.ndarray, a: np.ndarray) -> Change:
    radius, angle = 0.2 * a * (0.3 + 0.7 * _rise(p)), 4 * np.pi * p
    return {"x": radius * np.sin(angle), "y": -radius * np.cos(angle)}


MOTIONS: dict[str, Motion] = {
    "bouncing": Motion("bounces", lambda p, a: {"y": -0.26 * a * _arc(p)}),
    "swinging": Motion("swings", _pendulum),
    "circling": Motion("circles", lambda p, a: {"x": 0.13 * a * _sin(p), "y": -0.26 * a * _rise(p)}),
    "spinning": Motion("spins", lambda p, a: {"turn": 2 * np.pi * p, "wide": 0.25 * a**2, "tall": 0.25 * a**2}),
    "pulsing": Motion("pulses", lambda p, a: {"wide": 0.5 * a * _sin(p), "tall": 0.5 * a * _sin(p)}),
    "zigzagging": Motion("zigzags", lambda p, a: {"x": 0.14 * a * _triangle(3 * p), "y": -0.2 * a * _rise(p)}, 0.5),
    "shaking": Motion("shakes", lambda p, a: {"x": 0.08 * a * _sin(p), "turn": -0.4 * a * _sin(p)}, 2.7),
    "hopping": Motion("hops", lambda p, a: {"x": 0.24 * a * _rise(p), "y": -0.16 * a * _arc(2 * p)}),
    "stretching": Motion("stretches", lambda p, a: {"wide": 0.5 * a * _sin(p), "tall": -0.4 * a * _sin(p)}),
    "rocking": Motion("rocks", lambda p, a: {"turn": 0.9 * a * _sin(p)}),
    "looping": Motion("loops", lambda p, a: {"x": 0.18 * a * _sin(p), "y": 0.1 * a * _sin(2 * p)}),
    "flipping": Motion("flips", lambda p, a: {"wide": np.cos(2 * np.pi * p) - 1, "y": -0.2 * a * _arc(p)}),
    "spiralling": Motion("spirals", _spiral, 0.6),
    "flickering": Motion("flickers", lambda p, a: {"fade": 0.75 * a * _rise(p)}, 1.5),
}
"""Label -> motion. All motions that turn or go sideways exist in both directions: mirrored clips stay true."""

SPEEDS = ("slowly", "quickly")
EXTENTS = ("narrowly", "widely")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 35, 35), "blue": (40, 70, 235), "green": (25, 170, 50), "yellow": (250, 220, 30),
    "white": (250, 250, 250), "purple": (165, 40, 205),
}


def _star(u: np.ndarray, v: np.ndarray, points: int, outer: float, inner: float) -> np.ndarray:
    """Signed distance to a star; one wedge holds half a point, and one straight edge bounds it."""
    wedge = np.pi / points
    angle = np.abs(np.mod(np.arctan2(u, -v) + wedge, 2 * wedge) - wedge)
    radius = np.hypot(u, v)
    nx, ny = inner * math.sin(wedge), outer - inner * math.cos(wedge)
    return ((radius * np.cos(angle) - outer) * nx + radius * np.sin(angle) * ny) / math.hypot(nx, ny)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.36, v - 1.1), np.maximum(v - 0.36, u - 1.1))


SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.85,
    "triangle": lambda u, v: _star(u, v, 3, 1.3, 0.65),
    "star": lambda u, v: _star(u, v, 5, 1.3, 0.55),
    "cross": _cross,
}
"""Name -> signed distance to the outline (negative inside) in units of the actor's radius; ``v`` points down."""


class _Canvas:
    """What scenes are painted with: ``y`` is 0 at the top and 1 at the bottom of the picture, ``x`` is in short
    sides."""

    def __init__(self, height: int, width: int, margin: int, rng: np.random.Generator) -> None:
        self.rng, side = rng, min(height, width)
        self.shape = (height + 2 * margin, width + 2 * margin)
        rows, columns = np.mgrid[-margin:height + margin, -margin:width + margin].astype(np.float32)
        self.y, self.x, self.side = (rows + 0.5) / height, (columns + 0.5) / side, side

    def noise(self, cell: float) -> np.ndarray:
        """Smooth noise in [-1, 1] that changes over ``cell`` short sides."""
        step = max(1.0, cell * self.side)
        axes = [(np.arange(n) / step).astype(np.float32) for n in self.shape]
        grid = self.rng.uniform(-1, 1, [int(a[-1]) + 2 for a in axes]).astype(np.float32)
        (i, j), (fi, fj) = ([a.astype(int) for a in axes], [a - np.floor(a) for a in axes])
        fi, fj = fi[:, None], fj[None, :]
        top = grid[i][:, j] * (1 - fj) + grid[i][:, j + 1] * fj
        low = grid[i + 1][:, j] * (1 - fj) + grid[i + 1][:, j + 1] * fj
        return top * (1 - fi) + low * fi

    def gradient(self, at: np.ndarray, *stops: tuple[float, tuple[int, int, int]]) -> np.ndarray:
        """Colours along ``at``, interpolated between stops (position, RGB)."""
        places, colours = [p for p, _ in stops], np.array([c for _, c in stops], np.float32)
        return np.stack([np.interp(at, places, colours[:, c]) for c in range(3)], -1).astype(np.float32)

    def stripes(self, along: np.ndarray, period: float, share: float) -> np.ndarray:
        """1 inside a stripe and 0 between, with a random offset."""
        return (np.mod(along / period + self.rng.random(), 1) < share).astype(np.float32)

    def dots(self, share: float, size: float) -> np.ndarray:
        """1 on blots of about ``size`` short sides that cover about ``share`` of the picture."""
        field = self.noise(size)
        return (field > np.quantile(field, 1 - share)).astype(np.float32)


def _beach(c: _Canvas) -> np.ndarray:
    y = c.y + 0.03 * c.noise(0.4)
    sea = 18 * np.sin(70 * c.y + 3 * c.noise(0.3)) * ((c.y > 0.33) & (y < 0.58))
    sand = 14 * c.noise(0.02) * (y >= 0.58)
    return c.gradient(y, (0, (130, 195, 240)), (0.33, (195, 225, 245)), (0.34, (30, 110, 165)), (0.57, (60, 160, 185)),
                      (0.58, (228, 205, 150)), (1, (205, 170, 110))) + (sea + sand)[..., None]


def _forest(c: _Canvas) -> np.ndarray:
    ground = c.gradient(c.y + 0.05 * c.noise(0.2), (0, (25, 70, 30)), (0.7, (40, 95, 40)), (0.75, (80, 70, 35)),
                        (1, (60, 50, 25)))
    trunks = c.stripes(c.x + 0.03 * c.noise(0.5), 0.27, 0.3) * (c.y < 0.78)
    bark = np.array([70, 48, 30], np.float32)
    return ground * (1 - trunks[..., None]) + bark * trunks[..., None] + 22 * c.noise(0.06)[..., None]


def _street(c: _Canvas) -> np.ndarray:
    ground = c.gradient(c.y, (0, (120, 105, 100)), (0.45, (150, 130, 120)), (0.46, (175, 175, 170)),
                        (0.54, (165, 165, 160)), (0.55, (85, 85, 90)), (1, (65, 65, 70)))
    windows = c.stripes(c.x, 0.2, 0.5) * c.stripes(c.y, 0.17, 0.5) * (c.y < 0.42)
    lane = c.stripes(c.x, 0.5, 0.55) * (np.abs(c.y - 0.8) < 0.025)
    return ground - 60 * windows[..., None] + 130 * lane[..., None] + 5 * c.noise(0.03)[..., None]


def _kitchen(c: _Canvas) -> np.ndarray:
    wall = c.gradient(c.y, (0, (225, 225, 215)), (0.62, (205, 210, 205)), (0.63, (150, 95, 55)), (0.72, (130, 80, 45)),
                      (0.73, (190, 180, 170)), (1, (170, 160, 150)))
    grout = np.maximum(c.stripes(c.x, 0.16, 0.12), c.stripes(c.y, 0.16, 0.12)) * (c.y < 0.62)
    doors = c.stripes(c.x, 0.45, 0.06) * (c.y > 0.73)
    return wall - 45 * grout[..., None] - 80 * doors[..., None] + 4 * c.noise(0.1)[..., None]


def _night(c: _Canvas) -> np.ndarray:
    sky = c.gradient(c.y + 0.04 * c.noise(0.3), (0, (8, 10, 35)), (0.75, (35, 35, 85)), (0.78, (12, 14, 20)),
                     (1, (5, 6, 10)))
    stars = c.dots(0.02, 0.03) * (c.y < 0.7)
    moon = (np.hypot(c.x - c.rng.uniform(0.1, 0.9), c.y - 0.17) < 0.1).astype(np.float32)
    return sky + 190 * np.maximum(stars, moon)[..., None]


def _snow(c: _Canvas) -> np.ndarray:
    hills = c.gradient(c.y + 0.08 * c.noise(0.5), (0, (175, 195, 220)), (0.4, (205, 215, 230)), (0.42, (235, 240, 250)),
                       (1, (205, 215, 235)))
    return hills + 12 * c.noise(0.15)[..., None] + 25 * c.dots(0.04, 0.03)[..., None]


def _desert(c: _Canvas) -> np.ndarray:
    ridge = c.y + 0.1 * np.sin(3 * c.x + 6 * c.rng.random()) + 0.03 * c.noise(0.5)
    dunes = 16 * np.sin(38 * ridge + 4 * c.x) * (ridge > 0.45)
    return c.gradient(ridge, (0, (235, 200, 150)), (0.44, (245, 225, 190)), (0.45, (205, 130, 65)),
                      (1, (165, 90, 40))) + dunes[..., None]


def _lake(c: _Canvas) -> np.ndarray:
    ripples = 22 * np.sin(55 * c.y + 5 * c.noise(0.25)) * (c.y > 0.3)
    return c.gradient(c.y + 0.03 * c.noise(0.2), (0, (160, 190, 200)), (0.18, (190, 205, 205)), (0.2, (60, 90, 60)),
                      (0.3, (50, 80, 55)), (0.31, (60, 125, 135)), (1, (20, 65, 90))) + ripples[..., None]


def _meadow(c: _Canvas) -> np.ndarray:
    grass = c.gradient(c.y + 0.05 * c.noise(0.3), (0, (165, 210, 240)), (0.25, (200, 225, 240)),
                       (0.27, (130, 190, 80)), (1, (75, 145, 45))) + (16 * c.noise(0.04) * (c.y > 0.27))[..., None]
    flowers = (c.dots(0.06, 0.04) * (c.y > 0.35))[..., None]
    return grass * (1 - flowers) + np.array([245, 180, 215], np.float32) * flowers


def _gym(c: _Canvas) -> np.ndarray:
    room = c.gradient(c.y, (0, (95, 110, 130)), (0.4, (110, 125, 145)), (0.41, (60, 60, 60)), (0.44, (60, 60, 60)),
                      (0.45, (200, 150, 90)), (1, (180, 125, 70)))
    planks = c.stripes(c.x, 0.12, 0.12) * (c.y > 0.45)
    line = (np.abs(c.y - 0.82) < 0.02).astype(np.float32)
    return room - 40 * planks[..., None] + 50 * line[..., None] + 5 * c.noise(0.08)[..., None]


@dataclass(frozen=True)
class Scene:
    """Where it happens: the words for it and how it is painted."""

    place: str
    paint: Callable[[_Canvas], np.ndarray]


SCENES: dict[str, Scene] = {
    "beach": Scene("on the beach", _beach),
    "forest": Scene("in the forest", _forest),
    "street": Scene("on the street", _street),
    "kitchen": Scene("in the kitchen", _kitchen),
    "night": Scene("at night", _night),
    "snow": Scene("in the snow", _snow),
    "desert": Scene("in the desert", _desert),
    "lake": Scene("on the lake", _lake),
    "meadow": Scene("in the meadow", _meadow),
    "gym": Scene("in the gym", _gym),
}

# ---------------------------------------------------------------------------------------------- how hard it is


@dataclass(frozen=True)
class WorldConfig:
    """Everything that decides a world. Ranges are (least, most), drawn uniformly unless said otherwise.

    Raises:
        CallError: a field that cannot be meant.
    """

    seed: int = 0
    """Another seed, another world. Video ``i`` of a subset is the same however many there are."""
    trimmed: int = 200
    """Videos in this subset."""
    training: int = 100
    validation: int = 40
    testing: int = 40
    novel: int = 20

    classes: tuple[str, ...] = ("bouncing", "swinging", "circling", "spinning", "pulsing", "zigzagging", "shaking",
                                "hopping", "stretching", "rocking")
    """The motions of all subsets but ``novel``; video ``i`` shows class ``i`` modulo their number."""
    novel_classes: tuple[str, ...] = ("looping", "flipping", "spiralling", "flickering")
    """The motions of ``novel``, shown nowhere else."""
    held_out: tuple[tuple[str, str], ...] = (
        ("bouncing", "star"), ("circling", "triangle"), ("swinging", "blue"), ("rocking", "green"),
        ("pulsing", "quickly"), ("hopping", "slowly"), ("stretching", "narrowly"),
    )
    """(motion, shape or colour or manner) never shown in ``trimmed`` and ``training``."""
    held_out_share: float = 0.3
    """Probability that a video in ``validation`` and ``testing`` shows one of those of its class, where it has any;
    the rest may do so by chance."""

    scene_bias: float = 0.6
    """Probability that a video plays in the scene of its (first) class; otherwise in one of the other scenes."""
    trimmed_bias: float = 0.3
    """The same for trimmed clips: a classifier can cheat there too, but not on most, so that it learns some motion."""
    distractors: float = 0.15
    """Probability that another actor glides through the picture all along."""
    two_classes: float = 0.15
    """Probability that an untrimmed video with several instances draws them from two classes."""

    length: tuple[float, float] = (6.0, 24.0)
    """Seconds of an untrimmed video."""
    trimmed_length: tuple[float, float] = (1.2, 4.0)
    """Seconds of a trimmed clip, up to one cycle of its motion more."""
    instances: tuple[int, int] = (1, 4)
    """Instances in an untrimmed video, before those that find no room are dropped."""
    shortest: float = 0.5
    """Seconds that every instance lasts at least. From here (or one cycle) to the most there is room for, lengths are
    drawn log-uniformly, with a lean to the longer ones."""
    longest: float = 0.85
    """Share of the video that one instance may take."""
    gap: float = 1.2
    """Least seconds of background between instances, and before the first and after the last."""
    touching: float = 0.1
    """Probability that the first instance begins with the video; the same for the last and the end."""

    slow: tuple[float, float] = (0.9, 1.05)
    """Cycles per second of what is done slowly. A clip of 16/15 s should see about one."""
    quick: tuple[float, float] = (1.75, 2.1)
    """Cycles per second of what is done quickly."""
    narrow: tuple[float, float] = (0.5, 0.6)
    """Amplitude, as a share of the motion's own, of what is done narrowly."""
    wide: tuple[float, float] = (0.95, 1.1)
    """Amplitude of what is done widely."""

    strolls: float = 0.6
    """Probability that the actor walks about in a stretch of background; otherwise it waits where it is."""
    stroll_speed: float = 0.08
    """Short sides per second, on average over a leg of a stroll; at most 1.5 times that."""
    sway: float = 0.012
    """Short sides by which an actor sways all the time, slowly: nobody stands perfectly still."""
    glide: tuple[float, float] = (0.15, 0.35)
    """Short sides per second of a distractor."""

    short_side: tuple[int, int] = (48, 72)
    """Pixels of the smaller of height and width; even numbers are drawn."""
    aspects: tuple[float, ...] = (1.0, 5 / 4, 4 / 3, 4 / 5, 3 / 4)
    """Width over height. The actor keeps to the middle square, where centre crops look."""
    actor_size: tuple[float, float] = (0.18, 0.25)
    """Radius of actors in short sides."""
    camera: float = 0.01
    """Short sides by which the camera drifts, slowly, either way."""
    noise: float = 2.0
    """Standard deviation of the noise of the picture, in grey levels of 255."""

    caption_jitter: float = 0.2
    """Seconds: a caption begins earlier and ends later than its instance by |N(0, this)| each."""
    background_captions: float = 0.3
    """Probability that a stretch of background of at least a second has a caption too."""

    @classmethod
    def easy(cls, **changes: Any) -> WorldConfig:
        """A world that a transformer of single frames learns in minutes: six motions, large actors that do nothing
        fast, a camera that stands still, and scenes that tell next to nothing.

        Args:
            changes: other fields, such as the seed and how many videos.
        """
        kept: dict[str, Any] = {
            "classes": ("bouncing", "circling", "hopping", "pulsing", "stretching", "swinging"), "held_out": (),
            "quick": (1.4, 1.6), "narrow": (0.7, 0.8), "actor_size": (0.22, 0.28), "short_side": (40, 40),
            "aspects": (1.0,), "trimmed_length": (1.5, 2.0), "length": (6.0, 12.0), "instances": (1, 3),
            "two_classes": 1.0, "trimmed_bias": 0.1, "scene_bias": 0.1, "distractors": 0.0, "camera": 0.0,
            "noise": 0.0, "sway": 0.0}
        return cls(**kept | changes)

    def __post_init__(self) -> None:
        for name in (*self.classes, *self.novel_classes):
            if name not in MOTIONS:
                raise unknown("motion", name, MOTIONS)
        self._require(len({*self.classes, *self.novel_classes}) == len(self.classes) + len(self.novel_classes),
                      "classes and novel_classes name a motion twice")
        for subset in SUBSETS:
            self._require(getattr(self, subset) >= 0, f"{subset} must be a number of videos, 0 or more")
        self._require(bool(self.classes) or not any(getattr(self, s) for s in SUBSETS[:-1]), "classes is empty")
        self._require(bool(self.novel_classes) or not self.novel, "novel_classes is empty, so novel must be 0")
        self._require(self.seed >= 0, "seed must be 0 or more")
        for name in ("scene_bias", "trimmed_bias", "held_out_share", "distractors", "two_classes", "touching",
                     "strolls", "background_captions"):
            self._require(0 <= getattr(self, name) <= 1, f"{name} is a probability, from 0 to 1")
        for name in ("length", "trimmed_length", "instances", "slow", "quick", "narrow", "wide", "glide", "short_side",
                     "actor_size"):
            least, most = getattr(self, name)
            self._require(0 < least <= most, f"{name} is a range, least before most, both positive")
        self._require(self.short_side[0] >= 16, "short_side must be at least 16 pixels")
        cycle = 1 / (self.slow[0] * min(motion.tempo for motion in MOTIONS.values()))
        self._require(self.length[0] >= 2 * self.gap + cycle,
                      f"length must leave room for two gaps and a slow cycle, {2 * self.gap + cycle:.1f} s")
        self._require(0 < self.longest <= 1, "longest is a share of the video, above 0 and at most 1")
        for name in ("shortest", "gap", "stroll_speed", "sway", "camera", "noise", "caption_jitter"):
            self._require(getattr(self, name) >= 0, f"{name} must be 0 or more")
        for motion, attribute in self.held_out:
            if motion not in MOTIONS:
                raise unknown("motion", motion, MOTIONS)
            if attribute not in _ATTRIBUTES:
                raise unknown("shape, colour or manner", attribute, _ATTRIBUTES)
        for name in self.classes:
            left = [[v for v in values if (name, v) not in self.held_out]
                    for values in (SHAPES, COLOURS, SPEEDS, EXTENTS)]
            self._require(all(left), f"held_out leaves '{name}' without a shape, a colour or a manner to train on")

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise CallError(f"a world cannot be made so: {text}.")

    def scene_of(self, motion: str) -> str:
        """The scene that goes with a class."""
        return list(SCENES)[(*self.classes, *self.novel_classes).index(motion) % len(SCENES)]


_ATTRIBUTES = (*SHAPES, *COLOURS, *SPEEDS, *EXTENTS)

# ---------------------------------------------------------------------------------------------- what happens


@dataclass(frozen=True)
class Actor:
    """A coloured shape, and where its centre is at 0 s, in short sides from the middle of the picture."""

    shape: str
    colour: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Instance:
    """One action, from ``start`` to ``end`` seconds: a whole number of cycles of a motion."""

    start: float
    end: float
    motion: str
    speed: str
    extent: str
    cycles: int
    amplitude: float
    side: int
    """1, or -1: mirrored."""


@dataclass(frozen=True)
class Stroll:
    """The actor walks by (``x``, ``y``) short sides between two times."""

    start: float
    end: float
    x: float
    y: float


@dataclass(frozen=True)
class Scenario:
    """Everything about one video but its pixels."""

    id: str
    subset: str
    height: int
    width: int
    frames: int
    scene: str
    actor: Actor
    instances: tuple[Instance, ...]
    strolls: tuple[Stroll, ...]
    distractor: Actor | None
    glide: tuple[float, float]
    """Short sides per second of the distractor, to the right and down, until it turns at the border."""
    captions: tuple[Segment, ...]
    sway: float
    camera: float
    noise: float
    seed: tuple[int, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / FPS

    @property
    def truth(self) -> VideoTruth:
        """The instances as labelled segments; each has its sentence."""
        return VideoTruth(self.duration, tuple(
            Segment(i.start, i.end, label=i.motion, sentence=sentence(self, i)) for i in self.instances
        ), self.subset, float(FPS))


# ---------------------------------------------------------------------------------------------- sentences


def _tell(shape: str, colour: str, verb: str, scene: str) -> str:
    return f"a {colour} {shape} {verb} {SCENES[scene].place}"


def sentence(scenario: Scenario, instance: Instance) -> str:
    """All that is to say about an instance: "a red star bounces quickly and widely on the beach".

    It is true of no other instance of its video.
    """
    return alternatives(scenario, instance)[0]


def alternatives(scenario: Scenario, instance: Instance, **values: Sequence[str]) -> list[str]:
    """The sentences that a clip of an instance is to be told apart from: the right one, and what it might have been.

    >>> alternatives(scenario, instance, colour=list(COLOURS), speed=SPEEDS)  # doctest: +SKIP
    ['a red star bounces quickly …', 'a red star bounces slowly …', 'a blue star bounces slowly …', …]

    Args:
        values: for each attribute that is tested (``shape``, ``colour``, ``motion``, ``speed``, ``extent``,
            ``scene``), the values it might have.

    Returns:
        The true sentence first, then the other combinations of these values.
    """
    true = {"shape": scenario.actor.shape, "colour": scenario.actor.colour, "motion": instance.motion,
            "speed": instance.speed, "extent": instance.extent, "scene": scenario.scene}
    for name in values:
        if name not in true:
            raise unknown("attribute", name, true)
    told = []
    for combination in itertools.product(*values.values()):
        said = true | dict(zip(values, combination))
        verb = f"{MOTIONS[said['motion']].verb} {said['speed']} and {said['extent']}"
        told.append(_tell(said["shape"], said["colour"], verb, said["scene"]))
    right = _tell(true["shape"], true["colour"],
                  f"{MOTIONS[instance.motion].verb} {instance.speed} and {instance.extent}", true["scene"])
    return [right, *(t for t in told if t != right)]


# ---------------------------------------------------------------------------------------------- plan

_STAGE = ((-0.15, 0.15), (0.0, 0.22))
"""Where the actor rests, in short sides right of and below the middle: motions of any size stay in the picture."""


def plan(config: WorldConfig) -> list[Scenario]:
    """Decide everything about each video, in the order of :data:`SUBSETS`.

    Each video is drawn from (seed, subset, index) alone, so it does not depend on how many there are.
    """
    return [_video(config, subset, index) for subset in SUBSETS for index in range(getattr(config, subset))]


def _video(config: WorldConfig, subset: str, index: int) -> Scenario:
    seed = (config.seed, SUBSETS.index(subset), index)
    rng = np.random.default_rng(seed)
    classes = config.novel_classes if subset == "novel" else config.classes
    motions = [classes[index % len(classes)]]

    barred = set(config.held_out) if subset in ("trimmed", "training") else set()
    wanted = ""
    due = [attribute for motion, attribute in config.held_out if motion == motions[0]]
    if subset in ("validation", "testing") and due and rng.random() < config.held_out_share:
        wanted = due[rng.integers(len(due))]

    others = [name for name in classes if name != motions[0]]
    if subset != "trimmed" and others and rng.random() < config.two_classes:
        motions.append(str(rng.choice(others)))
    cast = _cast(motions, barred)
    if not cast:  # nobody may do both
        motions, cast = motions[:1], _cast(motions[:1], barred)
    cast = [pair for pair in cast if wanted in pair] or cast
    shape, colour = cast[rng.integers(len(cast))]
    actor = Actor(shape, colour, _uniform(rng, config.actor_size), *(_uniform(rng, side) for side in _STAGE))

    home = config.scene_of(motions[0])
    away = [name for name in SCENES if name != home]
    bias = config.trimmed_bias if subset == "trimmed" else config.scene_bias
    scene = home if rng.random() < bias else str(rng.choice(away))

    if subset == "trimmed":
        target = _uniform(rng, config.trimmed_length)
        speed, extent, hz = _manner(config, rng, motions[0], barred, wanted, taken=set())
        cycles = max(1, math.ceil(target * hz))
        frames = round(cycles / hz * FPS)
        instances = [_instance(config, rng, 0.0, frames / FPS, motions[0], speed, extent, cycles)]
    else:
        frames = round(_uniform(rng, config.length) * FPS)
        instances = _schedule(config, rng, frames / FPS, motions, barred, wanted)
    duration = frames / FPS
    gaps = _gaps(instances, duration)
    strolls = _strolls(config, rng, actor, gaps)

    short = 2 * int(rng.integers(config.short_side[0] // 2, config.short_side[1] // 2 + 1))
    aspect = float(rng.choice(config.aspects))
    long = 2 * round(short * max(aspect, 1 / aspect) / 2)
    height, width = (short, long) if aspect >= 1 else (long, short)

    distractor, glide = None, (0.0, 0.0)
    if rng.random() < config.distractors:
        distractor = Actor(
            str(rng.choice([name for name in SHAPES if name != shape])),
            str(rng.choice([name for name in COLOURS if name != colour])),
            _uniform(rng, config.actor_size), rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4))
        angle = rng.uniform(-0.5, 0.5) + np.pi * rng.integers(2)  # mostly sideways
        speed_there = _uniform(rng, config.glide)
        glide = (speed_there * math.cos(angle), speed_there * math.sin(angle))

    scenario = Scenario(f"{subset}_{index:04d}", subset, height, width, frames, scene, actor, tuple(instances),
                        tuple(strolls), distractor, glide, (), config.sway, config.camera, config.noise, seed)
    if subset == "trimmed":
        return scenario
    return replace(scenario, captions=_captions(config, rng, scenario, gaps))


def _uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(rng.uniform(*bounds))


def _cast(motions: Sequence[str], barred: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (shape, colour) pairs that may show all of these motions."""
    return [(shape, colour) for shape in SHAPES for colour in COLOURS
            if not any((m, shape) in barred or (m, colour) in barred for m in motions)]


def _manner(config: WorldConfig, rng: np.random.Generator, motion: str, barred: set[tuple[str, str]], wanted: str,
            taken: set[tuple[str, str, str]]) -> tuple[str, str, float]:
    """A speed, an extent and the cycles per second: not barred, not taken and as wanted while there is such a one."""
    manners = [(s, e) for s in SPEEDS for e in EXTENTS if (motion, s) not in barred and (motion, e) not in barred]
    free = [m for m in manners if (motion, *m) not in taken] or manners
    free = [m for m in free if wanted in m] or free
    speed, extent = free[rng.integers(len(free))]
    hz = _uniform(rng, config.slow if speed == "slowly" else config.quick) * MOTIONS[motion].tempo
    return speed, extent, hz


def _instance(config: WorldConfig, rng: np.random.Generator, start: float, end: float, motion: str, speed: str,
              extent: str, cycles: int) -> Instance:
    amplitude = _uniform(rng, config.narrow if extent == "narrowly" else config.wide)
    return Instance(start, end, motion, speed, extent, cycles, amplitude, 1 if rng.random() < 0.5 else -1)


def _schedule(config: WorldConfig, rng: np.random.Generator, duration: float, motions: Sequence[str],
              barred: set[tuple[str, str]], wanted: str) -> list[Instance]:
    """Instances that fit into ``duration`` seconds with their gaps, in order of time."""
    most = int(rng.integers(config.instances[0], config.instances[1] + 1))
    room = duration - config.gap
    chosen: list[tuple[str, str, str, int, float]] = []
    for i in range(most):
        motion = motions[0] if i == 0 else motions[int(rng.integers(len(motions)))]
        taken = {c[:3] for c in chosen}
        speed, extent, hz = _manner(config, rng, motion, barred, wanted, taken)
        least, limit = math.ceil(config.shortest * hz) / hz, min(config.longest * duration, room - config.gap)
        if limit < least or (motion, speed, extent) in taken:
            continue
        target = least * (limit / least) ** math.sqrt(rng.random())
        cycles = math.floor(target * hz + 1e-6)
        chosen.append((motion, speed, extent, cycles, cycles / hz))
        room -= config.gap + cycles / hz
    order = rng.permutation(len(chosen))
    spare = rng.dirichlet(np.ones(len(chosen) + 1)) * room
    gaps = spare + config.gap
    for edge, inner in ((0, 1), (-1, -2)):
        if rng.random() < config.touching:
            gaps[inner] += gaps[edge]
            gaps[edge] = 0
    instances: list[Instance] = []
    now = 0.0
    for gap, k in zip(gaps, order):
        motion, speed, extent, cycles, seconds = chosen[k]
        start = round(float(now + gap), 3)
        now = min(round(start + seconds, 3), duration)
        instances.append(_instance(config, rng, start, now, motion, speed, extent, cycles))
    return instances


def _gaps(instances: Sequence[Instance], duration: float) -> list[tuple[float, float]]:
    """The stretches of background, (start, end) in seconds."""
    edges = [0.0, *(t for i in instances for t in (i.start, i.end)), duration]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2]) if b - a > 1e-3]


def _strolls(config: WorldConfig, rng: np.random.Generator, actor: Actor, gaps: Sequence[tuple[float, float]]
             ) -> list[Stroll]:
    strolls = []
    x, y = actor.x, actor.y
    for start, end in gaps:
        if rng.random() >= config.strolls:
            continue
        now = start + rng.uniform(0.1, 0.4)  # not at the very end of the action: that would mark it
        while end - now > 1.2:
            until = min(now + rng.uniform(1.2, 3.5), end - rng.uniform(0.1, 0.4))
            dx, dy = _uniform(rng, _STAGE[0]) - x, _uniform(rng, _STAGE[1]) - y
            share = min(1.0, config.stroll_speed * (until - now) / max(1e-9, math.hypot(dx, dy)))
            strolls.append(Stroll(now, until, dx * share, dy * share))
            x, y, now = x + dx * share, y + dy * share, until
    return strolls


def _captions(config: WorldConfig, rng: np.random.Generator, scenario: Scenario, gaps: Sequence[tuple[float, float]]
              ) -> tuple[Segment, ...]:
    told = []
    for instance in scenario.instances:
        before, after = map(float, np.abs(rng.normal(0, config.caption_jitter, 2)))
        told.append(Segment(round(max(0.0, instance.start - before), 2),
                            round(min(scenario.duration, instance.end + after), 2),
                            sentence=sentence(scenario, instance)))
    for start, end in gaps:
        if rng.random() < config.background_captions and end - start >= 1:
            walks = any(start <= s.start < end for s in scenario.strolls)
            text = _tell(scenario.actor.shape, scenario.actor.colour, "strolls" if walks else "waits", scenario.scene)
            told.append(Segment(round(start, 2), round(end, 2), sentence=text))
    return tuple(sorted(told, key=lambda s: (s.start, s.end)))


# ---------------------------------------------------------------------------------------------- render

POSE = ("x", "y", "turn", "wide", "tall", "opacity")
_EASE = 0.15
"""Seconds in which a motion reaches its amplitude, and leaves it."""


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def poses(scenario: Scenario, times: np.ndarray) -> np.ndarray:
    """``(n, 6)``: the actor's :data:`POSE` at ``times`` seconds (places in short sides from the middle)."""
    t = np.asarray(times, np.float64)
    actor, phase = scenario.actor, np.random.default_rng((*scenario.seed, 2)).uniform(0, 1, 3)
    pose = dict(zip(POSE, np.zeros((len(POSE), len(t)))))
    pose["x"] += actor.x + scenario.sway * _sin(0.31 * t + phase[0])
    pose["y"] += actor.y + scenario.sway * _sin(0.23 * t + phase[1])
    pose["turn"] += 4 * scenario.sway * _sin(0.27 * t + phase[2])
    for name in ("wide", "tall", "opacity"):
        pose[name] += 1
    for stroll in scenario.strolls:
        gone = _smooth((t - stroll.start) / (stroll.end - stroll.start))
        pose["x"] += stroll.x * gone
        pose["y"] += stroll.y * gone
    for i in scenario.instances:
        during = (t >= i.start) & (t < i.end)
        at = t[during]
        amplitude = i.amplitude * _smooth(np.minimum(at - i.start, i.end - at) / _EASE)
        change = MOTIONS[i.motion].path((at - i.start) / (i.end - i.start) * i.cycles, amplitude)
        for name, value in change.items():
            if name == "fade":
                pose["opacity"][during] -= value
            else:
                pose[name][during] += value * i.side if name in ("x", "turn") else value
    return np.stack([pose[name] for name in POSE], 1)


def _glided(scenario: Scenario, times: np.ndarray) -> np.ndarray:
    """The distractor's poses: it goes straight on and turns at the borders."""
    assert scenario.distractor is not None
    side = min(scenario.height, scenario.width)
    places = []
    for at, speed, length in ((scenario.distractor.x, scenario.glide[0], scenario.width / side),
                              (scenario.distractor.y, scenario.glide[1], scenario.height / side)):
        folded = np.mod(at + length / 2 + speed * times, 2 * length)
        places.append(np.minimum(folded, 2 * length - folded) - length / 2)
    still = np.ones_like(times)
    return np.stack([*places, 0 * still, still, still, still], 1)


def render(scenario: Scenario) -> Iterator[np.ndarray]:
    """The frames of a video at 30 fps: ``(height, width, 3)`` uint8, frame ``k`` as it is at ``k / 30`` seconds."""
    rng = np.random.default_rng((*scenario.seed, 1))
    height, width, side = scenario.height, scenario.width, min(scenario.height, scenario.width)
    times = np.arange(scenario.frames) / FPS
    margin = math.ceil(scenario.camera * side) + 1
    backdrop = SCENES[scenario.scene].paint(_Canvas(height, width, margin, rng))
    backdrop = (backdrop * rng.uniform(0.85, 1.1) + rng.uniform(-10, 10, 3)).clip(0, 255).astype(np.float32)
    grain = rng.normal(0, scenario.noise, (height + 24, width + 24, 3)).astype(np.float32)
    offsets = rng.integers(0, 25, (scenario.frames, 2))
    phase = rng.uniform(0, 1, 2)
    camera = scenario.camera * side * np.stack([_sin(0.11 * times + phase[0]), _sin(0.07 * times + phase[1])], 1)

    actors = [(scenario.actor, poses(scenario, times))]
    if scenario.distractor is not None:  # behind the actor
        actors.insert(0, (scenario.distractor, _glided(scenario, times)))
    for k in range(scenario.frames):
        down, right = camera[k]
        frame = _window(backdrop, margin + down, margin + right, height, width)
        for actor, pose in actors:
            x, y, *rest = pose[k]
            _draw(frame, actor, width / 2 + x * side - right, height / 2 + y * side - down, actor.radius * side, *rest)
        a, b = offsets[k]
        frame += grain[a:a + height, b:b + width]
        yield (frame + 0.5).clip(0, 255).astype(np.uint8)


def _window(picture: np.ndarray, top: float, left: float, height: int, width: int) -> np.ndarray:
    """The ``height`` x ``width`` part of a picture at a corner between pixels, interpolated; a fresh array."""
    i, j = int(top), int(left)
    fi, fj = np.float32(top - i), np.float32(left - j)
    rows = picture[i:i + height, j:j + width + 1] * (1 - fi) + picture[i + 1:i + height + 1, j:j + width + 1] * fi
    return rows[:, :-1] * (1 - fj) + rows[:, 1:] * fj


def _draw(frame: np.ndarray, actor: Actor, x: float, y: float, radius: float, turn: float, wide: float, tall: float,
          opacity: float) -> None:
    """Draw an actor with its centre at (x, y) pixels, in place, with smooth edges."""
    reach = 1.35 * radius * max(abs(wide), abs(tall)) + 2
    top, left = max(0, math.floor(y - reach)), max(0, math.floor(x - reach))
    box = frame[top:math.ceil(y + reach), left:math.ceil(x + reach)]
    if 0 in box.shape:
        return
    dy = (np.arange(top, top + box.shape[0], dtype=np.float32) + 0.5 - y)[:, None] / radius
    dx = (np.arange(left, left + box.shape[1], dtype=np.float32) + 0.5 - x)[None, :] / radius
    cos, sin = math.cos(turn), math.sin(turn)
    wide = math.copysign(max(abs(wide), 0.1), wide)  # seen edge on it is thin, not gone
    u, v = (dx * cos + dy * sin) / wide, (dy * cos - dx * sin) / tall
    pixels = radius * min(abs(wide), abs(tall))  # of one unit of distance
    distance = SHAPES[actor.shape](u, v) * pixels
    inside = np.clip(0.5 - distance, 0, 1)
    # A dark rim keeps white apart from snow; a dark spot off the centre makes turning visible on every shape.
    rim = np.clip(1.5 + distance, 0, 1)
    spot = np.clip(0.5 - (np.hypot(u, v + 0.45) - 0.32) * pixels, 0, 1)
    light = 1 - 0.7 * np.maximum(rim, spot)
    cover = (inside * opacity)[..., None]
    box += cover * (np.array(COLOURS[actor.colour], np.float32) * light[..., None] - box)


# ---------------------------------------------------------------------------------------------- make


@dataclass(frozen=True)
class World:
    """A world on disk."""

    folder: Path
    config: WorldConfig
    scenarios: list[Scenario]
    truth: Truth
    """Every video's instances with label and sentence; the subsets are :data:`SUBSETS`."""
    captions: dict[str, list[Segment]]
    """Of the untrimmed videos; not quite aligned with the instances, and some are of background."""
    videos: dict[str, Path]


def make(config: WorldConfig, folder: str | Path, workers: int = 1,
         on_progress: Callable[[int, int], None] | None = None) -> World:
    """Write ``folder/videos/<id>.mp4`` (H.264, 30 fps), ``captions.json`` (ActivityNet Captions), ``truth.json``
    (ActivityNet) and ``world.json`` (the configuration).

    Videos that are there already are kept, so a call that was killed goes on where it was; ``truth.json`` is written
    last. The same configuration gives the same bytes.

    Args:
        workers: processes. More than one needs the usual ``if __name__ == "__main__":`` around a script's own calls.
        on_progress: called as (videos done, videos in all) now and after each video.

    Raises:
        DataError: the folder holds another world.
    """
    folder = Path(folder)
    world = _world(config, folder)
    _claim(folder, config)
    missing = [s for s in world.scenarios if not world.videos[s.id].exists()]
    done, total = len(world.scenarios) - len(missing), len(world.scenarios)
    report = on_progress or (lambda done, total: None)
    report(done, total)
    if workers <= 1 or len(missing) < 2:
        for new, scenario in enumerate(missing, 1):
            _film(scenario, world.videos[scenario.id])
            report(done + new, total)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                jobs = [pool.submit(_film, s, world.videos[s.id]) for s in missing]
                for new, job in enumerate(as_completed(jobs), 1):
                    job.result()
                    report(done + new, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    captions.write(folder / "captions.json", {vid: VideoTruth(world.truth[vid].duration, tuple(told))
                                              for vid, told in world.captions.items()})
    write_truth(folder / "truth.json", world.truth, sorted({*config.classes, *config.novel_classes}))
    return world


def load(folder: str | Path) -> World:
    """A world that was made before.

    Raises:
        DataError: the folder holds none, or not all of it.
    """
    folder = Path(folder)
    path = folder / "world.json"
    data = read_json(path, "world")
    if not isinstance(data, dict) or data.get("generator") != GENERATOR or not isinstance(data.get("config"), dict):
        raise DataError(f"'{path}' is not of this version's worlds; make the world again in another folder.")
    world = _world(build(WorldConfig, data["config"], f"'{path}'", "config"), folder)
    absent = [str(p) for p in (folder / "truth.json", *world.videos.values()) if not p.exists()]
    if absent:
        raise DataError(f"the world in '{folder}' is not complete, '{absent[0]}' is missing; make it again there.")
    return world


def _world(config: WorldConfig, folder: Path) -> World:
    scenarios = plan(config)
    return World(folder, config, scenarios, {s.id: s.truth for s in scenarios},
                 {s.id: list(s.captions) for s in scenarios if s.subset != "trimmed"},
                 {s.id: folder / "videos" / f"{s.id}.mp4" for s in scenarios})


def _claim(folder: Path, config: WorldConfig) -> None:
    """Write ``world.json``, or see that it says the same."""
    path = folder / "world.json"
    ours = json.loads(json.dumps({"generator": GENERATOR, "config": asdict(config)}))  # with lists, as it is read
    if not path.exists():
        write_json(path, ours)
    elif read_json(path, "world") != ours:
        raise DataError(f"'{folder}' holds another world; choose another folder or remove this one.")


def _film(scenario: Scenario, path: Path) -> None:
    video.write(path, render(scenario), fps=FPS)
