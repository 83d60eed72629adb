"""The built-in world keeps its promises: the same bytes, true answers, and actions that only motion gives away."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import av
import numpy as np
import pytest

from cuemark.datasets import activitynet, captions, world
from cuemark.datasets.world import MOTIONS, WorldConfig
from cuemark.errors import CallError, CuemarkError, DataError

TINY = WorldConfig(trimmed=2, training=3, validation=1, testing=1, novel=1, length=(6, 7), short_side=(48, 52))
MANY = WorldConfig(trimmed=200, training=600, validation=200, testing=200, novel=100)
CLIP = 16 / 15
"""Seconds that an encoder sees at once."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return world.make(TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def many():
    return world.plan(MANY)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def background(scenario):
    """(start, end) of the stretches without an action, found the slow way."""
    edges = sorted({0.0, scenario.duration, *(t for i in scenario.instances for t in (i.start, i.end))})
    return [(a, b) for a, b in itertools.pairwise(edges)
            if not any(i.start <= (a + b) / 2 < i.end for i in scenario.instances)]


# ---------------------------------------------------------------------------------------------- the same world


def test_the_same_seed_gives_the_same_bytes(tiny, tmp_path):
    world.make(TINY, tmp_path)
    assert contents(tmp_path) == contents(tiny.folder)
    assert len(contents(tmp_path)) == 8 + 3


def test_another_seed_gives_another_world(tiny, tmp_path):
    other = world.make(replace(TINY, seed=1, trimmed=0, training=2, validation=0, testing=0, novel=0), tmp_path)
    for vid, path in other.videos.items():
        assert path.read_bytes() != tiny.videos[vid].read_bytes()


def test_a_video_does_not_depend_on_how_many_there_are(many):
    few = world.plan(replace(MANY, trimmed=1, training=7, validation=0, testing=3))
    by_id = {s.id: s for s in many}
    assert [by_id[s.id] for s in few] == few


def test_an_easy_world_is_easier():
    """What its docstring says, of every video that it plans."""
    easy = WorldConfig.easy(seed=3, trimmed=30, training=30, validation=10, testing=10, novel=0)
    assert (easy.seed, easy.camera, easy.distractors) == (3, 0.0, 0.0)
    assert easy.scene_bias < WorldConfig().scene_bias
    assert easy.quick[1] < WorldConfig().quick[0]
    scenarios = world.plan(easy)
    assert len(scenarios) == 80
    assert {i.motion for s in scenarios for i in s.instances} == set(easy.classes) < set(WorldConfig().classes)
    with pytest.raises(TypeError, match="colour"):
        WorldConfig.easy(colour=1)


def test_several_processes_make_the_same_world(tiny, tmp_path):
    seen = []
    world.make(TINY, tmp_path, workers=2, on_progress=lambda done, total: seen.append((done, total)))
    assert contents(tmp_path) == contents(tiny.folder)
    assert seen == [(n, 8) for n in range(9)]


def test_what_is_there_is_kept_and_what_is_missing_is_made(tiny, tmp_path):
    made = world.make(TINY, tmp_path)
    gone, kept = made.videos["training_0001"], made.videos["training_0002"]
    gone.unlink()
    stamp = kept.stat().st_mtime_ns
    seen = []
    world.make(TINY, tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(7, 8), (8, 8)]
    assert kept.stat().st_mtime_ns == stamp
    assert contents(tmp_path) == contents(tiny.folder)


def test_a_failure_leaves_only_whole_videos(tiny, tmp_path, monkeypatch):
    calls = itertools.count()
    real = world.render

    def failing(scenario):
        for k, frame in enumerate(real(scenario)):
            if next(calls) == 120:  # in the middle of the second or third video
                raise RuntimeError("lights out")
            assert k < scenario.frames
            yield frame

    with monkeypatch.context() as patch:
        patch.setattr(world, "render", failing)
        with pytest.raises(RuntimeError, match="lights out"):
            world.make(TINY, tmp_path)
    there, whole = contents(tmp_path), contents(tiny.folder)
    assert 1 < len(there) < len(whole)
    assert all(whole[name] == data for name, data in there.items())
    with pytest.raises(DataError, match="not complete"):
        world.load(tmp_path)
    world.make(TINY, tmp_path)
    assert contents(tmp_path) == whole


