"""Regions and clips: the papers' sampling, the release's CSV rows, and pixels by presentation time."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import shared
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark import clips as rooms
from cuemark import video
from cuemark.clips import (
    ClipConfig,
    ClipSet,
    FrameReader,
    Region,
    Sampling,
    ahead,
    background,
    clip_count,
    clip_start,
    cut,
    place_beside,
    regions,
)
from cuemark.errors import CallError, DataError
from cuemark.segments import Segment, VideoTruth

CLIP = 16 / 15


def tsp_rows(path: Path) -> dict[str, tuple[float, list[tuple[float, float]], list[tuple[float, float]]]]:
    """video -> (duration, action rows, background rows), in file order."""
    videos: dict[str, tuple[float, list, list]] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            entry = videos.setdefault(row["video-name"], (float(row["video-duration"]), [], []))
            part = entry[1] if row["temporal-region-label"] == "Action" else entry[2]
            part.append((float(row["t-start"]), float(row["t-end"])))
    return videos


@pytest.mark.parametrize(("name", "clips", "odd"), [
    ("activitynet/activitynet_v1-3_train", 5, set()),
    ("activitynet/activitynet_v1-3_valid", 5, set()),
    ("thumos14/thumos14_valid", 1, {"video_validation_0000184"}),  # one of its rows starts at 85.8 for 85.2
    ("thumos14/thumos14_test", 1, set()),
])
def test_the_tsp_rule_gives_the_releases_background_rows(name: str, clips: int, odd: set[str]) -> None:
    videos = tsp_rows(shared(f"annotations/tsp/{name}_tsp_groundtruth.csv"))
    different = {
        vid for vid, (duration, actions, rows) in videos.items()
        if background(np.array(actions).reshape(-1, 2), duration, clips * CLIP, "tsp").tolist()
        != [list(r) for r in rows]
    }
    assert different == odd
    if odd:
        duration, actions, rows = videos[odd.pop()]
        mine = background(np.array(actions), duration, clips * CLIP, "tsp")
        assert len(mine) == len(rows)
        assert sum(tuple(a) != b for a, b in zip(mine.tolist(), rows, strict=True)) == 1


def test_union_background_is_what_no_action_covers() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        starts = rng.uniform(0, 50, rng.integers(0, 7))
        actions = np.stack([starts, starts + rng.uniform(0, 20, len(starts))], axis=1).reshape(-1, 2)
        found = background(actions, 60.0, 0.5)
        for t in rng.uniform(0, 60, 300):
            covered = any(a <= t < b for a, b in actions)
            inside = any(a <= t < b for a, b in found)
            assert not (covered and inside)
            if not covered and not inside:  # only where the gap was too short
                left = max([b for _, b in actions if b <= t] + [0.0])
                right = min([a for a, _ in actions if a > t] + [60.0])
                assert right - left < 0.5


def test_the_tsp_rule_overlaps_an_action_that_contains_another() -> None:
    nested = np.array([[0.0, 50.0], [10.0, 20.0]])
    assert background(nested, 60.0, 1.0, "tsp").tolist() == [[20.0, 60.0]]
    assert background(nested, 60.0, 1.0, "union").tolist() == [[50.0, 60.0]]


def test_regions_are_clipped_named_and_short_ones_dropped() -> None:
    truth = VideoTruth(20.0, (Segment(2, 5, "run"), Segment(12, 30, "jump"), Segment(8, 8.5, "sit"),
                              Segment(9, 10.5, sentence="only a caption")))
    found = regions("v", truth, CLIP, Sampling())
    assert [(r.start, r.end, r.label) for r in found if r.foreground] == [(2, 5, "run"), (12, 20, "jump")]
    assert [(r.start, r.end, r.near) for r in found if not r.foreground] == [
        (0, 2, "run"), (5, 8, "run"), (8.5, 12, "sit")]
    assert not any(not r.foreground for r in regions("v", truth, CLIP, Sampling(), with_background=False))
    centred = regions("v", truth, CLIP, Sampling(short="centre"))
    assert (8, 8.5, "sit") in [(r.start, r.end, r.label) for r in centred]
    assert clip_start(Region("v", 8, 8.5, "sit", "sit"), CLIP, 20.0, 0.3) == pytest.approx(8.25 - CLIP / 2)
    assert clip_start(Region("v", 0, 0.5, "sit", "sit"), CLIP, 20.0, 0.3) == 0.0
    assert clip_start(Region("v", 19.8, 20, "sit", "sit"), CLIP, 20.0, 0.3) == pytest.approx(20 - CLIP)


def test_clips_lie_in_their_region_and_testing_spaces_them_evenly() -> None:
    region = Region("v", 3.0, 7.0, "run", "run")
    even = [clip_start(region, CLIP, 20.0, p) for p in np.linspace(0, 1, 5)]
    assert even[0] == 3.0
    assert even[-1] == pytest.approx(7.0 - CLIP)
    assert np.allclose(np.diff(even), (4 - CLIP) / 4)


@pytest.mark.parametrize("change", [
    {"frames": 0}, {"fps": 0.0}, {"fps": -15.0}, {"fps": math.nan}, {"short_side": 0}, {"crop": 0}], ids=str)
def test_an_impossible_look_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CallError, match=rf"^clip\.{next(iter(change))} must be a number at least "):
        ClipConfig(**change)


@pytest.mark.parametrize("change", [
    {"clips_per_region": 0}, {"min_background": -0.1}, {"flip": -0.1}, {"flip": 1.1}, {"p_caption": 2.0},
    {"p_caption": math.nan}, {"clips_per_video": 0}, {"ignore": -1.0}, {"ignore": math.inf}, {"reach": -1.0},
    {"reach": math.nan}, {"near": -0.1}, {"near": 1.1}], ids=str)
def test_impossible_sampling_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CallError, match=rf"^sampling\.{next(iter(change))} must be a number "):
        Sampling(**change)


def test_sizes_keep_the_aspect_unless_told_otherwise() -> None:
    assert ClipConfig().size(360, 480) == (128, 171)
    assert ClipConfig().size(480, 360) == (171, 128)
    assert ClipConfig().size(1080, 1920) == (128, 228)
    assert ClipConfig(fixed_size=(128, 171)).size(1080, 1920) == (128, 171)
    assert ClipConfig().seconds == pytest.approx(CLIP)


def test_the_release_cuts_the_same_centre() -> None:
    frames = np.zeros((1, 128, 171, 3), np.uint8)
    frames[0, 8, 30] = 255  # top 8, left round(29.5) = 30
    assert cut(frames, 112)[0, 0, 0, 0] == 255


def test_extraction_counts_are_the_releases() -> None:
    clip = ClipConfig()
    for frames30 in (33, 400, 4169):
        halved = -(-frames30 // 2)
        assert clip_count(frames30 / 30, clip, 16) == (halved, (halved - 16) // 16 + 1)
    assert clip_count(0.5, clip, 16) == (8, 1)


# ---------------------------------------------------------------------------------------------- pixels


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 30 fps whose grey level is 2 x frame number + 20."""
    path = tmp_path_factory.mktemp("clips") / "counted.mp4"
    video.write(path, (np.full((40, 56, 3), 20 + 2 * i, np.uint8) for i in range(90)), fps=30, quality=10)
    return path


