"""Frames and tokens in place of features: clocks, augmentation, batches, and how towers travel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from tiny_clip import save_clip
from torch import nn

from cuemark import video
from cuemark.batch import Batch, Sentences
from cuemark.clips import ClipConfig, cut
from cuemark.datasets import kinetics
from cuemark.datasets.format import Reading
from cuemark.encoders import weights
from cuemark.encoders.clip import Folder, Frames, image_tower, text_tower
from cuemark.errors import CallError, DataError, ModelError, VideoError
from cuemark.extraction import ExtractConfig, features_of
from cuemark.grid import Features, Grid
from cuemark.localizers import frames as module
from cuemark.localizers.frames import (
    OPERATIONS,
    Augment,
    Footage,
    FrameData,
    Inputs,
    Seen,
    augmented,
    clocks_in,
    cut_out,
    features_described,
    house,
    ids_of,
    let_out,
    rand_augment,
    towers_in,
)
from cuemark.localizers.questions import FeatureData, Question, Row, collate
from cuemark.nn.spans import Window, windows
from cuemark.segments import Segment, VideoTruth
from cuemark.text import TextEncoder

CLIP = ClipConfig(frames=1, fps=4.0, short_side=36, crop=32)
SHAPES = {"a": (40, 56, 12), "b": (48, 40, 30), "c": (40, 40, 5)}  # height, width, pictures at 6 a second
RNG = np.random.default_rng


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rng, found = tmp_path_factory.mktemp("films"), RNG(0), {}
    for name, (height, width, count) in SHAPES.items():
        pictures = rng.integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
        found[name] = folder / f"{name}.mp4"
        video.write(found[name], pictures, fps=6)
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


# ---------------------------------------------------------------------------------------------- augmentation


def pictures(count: int = 3, height: int = 36, width: int = 50, seed: int = 0) -> np.ndarray:
    return RNG(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_plain_is_a_random_crop_mirrored_or_not():
    seen, mirrored = set(), 0
    for seed in range(40):
        found = augmented(pictures(), 32, Augment.plain(), RNG(seed))
        places = [(y, x, m) for y in range(5) for x in range(19) for m in (1, -1)
                  if np.array_equal(found, pictures()[:, y : y + 32, x : x + 32][:, :, ::m])]
        (place,) = places
        seen.add(place[:2])
        mirrored += place[2] < 0
    assert len(seen) > 25
    assert 10 < mirrored < 30


def test_the_scale_is_drawn_and_all_frames_change_alike():
    still = pictures(1).repeat(4, 0)
    for seed in range(20):
        found = augmented(still, 32, Augment(), RNG(seed))
        assert found.shape == (4, 32, 32, 3)
        assert found.dtype == np.uint8
        # where a picture's neighbours matter (sharpness), those at its upper and lower edge are the next picture's
        assert (found[:, 1:-1] == found[:1, 1:-1]).all()
        assert np.array_equal(found, augmented(still, 32, Augment(), RNG(seed)))
    # a frame that grows in brightness from left to right shows how much of its width a crop takes
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, None, :, None], (1, 64, 64, 3))
    shares = []
    for seed in range(50):
        row = augmented(ramp, 32, Augment(layers=0, flip=0), RNG(seed))[0, 16, :, 0].astype(float)
        shares.append((row[-1] - row[0]) / 255 * 63 / 31)
    scales = 1 / np.array(shares)
    assert 0.85 < scales.min() < 1.0
    assert 1.2 < scales.max() < 1.4


@pytest.mark.parametrize(("name", "by_hand"), [
    ("invert", lambda v: 255 - v), ("posterize", lambda v: v // 16 * 16), ("solarize", lambda v: v),
    ("solarize_add", lambda v: np.where(v < 128, np.minimum(v + 110, 255), v)),
    ("brightness", lambda v: np.minimum(v * 1.9, 255).astype(int))])
def test_operations_on_each_number_at_magnitude_10(name, by_hand):
    image = pictures(1)[0]
    found = np.asarray(OPERATIONS[name](Image.fromarray(image), 1.0))
    np.testing.assert_allclose(found, by_hand(image.astype(int)), atol=1 if name == "brightness" else 0)


def test_operations_on_histograms_and_colours():
    image = Image.fromarray(pictures(1)[0] // 2 + 20)
    assert OPERATIONS["autocontrast"](image, 1.0).getextrema() == ((0, 255),) * 3
    assert np.array_equal(OPERATIONS["equalize"](image, 1.0), ImageOps.equalize(image))
    for name, kind in (("colour", "Color"), ("contrast", "Contrast"), ("sharpness", "Sharpness")):
        for share, factor in ((1.0, 1.9), (0.5, 1.0)):
            assert np.array_equal(OPERATIONS[name](image, share), getattr(ImageEnhance, kind)(image).enhance(factor))
    assert len(OPERATIONS) == 10


def test_what_a_histogram_says_is_of_all_frames():
    dark, bright = np.full((1, 8, 8, 3), 50, np.uint8), np.full((1, 8, 8, 3), 150, np.uint8)
    for seed in range(100):  # until autocontrast is drawn
        found = rand_augment(np.concatenate([dark, bright]), 1, 10, RNG(seed))
        if int(RNG(seed).integers(12, size=1)[0]) == list(OPERATIONS).index("autocontrast"):
            assert (found[0].max(), found[1].min()) == (0, 255)
            return
    pytest.fail("never drawn")


def test_a_square_is_cut_out_of_every_frame():
    white = np.full((3, 224, 224, 3), 255, np.uint8)
    for seed in range(10):
        found = cut_out(white, 40, RNG(seed))
        y, x = (int(v) for v in RNG(seed).integers(224, size=2))
        black = (found == 0).all(-1)
        assert (black == black[0]).all()
        assert black[0].sum() == (min(y + 40, 224) - max(y - 40, 0)) * (min(x + 40, 224) - max(x - 40, 0))
    assert white.all()


def test_all_twelve_are_drawn():
    image = pictures(2, 32, 32)
    seen = {rand_augment(image, 1, 9, RNG(seed)).tobytes() for seed in range(150)}
    assert len(seen) >= 12  # cut-outs differ among themselves
    assert rand_augment(image, 0, 10, RNG(0)).tobytes() == image.tobytes()
    for magnitude in (0, 1, 5, 10):
        assert rand_augment(image, 12, magnitude, RNG(1)).shape == image.shape


@pytest.mark.parametrize("wrong", [{"scale": (1.2, 0.9)}, {"scale": (0.0, 1.0)}, {"flip": 1.5}, {"layers": -1},
                                   {"magnitude": 11}])
def test_impossible_augmentation(wrong):
    with pytest.raises(CallError, match=rf"augment\.{next(iter(wrong))} must be"):
        Augment(**wrong)


# ---------------------------------------------------------------------------------------------- clocks


def test_a_clock_is_where_features_would_be(films, saved):
    footage = Footage(films, CLIP)
    clocks = footage.clocks()
    encoder = weights.clip_encoder(saved, fps=4.0, short_side=36)
    for number, (vid, path) in enumerate(films.items()):
        features, _ = features_of(path, encoder, workers=1)
        assert clocks[vid].grid == features.grid
        assert clocks[vid].duration == features.duration
        assert clocks[vid].data[:, 0].tolist() == [number] * features.grid.count
        assert clocks[vid].data[:, 1].tolist() == list(range(features.grid.count))
        # and a tower sees there what it would see in the features
        inside = Frames(encoder.network, encoder.clip.mean, encoder.clip.std)
        seen = torch.from_numpy(np.ascontiguousarray(footage.read(clocks[vid].data)))
        with torch.no_grad():
            np.testing.assert_allclose(inside(seen[None])[0].numpy(), features.data, atol=1e-5)


def test_frames_are_those_of_their_moments(films):
    footage = Footage(films, CLIP)
    clock = np.array([[1, 0], [1, 7], [1, 3.5], [1, 3.5]], np.float32)
    size = CLIP.size(*SHAPES["b"][:2])
    expected = cut(video.frames_at(films["b"], [0, 7 / 4, 3.5 / 4, 3.5 / 4], size), 32)
    assert np.array_equal(footage.read(clock), expected.transpose(0, 3, 1, 2))
    late = np.array([[1, 5000]], np.float32)  # behind the end: the last
    assert np.array_equal(footage.read(late), footage.read(np.array([[1, 19.5]], np.float32)))


def test_told_durations_are_taken_unmeasured(films, monkeypatch):
    monkeypatch.setattr(module.video, "probe", lambda path: pytest.fail("measured"))
    truth = {vid: VideoTruth(2.0) for vid in films}
    assert [clock.grid.count for clock in Footage(films, CLIP).clocks(truth).values()] == [8, 8, 8]


def test_clips_of_several_frames_are_refused(films):
    with pytest.raises(CallError, match=r"single frames.*set clip\.frames = 1"):
        Footage(films, ClipConfig())


# ---------------------------------------------------------------------------------------------- batches


def evenly(clock: Features, count: int) -> Features:
    index = np.linspace(0, clock.grid.count - 1, count).astype(int)
    return Features(clock.data[index], clock.resample(count).grid, clock.duration)


def even_rows(films: dict[str, Path], count: int = 6) -> list[Row]:
    return [Row(evenly(clock, count), [[Segment(0.5, 1.0, "run")]]) for clock in Footage(films, CLIP).clocks().values()]


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.frames, b.frames) and torch.equal(a.features, b.features) and a.grids == b.grids


def test_batches_have_the_frames_of_their_rows(films):
    data = FrameData(FeatureData(even_rows(films), 2), Inputs(Footage(films, CLIP)), None)
    batches = list(data.epoch(0))
    assert len(data) == len(batches) == 2
    assert [batch.frames.shape for batch in batches] == [(2, 6, 3, 32, 32), (1, 6, 3, 32, 32)]
    for batch in batches:
        assert batch.frames.dtype == torch.uint8
        for row, clock in enumerate(clocks_in(batch)):
            expected = Footage(films, CLIP).read(clock)
            assert np.array_equal(batch.frames[row].numpy(), expected)
        assert batch.truth


def test_batches_depend_on_seed_and_epoch_alone(films):
    def made(workers: int, seed: int = 0, epoch: int = 3, skip: int = 0) -> list[Batch]:
        inputs = Inputs(Footage(films, CLIP))
        data = FrameData(FeatureData(even_rows(films), 2, seed), inputs, Augment(), seed=seed, workers=workers)
        return list(data.epoch(epoch, skip))

    first = made(1)
    assert all(map(same, first, made(3)))
    assert same(first[1], made(2, skip=1)[0])
    assert not same(first[0], made(1, epoch=4)[0])
    assert not same(first[0], made(1, seed=1)[0])


def test_no_more_is_read_ahead_than_said(films, monkeypatch):
    rows = [row for row in even_rows(films, 2) for _ in range(10)]
    footage = Footage(films, CLIP)
    read = footage.read
    count = []
    monkeypatch.setattr(footage, "read", lambda *a: (count.append(1), read(*a))[1])
    epoch = FrameData(FeatureData(rows, 2), Inputs(footage), None, workers=2).epoch(0)
    next(epoch)
    assert len(count) <= 8
    epoch.close()
    assert len(count) <= 8


def test_shorter_rows_are_black_behind_their_end(films):
    clocks = list(Footage(films, CLIP).clocks().values())
    batch = Inputs(Footage(films, CLIP))(collate([Row(clocks[0]), Row(clocks[2])]))
    assert batch.mask.sum(1).tolist() == [8, 4]
    assert batch.frames.shape[:2] == (2, 8)
    assert not batch.frames[1, 4:].any()
    assert batch.frames[1, :4].any()


def frozen(saved: Path, pooling: str, count: int = 6) -> Frames:
    return Frames(image_tower(Folder.read(saved), pooling, count if pooling == "frame" else 0)).frozen()


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_a_frozen_tower_looks_at_each_row_once(films, saved, tmp_path, monkeypatch, pooling):
    tower, calls, forward = frozen(saved, pooling), [], Frames.forward
    monkeypatch.setattr(Frames, "forward", lambda self, x: calls.append(len(x)) or forward(self, x))
    footage = Footage(films, CLIP)
    inputs = Inputs(footage, seen=Seen(footage, tower, tmp_path / "seen"))
    rows = even_rows(films) * 2  # as two sentences about one video
    data = FrameData(FeatureData(rows, 4), inputs, None)
    looked = [batch for epoch in range(3) for batch in data.epoch(epoch)] + [inputs(collate(rows))]
    assert sum(calls) == len(films) == len(list((tmp_path / "seen").iterdir()))
    plain = FrameData(FeatureData(rows, 4), Inputs(footage), None)
    frames = [batch for epoch in range(3) for batch in plain.epoch(epoch)] + [Inputs(footage)(collate(rows))]
    for batch, other in zip(looked, frames, strict=True):
        assert batch.frames is None
        assert torch.equal(batch.features, tower(other.frames))
        assert batch.grids == other.grids
    count = sum(calls)
    Inputs(footage, seen=Seen(footage, frozen(saved, pooling), tmp_path / "seen"))(collate(rows))
    assert sum(calls) == count  # another run's tower, the same one


def test_rows_of_several_lengths_are_kept_without_padding(films, saved, tmp_path):
    footage = Footage(films, CLIP)
    tower = frozen(saved, "gap")
    rows = collate([Row(clock) for clock in footage.clocks().values()])
    batch = Inputs(footage, seen=Seen(footage, tower, tmp_path))(rows)
    assert sorted(len(np.load(path)) for path in tmp_path.iterdir()) == [4, 8, 20]
    expected = tower(Inputs(footage)(rows).frames) * rows.mask[..., None]
    torch.testing.assert_close(batch.features, expected, rtol=0, atol=1e-5)


def test_what_a_tower_said_is_of_that_tower_file_and_way_of_looking(films, saved, tmp_path):
    def said(tower: Frames, clip: ClipConfig = CLIP, files: dict[str, Path] = films, ticks: float = 1.0) -> int:
        footage = Footage(files, clip)
        clock = np.array([[0, 0], [0, ticks]], np.float32)
        return len(Seen(footage, tower, tmp_path / "seen").said(clock, footage.read(clock)))

    other = frozen(saved, "cls")
    other.tower.position.data += 1
    copy = tmp_path / "a.mp4"
    copy.write_bytes(films["a"].read_bytes())
    different = [lambda: said(frozen(saved, "cls")), lambda: said(other), lambda: said(frozen(saved, "gap")),
                 lambda: said(frozen(saved, "cls"), ClipConfig(frames=1, fps=4.0, short_side=40, crop=32)),
                 lambda: said(frozen(saved, "cls"), ticks=1.5), lambda: said(frozen(saved, "cls"), files={"a": copy})]
    for number, case in enumerate(different, 1):
        assert (case(), case()) == (2, 2)
        assert len(list((tmp_path / "seen").iterdir())) == number
    copy.write_bytes(films["b"].read_bytes())  # another video under the same name
    different[-1]()
    assert len(list((tmp_path / "seen").iterdir())) == len(different) + 1


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:-7]),
                                    lambda path: path.write_bytes(b""),
                                    lambda path: np.save(path, np.zeros((6, 3), np.float32)),
                                    lambda path: np.save(path, np.zeros((6, 32)))])
def test_what_is_damaged_is_looked_at_again(films, saved, tmp_path, damage):
    footage = Footage({"a": films["a"]}, CLIP)
    inputs = Inputs(footage, seen=Seen(footage, frozen(saved, "cls"), tmp_path))
    batch = collate(even_rows({"a": films["a"]}))
    first = inputs(batch).features
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert torch.equal(inputs(batch).features, first)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_changed_frames_are_not_kept(films, saved, tmp_path):
    footage = Footage(films, CLIP)
    inputs = Inputs(footage, seen=Seen(footage, frozen(saved, "cls"), tmp_path / "seen"))
    for how in ({"augment": Augment()}, {"augment": None, "shift": True}):
        for batch in FrameData(FeatureData(even_rows(films), 2), inputs, **how).epoch(0):
            assert batch.frames.dtype == torch.uint8
            assert batch.features.shape[2] == 2
    assert not (tmp_path / "seen").exists()


def test_a_folder_that_takes_nothing_and_a_video_that_is_gone(films, saved, tmp_path):
    (tmp_path / "seen").write_text("a file")
    copy = tmp_path / "a.mp4"
    copy.write_bytes(films["a"].read_bytes())
    footage = Footage({"a": copy}, CLIP)
    inputs = Inputs(footage, seen=Seen(footage, frozen(saved, "cls"), tmp_path / "seen"))
    batch = collate(even_rows({"a": copy}))
    with pytest.raises(DataError, match=r"seen' cannot be written \(.*\); .* run the same again"):
        inputs(batch)
    copy.unlink()
    with pytest.raises(VideoError, match=r"a\.mp4' cannot be read: No such file"):
        inputs(batch)


def test_windows_move_within_their_video(films):
    clock = Footage(films, CLIP).clocks()["b"]  # 20 ticks
    rows = [Row(view, [[]]) for view in windows(clock, 6, 6)]
    data = FrameData(FeatureData(rows, 4), Inputs(Footage(films, CLIP)), None, shift=True)
    starts = set()
    for epoch in range(25):
        for batch in data.epoch(epoch):
            for grid, own, row in zip(batch.grids, clocks_in(batch), batch.frames):
                ticks = own[:, 1]
                assert ticks.min() >= 0
                assert ticks.max() <= 19
                assert (np.diff(ticks) == 1).all()
                np.testing.assert_allclose(grid.start, clock.grid.seconds(ticks[0]), atol=1e-9)
                assert np.array_equal(row[: len(own)].numpy(), Footage(films, CLIP).read(own))
                assert isinstance(grid, Window)
                assert (grid.first == 0) == (ticks[0] == 0)  # a cut is a cut
                assert (grid.stop == grid.count) == (ticks[-1] == 19)
                starts.add(int(ticks[0]))
    assert starts >= set(range(15))
    whole = FrameData(FeatureData([Row(clock, [[]])], 1), Inputs(Footage(films, CLIP)), None, shift=True)
    assert next(whole.epoch(0)).grids == [clock.grid]


def test_ids_go_where_vectors_go(saved):
    reader = TextEncoder.load(saved)
    clock = Features(np.zeros((4, 32), np.float32), Grid.over(0.0, 1.0, 4), 1.0)
    row = Row(clock, None, [Question(label="run"), Question(label="a person jumps")])
    batch = Inputs(tokens=True)(collate([row], ids_of(reader), ["a photo of {}."]))
    said = ["a photo of run.", "a photo of a person jumps."]
    assert batch.frames is None
    assert [ids[mask].tolist() for ids, mask in zip(batch.tokens, batch.sentences.mask)] == [
        ids.tolist() for ids in reader.tokens(said)]
    assert batch.tokens.dtype == torch.int64
    words = text_tower(Folder.read(saved))(batch.tokens, batch.sentences.mask)
    frozen = Sentences.collate(reader.words(said))
    torch.testing.assert_close(words[frozen.mask], frozen.words[frozen.mask], atol=1e-5, rtol=0)
    assert Inputs()(batch) is batch
    data = FrameData(FeatureData([row._replace(truth=[[], []])], 1, words=ids_of(reader)), Inputs(tokens=True))
    assert next(data.epoch(0)).tokens.shape[0] == 2


def test_trimmed_clips_of_kinetics_are_rows(films, tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("label,youtube_id,time_start,time_end,split\nrun,x,0,2,train\njump,y,3,8,train\n")
    truth = kinetics.parse(file, Reading())
    files = dict(zip(truth, films.values()))
    footage = Footage(files, CLIP)
    clocks = footage.clocks(truth)
    assert [clock.duration for clock in clocks.values()] == [2.0, 5.0]
    rows = [Row(evenly(clock, 4), [truth[vid].annotations]) for vid, clock in clocks.items()]
    data = FrameData(FeatureData(rows, 2, classes=("jump", "run")), Inputs(footage))
    batch = next(data.epoch(0))
    assert batch.frames.shape == (2, 4, 3, 32, 32)
    assert sorted(len(answers) for answers in batch.truth) == [0, 0, 1, 1]


# ---------------------------------------------------------------------------------------------- how towers travel


class House(nn.Module):
    """A localizer as far as towers know it."""

    def __init__(self) -> None:
        super().__init__()
        self.image: nn.Module | None = None
        self.text: nn.Module | None = None
        self.own = nn.Linear(2, 2)


@pytest.mark.parametrize("pooling", ["cls", "frame", "gap"])
def test_towers_inside_are_described_and_made_again(saved, pooling):
    house_, folder = House(), Folder.read(saved)
    assert towers_in(house_) is None
    assert house(House(), None, "x") is None
    clip = ClipConfig(frames=1, fps=3.0, short_side=36, crop=32, mean=(0.1, 0.2, 0.3))
    house_.image = Frames(image_tower(folder, pooling, 4 if pooling == "frame" else 0), clip.mean, clip.std)
    house_.text = text_tower(folder)
    told = towers_in(house_, clip)
    other = House()
    assert house(other, told, "'x.safetensors'") == clip
    other.load_state_dict(house_.state_dict())
    frames = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(other.image(frames), house_.image(frames))
        assert torch.equal(other.text(torch.tensor([[62, 3, 63]])), house_.text(torch.tensor([[62, 3, 63]])))
    del told["image"]["network"]["width"], told["image"]["clip"]
    with pytest.raises(ModelError, match=r"'x\.safetensors' does not describe the towers"):
        house(House(), told, "'x.safetensors'")


def test_a_tuned_tower_comes_out_as_an_encoder(saved, films):
    start = weights.clip_encoder(saved, fps=4.0, short_side=36)
    inside = House()
    inside.image = Frames(weights.load(saved).network, start.clip.mean, start.clip.std).frozen()
    with torch.no_grad():
        inside.image.tower.position += 0.1
    encoder, told = let_out(inside, start.clip, start)
    assert inside.image is None
    assert encoder.weights != start.weights
    assert encoder.name == f"tuned {start.name}"
    assert (told["weights"], told["dim"], told["clip"]["stride"], told["clip"]["fps"]) == (encoder.weights, 32, 1, 4.0)
    # what a localizer remembers of its features is how a raw video is looked at
    assert ExtractConfig.of(told).step(encoder) == 1
    assert features_of(films["c"], encoder, ExtractConfig.of(told), workers=1)[0].grid.count == 4
    assert features_described(start)["weights"] == start.weights
    inside.image = Frames(image_tower(Folder.read(saved), "frame", 4))
    with pytest.raises(CallError, match="no image tower inside whose features"):
        let_out(inside, start.clip, start)