def test_a_killed_process_leaves_nothing_half_written(tiny, tmp_path):
    code = ("import sys; sys.path.insert(0, sys.argv[2]); from test_world import TINY, world; "
            "world.make(TINY, sys.argv[1])")
    here = os.path.dirname(__file__)
    path = os.pathsep.join([os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here], env=os.environ | {"PYTHONPATH": path})
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(tmp_path.glob("videos/training_*.mp4")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = contents(tiny.folder)
    there = {name: data for name, data in contents(tmp_path).items() if not name.endswith(".tmp")}
    assert there
    assert all(whole[name] == data for name, data in there.items())
    world.make(TINY, tmp_path)
    assert {n: d for n, d in contents(tmp_path).items() if not n.endswith(".tmp")} == whole


# ---------------------------------------------------------------------------------------------- files


def test_videos_are_as_planned(tiny):
    for scenario in tiny.scenarios:
        with av.open(str(tiny.videos[scenario.id])) as file:
            stream = file.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 30)
            frames = list(file.decode(stream))
        assert {(f.height, f.width) for f in frames} == {(scenario.height, scenario.width)}
        np.testing.assert_allclose([f.time for f in frames], np.arange(scenario.frames) / 30, atol=1e-3)
        assert scenario.frames / 30 == scenario.duration == tiny.truth[scenario.id].duration