def test_a_clip_shows_the_frames_of_its_times_whatever_the_budget(counted: Path) -> None:
    clip = ClipConfig(short_side=40, crop=32)
    for start in (0.0, 0.013, 0.5, 1.7, 2.5):
        wanted = np.minimum(np.floor((clip.times(start) + 1e-4) * 30), 89)
        seen = {}
        for budget in (0, 1e9):
            frames = FrameReader(clip, budget).read(counted, clip.times(start))
            seen[budget] = frames
            assert np.abs((frames[:, 20, 28, 0].astype(float) - 20) / 2 - wanted).max() <= 1
        assert np.array_equal(seen[0], seen[1e9])


def test_draws_depend_on_seed_epoch_and_number_alone(counted: Path) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0.2, 1.8, "run"),))}
    clip = ClipConfig(short_side=40, crop=32)

    def drawn(number: int, epoch: int, **how: object) -> tuple[float, bytes]:
        clips = ClipSet(truth, {"a": counted}, clip, seed=3, **how)  # type: ignore[arg-type]
        made, _ = clips.draw(number, epoch)
        return made.start, made.frames.tobytes()

    assert drawn(2, 0) == drawn(2, 0)
    assert drawn(2, 0) == drawn(2, 0, budget_bytes=0)
    assert drawn(2, 0)[0] != drawn(2, 1)[0]
    assert drawn(2, 0)[0] != drawn(4, 0)[0]
    assert drawn(2, 0, training=False) == drawn(2, 5, training=False)
    clips = ClipSet(truth, {"a": counted}, clip)
    assert sorted(clips.order(1)) == list(range(len(clips))) == list(range(10))
    assert list(clips.order(1)) != list(clips.order(2))


