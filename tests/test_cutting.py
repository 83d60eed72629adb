"""Moments as clips: which pictures and which sound are in them, copied and encoded again, in every container."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import complaint

from cuemark import video
from cuemark.cutting import cut, cut_all
from cuemark.errors import CallError, DataError, VideoError
from cuemark.segments import Segment, VideoTruth, write_predictions, write_truth

FPS, BITS, COUNT = 25, 8, 150


def drawn(number: int) -> np.ndarray:
    """A picture that says its number: a white or black column for each bit."""
    picture = np.zeros((64, 96, 3), np.uint8)
    for bit in range(BITS):
        picture[:, bit * 12 : bit * 12 + 12] = 255 * (number >> bit & 1)
    return picture


def told(picture: np.ndarray) -> int:
    columns = picture.mean((0, 2))
    return sum(int(columns[bit * 12 + 2 : bit * 12 + 10].mean() > 128) << bit for bit in range(BITS))


def film(path: Path, codec: str = "libx264", voice: str | None = "aac", times: list[int] | None = None,
         late: float = 0.0) -> Path:
    """150 numbered pictures, a keyframe every 25 and pictures that refer to later ones; a beep at every full second."""
    options = {"libx264": {"g": "25", "bf": "2", "threads": "1"},
               "libvpx-vp9": {"g": "25", "deadline": "realtime", "cpu-used": "8"}}[codec]
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = target.add_stream(voice, rate=48000, layout="stereo") if voice else None
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.pts = (times[number] if times else number) + round(late * FPS)
            frame.time_base = Fraction(1, FPS)
            target.mux(stream.encode(frame))
            if sound is not None:
                at = np.arange(number * 1920, (number + 1) * 1920) / 48000
                wave = (0.5 * np.sin(2 * np.pi * 440 * at) * (at % 1 < 0.1)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                piece.sample_rate, piece.pts, piece.time_base = 48000, number * 1920, Fraction(1, 48000)
                target.mux(sound.encode(piece))
        target.mux(stream.encode(None))
        if sound is not None:
            target.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def mp4(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "a.mp4")


def shown(path: Path) -> list[tuple[float, int]]:
    return [(time, told(picture)) for time, picture in video.frames(path)]


def beeps(path: Path) -> list[float]:
    """Seconds at which it begins to sound, on the clock of the pictures."""
    with av.open(str(path)) as container:
        pieces = []
        for frame in container.decode(container.streams.audio[0]):
            at = float(frame.time) + np.arange(frame.samples) / frame.sample_rate
            pieces.append(np.stack([at, np.abs(frame.to_ndarray()[0])]))
    times, loud = np.concatenate(pieces, 1)
    on = np.flatnonzero(loud > 0.2)
    return [float(times[on[0]]), *(float(times[i]) for i, before in zip(on[1:], on) if times[i] - times[before] > 0.3)]


MOMENTS = [(0, 1), (1.5, 3.0), (2.0, 2.4), (3.33, 5.9), (5.2, 9)]


@pytest.mark.parametrize(("start", "end"), MOMENTS)
def test_an_exact_clip_shows_what_is_shown_then(mp4, tmp_path, start, end):
    made = cut(mp4, Segment(start, end), tmp_path / "clip.mp4", exact=True)
    frames = shown(made.path)
    last = min(COUNT, int(np.ceil(min(end, 6.0) * FPS - 1e-6)))
    assert [number for _, number in frames] == list(range(int(start * FPS + 1e-6), last))
    assert made.start == start
    assert video.probe(made.path).duration == pytest.approx(min(end, 6.0) - start, abs=0.04)
    for time, number in frames[1:]:
        # the first picture began before the moment; all others are where they were, to a tick of the rounding
        assert time == pytest.approx(number / FPS - start, abs=0.002)


@pytest.mark.parametrize(("start", "end"), MOMENTS)
def test_a_copy_in_mp4_begins_with_the_picture_that_is_shown_then(mp4, tmp_path, start, end):
    made = cut(mp4, Segment(start, end), tmp_path / "clip.mp4")
    numbers = [number for _, number in shown(made.path)]
    first, last = int(start * FPS + 1e-6), min(COUNT, int(np.ceil(min(end, 6.0) * FPS - 1e-6)))
    assert numbers[: last - first] == list(range(first, last))
    assert len(numbers) <= last - first + 3, "more than what pictures before the end are decoded from"
    assert made.start <= start
    assert made.start * FPS == pytest.approx(round(made.start * FPS), abs=1e-3)
    assert [told(picture) for picture in video.frames_at(made.path, [0.0])] == [first]


def test_a_copy_is_the_same_bytes_of_pictures(mp4, tmp_path):
    made = cut(mp4, Segment(2.0, 4.0), tmp_path / "clip.mp4")

    def packets(path: Path) -> set[bytes]:
        with av.open(str(path)) as container:
            return {bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size}

    assert packets(made.path) <= packets(mp4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("start", "end"), [(0.5, 2.5), (1.7, 4.3)])
def test_the_sound_stays_with_the_pictures(mp4, tmp_path, exact, start, end):
    made = cut(mp4, Segment(start, end), tmp_path / "clip.mp4", exact)
    wanted = [second - start for second in range(6) if start <= second < end]
    first = int(start * FPS) / FPS  # a copy begins with a picture, not within one
    assert beeps(made.path) == pytest.approx([w + (0 if exact else start - first) for w in wanted], abs=0.03)


@pytest.mark.parametrize(("ending", "codec", "voice"), [
    (".mkv", "libx264", "aac"), (".webm", "libvpx-vp9", "libopus"), (".mov", "libx264", "aac")])
def test_other_containers(tmp_path, ending, codec, voice):
    source = film(tmp_path / f"a{ending}", codec, voice)
    made = cut(source, Segment(2.4, 3.2), tmp_path / f"clip{ending}")
    numbers = [number for _, number in shown(made.path)]
    with av.open(str(source)) as container:
        keys = [round(float(p.pts * p.time_base) * FPS) for p in container.demux(video=0) if p.size and p.is_keyframe]
    begins = round(made.start * FPS)
    assert begins == max(key for key in keys if key <= 60)
    assert numbers[0] == (begins if ending != ".mov" else 60)
    assert set(range(60, 80)) <= set(numbers)
    assert [number for _, number in shown(cut(source, Segment(2.4, 3.2), tmp_path / "x.mp4", True).path)] == list(
        range(60, 80))


def test_a_variable_rate_keeps_its_times(tmp_path):
    times = [number + 20 * (number >= 60) for number in range(COUNT)]
    source = film(tmp_path / "v.mp4", voice=None, times=times)
    frames = shown(cut(source, Segment(2.0, 4.0), tmp_path / "x.mp4", True).path)
    assert [(round(time * FPS), number) for time, number in frames] == [
        (times[number] - 50, number) for number in range(50, 80)]


def test_pictures_that_begin_late(tmp_path):
    """Seconds are since the first picture, wherever the container's clock stands."""
    source = film(tmp_path / "late.mkv", voice=None, late=3.0)
    assert video.probe(source).start == pytest.approx(3.0)
    for exact in (False, True):
        numbers = [n for _, n in shown(cut(source, Segment(2.0, 2.4), tmp_path / f"{exact}.mp4", exact).path)]
        assert numbers[:10] == list(range(50, 60))


