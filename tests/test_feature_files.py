"""Features folders as files: described, verified, merged; other people's layouts, as their releases write them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import SMALL_GTAD, shared

from cuemark import feature_files, folders
from cuemark.checkpoint import software
from cuemark.errors import CallError, CuemarkError, DataError, ModelError
from cuemark.feature_files import (
    Problem,
    actionformer,
    concat,
    export,
    import_,
    info,
    match,
    merge,
    read_global,
    read_times,
    verify,
    write_global,
)
from cuemark.feature_folder import FeatureFolder, global_features
from cuemark.folders import LOCK, failures, locked
from cuemark.grid import Features, Grid
from cuemark.recipe import load_recipe
from cuemark.segments import Segment, VideoTruth, read_truth, write_truth
from cuemark.training import train

CLIP = {"frames": 16, "fps": 15.0, "short_side": 128, "fixed_size": None, "crop": 112, "mean": [0.4, 0.4, 0.4],
        "std": [0.2, 0.2, 0.2], "stride": 16}


def seconds(count: int, stride: int = 16, frames: int = 16, fps: float = 15.0) -> float:
    """Length of a video that has this many clips and half a clip more."""
    return ((count - 1) * stride + 1.5 * frames) / fps


def numbers(seed: int, count: int, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)


def make(folder: Path, videos: dict[str, int], dim: int = 6, dtype: str = "float32",
         failed: dict[str, str] | None = None, **changes) -> Path:
    """A features folder as ``cuemark extract`` leaves it: video -> how many features (its seed, too)."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = {}
    for vid, count in videos.items():
        np.save(folder / f"{vid}.npy", numbers(count, count, dim).astype(dtype))
        grid = Grid.of_clips(count, 16, 16, 15.0)
        entries[vid] = {"grid": grid.to_json(), "duration": seconds(count), "padded": False, "mark": f"{count:016x}"}
    meta = {"software": software(), "encoder": "tac r2plus1d", "weights": "0123456789abcdef", "dim": dim, "clip": CLIP,
            "crops": 1, "pooling": "mean", "dtype": dtype, "scaling": "bilinear", "precision": "fp32",
            "backend": "eager", "complete": True, "videos": dict(sorted(entries.items()))}
    (folder / "features.json").write_text(json.dumps({**meta, **changes}) + "\n")
    if failed:
        (folder / "failed.json").write_text(json.dumps(failed) + "\n")
    return folder


def describe(folder: Path) -> dict:
    return json.loads((folder / "features.json").read_text())


def redescribe(folder: Path, change) -> None:
    meta = describe(folder)
    change(meta)
    (folder / "features.json").write_text(json.dumps(meta))


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != LOCK}


def sentence(caught) -> str:
    """The message, which is one line and no traceback's."""
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith((".", "?"))
    return text


def test_the_folders_of_these_tests_are_like_real_ones(tiny_features, tmp_path):
    mine, real = describe(make(tmp_path, {"a": 3})), tiny_features.meta
    assert list(mine) == list(real)
    assert set(mine["clip"]) == set(real["clip"])
    assert list(mine["videos"]["a"]) == list(next(iter(real["videos"].values())))


# ---------------------------------------------------------------------------------------------- info, verify


def test_info(tmp_path):
    folder = make(tmp_path / "f", {"a": 3, "b": 20, "short": 1}, failed={"bad": "no video"})
    redescribe(folder, lambda meta: meta["videos"]["short"].update(padded=True, duration=0.5))
    found = info(folder)
    assert (found.encoder, found.weights, found.software) == ("tac r2plus1d", "0123456789abcdef", software())
    assert (found.clip_frames, found.stride, found.fps, found.dim) == (16, 16, 15.0, 6)
    assert (found.dtype, found.precision, found.complete, found.foreign, found.even) == ("float32", "fp32", True, False,
                                                                                        False)
    assert found.window == pytest.approx(16 / 15)
    assert found.step == pytest.approx(16 / 15)
    assert (found.videos, found.clips) == (3, 24)
    assert found.hours == pytest.approx((seconds(3) + seconds(20) + 0.5) / 3600)
    assert found.bytes == sum(p.stat().st_size for p in folder.glob("*.npy"))
    assert (found.padded, found.failed) == (("short",), {"bad": "no video"})
    json.dumps(asdict(found))


def test_info_of_what_is_not_finished_or_does_not_say(tmp_path):
    folder = make(tmp_path / "f", {"a": 3}, complete=False)
    (folder / "a.npy").unlink()
    redescribe(folder, lambda meta: [meta.pop(key) for key in ("clip", "weights", "dim", "dtype")])
    found = info(folder)
    assert not found.complete
    assert [found.weights, found.dim, found.stride, found.fps, found.step] == [None] * 5
    assert found.bytes == 0


@pytest.mark.parametrize("text", ["[]", "3", "{", '"text"'])
def test_reasons_that_are_none(tmp_path, text):
    """They are read before anything is written; the features are as usable as before."""
    folder, other = make(tmp_path / "f", {"a": 3}, failed={"bad": "no video"}), make(tmp_path / "other", {"b": 5})
    assert verify(folder) == []
    (folder / "failed.json").write_text(text)
    (problem,) = verify(folder)
    assert (problem.where, problem.serious) == (str(folder / "failed.json"), False)
    assert set(FeatureFolder.open(folder)) == {"a"}
    for call in (lambda: info(folder), lambda: merge([folder, other], tmp_path / "out")):
        with pytest.raises(DataError, match=r"failed\.json") as caught:
            call()
        sentence(caught)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_none(tmp_path):
    for call in (info, verify, actionformer):
        with pytest.raises(DataError, match="does not exist"):
            call(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"has no features\.json"):
            call(tmp_path / "empty")
        (tmp_path / "list").mkdir(exist_ok=True)
        (tmp_path / "list" / "features.json").write_text("[]")
        with pytest.raises(DataError, match="does not describe features"):
            call(tmp_path / "list")


def test_nothing_is_wrong_with_what_was_extracted(tiny_features):
    assert verify(tiny_features.folder) == []
    assert info(tiny_features.folder).clips == sum(f.grid.count for f in tiny_features.values())


def _saved(array):
    return lambda folder: np.save(folder / "b.npy", array, allow_pickle=True)


def _bytes(change):
    return lambda folder: (folder / "b.npy").write_bytes(change((folder / "b.npy").read_bytes()))


def _meta(change):
    return lambda folder: redescribe(folder, change)


def _nan(value, dtype="float32"):
    data = numbers(5, 5).astype(dtype)
    data[4, 2] = value
    return _saved(data)