def files_open(folder: Path) -> list[str]:
    """Names of the files below ``folder`` that this process holds open, repeated as often as it does."""
    found = []
    for handle in os.listdir("/proc/self/fd"):
        try:
            target = Path(os.readlink(f"/proc/self/fd/{handle}"))
        except OSError:  # the listing's own
            continue
        if target.parent == folder:
            found.append(target.name)
    return sorted(found)


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux lists them")


@linux
def test_the_last_used_videos_stay_open_and_no_others(counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                      ) -> None:
    monkeypatch.setattr(rooms, "OPEN", 3)
    videos = [tmp_path / f"{name}.mp4" for name in "abcde"]
    for path in videos:
        path.write_bytes(counted.read_bytes())
    clip = ClipConfig(short_side=40, crop=32)
    reader = FrameReader(clip, 0)
    truth = FrameReader(clip, 1e9)
    for path, names in ((0, "a"), (1, "ab"), (0, "ab"), (2, "abc"), (3, "acd"), (0, "acd"), (4, "ade"), (1, "abe")):
        seen = reader.read(videos[path], clip.times(path / 3))
        assert np.array_equal(seen, truth.read(counted, clip.times(path / 3)))
        assert files_open(tmp_path) == [f"{name}.mp4" for name in names]
    reader.close()
    assert files_open(tmp_path) == []
    assert np.array_equal(reader.read(videos[2], clip.times(1.0)), truth.read(counted, clip.times(1.0)))
    assert files_open(tmp_path) == ["c.mp4"]
    monkeypatch.setattr(video.Reader, "at", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reader.read(videos[2], clip.times(1.0))
    assert files_open(tmp_path) == []
    monkeypatch.undo()
    reader.read(videos[0], clip.times(0.3))
    del reader
    assert files_open(tmp_path) == []


@linux
def test_threads_share_a_reader_of_frames(counted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "OPEN", 2)
    videos = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path in videos:
        path.write_bytes(counted.read_bytes())
    clip = ClipConfig(short_side=40, crop=32)
    reader, truth = FrameReader(clip, 0), FrameReader(clip, 1e9)
    rng = np.random.default_rng(0)
    jobs = [(videos[int(rng.integers(3))], clip.times(rng.uniform(-0.5, 3.0))) for _ in range(150)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda job: reader.read(*job), jobs))
    for (_, times), seen in zip(jobs, found, strict=True):
        assert np.array_equal(seen, truth.read(counted, times))
    assert len(files_open(tmp_path)) == len(set(files_open(tmp_path))) == 2