def test_what_decodes_is_what_was_drawn(tiny):
    scenario = next(s for s in tiny.scenarios if s.subset == "training")
    with av.open(str(tiny.videos[scenario.id])) as file:
        decoded = [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    for ours, theirs in zip(world.render(scenario), decoded):
        assert np.abs(ours.astype(float) - theirs).mean() < 12


def test_annotation_files_say_what_the_world_says(tiny):
    assert activitynet.parse(tiny.folder / "truth.json") == tiny.truth
    told = captions.parse(tiny.folder / "captions.json")
    assert {vid: list(video.annotations) for vid, video in told.items()} == tiny.captions
    assert all(told[vid].duration == tiny.truth[vid].duration for vid in told)
    assert {v.subset for v in tiny.truth.values()} == set(world.SUBSETS)
    assert tiny.captions.keys() == {s.id for s in tiny.scenarios if s.subset != "trimmed"}


def test_a_world_is_loaded_whole(tiny):
    assert world.load(tiny.folder) == tiny


def test_a_folder_holds_one_world(tiny, tmp_path):
    with pytest.raises(DataError, match="holds another world"):
        world.make(replace(TINY, noise=5.0), tiny.folder)
    with pytest.raises(DataError, match="does not exist"):
        world.load(tmp_path)
    for text in ("[]", '{"generator": 0, "config": {}}', '{"generator": 1}'):
        (tmp_path / "world.json").write_text(text)
        with pytest.raises(DataError, match="not of this version's worlds"):
            world.load(tmp_path)
    (tmp_path / "world.json").write_text('{"generator": 1, "config": {"seed": "x"}}')
    with pytest.raises(CuemarkError, match="seed"):
        world.load(tmp_path)


# ---------------------------------------------------------------------------------------------- truth


def test_instances_are_inside_their_video_and_apart(many):
    for scenario in many:
        assert scenario.instances
        edges = [t for i in scenario.instances for t in (i.start, i.end)]
        assert edges == sorted(edges)
        assert edges[0] >= 0
        assert edges[-1] <= scenario.duration
        if scenario.subset == "trimmed":
            (only,) = scenario.instances
            assert (only.start, only.end) == (0, scenario.duration)
            assert only.end >= CLIP
            continue
        assert 6 <= scenario.duration <= 24
        assert all(i.end - i.start >= 0.5 - 2e-3 for i in scenario.instances)
        assert all(i.end - i.start <= 0.85 * scenario.duration + 2e-3 for i in scenario.instances)
        inner = [b - a for (a, b) in background(scenario) if a > 0 and b < scenario.duration]
        assert len(inner) == len(scenario.instances) - 1
        assert all(gap >= 1.2 - 2e-3 for gap in inner)


def test_lengths_and_numbers_vary(many):
    untrimmed = [s for s in many if s.subset != "trimmed"]
    shares = np.array([(i.end - i.start) / s.duration for s in untrimmed for i in s.instances])
    seconds = np.array([i.end - i.start for s in untrimmed for i in s.instances])
    assert seconds.min() < 0.6
    assert shares.max() > 0.8
    assert {len(s.instances) for s in untrimmed} == {1, 2, 3, 4}
    assert 0.02 < np.mean([len({i.motion for i in s.instances}) == 2 for s in untrimmed]) < 0.15
    assert 0.3 < seconds.sum() / sum(s.duration for s in untrimmed) < 0.7
    touching = [s.instances[0].start == 0 for s in untrimmed] + [s.instances[-1].end == s.duration for s in untrimmed]
    assert 0.05 < np.mean(touching) < 0.15


def test_the_speed_is_the_manner(many):
    for scenario in many:
        for i in scenario.instances:
            hz = i.cycles / (i.end - i.start) / MOTIONS[i.motion].tempo
            low, high = MANY.slow if i.speed == "slowly" else MANY.quick
            assert low * 0.97 < hz < high * 1.03  # whole frames (trimmed) and milliseconds move it a little
            low, high = MANY.narrow if i.extent == "narrowly" else MANY.wide
            assert low <= i.amplitude <= high


@pytest.mark.parametrize("bias", [0.0, 0.5, 0.8, 1.0])
def test_the_scene_goes_with_the_class_as_often_as_asked(bias):
    config = WorldConfig(trimmed=0, training=1200, validation=0, testing=0, novel=0, scene_bias=bias, two_classes=0)
    scenarios = world.plan(config)
    homes = [config.scene_of(s.instances[0].motion) for s in scenarios]
    found = np.mean([s.scene == home for s, home in zip(scenarios, homes)])
    assert abs(found - bias) <= 3 * np.sqrt(bias * (1 - bias) / 1200)
    if bias == 0.5:  # all the other scenes are as likely as one another
        others = [s.scene for s, home in zip(scenarios, homes) if s.scene != home]
        counts = np.array([others.count(name) for name in world.SCENES])
        assert counts.min() > 0.5 * counts.mean()


def test_held_out_combinations_are_shown_in_testing_only(many):
    def shown(*subsets):
        return {(i.motion, what) for s in many if s.subset in subsets for i in s.instances
                for what in (s.actor.shape, s.actor.colour, i.speed, i.extent)}

    assert not shown("trimmed", "training") & set(MANY.held_out)
    assert shown("testing") >= set(MANY.held_out)
    assert shown("validation") >= set(MANY.held_out)
    possible = set(itertools.product(MANY.classes, world._ATTRIBUTES))
    assert shown("training") == possible - set(MANY.held_out)


def test_novel_classes_are_novel(many):
    for subset in world.SUBSETS:
        shown = {i.motion for s in many if s.subset == subset for i in s.instances}
        assert shown == set(MANY.novel_classes if subset == "novel" else MANY.classes)


def test_distractors_are_somebody_else(many):
    assert abs(np.mean([s.distractor is not None for s in many]) - MANY.distractors) < 0.05
    for scenario in many:
        if scenario.distractor is not None:
            assert scenario.distractor.shape != scenario.actor.shape
            assert scenario.distractor.colour != scenario.actor.colour


# ---------------------------------------------------------------------------------------------- sentences


def test_a_sentence_names_one_moment_of_its_video(many):
    for scenario in many:
        said = [world.sentence(scenario, i) for i in scenario.instances]
        assert len(set(said)) == len(said)
        assert said == [s.sentence for s in scenario.truth.annotations]


def test_a_sentence_says_it_all():
    scenario = next(s for s in world.plan(TINY) if s.subset == "training")
    scenario = replace(scenario, scene="beach", actor=replace(scenario.actor, shape="star", colour="red"))
    instance = replace(scenario.instances[0], motion="bouncing", speed="quickly", extent="widely")
    assert world.sentence(scenario, instance) == "a red star bounces quickly and widely on the beach"


def test_alternatives_begin_with_the_truth():
    scenario = next(s for s in world.plan(TINY) if s.subset == "training")
    instance = scenario.instances[0]
    true = world.sentence(scenario, instance)
    assert world.alternatives(scenario, instance) == [true]
    for values in ({"colour": list(world.COLOURS)}, {"speed": world.SPEEDS, "shape": list(world.SHAPES)},
                   {"motion": list(MOTIONS), "scene": list(world.SCENES), "extent": world.EXTENTS}):
        told = world.alternatives(scenario, instance, **values)
        assert told[0] == true
        assert len(set(told)) == len(told) == np.prod([len(v) for v in values.values()])
    with pytest.raises(CallError, match="unknown attribute 'color'"):
        world.alternatives(scenario, instance, color=["red"])


def test_captions_hold_their_instances_and_little_more(many):
    described = 0
    for scenario in many:
        if scenario.subset == "trimmed":
            assert scenario.captions == ()
            continue
        assert all(0 <= c.start <= c.end <= scenario.duration + 0.005 for c in scenario.captions)
        told = {c.sentence: c for c in scenario.captions}
        for i in scenario.instances:
            caption = told.pop(world.sentence(scenario, i))
            assert i.start - 1.2 < caption.start <= i.start + 0.005
            assert i.end - 0.005 <= caption.end < i.end + 1.2
        described += len(told)
        for text, c in told.items():
            assert any(abs(a - c.start) < 0.01 for a, _ in background(scenario))
            walked = any(c.start <= s.start < c.end for s in scenario.strolls)
            assert (" strolls " if walked else " waits ") in text
    assert described > 100


# ---------------------------------------------------------------------------------------------- what is seen


def path_of(pose, radius):
    """``(n, 7)``: the actor's place, the way to a point of its rim, its width, height and shade, in short sides."""
    x, y, turn, *rest = pose.T
    return np.stack([x, y, radius * np.sin(turn), radius * np.cos(turn), *(2 * radius * r for r in rest)], 1)


def liveliness(path):
    """RMS distance from the best straight, even movement."""
    t = np.stack([np.ones(len(path)), np.arange(len(path))], 1)
    return np.sqrt(((path - t @ np.linalg.lstsq(t, path, rcond=None)[0]) ** 2).sum(1).mean())


def clips_of(scenarios, stretches, rng):
    """For each stretch that holds a clip, the poses of 16 frames at 15 fps at a random place in it."""
    for scenario in scenarios:
        for start, end, label in stretches(scenario):
            if end - start > CLIP:
                t = rng.uniform(start, end - CLIP) + np.arange(16) / 15
                yield scenario, label, world.poses(scenario, t)


def actions(scenario):
    return [(i.start, i.end, i.motion) for i in scenario.instances]


def rests(scenario):
    return [(a, b, "background") for a, b in background(scenario)]


def test_every_clip_of_an_action_moves_and_no_clip_of_background_does(many):
    rng = np.random.default_rng(0)
    lively = {label: [] for label in (*MOTIONS, "background")}
    for scenario, label, pose in itertools.chain(clips_of(many, actions, rng), clips_of(many, rests, rng)):
        lively[label].append(liveliness(path_of(pose, scenario.actor.radius)))
    still = max(lively.pop("background"))
    assert still < 0.015  # under one pixel of 48
    for label, found in lively.items():
        assert len(found) > 20
        assert min(found) > 1.5 * still, label


def test_a_clip_tells_which_motion_it_is():
    """Nearest neighbour on where the actor is in a clip, relative to its mean: one world asks, another one answers."""
    rng = np.random.default_rng(0)

    def clips(seed, number, draws):
        scenarios = world.plan(WorldConfig(seed=seed, trimmed=0, training=0, testing=0,
                                           validation=2 * number, novel=number))
        found = [(path_of(pose, 0.145), label) for _ in range(draws)
                 for _, label, pose in itertools.chain(clips_of(scenarios, actions, rng),
                                                       clips_of(scenarios, rests, rng))]
        return np.array([(p - p.mean(0)).ravel() for p, _ in found]), np.array([label for _, label in found])

    (known, names), (asked, answers) = clips(1, 150, 4), clips(2, 60, 1)
    squares = (asked**2).sum(1)[:, None] + (known**2).sum(1) - 2 * asked @ known.T
    right = names[squares.argmin(1)] == answers
    assert right.mean() > 0.98
    for label in (*MOTIONS, "background"):
        assert right[answers == label].mean() > 0.85, label


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("speed", world.SPEEDS)
def test_a_motion_begins_and_ends_at_rest(motion, speed):
    scenario = next(s for s in world.plan(replace(TINY, strolls=0)) if s.subset == "training")
    cycles, side = 3, -1
    length = cycles / (MOTIONS[motion].tempo * (1.0 if speed == "slowly" else 2.0))
    acting = replace(scenario, instances=(world.Instance(1, 1 + length, motion, speed, "widely", cycles, 1.1, side),))
    resting = replace(scenario, instances=())
    t = np.array([0.0, 0.999, 1.0, 1 + 1e-5, 1 + length - 1e-5, 1 + length, 1.5 + length])
    difference = world.poses(acting, t) - world.poses(resting, t)
    difference[:, 2] = np.mod(difference[:, 2] + np.pi, 2 * np.pi) - np.pi
    assert np.abs(difference).max() < 1e-3
    middle = 1 + length * np.linspace(0.1, 0.9, 40)
    assert np.abs(world.poses(acting, middle) - world.poses(resting, middle)).max() > 0.08


@pytest.mark.parametrize("motion", MOTIONS)
def test_an_actor_stays_in_the_picture(motion):
    scenario = world.plan(TINY)[0]
    for x, y, side in itertools.product(*world._STAGE, (-1, 1)):
        actor = world.Actor("square", "red", 0.17, x, y)
        acting = replace(scenario, actor=actor, strolls=(), instances=(
            world.Instance(0, 6, motion, "slowly", "widely", 6, 1.1, side),))
        pose = world.poses(acting, np.linspace(0, 6, 400))
        assert np.abs(pose[:, :2]).max() < 0.5  # its centre, even in the middle square


def test_the_actor_is_there_before_during_and_after(tiny):
    for scenario in tiny.scenarios:
        nobody = replace(scenario, actor=replace(scenario.actor, radius=1e-3))
        area = np.pi * (0.5 * scenario.actor.radius * min(scenario.height, scenario.width)) ** 2
        outside = [True] * scenario.frames
        for k, (frame, empty) in enumerate(zip(world.render(scenario), world.render(nobody))):
            t = k / 30
            outside[k] = not any(i.start <= t < i.end for i in scenario.instances)
            changed = (np.abs(frame.astype(int) - empty).max(-1) > 25).sum()
            assert changed > area * (1 if outside[k] else 0.02)  # a flip is thin, a pulse is small
        assert any(outside) == (scenario.subset != "trimmed")


def test_nothing_cuts_or_flashes_at_a_boundary(many):
    """From one frame to the next the picture changes no more at the start or end of an action than within it."""
    scenario = next(s for s in many if s.subset == "training" and s.instances[0].motion == "bouncing"
                    and s.distractor is None and len(s.instances) == 1 and s.instances[0].start > 0)
    frames = np.stack(list(world.render(scenario))).astype(float)
    change = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    i = scenario.instances[0]
    k = [round(t * 30) for t in (i.start, i.end)]
    at_edges = max(change[n + d] for n in k for d in (-2, -1, 0) if n + d < len(change))
    assert at_edges <= change[k[0] + 5:k[1] - 5].max()
    assert change.min() > 0  # never static


# ---------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(("changes", "message"), [
    ({"classes": ("boucing",)}, "did you mean 'bouncing'"),
    ({"novel_classes": ("bouncing",)}, "name a motion twice"),
    ({"classes": ()}, "classes is empty"),
    ({"novel_classes": ()}, "novel_classes is empty"),
    ({"training": -1}, "training must be a number of videos"),
    ({"seed": -1}, "seed must be"),
    ({"scene_bias": 1.5}, "scene_bias is a probability"),
    ({"length": (9, 7)}, "length is a range"),
    ({"length": (3, 7)}, "length must leave room"),
    ({"short_side": (8, 60)}, "at least 16 pixels"),
    ({"longest": 0}, "longest is a share"),
    ({"noise": -1}, "noise must be 0 or more"),
    ({"held_out": (("bouncing", "starr"),)}, "did you mean 'star'"),
    ({"held_out": (("jumping", "star"),)}, "unknown motion 'jumping'"),
    ({"held_out": tuple(("bouncing", s) for s in world.SHAPES)}, "leaves 'bouncing' without"),
    ({"held_out": (("bouncing", "slowly"), ("bouncing", "quickly"))}, "leaves 'bouncing' without"),
])
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(CallError, match=message):
        WorldConfig(**changes)


def test_extreme_worlds_are_possible():
    held_out = (*(("zigzagging", s) for s in ("circle", "square")),
                *(("shaking", s) for s in ("triangle", "star", "cross")))
    config = WorldConfig(trimmed=3, training=20, validation=3, testing=3, novel=2, length=(5, 5), instances=(9, 9),
                         classes=("zigzagging", "shaking"), novel_classes=("flipping",), held_out=held_out,
                         two_classes=1, distractors=1, touching=1, strolls=1)
    scenarios = world.plan(config)
    assert all(len({i.motion for i in s.instances}) == 1 for s in scenarios if s.subset == "training")
    assert next(iter(world.render(scenarios[0]))).dtype == np.uint8