DAMAGE = {
    "gone": (lambda folder: (folder / "b.npy").unlink(), "b.npy", "is not there"),
    "a folder": (lambda f: ((f / "b.npy").unlink(), (f / "b.npy").mkdir()), "b.npy", "is not a file"),
    "a pipe": (lambda f: ((f / "b.npy").unlink(), os.mkfifo(f / "b.npy")), "b.npy", "is not a file"),
    "empty": (_bytes(lambda old: b""), "b.npy", "is not a NumPy array file"),
    "other bytes": (_bytes(lambda old: b"PK\x03\x04" + old), "b.npy", "is not a NumPy array file"),
    "cut": (_bytes(lambda old: old[:-1]), "b.npy", "cut short"),
    "cut in the header": (_bytes(lambda old: old[:40]), "b.npy", "is not a NumPy array file"),
    "longer": (_bytes(lambda old: old + b"\0"), "b.npy", "followed by something else"),
    "a header that nests": (_bytes(lambda old: old[:8] + b"\x76\x00" + b"(" * 118), "b.npy", "not a NumPy array"),
    "objects": (_saved(np.array([[1, "two"]], dtype=object)), "b.npy", "never unpickled"),
    "rows": (_saved(numbers(0, 4)), "b.npy", r"has shape \(4, 6\), not \(5, 6\)"),
    "columns": (_saved(numbers(0, 5, 7)), "b.npy", r"has shape \(5, 7\), not \(5, 6\)"),
    "rank 1": (_saved(numbers(0, 5)[:, 0]), "b.npy", r"has shape \(5,\), not \(5, 6\)"),
    "rank 3": (_saved(numbers(0, 5)[None]), "b.npy", r"has shape \(1, 5, 6\), not \(5, 6\)"),
    "dtype": (_saved(numbers(5, 5).astype(np.float16)), "b.npy", "holds float16, not float32"),
    "integers": (_saved(np.zeros((5, 6), np.int32)), "b.npy", "holds int32, not float32"),
    "Fortran": (_saved(np.asfortranarray(numbers(5, 5))), "b.npy", "Fortran order"),
    "NaN": (_nan(np.nan), "b.npy", "holds nan in row 4, column 2"),
    "infinity": (_nan(-np.inf), "b.npy", "holds -inf in row 4, column 2"),
    "no dim": (_meta(lambda m: m.pop("dim")), "features.json", "lacks dim"),
    "no clip": (_meta(lambda m: m.pop("clip")), "features.json", "lacks clip"),
    "no weights": (_meta(lambda m: m.pop("weights")), "features.json", "lacks weights"),
    "no stride": (_meta(lambda m: m["clip"].pop("stride")), "features.json", r"lacks clip\.stride"),
    "clip of another kind": (_meta(lambda m: m.update(clip=[16])), "features.json", r"lacks clip\.frames"),
    "dim of another kind": (_meta(lambda m: m.update(dim="6")), "features.json", r"lacks dim \(a number"),
    "not finished": (_meta(lambda m: m.update(complete=False)), "features.json", "has not finished"),
    "no grid": (_meta(lambda m: m["videos"]["b"].pop("grid")), "video 'b'", "grid or duration is missing"),
    "no entry": (_meta(lambda m: m["videos"].update(b=3)), "video 'b'", "grid or duration is missing"),
    "endless": (_meta(lambda m: m["videos"]["b"].update(duration=float("inf"))), "video 'b'", "a duration of inf"),
    "another step": (_meta(lambda m: m["videos"]["b"]["grid"].update(step=0.5)), "video 'b'", "grid has step 0.5 s"),
    "another start": (_meta(lambda m: m["videos"]["b"]["grid"].update(start=3)), "video 'b'", "grid has start 3 s"),
    "another length": (_meta(lambda m: m["videos"]["b"].update(duration=60)), "video 'b'", "5 features, but 60 s.*56"),
    "a count": (_meta(lambda m: m["videos"]["b"]["grid"].update(count=1e400)), "video 'b'", "missing or no number"),
    "an absurd stride": (_meta(lambda m: m["clip"].update(stride=10**400)), "features.json", r"lacks clip\.stride"),
    "a stride of nothing": (_meta(lambda m: m["clip"].update(stride=0.5)), "video 'b'", "make no grid"),
    "a path": (_meta(lambda m: m["videos"].update({"../x": m["videos"]["b"]})), r"'\.\./x'", "a path, not a file"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_verify_finds_every_damage(tmp_path, name):
    folder, (damage, where, what) = make(tmp_path / "f", {"a": 3, "b": 5}), DAMAGE[name]
    make(tmp_path, {"x": 5})  # what a path would lead to
    damage(folder)
    found = [p for p in verify(folder) if p.serious]
    assert any(re.search(where, p.where) and re.search(what, p.what) for p in found), found
    assert all("a.npy" not in p.where for p in found)


def test_verify_names_what_is_not_listed_and_who_made_it(tmp_path):
    folder = make(tmp_path, {"a": 3}, software="cuemark 0.0.1", failed={"b": "no video"})
    (folder / LOCK).touch()
    for name in ("other.npy", "notes.txt", ".b.npy.k3j2.tmp"):
        (folder / name).write_bytes(b"")
    found = {Path(p.where).name: p for p in verify(folder)}
    assert set(found) == {"features.json", "other.npy", "notes.txt", ".b.npy.k3j2.tmp"}
    assert not any(p.serious for p in found.values())
    assert found["features.json"] == Problem(str(folder / "features.json"),
                                             f"was written by cuemark 0.0.1; this is {software()}", False)
    assert "not listed" in found["other.npy"].what
    assert "killed run" in found[".b.npy.k3j2.tmp"].what


@pytest.mark.parametrize(("dtype", "row"), [("float32", 0), ("float16", 6), ("float32", 20), ("float32", 21)])
def test_numbers_are_looked_at_in_blocks(tmp_path, monkeypatch, dtype, row):
    folder = make(tmp_path, {"a": 22}, dtype=dtype)
    monkeypatch.setattr(feature_files, "BLOCK", 6 * 7)
    assert verify(folder) == []
    data = np.load(folder / "a.npy")
    data[row, 5] = np.inf
    np.save(folder / "a.npy", data)
    (problem,) = verify(folder)
    assert problem.what == f"holds inf in row {row}, column 5"
    assert verify(folder, finite=False) == []


# ---------------------------------------------------------------------------------------------- merge


@pytest.mark.parametrize("copy", [False, True])
def test_shards_become_the_folder_they_were_cut_from(tmp_path, copy):
    whole = make(tmp_path / "whole", {"a": 3, "b": 5, "c": 7}, failed={"bad": "no video"})
    one = make(tmp_path / "one", {"c": 7}, failed={"a": "no memory", "bad": "no video"})
    two = make(tmp_path / "two", {"a": 3, "b": 5})
    result = merge([one, two], tmp_path / "out", copy=copy)
    assert (sorted(result.done), result.skipped, result.clips) == (["a", "b", "c"], [], 15)
    assert result.failed == {"bad": "no video"}
    assert files(tmp_path / "out") == files(whole)
    assert failures(tmp_path / "out") == {"bad": "no video"}
    assert os.path.samefile(one / "c.npy", tmp_path / "out" / "c.npy") is not copy
    assert verify(tmp_path / "out") == []
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.npy")}
    again = merge([one, two], tmp_path / "out")
    assert (again.done, sorted(again.skipped)) == ([], ["a", "b", "c"])
    assert files(tmp_path / "out") == files(whole)
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.npy")} == before


def test_what_failed_in_one_shard_and_not_in_another_is_no_failure(tmp_path):
    one = make(tmp_path / "one", {"c": 7}, failed={"a": "no memory"})
    merge([one, make(tmp_path / "two", {"a": 3})], tmp_path / "out")
    assert not (tmp_path / "out" / "failed.json").exists()
    make(tmp_path / "out", {"a": 3, "c": 7}, failed={"b": "no video"})  # which a later shard has
    merge([make(tmp_path / "three", {"b": 5})], tmp_path / "out")
    assert files(tmp_path / "out") == files(make(tmp_path / "whole", {"a": 3, "b": 5, "c": 7}))


def test_a_folder_grows(tmp_path):
    out = make(tmp_path / "out", {"a": 3})
    merge([make(tmp_path / "one", {"b": 5})], out)
    merge([make(tmp_path / "two", {"c": 7}), out], out)
    assert files(out) == files(make(tmp_path / "whole", {"a": 3, "b": 5, "c": 7}))


def test_without_links_files_are_copied(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)
    merge([make(tmp_path / "one", {"a": 3})], tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "one")
    assert not os.path.samefile(tmp_path / "one" / "a.npy", tmp_path / "out" / "a.npy")


def test_a_symbolic_link_is_followed(tmp_path):
    one = make(tmp_path / "one", {"a": 3})
    (one / "a.npy").rename(tmp_path / "store.npy")
    (one / "a.npy").symlink_to("../store.npy")
    merge([one], tmp_path / "out")
    assert not (tmp_path / "out" / "a.npy").is_symlink()
    assert FeatureFolder.open(tmp_path / "out")["a"].data.shape == (3, 6)


@pytest.mark.parametrize(("change", "match"), [
    ({"encoder": "clap"}, "encoder clap, but .* with tac r2plus1d"),
    ({"weights": "f" * 16}, "weights ffffffffffffffff, but .* 0123456789abcdef"),
    ({"clip": {**CLIP, "stride": 4}}, r"clip\.stride 4, but .* with 16;"),
    ({"clip": {**CLIP, "even": 100}}, r"clip\.even 100, but .* with None;"),
    ({"precision": "bf16"}, "precision bf16, but .* fp32"),
    ({"crops": 3}, "crops 3, but .* with 1;"),
    ({"pooling": "max"}, "pooling max, but .* with mean;"),
    ({"backend": "onnx"}, "backend onnx, but .* with eager;"),
    ({"dtype": "float16"}, "dtype float16, but .* float32"),
    ({"dim": 7}, "dim 7, but .* 6"),
    ({"complete": False}, "has not finished"),
])
def test_different_features_are_not_merged(tmp_path, change, match):
    dtype, dim = change.get("dtype", "float32"), change.get("dim", 6)
    rest = {k: v for k, v in change.items() if k not in ("dtype", "dim")}
    folders = [make(tmp_path / "one", {"a": 3}), make(tmp_path / "two", {"b": 5}, dim, dtype, **rest)]
    with pytest.raises(DataError, match=match) as caught:
        merge(folders, tmp_path / "out")
    sentence(caught)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["crops", "backend", "pooling"])
def test_what_a_description_does_not_say_is_the_usual(tmp_path, key):
    older = make(tmp_path / "older", {"a": 3})
    redescribe(older, lambda meta: meta.pop(key))
    assert verify(older) == []
    out = merge([older, make(tmp_path / "newer", {"b": 5})], tmp_path / "out")
    assert sorted(out.done) == ["a", "b"]
    other = make(tmp_path / "other", {"c": 7}, **{key: {"crops": 3, "backend": "onnx", "pooling": "max"}[key]})
    with pytest.raises(DataError, match=f"with {key}"):
        merge([older, other], tmp_path / "out")


def test_what_cannot_be_merged(tmp_path):
    one, two = make(tmp_path / "one", {"a": 3, "b": 5}), make(tmp_path / "two", {"b": 5, "c": 7})
    with pytest.raises(CallError, match="at least one"):
        merge([], tmp_path / "out")
    other = np.load(two / "b.npy")
    other[3, 3] += 1
    np.save(two / "b.npy", other)
    with pytest.raises(DataError, match=r"one' and .*two' have different features of video 'b'"):
        merge([one, two], tmp_path / "out")
    make(two, {"b": 5, "c": 7})
    redescribe(two, lambda meta: meta["videos"]["b"].update(duration=seconds(5) + 0.1))
    with pytest.raises(DataError, match="different features of video 'b'"):
        merge([one, two], tmp_path / "out")
    make(two, {"b": 5, "c": 7})
    (two / "c.npy").write_bytes((two / "c.npy").read_bytes()[:-1])
    with pytest.raises(DataError, match=r"c\.npy' has \d+ bytes.*make it again") as caught:
        merge([one, two], tmp_path / "out")
    sentence(caught)
    make(two, {"b": 5, "c": 7})
    redescribe(two, lambda meta: meta.pop("weights"))
    with pytest.raises(DataError, match="lacks weights"):
        merge([one, two], tmp_path / "out")
    make(two, {"b": 5, "c": 7})
    redescribe(two, lambda meta: meta["videos"].update({"../one/a": meta["videos"]["b"]}))
    with pytest.raises(DataError, match="a path, not a file"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    make(two, {"b": 5, "c": 7})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "c.npy").write_bytes(b"somebody's")
    with pytest.raises(DataError, match=r"c\.npy' is there and is not"):
        merge([one, two], tmp_path / "out")
    assert (tmp_path / "out" / "c.npy").read_bytes() == b"somebody's"


KILLED_MERGE = """
import os, shutil, signal, sys
from cuemark import feature_files, feature_folder
where, out, *folders = sys.argv[1:]
count = 0
def dying(name, real):
    def call(*arguments, **options):
        global count
        count += 1
        if count == 3:
            if name == "copying":
                arguments[1].write(b"half of a file")
                arguments[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call
if where == "linking":
    os.link = dying(where, os.link)
elif where == "copying":
    shutil.copyfileobj = dying(where, shutil.copyfileobj)
else:
    feature_folder.write_json = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
feature_files.merge(folders, out, copy=where == "copying")
"""


def killed(script: str, *arguments: str | Path) -> None:
    ended = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True,
                           timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("where", ["linking", "copying", "describing"])
def test_a_killed_merge_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, where):
    folders = [make(tmp_path / "one", {"a": 3, "b": 5}), make(tmp_path / "two", {"c": 7, "d": 4})]
    killed(KILLED_MERGE, where, tmp_path / "out", *folders)
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"a.npy", "b.npy"} <= left
    assert "features.json" not in left
    assert any(name.endswith(".tmp") for name in left) is (where == "copying")
    with pytest.raises(DataError, match=r"has no features\.json"):
        FeatureFolder.open(tmp_path / "out")
    result = merge(folders, tmp_path / "out", copy=where == "copying")
    assert len(result.skipped) == (4 if where == "describing" else 2)
    assert files(tmp_path / "out") == files(make(tmp_path / "whole", {"a": 3, "b": 5, "c": 7, "d": 4}))