@pytest.mark.parametrize("budget", [0, 1e9])
def test_several_clips_are_read_at_once(counted: Path, budget: float) -> None:
    clip = ClipConfig(short_side=40, crop=32)
    reader = FrameReader(clip, budget)
    times = np.stack([clip.times(start) for start in (1.9, 0.0, 1.5, 2.7, 1.9)])
    together = reader.read(counted, times)
    assert together.shape == (5, 16, 40, 56, 3)
    assert all(np.array_equal(a, reader.read(counted, b)) for a, b in zip(together, times, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("budget", [0, 1e9])
def test_clips_drawn_together_are_those_drawn_alone(counted: Path, training: bool, budget: float) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0.2, 1.8, "run"),)), "b": VideoTruth(3.0, (Segment(0, 3, "jump"),))}
    clips = ClipSet(truth, {"a": counted, "b": counted}, ClipConfig(short_side=40, crop=32), training=training,
                    budget_bytes=budget)
    groups = clips.by_video(clips.order(2).tolist())
    assert sorted(n for group in groups for n in group) == list(range(len(clips)))
    for group in groups:
        for number, (clip, rng) in zip(group, clips.draw_together(group, 2), strict=True):
            alone, other = clips.draw(number, 2)
            assert (clip.region, clip.start, clip.end) == (alone.region, alone.start, alone.end)
            assert np.array_equal(clip.frames, alone.frames)
            assert rng.bit_generator.state == other.bit_generator.state
    with pytest.raises(ValueError, match="too many values"):
        clips.draw_together(list(range(len(clips))))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 7), st.integers(1, 7), st.integers(0, 3),
       st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_an_order_keeps_clips_of_a_video_together(actions: list[int], each: int, together: int, seed: int, epoch: int
                                                  ) -> None:
    truth = {f"v{i}": VideoTruth(100.0, tuple(Segment(10.0 * k, 10 * k + 5, "run") for k in range(n)))
             for i, n in enumerate([*actions, 1])}

    def clips(**how: int) -> ClipSet:
        return ClipSet(truth, dict.fromkeys(truth, Path("v.mp4")), ClipConfig(),
                       Sampling(clips_per_region=each, **how), seed=seed, with_background=False)

    found = clips(clips_per_video=together)
    order = found.order(epoch)
    assert sorted(order) == list(range(len(found)))
    assert np.array_equal(order, clips(clips_per_video=together).order(epoch))
    if together == 1:  # as it was before there was a choice
        assert np.array_equal(order, np.random.default_rng((seed, epoch)).permutation(len(found)))
    videos = [found.regions[n % len(found.regions)].video for n in order]
    # neighbours may be groups of the same video; even so, only the remainder of a video is not a full group
    runs = [(name, len(list(run))) for name, run in groupby(videos)]
    broken = [(name, length % together) for name, length in runs if length % together]
    assert sorted(broken) == sorted((name, n % together) for name, n in Counter(videos).items() if n % together)


def test_groups_are_shuffled_and_so_are_their_clips() -> None:
    truth = {f"v{i}": VideoTruth(100.0, tuple(Segment(10.0 * k, 10 * k + 5, "run") for k in range(8)))
             for i in range(40)}
    clips = ClipSet(truth, dict.fromkeys(truth, Path("v.mp4")), ClipConfig(), Sampling(1, clips_per_video=4),
                    with_background=False)
    first = np.zeros((200, 40))
    partners = Counter()
    for epoch in range(200):
        order = clips.order(epoch).reshape(-1, 4)
        assert all(len({n // 8 for n in group}) == 1 for group in order.tolist())
        for place, group in enumerate(order.tolist()):
            first[epoch, group[0] // 8] += place / 79 / 2
            partners.update((min(a, b) % 8, max(a, b) % 8) for a in group for b in group if a != b)
    # any video anywhere (mean of 200 means of two uniform places), and any two clips of it together
    assert np.abs(first.mean(0) - 0.5).max() < 5 * math.sqrt(1 / 12 / 2 / 200)
    assert len(partners) == 28
    assert max(partners.values()) < 1.1 * min(partners.values())
    videos = [[clips.regions[n].video for n in clips.order(e)[::4]] for e in (0, 1)]
    assert videos[0] != videos[1]


def test_a_truth_without_files_or_actions_is_refused(counted: Path) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0.2, 1.8, "run"),)), "b": VideoTruth(3.0)}
    with pytest.raises(DataError, match="1 of 2 annotated videos have no file, 'b' first"):
        ClipSet(truth, {"a": counted}, ClipConfig())
    with pytest.raises(DataError, match="as long as one clip"):
        ClipSet({"a": VideoTruth(3.0, (Segment(0.2, 0.4, "run"),))}, {"a": counted}, ClipConfig())