def test_what_cannot_be_meant(mp4, tmp_path):
    for moment, out, what in ((Segment(2, 2), "a.mp4", "no length"), (Segment(8, 9), "a.mp4", "after the end"),
                              (Segment(-3, -1), "a.mp4", "no length"), (Segment(0, 1), "a.txt", "must end in")):
        with pytest.raises(CallError, match=what):
            cut(mp4, moment, tmp_path / out)
    with pytest.raises(CallError, match="source itself"):
        cut(mp4, Segment(0, 1), mp4)
    with pytest.raises(CallError, match=r"must end in \.mp4"):
        cut(mp4, Segment(0, 1), tmp_path / "a.webm", exact=True)
    with pytest.raises(VideoError, match=r"cannot be written as '\.webm'"):  # H.264 has no place in WebM
        cut(mp4, Segment(0, 1), tmp_path / "a.webm")
    (tmp_path / "no.mp4").write_bytes(b"no film at all")
    with pytest.raises(VideoError):
        cut(tmp_path / "no.mp4", Segment(0, 1), tmp_path / "b.mp4")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        cut(mp4, Segment(0, 1), tmp_path / "file" / "b.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "no.mp4"], "something half-written is left"


def test_a_broken_end_leaves_what_can_be_shown(mp4, tmp_path):
    source = film(tmp_path / "a.mkv")
    source.write_bytes(source.read_bytes()[:-4000])
    made = cut(source, Segment(0.4, 1.2), tmp_path / "b.mp4", exact=True)
    assert [number for _, number in shown(made.path)] == list(range(10, 30))


@pytest.fixture
def folder(mp4, tmp_path) -> Path:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(mp4.read_bytes())
    return tmp_path


def test_many(folder):
    moments = {"a": [Segment(1, 2, "run; rm -rf /", 0.9), Segment(3, 4, None, 0.5), Segment(9, 10, "late", 0.8)],
               "gone": [Segment(0, 1, "x", 0.9)]}
    made = cut_all(moments, folder / "films", folder / "clips")
    assert [clip.path.name for clip in made.clips] == ["a_001_run-rm--rf.mp4", "a_002.mp4"]
    assert "no file" in made.failed["gone"]
    assert "after the end" in made.failed["a"]
    assert len(cut_all(moments, folder / "films", folder / "few", least=0.6, top=1).clips) == 1


def test_the_command(folder, cuemark):
    write_predictions(folder / "p.json", {"a": [Segment(1, 2, "run", 0.9)]})
    ended = cuemark("cut", folder / "p.json", "--videos", folder / "films", "--out", folder / "c", "--exact", "--json")
    assert ended.status == 0
    told_ = json.loads(ended.out)
    assert [n for _, n in shown(Path(told_["clips"][0]["file"]))] == list(range(25, 50))
    write_truth(folder / "t.json", {"b": VideoTruth(9.0, (Segment(0, 1, "x"),))})
    assert cuemark("cut", folder / "t.json", "--videos", folder / "films", "--out", folder / "c").status == 1
    assert "does not exist" in complaint(
        cuemark("cut", folder / "no.json", "--videos", folder / "films", "--out", folder / "c"))