def test_a_killed_merge_into_a_folder_leaves_it_as_it_was(tmp_path):
    out, one = make(tmp_path / "out", {"a": 3}), make(tmp_path / "one", {"c": 7})
    killed(KILLED_MERGE, "describing", out, one)
    assert set(FeatureFolder.open(out)) == {"a"}
    assert [(p.what, p.serious) for p in verify(out)] == [("is not listed in features.json", False)]


# ---------------------------------------------------------------------------------------------- two at once

WRITERS = {
    "merge": lambda source, out: merge([source], out),
    "match": lambda source, out: match(source, source, out),
    "concat": lambda source, out: concat([source, source], out),
    "import": lambda source, out: import_(source.parent / "a.h5", out),
    "export": lambda source, out: export(source, out / "a.h5"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_who_writes_into_a_folder_waits_for_its_lock(tmp_path, monkeypatch, name):
    """Nothing of what another run is writing is swept away, and nobody else's sweep hurts this one."""
    source, out = make(tmp_path / "source", {"a": 3, "b": 5}), tmp_path / "out"
    export(source, tmp_path / "a.h5")
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    with locked(out):
        (out / ".c.npy.x.tmp").write_bytes(b"half of it")
        with pytest.raises(CuemarkError, match=r"another run is at work in '.*out'; wait until it has finished"):
            WRITERS[name](source, out)
        assert list(files(out)) == [".c.npy.x.tmp"]
    real, seen = feature_files.Bar.advance, []

    def busy(*arguments: object) -> None:
        with pytest.raises(CuemarkError, match="another run"), locked(out):
            pass
        seen.append(1)
        real(*arguments)

    monkeypatch.setattr(feature_files.Bar, "advance", busy)
    WRITERS[name](source, out)
    assert len(seen) == 2
    with locked(out):
        pass


def test_a_file_beside_no_features_needs_no_lock(tmp_path):
    export(make(tmp_path / "source", {"a": 3}), tmp_path / "new" / "a.h5")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.h5"]


def test_a_refused_merge_leaves_no_folder(tmp_path):
    one, two = make(tmp_path / "one", {"a": 3}), make(tmp_path / "two", {"b": 3}, dim=7)
    with pytest.raises(DataError, match="dim 7"):
        merge([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_marks_of_before_and_after_agree(tmp_path):
    """The same features, described by a version that knew no marks."""
    one, two = make(tmp_path / "one", {"a": 3}), make(tmp_path / "two", {"a": 3, "b": 5})
    redescribe(one, lambda meta: meta["videos"]["a"].update(bytes=1003) or meta["videos"]["a"].pop("mark"))
    assert merge([one, two], tmp_path / "out").done == ["a", "b"]
    redescribe(one, lambda meta: meta["videos"]["a"].update(mark="other"))
    with pytest.raises(DataError, match="different features of video 'a'"):
        merge([one, two], tmp_path / "more")


@pytest.mark.parametrize("name", ["match", "concat"])
def test_a_folder_that_shall_hold_more_is_not_complete_before_it_does(tmp_path, monkeypatch, name):
    source, out, real = make(tmp_path / "source", {"a": 3}), tmp_path / "out", feature_files._store
    WRITERS[name](source, out)
    make(source, {"a": 3, "b": 5})

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_files, "_store", stopped)
    with pytest.raises(KeyboardInterrupt):
        WRITERS[name](source, out)
    with pytest.raises(DataError, match="has not finished"):
        FeatureFolder.open(out)
    monkeypatch.setattr(feature_files, "_store", real)
    result = WRITERS[name](source, out)
    assert (result.done, result.skipped) == (["b"], ["a"])
    assert set(FeatureFolder.open(out)) == {"a", "b"}


# ---------------------------------------------------------------------------------------------- export


def test_tsps_layout(tmp_path):
    folder = make(tmp_path / "f", {"v_a": 3, "v_b": 200}, dim=40)
    result = export(folder, tmp_path / "out.h5")
    assert (result.done, result.clips) == (["v_a", "v_b"], 203)
    with h5py.File(tmp_path / "out.h5", "r") as file:  # as TSP's users read it
        assert sorted(file) == ["v_a", "v_b"]
        for vid in file:
            assert (file[vid].dtype, file[vid].compression, file[vid].compression_opts) == ("<f4", "gzip", 9)
            assert file[vid].chunks is not None
            np.testing.assert_array_equal(file[vid][()], np.load(folder / f"{vid}.npy"))
    export(folder, tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "out.h5").read_bytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_an_export_comes_back_as_it_was(tmp_path, dtype):
    folder = make(tmp_path / "f", {"a": 3, "b": 20, "with.dots": 4}, dtype=dtype)
    redescribe(folder, lambda meta: meta["videos"]["a"].update(padded=True, duration=seconds(3) + 1 / 3))
    export(folder, tmp_path / "out.h5")
    result = import_(tmp_path / "out.h5", tmp_path / "back")
    assert sorted(result.done) == ["a", "b", "with.dots"]
    for vid in ("a", "b", "with.dots"):
        assert (tmp_path / "back" / f"{vid}.npy").read_bytes() == (folder / f"{vid}.npy").read_bytes()
    mine, back = describe(folder), describe(tmp_path / "back")
    for entry in mine["videos"].values():
        del entry["mark"]  # of a file that nobody has any more
    assert {k: back[k] for k in mine} == mine
    assert set(back) - set(mine) == {"foreign", "source"}
    assert back["foreign"] is False
    assert verify(tmp_path / "back") == []
    with pytest.raises(DataError, match=r"its fps is 15\.0, but 30 was given") as caught:
        import_(tmp_path / "out.h5", tmp_path / "wrong", fps=30)
    sentence(caught)
    with pytest.raises(CallError, match="leave out even"):
        import_(tmp_path / "out.h5", tmp_path / "wrong", even=True)
    assert not (tmp_path / "wrong").exists()


def test_how_clips_were_looked_at_is_kept_on_the_journey(tmp_path):
    told = {"crops": 3, "pooling": "max", "backend": "onnx", "precision": "bf16"}
    export(make(tmp_path / "f", {"a": 3}, **told), tmp_path / "out.h5")
    import_(tmp_path / "out.h5", tmp_path / "back")
    back = describe(tmp_path / "back")
    assert {key: back[key] for key in told} == told
    export(make(tmp_path / "g", {"a": 3}), tmp_path / "other.h5")
    with pytest.raises(DataError, match="holds features with crops 3, but these have 1"):
        import_(tmp_path / "other.h5", tmp_path / "back")


def test_a_localizer_knows_its_features_after_the_journey(tiny_features, tiny_localizer, tmp_path):
    export(tiny_features.folder, tmp_path / "out.h5")
    import_(tmp_path / "out.h5", tmp_path / "back")
    tiny_localizer.fits(FeatureFolder.open(tmp_path / "back"))
    export(tiny_features.folder, tmp_path / "rescaled.h5", "gtad")
    import_(tmp_path / "rescaled.h5", tmp_path / "rescaled")
    with pytest.raises(ModelError, match="clip"):
        tiny_localizer.fits(FeatureFolder.open(tmp_path / "rescaled"))


def test_gtads_layout(tmp_path):
    folder = make(tmp_path / "f", {"a": 3, "v_b": 30})
    export(folder, tmp_path / "out.hdf5", "gtad")
    with h5py.File(tmp_path / "out.hdf5", "r") as file:
        assert sorted(file) == ["v_a", "v_v_b"]
        for vid, count in (("a", 3), ("v_b", 30)):
            data, length = numbers(count, count), seconds(count)
            at = (np.arange(100) + 0.5) / 100 * length  # the middle of each hundredth of the video
            middles = (np.arange(count) * 16 + 8) / 15
            slow = np.stack([np.interp(at, middles, column) for column in data.T], axis=1)
            assert file[f"v_{vid}"].shape == (100, 6)
            np.testing.assert_allclose(file[f"v_{vid}"][()], slow, rtol=0, atol=1e-5)
    import_(tmp_path / "out.hdf5", tmp_path / "back")
    back = FeatureFolder.open(tmp_path / "back")
    assert back["a"].grid == Grid.over(0.0, seconds(3), 100)
    assert info(tmp_path / "back").even
    assert verify(tmp_path / "back") == []
    make(tmp_path / "v", {"v_a": 3, "v_b": 5})
    export(tmp_path / "v", tmp_path / "v.hdf5", "gtad", positions=7)
    with h5py.File(tmp_path / "v.hdf5", "r") as file:
        assert {vid: file[vid].shape for vid in file} == {"v_a": (7, 6), "v_b": (7, 6)}


def test_what_cannot_be_exported(tmp_path):
    folder = make(tmp_path / "f", {"a": 3, "b": 5})
    (tmp_path / "old.h5").write_bytes(b"old")
    with pytest.raises(CallError, match="unknown layout 'pt'"):
        export(folder, tmp_path / "old.h5", "pt")
    with pytest.raises(CallError, match="is a folder"):
        export(folder, tmp_path)
    _nan(np.nan)(folder)
    with pytest.raises(DataError, match=r"b\.npy' holds nan in row 4"):
        export(folder, tmp_path / "old.h5")
    (folder / "b.npy").unlink()
    with pytest.raises(DataError, match=r"b\.npy' is not there") as caught:
        export(folder, tmp_path / "old.h5")
    sentence(caught)
    assert (tmp_path / "old.h5").read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"f", "old.h5"}


KILLED_EXPORT = """
import os, signal, sys
from cuemark import feature_files
real, count = feature_files._damage, 0
def dying(*arguments, **options):
    global count
    count += 1
    if count == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)
feature_files._damage = dying
feature_files.export(sys.argv[1], sys.argv[2])
"""


def test_a_killed_export_leaves_no_file(tmp_path):
    folder = make(tmp_path / "f", {"a": 3, "b": 5})
    killed(KILLED_EXPORT, folder, tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_without_h5py_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    folder = make(tmp_path / "f", {"a": 3})
    monkeypatch.setitem(sys.modules, "h5py", None)
    calls = (lambda: export(folder, tmp_path / "a.h5"), lambda: read_global(tmp_path / "a.h5"),
             lambda: write_global(tmp_path / "a.h5", {"a": np.ones(3)}),
             lambda: import_(shared("features/tsp_thumos14_r2plus1d_34-max_gvf.h5"), tmp_path / "o"))
    for call in calls:
        with pytest.raises(DataError, match=r'pip install "cuemark\[hdf5\]"'):
            call()
    arrays = tmp_path / "arrays"  # which needs none
    arrays.mkdir()
    np.save(arrays / "a.npy", numbers(0, 9))
    import_(arrays, tmp_path / "o", durations={"a": seconds(9)}, fps=15, stride=16, clip_frames=16)
    assert list(tmp_path.glob("a.h5")) == []


# ---------------------------------------------------------------------------------------------- ActionFormer


def test_actionformer_reads_the_arrays_as_they_are(tmp_path):
    folder = make(tmp_path / "f", {"a": 30}, dtype="float16")
    told = actionformer(folder)
    feats = np.load(f"{told['feat_folder']}/{told['file_prefix'] or ''}a{told['file_ext']}").astype(np.float32)
    assert feats.shape == (30, told["input_dim"])
    # its time line: seconds = (row * feat_stride + 0.5 * num_frames) / fps
    rows = (np.arange(30) * told["feat_stride"] + 0.5 * told["num_frames"]) / told["default_fps"]
    np.testing.assert_allclose(rows, FeatureFolder.open(folder)["a"].grid.centres, rtol=0, atol=1e-12)


def test_actionformer_and_rows_that_cover_the_video(tmp_path):
    rescaled(tmp_path / "anet.hdf5", {"a": 100})
    import_(tmp_path / "anet.hdf5", tmp_path / "f", durations={"a": 80.0}, even=True)
    told, grid = actionformer(tmp_path / "f"), FeatureFolder.open(tmp_path / "f")["a"].grid
    assert told["feat_stride"] == -1
    stride = 80.0 * told["default_fps"] / 100  # what ActionFormer makes of it
    rows = (np.arange(100) * stride + 0.5 * told["num_frames"] * stride) / told["default_fps"]
    np.testing.assert_allclose(rows, grid.centres, rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------------------- import: layouts


def released(path: Path, videos: dict[str, int], dim: int = 6, dtype: str = "float32") -> Path:
    """A file as TSP's script leaves it: flat, chunked, gzip 9."""
    with h5py.File(path, "w") as file:
        for vid, count in videos.items():
            file.create_dataset(vid, data=numbers(count, count, dim).astype(dtype), chunks=True, compression="gzip",
                                compression_opts=9)
    return path


def rescaled(path: Path, videos: dict[str, int]) -> Path:
    """``csv_mean_100.hdf5``: plain datasets ``v_<id>``."""
    with h5py.File(path, "w") as file:
        for vid, count in videos.items():
            file.create_dataset(f"v_{vid}", data=numbers(count, count))
    return path


TSP = {"fps": 15, "stride": 16, "clip_frames": 16}


def test_tsps_release(tmp_path):
    source = released(tmp_path / "valid_features.h5", {"v_aaa": 3, "v_bbb": 30})
    durations = {"aaa": seconds(3), "bbb": seconds(30), "not_there": 9.0}
    result = import_(source, tmp_path / "f", durations=durations, **TSP)
    assert (result.done, result.skipped, result.failed, result.clips) == (["aaa", "bbb"], [], {}, 33)
    folder = FeatureFolder.open(tmp_path / "f")
    np.testing.assert_array_equal(folder["bbb"].data, numbers(30, 30))
    assert folder["bbb"].grid == Grid.of_clips(30, 16, 16, 15)
    assert folder["bbb"].duration == seconds(30)
    meta = folder.meta
    assert (meta["foreign"], meta["encoder"], meta["dim"]) == (True, "foreign: valid_features.h5", 6)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert meta["weights"] == digest[:16]
    assert meta["source"] == {"name": "valid_features.h5", "sha256": digest}
    assert verify(tmp_path / "f") == []
    assert info(tmp_path / "f").foreign


def test_a_localizer_trains_on_foreign_features(tmp_path):
    released(tmp_path / "f.h5", {"v_a": 30, "v_b": 41, "v_c": 25}, dim=12)
    truth = {vid: VideoTruth(seconds(n), (Segment(2.0, 9.0, "jump"), Segment(11.0, 20.0, "run")), part)
             for vid, n, part in (("a", 30, "training"), ("b", 41, "training"), ("c", 25, "validation"))}
    write_truth(tmp_path / "truth.json", truth)
    durations, _ = read_times(tmp_path / "truth.json")
    import_(tmp_path / "f.h5", tmp_path / "f", durations=durations, **TSP)
    changes = [f"options.{k}={v}" for k, v in SMALL_GTAD.items()]
    recipe = load_recipe("world_gtad", [f"data.truth={json.dumps(str(tmp_path / 'truth.json'))}",
                                        f"data.features={json.dumps(str(tmp_path / 'f'))}", "optim.batch=2",
                                        "optim.steps=2", "optim.precision=fp32", *changes])
    trained, _ = train(recipe, tmp_path / "run")
    trained.fits(FeatureFolder.open(tmp_path / "f"))
    released(tmp_path / "other.h5", {"v_a": 31}, dim=12)
    import_(tmp_path / "other.h5", tmp_path / "other", durations={"a": seconds(31)}, **TSP)
    with pytest.raises(ModelError, match="weights"):
        trained.fits(FeatureFolder.open(tmp_path / "other"))
    import_(tmp_path / "other.h5", tmp_path / "same", durations={"a": seconds(31)}, **TSP,
            weights=trained.features["weights"])
    trained.fits(FeatureFolder.open(tmp_path / "same"))


def test_files_of_one_encoder_are_merged(tmp_path):
    for name, vid, count in (("train", "a", 3), ("valid", "b", 5)):
        released(tmp_path / f"{name}.h5", {vid: count})
        import_(tmp_path / f"{name}.h5", tmp_path / name, durations={vid: seconds(count)}, **TSP, encoder="tsp",
                weights="0d2cf854")
    merge([tmp_path / "train", tmp_path / "valid"], tmp_path / "all")
    folder = FeatureFolder.open(tmp_path / "all")
    assert (set(folder), folder.meta["weights"], folder.meta["foreign"]) == ({"a", "b"}, "0d2cf854", True)
    assert verify(tmp_path / "all") == []


def test_groups_of_c3d_features(tmp_path):
    with h5py.File(tmp_path / "c3d.hdf5", "w") as file:
        for vid, count in (("v_a", 12), ("v_b", 30)):
            file.create_group(vid).create_dataset("c3d_features", data=numbers(count, count))
    durations = {"v_a": seconds(12, 8, 16, 24), "v_b": seconds(30, 8, 16, 24)}
    import_(tmp_path / "c3d.hdf5", tmp_path / "f", durations=durations, fps=24, stride=8, clip_frames=16)
    folder = FeatureFolder.open(tmp_path / "f")
    np.testing.assert_array_equal(folder["v_b"].data, numbers(30, 30))
    assert folder["v_a"].grid == Grid.of_clips(12, 8, 16, 24)


def test_groups_of_several_features(tmp_path):
    with h5py.File(tmp_path / "two.hdf5", "w") as file:
        for vid in ("a", "b"):
            file.create_dataset(f"{vid}/rgb", data=numbers(0, 5))
            file.create_dataset(f"{vid}/flow", data=numbers(1, 5))
    told = {"durations": {"a": 9.0, "b": 12.0}, "even": True}
    with pytest.raises(DataError, match=r"'a' is a group that holds 'flow', 'rgb'; name the one") as caught:
        import_(tmp_path / "two.hdf5", tmp_path / "f", **told)
    sentence(caught)
    import_(tmp_path / "two.hdf5", tmp_path / "f", dataset="flow", **told)
    np.testing.assert_array_equal(FeatureFolder.open(tmp_path / "f")["b"].data, numbers(1, 5))


@pytest.mark.parametrize("layout", ["one file", "a file each", "a group in a file each"])
def test_gtads_releases(tmp_path, layout):
    source = tmp_path / "anet"
    if layout == "one file":
        source = rescaled(tmp_path / "csv_mean_100.hdf5", {"a": 100, "b": 100})
    else:
        source.mkdir()
        for vid in ("a", "b"):
            with h5py.File(source / f"v_{vid}.h5", "w") as file:
                name = f"v_{vid}/v_{vid}" if layout == "a group in a file each" else f"v_{vid}"
                file.create_dataset(name, data=numbers(100, 100))
    import_(source, tmp_path / "f", durations={"a": 82.73, "b": 12.0}, even=True)
    folder = FeatureFolder.open(tmp_path / "f")
    assert folder["a"].grid == Grid.over(0.0, 82.73, 100)
    np.testing.assert_array_equal(folder["b"].data, numbers(100, 100))
    assert folder.meta["clip"] == {"frames": None, "fps": None, "stride": None, "even": 100}
    assert verify(tmp_path / "f") == []
    found = info(tmp_path / "f")
    assert (found.even, found.step, found.stride) == (True, None, None)


def test_actionformers_arrays_at_the_rate_of_each_video(tmp_path):
    """THUMOS14, I3D: 16 frames every 4 at the video's own rate; files of any floating type and order are read."""
    source = tmp_path / "i3d"
    source.mkdir()
    rates = {"video_test_0000004": 30.0, "video_test_0000006": 29.97, "video_test_0000007": 25.0}
    kinds = (np.float64, ">f4", np.float16)
    durations = {}
    for i, (vid, fps) in enumerate(rates.items()):
        data = numbers(i, 40 + i).astype(kinds[i])
        np.save(source / f"{vid}.npy", np.asfortranarray(data) if i == 0 else data)
        durations[vid] = seconds(40 + i, 4, 16, fps)
    import_(source, tmp_path / "f", durations=durations, fps=rates, stride=4, clip_frames=16)
    folder = FeatureFolder.open(tmp_path / "f")
    for i, (vid, fps) in enumerate(rates.items()):
        assert folder[vid].grid == Grid.of_clips(40 + i, 4, 16, fps)
        np.testing.assert_array_equal(folder[vid].data, numbers(i, 40 + i).astype(kinds[i]).astype(np.float32))
    assert actionformer(tmp_path / "f")["default_fps"] is None
    assert info(tmp_path / "f").fps is None
    assert verify(tmp_path / "f") == []
    with pytest.raises(DataError, match=r"'[^']*0006\.npy': the rates that were given have none"):
        import_(source, tmp_path / "g", durations=durations, fps={"video_test_0000004": 30.0}, stride=4, clip_frames=16)


def test_arrays_are_written_as_numpy_writes_them_a_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_files, "BLOCK", 6 * 7)
    released(tmp_path / "a.h5", {"a": 50})
    for dtype in ("float16", "float32"):
        import_(tmp_path / "a.h5", tmp_path / dtype, durations={"a": seconds(50)}, **TSP, dtype=dtype)
        np.save(tmp_path / "expected.npy", numbers(50, 50).astype(dtype))
        assert (tmp_path / dtype / "a.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


@pytest.mark.parametrize("names", [("v_a", {"a"}, "a"), ("a", {"v_a"}, "v_a"), ("v_a", {"v_a", "a"}, "v_a"),
                                   ("a.mp4", {"a"}, "a"), ("a.b", {"a.b", "a"}, "a.b")])
def test_a_video_has_the_name_it_has_here(tmp_path, names):
    theirs, ours, expected = names
    released(tmp_path / "a.h5", {theirs: 9})
    result = import_(tmp_path / "a.h5", tmp_path / "f", durations=dict.fromkeys(ours, seconds(9)), **TSP)
    assert result.done == [expected]


# ---------------------------------------------------------------------------------------------- import: does it fit?


@pytest.mark.parametrize(("count", "length", "right"), [(30, seconds(33), 33), (30, seconds(28), 28), (112, 60.0, 56)])
def test_features_that_do_not_fit_the_duration(tmp_path, count, length, right):
    released(tmp_path / "a.h5", {"a": count, "b": 9})
    durations = {"a": length, "b": seconds(9)}
    with pytest.raises(DataError, match=rf"'a': {count} features, but {length:g} s at 15 fps.* make {right}.*"
                                        r"; 1 of 2 videos do not fit") as caught:
        import_(tmp_path / "a.h5", tmp_path / "f", durations=durations, **TSP)
    sentence(caught)
    assert not (tmp_path / "f").exists()
    result = import_(tmp_path / "a.h5", tmp_path / "f", durations=durations, **TSP, lenient=True)
    assert result.done == ["b"]
    assert f"{count} features" in result.failed["a"]
    assert failures(tmp_path / "f") == info(tmp_path / "f").failed == result.failed


@pytest.mark.parametrize("stride", [1, 4, 16, 40])
def test_up_to_one_clip_may_be_missing_or_too_many(tmp_path, stride):
    exact, one = 100, max(16 // stride, 1)
    length = seconds(exact, stride) - 8 / 15
    for count, fits in ((exact - one - 1, False), (exact - one, True), (exact + one, True), (exact + one + 1, False)):
        released(tmp_path / f"{count}.h5", {"a": count})
        arguments = {"durations": {"a": length}, "fps": 15, "stride": stride, "clip_frames": 16}
        if fits:
            import_(tmp_path / f"{count}.h5", tmp_path / f"f{count}", **arguments)
            assert verify(tmp_path / f"f{count}") == []
        else:
            with pytest.raises(DataError, match=f"{count} features, but .* make {exact};"):
                import_(tmp_path / f"{count}.h5", tmp_path / f"f{count}", **arguments)


def test_a_video_shorter_than_a_clip_is_padded(tmp_path):
    released(tmp_path / "a.h5", {"a": 1, "b": 9})
    import_(tmp_path / "a.h5", tmp_path / "f", durations={"a": 0.5, "b": seconds(9)}, **TSP)
    assert info(tmp_path / "f").padded == ("a",)


@pytest.mark.parametrize(("change", "match"), [
    ({"durations": None}, "give their durations"),
    ({"fps": None}, "give fps, or even"),
    ({"stride": None, "clip_frames": None}, "give stride, clip_frames, or even"),
    ({"even": True}, "have no fps or stride or clip_frames"),
    ({"stride": 0}, "stride must be a number at least 1"),
    ({"stride": 16.0}, "stride must be a whole number"),
    ({"fps": float("nan")}, "fps must be a number"),
    ({"dtype": "float64"}, "unknown dtype 'float64'"),
])
def test_calls_that_cannot_be_meant(tmp_path, change, match):
    released(tmp_path / "a.h5", {"a": 9})
    with pytest.raises(CallError, match=match):
        import_(tmp_path / "a.h5", tmp_path / "f", **{"durations": {"a": seconds(9)}, **TSP, **change})
    assert not (tmp_path / "f").exists()


def test_sources_that_are_none(tmp_path):
    told = {"durations": {"a": seconds(9)}, **TSP}
    (tmp_path / "empty").mkdir()
    make(tmp_path / "ours", {"a": 9})
    (tmp_path / "text.h5").write_text("no HDF5")
    np.save(tmp_path / "a.npy", numbers(0, 9))
    with h5py.File(tmp_path / "nothing.h5", "w"):
        pass
    for name, why in (("nowhere.h5", "does not exist"), ("empty", "holds no features"), ("nothing.h5", "holds no"),
                      ("ours", "is a features folder already"), ("text.h5", "cannot be read as HDF5"),
                      ("a.npy", "name the folder")):
        with pytest.raises(DataError, match=why) as caught:
            import_(tmp_path / name, tmp_path / "out", **told)
        sentence(caught)
    assert not (tmp_path / "out").exists()


def test_the_folder_that_is_written_to(tmp_path):
    released(tmp_path / "a.h5", {"a": 9})
    told = {"durations": {"a": seconds(9)}, **TSP}
    out = tmp_path / "out"
    assert import_(tmp_path / "a.h5", out, **told).done == ["a"]
    before = files(out)
    assert import_(tmp_path / "a.h5", out, **told).skipped == ["a"]
    assert files(out) == before
    for change in ({"stride": 15}, {"clip_frames": 17}, {"weights": "other"}, {"dtype": "float16"}):
        with pytest.raises(DataError, match="import into another folder"):
            import_(tmp_path / "a.h5", out, **{**told, **change})
    released(tmp_path / "b.h5", {"a": 10})
    with pytest.raises(DataError, match="import into another folder"):  # another source, said to be the same encoder
        import_(tmp_path / "b.h5", out, **told, encoder="foreign: a.h5", weights=describe(out)["weights"])
    assert files(out) == before
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays" / "a.npy", numbers(1, 9))
    with pytest.raises(DataError, match=r"no features\.json describes"):
        import_(tmp_path / "a.h5", tmp_path / "arrays", **told)


KILLED_IMPORT = """
import json, os, signal, sys
from cuemark import feature_files
real, count = feature_files._finite, 0
def dying(*arguments):
    global count
    count += 1
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
feature_files._finite, feature_files.BLOCK = dying, 6 * 4
feature_files.import_(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
"""


def test_a_killed_import_ends_with_the_bytes_of_an_undisturbed_one(tmp_path):
    videos = {"a": 8, "b": 12, "c": 7}  # 2 blocks, 3, 2: killed in b, some of it written
    source = released(tmp_path / "s.h5", videos)
    told = {"durations": {v: seconds(n) for v, n in videos.items()}, **TSP}
    killed(KILLED_IMPORT, source, tmp_path / "killed", json.dumps(told))
    left = {p.name for p in (tmp_path / "killed").iterdir()}
    assert {"a.npy", "features.json"} <= left
    assert not left & {"b.npy", "c.npy"}
    with pytest.raises(DataError, match="has not finished"):
        FeatureFolder.open(tmp_path / "killed")
    result = import_(source, tmp_path / "killed", **told)
    assert (result.skipped, result.done) == (["a"], ["b", "c"])
    import_(source, tmp_path / "undisturbed", **told)
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")


# ---------------------------------------------------------------------------------------------- import: hostile


def _hostile_h5(path: Path, name: str) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("good", data=numbers(0, 9))
        if name == "objects":
            file.create_dataset("bad", data=np.array([["a", "b"]], dtype=h5py.string_dtype()))
        elif name == "a pickle":
            file["bad"] = np.void(pickle.dumps(numbers(0, 9)))
        elif name == "references":
            file.create_dataset("bad", (2, 6), dtype=h5py.ref_dtype)
        elif name == "rank 1":
            file["bad"] = numbers(0, 9)[0]
        elif name == "rank 3":
            file["bad"] = numbers(0, 9)[None]
        elif name == "a number":
            file["bad"] = 3.0
        elif name == "null":
            file["bad"] = h5py.Empty("f4")
        elif name == "no rows":
            file["bad"] = np.zeros((0, 6), np.float32)
        elif name == "integers":
            file["bad"] = np.zeros((9, 6), np.int64)
        elif name == "complex":
            file["bad"] = np.zeros((9, 6), np.complex64)
        elif name == "records":
            file["bad"] = np.zeros((9, 6), [("x", "f4")])
        elif name == "another width":
            file["bad"] = numbers(0, 9, 7)
        elif name == "huge":
            file.create_dataset("bad", (1 << 50, 6), "f4", chunks=(1 << 20, 6))
        elif name == "an unknown video":
            file["stranger"] = numbers(0, 9)
        elif name == "the same twice":
            file["v_good"] = numbers(0, 9)
        elif name == "a soft link":
            file["bad"] = h5py.SoftLink("/good")
        elif name == "a dangling link":
            file["bad"] = h5py.SoftLink("/nowhere")
        elif name == "a file outside":
            file["bad"] = h5py.ExternalLink(str(path.parent / "secret.h5"), "secret")
        elif name == "numbers outside":
            file.create_dataset("bad", (9, 6), "f4", external=[(str(path.parent / "secret.h5"), 0, 9 * 6 * 4)])
        elif name == "a virtual dataset":
            layout = h5py.VirtualLayout((9, 6), "f4")
            layout[:] = h5py.VirtualSource(str(path.parent / "secret.h5"), "secret", (9, 6))
            file.create_virtual_dataset("bad", layout)
        elif name == "an empty group":
            file.create_group("bad")
        elif name == "a deep group":
            file["bad/x/y"] = numbers(0, 9)
        elif name == "a circle":
            group = file.create_group("bad")
            group["bad"] = group
        elif name == "a type":
            file["bad"] = np.dtype("f4")
        elif name == "a backslash":
            file["..\\bad"] = numbers(0, 9)
        elif name == "dots":
            file[b".."] = numbers(0, 9)
        elif name == "a long name":
            file["x" * 300] = numbers(0, 9)
        elif name == "no text":
            file[b"\xff\xfe"] = numbers(0, 9)
        elif name in ("nan", "inf"):
            data = numbers(0, 9)
            data[8, 1] = float(name)
            file["bad"] = data
        elif name == "too large to store":
            file["bad"] = np.full((9, 6), 1e300)
        elif name == "damaged":
            file.create_dataset("bad", data=numbers(0, 9), compression="gzip", chunks=(9, 6))
            where = file["bad"].id.get_chunk_info(0)
            place = where.byte_offset, where.size
        elif name == "a claim":
            file.attrs["cuemark"] = '{"encoder": "x", "clip": {}}'
        elif name == "a claim of another kind":
            file.attrs["cuemark"] = np.arange(3)
    if name == "damaged":
        data = bytearray(path.read_bytes())
        data[place[0] : place[0] + place[1]] = b"\xaa" * place[1]
        path.write_bytes(data)


HOSTILE = {
    "objects": "'bad' holds object", "a pickle": "'bad' holds", "references": "'bad' holds object",
    "rank 1": r"'bad' has shape \(6,\).*read_global", "rank 3": r"\(1, 9, 6\)", "a number": r"has shape \(\)",
    "null": "'bad'", "no rows": r"\(0, 6\)", "integers": "int64", "complex": "complex64", "records": "'bad' holds",
    "another width": r"'(good|bad)' has features [67] wide", "huge": "1125899906842624",
    "an unknown video": "'stranger': the durations that were given have none", "the same twice": "both features of",
    "a soft link": "not followed", "a dangling link": "not followed", "a file outside": "not followed",
    "numbers outside": "not followed", "a virtual dataset": "not followed", "an empty group": "holds nothing",
    "a deep group": "groups within groups", "a circle": "groups within groups", "a type": "neither",
    "a backslash": "would be a path", "dots": "would be a path", "a long name": "too long", "no text": "not text",
    "nan": "holds nan in row 8, column 1", "inf": "holds inf in row 8", "too large to store": "holds inf in row 0",
    "damaged": "cannot be read", "a claim": "does not describe features", "a claim of another kind": "cannot be read",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_hdf5_is_one_sentence(tmp_path, name):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = numbers(0, 9)
    _hostile_h5(tmp_path / "a.h5", name)
    durations = {"good": seconds(9), "bad": seconds(9), "..\\bad": seconds(9), "..": seconds(9), "x" * 300: seconds(9),
                 "\udcff\udcfe": seconds(9)}
    with pytest.raises(DataError, match=HOSTILE[name]) as caught:
        import_(tmp_path / "a.h5", tmp_path / "out", durations=durations, **TSP)
    sentence(caught)
    sentence(caught).encode()
    with pytest.raises(DataError):
        FeatureFolder.open(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} <= {"secret.h5", "a.h5", "out"}


@pytest.mark.parametrize("name", [n for n, what in HOSTILE.items() if n in (
    "objects", "a pickle", "rank 3", "null", "integers", "huge", "an unknown video", "the same twice", "a backslash",
    "no text", "nan", "damaged")])
def test_one_bad_video_ends_nothing_if_one_is_lenient(tmp_path, name, capsys):
    _hostile_h5(tmp_path / "a.h5", name)
    result = import_(tmp_path / "a.h5", tmp_path / "out", durations={"good": seconds(9), "bad": seconds(9)}, **TSP,
                     lenient=True)
    assert result.done == ["good"]
    assert len(result.failed) == 1
    assert "left out: " in capsys.readouterr().err
    assert set(FeatureFolder.open(tmp_path / "out")) == {"good"}
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(("content", "match"), [
    (np.array([[1, "two"]], dtype=object), "never unpickled"), (np.zeros((9, 6), int), "int64"),
    (np.zeros(9, np.float32), r"has shape \(9,\)"), (b"PK", "not a NumPy array"), (b"", "not a NumPy array"),
    (np.full((9, 6), np.nan), "holds nan in row 0"), (np.zeros((9, 6), [("x", "f4")]), "not floating-point")])
def test_hostile_arrays_are_one_sentence(tmp_path, content, match):
    source = tmp_path / "arrays"
    source.mkdir()
    if isinstance(content, bytes):
        (source / "a.npy").write_bytes(content)
    else:
        np.save(source / "a.npy", content, allow_pickle=True)
    np.save(source / "b.npy", numbers(0, 9))
    told = {"durations": {"a": seconds(9), "b": seconds(9)}, **TSP}
    with pytest.raises(DataError, match=rf"a\.npy' .*{match}") as caught:
        import_(source, tmp_path / "out", **told)
    sentence(caught)
    assert import_(source, tmp_path / "lenient", **told, lenient=True).done == ["b"]


def test_a_truncated_file_at_every_length(tmp_path):
    whole = released(tmp_path / "a.h5", {"a": 9, "b": 12}).read_bytes()
    told = {"durations": {"a": seconds(9), "b": seconds(12)}, **TSP}
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(DataError):
            import_(tmp_path / "cut.h5", tmp_path / "out", **told)


def test_flipped_bytes_are_features_or_one_sentence(tmp_path):
    whole = bytearray(export_of(tmp_path).read_bytes())
    rng = np.random.default_rng(0)
    for number in range(60):
        data = whole.copy()
        for at in rng.integers(0, len(data), 8):
            data[at] = rng.integers(256)
        (tmp_path / "flipped.h5").write_bytes(data)
        with suppress(CuemarkError):  # and nothing else
            import_(tmp_path / "flipped.h5", tmp_path / f"out{number}", lenient=bool(number % 2))
            assert set(FeatureFolder.open(tmp_path / f"out{number}")) <= {"a", "b"}


def export_of(tmp_path: Path) -> Path:
    export(make(tmp_path / "f", {"a": 3, "b": 5}), tmp_path / "whole.h5")
    return tmp_path / "whole.h5"


@pytest.mark.parametrize(("attribute", "value"), [
    ("grid", "no JSON"), ("grid", "[]"), ("grid", '{"start": 0, "step": 1, "count": 99, "window": 1}'), ("grid", 3),
    ("duration", "x"), ("duration", float("nan")), ("duration", np.arange(3)), ("video", "../a"), ("video", "b"),
    ("padded", np.arange(3)), ("video", None)])
def test_an_export_that_was_changed(tmp_path, attribute, value):
    with h5py.File(export_of(tmp_path), "a") as file:
        if value is None:
            del file["a"].attrs[attribute]
        else:
            file["a"].attrs[attribute] = value
    with pytest.raises(DataError, match="video 'a'") as caught:
        import_(tmp_path / "whole.h5", tmp_path / "out")
    sentence(caught)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------- durations


def test_durations_of_tsps_metadata():
    for part, count in (("valid", 200), ("test", 213)):
        durations, rates = read_times(shared(f"features/thumos14_{part}_metadata.csv"))
        assert len(durations) == len(rates) == count
    assert durations["video_test_0000004"] == pytest.approx(33.7333333333333)
    assert rates["video_test_0000004"] == 30


def test_durations_of_bmns_table():
    durations, rates = read_times(shared("annotations/bmn/video_info_new.csv"))
    assert len(durations) == 19228
    assert (durations["v_---9CpRcKoU"], rates["v_---9CpRcKoU"]) == (14.07, 30.0)


def test_durations_of_a_truth_file(tmp_path):
    write_truth(tmp_path / "t.json", {"a": VideoTruth(12.5, (), "training", 25.0), "b": VideoTruth(9.0, (), "testing")})
    redescribed = json.loads((tmp_path / "t.json").read_text())
    redescribed["database"]["c"] = {"subset": "x", "annotations": [{"segment": [1, 2], "label": "y"}]}
    (tmp_path / "t.json").write_text(json.dumps(redescribed))
    assert read_times(tmp_path / "t.json") == ({"a": 12.5, "b": 9.0}, {"a": 25.0})
    assert read_truth(tmp_path / "t.json")["c"].duration == 2.0  # a guess that must not be taken for a duration


@pytest.mark.parametrize(("text", "match"), [
    ("", "has the columns"), ("name,length\na,3\n", "has the columns name, length"), ("video,seconds\n", "of no video"),
    ("video,seconds\na,x\n", "cannot be read"), ("video,seconds\na\n", "cannot be read"),
    ("video,seconds\na,-1\n", "line 2: video 'a' has a duration of -1 s"), ("video,seconds\na,nan\n", "line 2"),
    ("video,seconds\na,3\na,4\n", "line 3: .*4 s, and of 3 s")])
def test_tables_that_do_not_tell(tmp_path, text, match):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=match) as caught:
        read_times(tmp_path / "t.csv")
    sentence(caught)
    with pytest.raises(DataError, match="does not exist"):
        read_times(tmp_path / "nowhere.csv")


# ---------------------------------------------------------------------------------------------- global features


def test_the_real_global_features_of_thumos14(tmp_path):
    path = shared("features/tsp_thumos14_r2plus1d_34-max_gvf.h5")
    found = read_global(path)
    assert len(found) == 413
    assert {(v.shape, v.dtype.name) for v in found.values()} == {((512,), "float32")}
    together = np.stack(list(found.values()))
    assert together.min() == pytest.approx(0.0046, abs=5e-5)
    assert together.max() == pytest.approx(7.22, abs=5e-3)
    assert together.mean() == pytest.approx(2.00, abs=5e-3)
    assert np.linalg.norm(together, axis=1).mean() == pytest.approx(47.9, abs=0.05)
    listed = set()
    for part in ("valid", "test"):
        listed |= set(read_times(shared(f"features/thumos14_{part}_metadata.csv"))[0])
    assert set(found) == listed

    write_global(tmp_path / "mine.h5", {f"videos/{vid}.mp4": v for vid, v in found.items()})
    with h5py.File(path) as theirs, h5py.File(tmp_path / "mine.h5") as mine:
        assert list(mine) == list(theirs)
        for vid in theirs:
            for what in ("shape", "dtype", "chunks", "compression", "compression_opts"):
                assert getattr(mine[vid], what) == getattr(theirs[vid], what)
            assert mine[vid][()].tobytes() == theirs[vid][()].tobytes()


def test_global_features_of_our_own(tmp_path):
    folder = FeatureFolder.open(make(tmp_path / "f", {"a": 3, "b": 5}))
    pooled = global_features(folder)
    write_global(tmp_path / "gvf.h5", pooled)
    back = read_global(tmp_path / "gvf.h5")
    assert {v: f.tolist() for v, f in back.items()} == {v: f.tolist() for v, f in pooled.items()}


@pytest.mark.parametrize(("features", "match"), [
    ({}, "no global"), ({"a.mp4": np.ones(3), "x/a.avi": np.ones(3)}, "two videos would have the key 'a'"),
    ({"a": np.ones((2, 3))}, r"shape \(2, 3\)"), ({"a": np.ones(3), "b": np.ones(4)}, r"shape \(4,\); expected \(3,\)"),
    ({"a": np.array([1.0, np.nan])}, "not finite"), ({"a": np.array(["x"])}, "not finite"),
    ({".mp4": np.ones(3)}, "path"),
    ({"a": np.ones(0)}, r"shape \(0,\)")])
def test_global_features_that_cannot_be_written(tmp_path, features, match):
    with pytest.raises(DataError, match=match) as caught:
        write_global(tmp_path / "g.h5", features)
    sentence(caught)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "match"), [
    (numbers(0, 9), r"has shape \(9, 6\)"), (np.ones(5, np.float32), "5 numbers.*expected 6"),
    (np.ones(6, np.int32), "int32"), (np.array([np.nan] * 6), "NaN"), (h5py.Empty("f4"), "is no array"),
    (h5py.SoftLink("/a"), "not followed"), (None, "is no array")])
def test_global_features_that_cannot_be_read(tmp_path, content, match):
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["a"] = np.ones(6, np.float32)
        if content is None:
            file.create_group("b")
        else:
            file["b"] = content
    with pytest.raises(DataError, match=match) as caught:
        read_global(tmp_path / "g.h5")
    sentence(caught)


def test_files_without_global_features(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_global(tmp_path / "nowhere.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read_global(tmp_path / "text.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(DataError, match="holds no dataset"):
        read_global(tmp_path / "empty.h5")


def test_a_video_of_no_features(tmp_path):
    """Nobody writes one, but a grid of no cells is one, and stays one on the way out and in."""
    folder = make(tmp_path / "f", {"a": 3})
    data = Features(np.zeros((0, 6), np.float32), Grid.of_clips(0, 16, 16, 15.0), 0.5)
    np.save(folder / "none.npy", data.data)
    redescribe(folder, lambda meta: meta["videos"].update(none={"grid": data.grid.to_json(), "duration": 0.5}))
    assert verify(folder) == []
    export(folder, tmp_path / "a.h5")
    with pytest.raises(DataError, match="no feature; there is nothing to interpolate"):
        export(folder, tmp_path / "a.hdf5", "gtad")
    with pytest.raises(DataError, match=r"'none' has shape \(0, 6\)"):
        import_(tmp_path / "a.h5", tmp_path / "back")