def test_working_ahead_keeps_the_order() -> None:
    assert list(ahead(lambda x: x * x, range(50), 3)) == [x * x for x in range(50)]
    assert list(ahead(lambda x: x * x, range(5), 0)) == [x * x for x in range(5)]


# ---------------------------------------------------------------------------------------------- sampling options


def test_a_reach_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(CallError, match=r"^sampling\.reach = 2\.0 leaves no background beside sampling\.ignore = 2"):
        Sampling(ignore=2.0, reach=2.0)
    assert Sampling(ignore=2.0, reach=2.5).reach == 2.5


@given(st.lists(st.tuples(st.floats(0, 90), st.floats(0.1, 20)), min_size=1, max_size=6), st.floats(0, 5),
       st.none() | st.floats(5.5, 40), st.sampled_from(["union", "tsp"]))
@settings(max_examples=150, deadline=None)
def test_background_keeps_away_from_actions_and_within_reach(spans: list[tuple[float, float]], ignore: float,
                                                             reach: float | None, rule: Any) -> None:
    truth = VideoTruth(100.0, tuple(Segment(a, a + length, "run") for a, length in spans))
    sampling = Sampling(rule=rule, min_background=0.0, ignore=ignore, reach=reach)
    found = [r for r in regions("v", truth, 0.05, sampling) if not r.foreground]
    starts, ends = np.array([(s.start, s.end) for s in truth.annotations]).T
    wide = background(np.stack([starts - ignore, ends + ignore], axis=1), 100.0, 0.0, rule)
    for t in np.linspace(0.01, 99.99, 400):
        apart = np.maximum(starts - t, t - ends).min()  # seconds from the nearest action; below 0 inside
        if rule == "union":
            wanted, sure = apart > ignore, abs(apart - ignore) > 0.1
        else:
            wanted, sure = any(a <= t <= b for a, b in wide), np.abs(wide - t).min(initial=9) > 0.1
        if reach is not None:
            wanted, sure = wanted and apart < reach, sure and abs(apart - reach) > 0.1
        if sure:  # what is shorter than a clip is left out
            assert any(r.start <= t <= r.end for r in found) == wanted


def test_reach_cuts_background_in_two_and_knows_which_end_is_beside_an_action() -> None:
    truth = VideoTruth(100.0, (Segment(20, 30, "run"), Segment(60, 70, "jump"), Segment(76, 80, "jump")))
    whole = regions("v", truth, 1.0, Sampling())
    assert [(r.start, r.end, r.beside) for r in whole if not r.foreground] == [
        (0, 20, (False, True)), (30, 60, (True, True)), (70, 76, (True, True)), (80, 100, (True, False))]
    some = regions("v", truth, 1.0, Sampling(reach=5.0, ignore=0.5))
    assert [(r.start, r.end, r.near, r.beside) for r in some if not r.foreground] == [
        (15, 19.5, "run", (False, True)), (30.5, 35, "run", (True, False)), (55, 59.5, "jump", (False, True)),
        (70.5, 75.5, "jump", (True, True)), (80.5, 85, "jump", (True, False))]
    assert [r for r in some if r.foreground] == [r for r in whole if r.foreground]
    # what is left too short is no region
    short = regions("v", truth, 1.0, Sampling(reach=5.0, ignore=0.5, min_background=4.6))
    assert [(r.start, r.end) for r in short if not r.foreground] == [(70.5, 75.5)]


