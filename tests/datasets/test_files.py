"""Names of videos' files, formats with one file a video, and folders: recognised, read, written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cuemark.datasets import audacity, cvat, editing, elan, files, markers, subtitles
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMS = (audacity.FORMAT, cvat.FORMAT, elan.FORMAT, *subtitles.FORMATS, *editing.FORMATS, *markers.FORMATS)
ENDINGS = {"audacity": ".txt", "cvat": ".xml", "elan": ".eaf", "srt": ".srt", "webvtt": ".vtt", "otio": ".otio",
           "edl": ".edl", "fcpxml": ".fcpxml", "resolve-edl": ".edl", "premiere-csv": ".csv"}


def test_file_names():
    assert files.file_id("a\\b/c.v2.MKV") == "c.v2"
    assert files.file_id("c.v2") == "c.v2"
    assert files.file_id(".mp4") == ".mp4"
    assert files.file_name("c.v2") == "c.v2.mp4"
    assert files.file_name("c.avi") == "c.avi"


@pytest.mark.parametrize(("names", "ids"), [
    (["v_a", "v_b"], ["a", "b"]), (["v_a", "b"], ["v_a", "b"]), (["v_v_a"], ["v_a"]), ([], [])])
def test_bare_ids(names, ids):
    assert list(files.bare_ids(names).values()) == ids


# --------------------------------------------------------------------------------------------- recognising


@pytest.fixture
def folder(request, tmp_path) -> Path:
    if request.param.name == "otio":
        pytest.importorskip("opentimelineio")
    segments = (Segment(1, 2, "pour"), Segment(3, 4, "stir"))
    request.param.write(tmp_path / "out", {v: VideoTruth(9.0, segments, fps=25.0) for v in ("a", "b")})
    return tmp_path / "out"


@pytest.mark.parametrize(("form", "folder"), [(form, form) for form in FORMS], ids=lambda form: form.name,
                         indirect=["folder"])
def test_a_folder_is_recognised_by_its_first_file(form, folder):
    assert [f.name for f in FORMS if f.looks(folder, "")] == [form.name]
    (folder / "a.mp4").write_bytes(b"\0")  # the film beside its annotations, and what the system leaves
    (folder / ".DS_Store").write_bytes(b"\0")
    assert form.looks(folder, "") == "truth"
    (folder / "readme.md").write_text("x")
    assert form.looks(folder, "") is None
    (folder / "readme.md").unlink()
    (folder / f"0{ENDINGS[form.name]}").write_text("something else")
    assert form.looks(folder, "") is None


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_no_folder_to_recognise(form, tmp_path):
    assert form.looks(tmp_path, "") is None
    (tmp_path / f"a{ENDINGS[form.name]}").mkdir()
    assert form.looks(tmp_path, "") is None
    assert form.looks(tmp_path / "absent", "") is None


def test_the_head_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff" + b"x" * 70000)
    assert files.head_of(tmp_path / "a") == "\ufffd" + "x" * 65535
    assert files.head_of(tmp_path) == files.head_of(tmp_path / "none") == ""


# --------------------------------------------------------------------------------------------- reading, writing


def test_a_video_in_two_files_is_refused(tmp_path):
    for name in ("a.txt", "a.TXT"):
        (tmp_path / name).write_text("1\t2\tx\n")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this file system does not tell the two apart")
    with pytest.raises(DataError, match="video 'a' is also in another file of the folder"):
        audacity.FORMAT.parse(tmp_path, Reading())


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.txt file; name the folder that does"):
        audacity.FORMAT.parse(tmp_path, Reading())
    with pytest.raises(DataError, match="does not exist"):
        audacity.FORMAT.parse(tmp_path / "none", Reading())


def test_a_folder_that_cannot_be_written(tmp_path):
    for name in ("t.csv", "t.JSON"):
        with pytest.raises(DataError, match="toy is several files; name a folder"):
            files.new_folder(tmp_path / name, "toy")
    (tmp_path / "old_toy.txt").write_text("")
    with pytest.raises(DataError, match=r"holds 'old_toy\.txt', which would be read as a part of it"):
        files.new_folder(tmp_path, "toy", ["*_toy.txt"], ["new_toy.txt"])
    files.new_folder(tmp_path, "toy", ["*_toy.txt"], ["old_toy.txt"])