def test_places_beside_an_action_are_within_a_clip_of_it() -> None:
    both, before, after = (Region("v", 10.0, 20.0, None, "run", sides)
                           for sides in ((True, True), (True, False), (False, True)))
    places = np.linspace(0, 1, 101)
    starts = {region.beside: [clip_start(region, 2.0, 50.0, place_beside(region, 2.0, p)) for p in places]
              for region in (both, before, after)}
    assert np.allclose(starts[True, False], np.linspace(10, 12, 101))
    assert np.allclose(starts[False, True], np.linspace(18, 16, 101))
    assert np.allclose(starts[True, True], [*np.linspace(10, 12, 101)[::2][:50], *np.linspace(18, 16, 101)[::2]])
    tight = Region("v", 10.0, 13.0, None, "run", (True, False))  # shorter than two clips: anywhere in it
    assert [clip_start(tight, 2.0, 50.0, place_beside(tight, 2.0, p)) for p in (0, 0.5, 1)] == [10, 10.5, 11]
    alone = Region("v", 10.0, 20.0, None, "run")
    full = Region("v", 10.0, 11.0, None, "run", (True, True))
    assert [place_beside(r, 2.0, 0.3) for r in (alone, full)] == [0.3, 0.3]


def test_clips_are_drawn_as_they_were_before_there_were_options(counted: Path) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0.1, 0.9, "run"), Segment(1.8, 2.4, "jump")))}
    clip = ClipConfig(frames=4, short_side=40, crop=32)
    clips = ClipSet(truth, {"a": counted}, clip, seed=3)
    assert [(r.start, r.end) for r in clips.regions] == [(0.1, 0.9), (1.8, 2.4), (0.9, 1.8), (2.4, 3.0)]
    for number in range(len(clips)):
        rng = np.random.default_rng((3, 7, number))
        region = clips.regions[number % 4]
        start = region.start + rng.random() * (region.end - region.start - clip.seconds)
        top, left, flip = int(rng.integers(40 - 32 + 1)), int(rng.integers(56 - 32 + 1)), rng.random() < 0.5
        drawn, after = clips.draw(number, 7)
        assert drawn.start == start
        wanted = clips.reader.read(counted, clip.times(start))[:, top : top + 32, left : left + 32]
        assert np.array_equal(drawn.frames, wanted[:, :, ::-1] if flip else wanted)
        assert after.bit_generator.state == rng.bit_generator.state


def test_near_moves_background_clips_of_training_and_nothing_else(counted: Path) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0.0, 0.5, "run"),))}
    clip = ClipConfig(frames=4, short_side=40, crop=32)  # 0.27 s

    def starts(near: float, training: bool = True) -> list[tuple[bool, float]]:
        clips = ClipSet(truth, {"a": counted}, clip, Sampling(40, near=near), training=training)
        drawn = [clips.draw(n)[0] for n in range(len(clips))]
        return [(c.region.foreground, c.start) for c in drawn]

    off, half, on = starts(0.0), starts(0.5), starts(1.0)
    assert [s for s in on if s[0]] == [s for s in off if s[0]]
    beside = 0.5 + clip.seconds + 1e-9
    assert all(start <= beside for foreground, start in on if not foreground)
    near = [sum(start <= beside for foreground, start in some if not foreground) for some in (off, half, on)]
    assert near[0] < 12 < near[1] < 32 < near[2] == 40
    assert starts(1.0, training=False) == starts(0.0, training=False)


def uneven(**how: Any) -> ClipSet:
    """Three classes with 1, 4 and 13 regions in nine videos, all with background."""
    labels = ["rare"] + ["some"] * 4 + ["often"] * 13
    truth = {f"v{i}": VideoTruth(40.0, tuple(Segment(10.0 * k, 10 * k + 5, label)
                                             for k, label in enumerate(labels[2 * i : 2 * i + 2]))) for i in range(9)}
    training = how.pop("training", True)
    return ClipSet(truth, dict.fromkeys(truth, Path("v.mp4")), ClipConfig(), Sampling(**how), seed=5, training=training)


@pytest.mark.parametrize("together", [1, 3])
def test_balanced_epochs_show_every_class_equally_often(together: int) -> None:
    clips = uneven(balance="classes", clips_per_video=together)
    plain = uneven()
    assert len(clips) == len(plain)
    count = len(clips.regions)
    extra = Counter()
    for epoch in range(30):
        order = clips.order(epoch)
        assert len(order) == len(clips) == len(set(order.tolist()))
        assert np.array_equal(order, uneven(balance="classes", clips_per_video=together).order(epoch))
        shown = Counter(int(n) % count for n in order)
        classes = Counter()
        for region, times in shown.items():
            classes[clips.regions[region].label] += times
        background = {i for i, r in enumerate(clips.regions) if not r.foreground}
        assert {i: shown[i] for i in background} == dict.fromkeys(background, 5)
        assert sorted(int(n) for n in order if int(n) % count in background) == sorted(
            n for n in range(len(clips)) if n % count in background)
        del classes[None]
        assert sum(classes.values()) == 18 * 5
        assert set(classes) == {"rare", "some", "often"}
        assert set(classes.values()) == {30}  # 90 over 3
        of_class = {name: [shown[i] for i, r in enumerate(clips.regions) if r.label == name] for name in classes}
        assert all(max(times) - min(times) <= 1 for times in of_class.values())  # its regions share evenly
        extra.update(i for i, r in enumerate(clips.regions) if r.label == "often" and shown[i] == 3)
    assert len(extra) == 13  # none of them is always the one that is left out
    assert not np.array_equal(np.sort(clips.order(0)), np.sort(clips.order(1)))
    if together > 1:
        for group in clips.by_video(clips.order(0).tolist()):
            assert len({clips.regions[n % count].video for n in group}) == 1


def test_a_remainder_goes_to_other_classes_in_other_epochs() -> None:
    clips = uneven(balance="classes", clips_per_region=1)
    truth = {vid: v for vid, v in clips.truth.items() if vid != "v8"}  # 16 foreground clips for 3 classes
    clips = ClipSet(truth, clips.videos, clips.clip, clips.sampling, seed=5)
    favoured = Counter()
    for epoch in range(60):
        labels = [clips.regions[n % len(clips.regions)].label for n in clips.order(epoch).tolist()]
        classes = Counter(label for label in labels if label is not None)
        assert sorted(classes.values()) == [5, 5, 6]
        favoured.update(name for name, n in classes.items() if n == 6)
    assert set(favoured) == {"rare", "some", "often"}


def test_balance_leaves_validation_and_even_classes_as_they_are() -> None:
    assert np.array_equal(uneven(balance="classes", training=False).order(3), np.arange(len(uneven())))
    truth = {f"v{i}": VideoTruth(9.0, (Segment(1, 5, "ab"[i % 2]),)) for i in range(6)}
    even = ClipSet(truth, dict.fromkeys(truth, Path("v.mp4")), ClipConfig(), Sampling(balance="classes"))
    assert sorted(even.order(0).tolist()) == list(range(len(even)))


def test_a_rare_class_is_drawn_from_clip_after_clip(counted: Path) -> None:
    truth = {"a": VideoTruth(3.0, (Segment(0, 1.4, "rare"),)),
             "b": VideoTruth(3.0, tuple(Segment(a, a + 1.4, "often") for a in (0, 0.5, 1, 1.5)))}
    clips = ClipSet(truth, {"a": counted, "b": counted}, ClipConfig(short_side=40, crop=32),
                    Sampling(balance="classes"), with_background=False)
    rare = [n for n in clips.order(0).tolist() if clips.regions[n % len(clips.regions)].label == "rare"]
    assert len(rare) == 12 or len(rare) == 13  # half of 25
    drawn = [clip for group in clips.by_video(rare) for clip, _ in clips.draw_together(group, 0)]
    assert all(clip.region.label == "rare" and 0 <= clip.start <= 1.4 - CLIP + 1e-9 for clip in drawn)
    assert len({clip.start for clip in drawn}) == len(rare)
