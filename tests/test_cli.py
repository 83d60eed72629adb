"""The command line, in process: exit statuses, what goes where, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import SMALL_GTAD, complaint

from cuemark import cli, video
from cuemark.cli import main, shell
from cuemark.cli.shell import screen, tabulated
from cuemark.feature_files import read_global, verify
from cuemark.feature_folder import FeatureFolder
from cuemark.localization import localize
from cuemark.localizers import build
from cuemark.segments import read_predictions, read_truth, write_predictions

DATA = Path(__file__).parent / "data"
TRUTH, PREDICTIONS = DATA / "detection_small_truth.json", DATA / "detection_small_predictions.json"
COMMANDS = ["demo", "world", "prepare", "pretrain", "train", "extract", "localize", "evaluate detection",
            "evaluate proposals", "evaluate grounding", "evaluate highlights", "evaluate frames",
            "evaluate captions", "evaluate episodes", "compare", "diagnose", "episodes", "analyze", "convert", "check",
            "report", "weights list", "weights fetch", "weights convert", "weights localizer", "features info",
            "features verify", "features merge", "features match", "features concat", "features export",
            "features import", "recipes",
            "gvf"]


@pytest.fixture
def model(tiny_localizer, tmp_path) -> Path:
    tiny_localizer.save(tmp_path / "localizer.safetensors")
    return tmp_path / "localizer.safetensors"


@pytest.fixture
def encoder(tiny_encoder, tmp_path) -> Path:
    tiny_encoder.save(tmp_path / "encoder.safetensors")
    return tmp_path / "encoder.safetensors"


# ---------------------------------------------------------------------------------------------- help and calls


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_every_option(cuemark, command):
    ended = cuemark(*command.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "Examples:" in ended.out
    assert f"  cuemark {command}" in ended.out.partition("Examples:")[2]
    assert "\x1b" not in ended.out


def test_help_names_every_command(cuemark):
    for words in ([], ["--help"]):
        ended = cuemark(*words)
        assert ended.status == 0
        for command in COMMANDS:
            assert command.split()[0] in ended.out
    assert "detection" in cuemark("evaluate", "--help").out


def test_examples_in_help_are_calls_that_parse():
    for command in COMMANDS:
        app = cli.app
        for word in command.split():
            app = app[word]
        told = str(app.help_epilogue)
        assert max(map(len, told.splitlines())) <= 80
        lines = [shlex.split(line) for line in told.replace("\\\n", "").splitlines() if line.startswith("  cuemark ")]
        assert lines
        for line in lines:
            cli.app.parse_args(cli.with_json(line[1:]), exit_on_error=False, print_error=False)


def test_version(cuemark):
    assert cuemark("--version") == (0, version("cuemark") + "\n", "")


def test_python_m_cuemark():
    done = subprocess.run([sys.executable, "-m", "cuemark", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, version("cuemark"))


@pytest.mark.parametrize(("words", "hint"), [
    (["localise", "a.mp4"], "localize"),
    (["evaluate", "detecton"], "detection"),
    (["localize", "a.mp4", "--modle", "b"], "--model"),
    (["extract", "a.mp4", "--encoder", "e", "--out", "o", "--strid", "4"], "--stride"),
    (["world", "w", "--triming", "4"], "--trim"),
])
def test_what_is_mistyped_is_a_bad_call(cuemark, words, hint):
    ended = cuemark(*words)
    assert ended.status == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert "did you mean" in ended.err.lower()
    assert hint in ended.err


@pytest.mark.parametrize("words", [
    ["localize", "a.mp4"], ["pretrain", "world_tac"], ["extract", "a.mp4", "--out", "o"], ["evaluate", "detection"],
    ["world", "w", "--training", "many"], ["localize", "a.mp4", "--model", "m", "--top", "few"], ["world"],
    ["world", "w", "--training", "-1"], ["extract", "--encoder", "e", "--out", "o"],
])
def test_calls_that_lack_something_or_cannot_be_meant(cuemark, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = cuemark(*words)
    assert ended.status == 2
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- what is missing


@pytest.mark.parametrize(("words", "name"), [
    (["localize", "a.mp4", "--model", "gone.safetensors"], "gone.safetensors"),
    (["localize", "a.mp4", "--model", "gone.safetensors", "--out", "p.json", "--json"], "gone.safetensors"),
    (["extract", "a.mp4", "--encoder", "gone.safetensors", "--out", "features"], "gone.safetensors"),
    (["pretrain", "gone.toml", "--out", "run"], "gone.toml"),
    (["pretrain", "world_tac", "--out", "run"], "world/truth.json"),
    (["train", "world_gtad", "--out", "run", "--set", "data.features=gone"], "gone/features.json"),
    (["evaluate", "detection", "--truth", "gone.json", "--predictions", str(PREDICTIONS)], "gone.json"),
    (["evaluate", "detection", "--truth", str(TRUTH), "--predictions", "gone.json", "--json"], "gone.json"),
    (["evaluate", "detection", "--truth", str(TRUTH), "--predictions", "gone.json", "--json", "s.json"], "gone.json"),
    (["report", "--truth", str(TRUTH), "--predictions", "a=gone.json"], "gone.json"),
    (["report", "--truth", str(TRUTH), "--predictions", str(PREDICTIONS), "--videos", "gone"], "gone"),
])
def test_a_missing_file_is_one_sentence(cuemark, words, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"'{name}'" in complaint(cuemark(*words))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_videos(cuemark, model, encoder, tmp_path):
    (tmp_path / "none").mkdir()
    for words in (["localize", tmp_path / "none", "--model", model],
                  ["extract", tmp_path / "none", "--encoder", encoder, "--out", tmp_path / "out"]):
        assert "no video found in" in complaint(cuemark(*words), 2)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(cuemark, tmp_path):
    (tmp_path / "file").write_text("")
    ended = cuemark("evaluate", "detection", "--truth", TRUTH, "--predictions", PREDICTIONS, "--json",
                    tmp_path / "file" / "scores.json")
    assert str(tmp_path / "file") in complaint(ended)


# ---------------------------------------------------------------------------------------------- bad videos


def bad_videos(folder: Path, good: Path) -> dict[str, Path]:
    """One of every kind; the name is the file's stem."""
    folder.mkdir()
    files = {name: folder / f"{name}.{ending}" for name, ending in
             (("missing", "mp4"), ("empty", "mp4"), ("text", "mp4"), ("audio", "wav"), ("cut", "mp4"))}
    files["empty"].write_bytes(b"")
    files["text"].write_text("this is no video\n" * 100)
    with av.open(str(files["audio"]), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        for packet in [*stream.encode(sound), *stream.encode(None)]:
            container.mux(packet)
    files["cut"].write_bytes(good.read_bytes()[:300])
    return files


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "audio", "cut"])
def test_every_bad_video_is_one_sentence_that_names_it(cuemark, model, encoder, tiny_world, tmp_path, kind):
    path = bad_videos(tmp_path / "bad", tiny_world.videos["training_0004"])[kind]
    ended = cuemark("localize", path, "--model", model)
    assert ended.status == 1
    (sentence,) = [line for line in ended.err.splitlines() if not line.startswith("localizing: ")]
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "Traceback" not in ended.err
    ended = cuemark("extract", path, "--encoder", encoder, "--out", tmp_path / "out", "--json")
    assert ended.status == 1
    told = json.loads(ended.out)
    assert (told["done"], list(told["failed"])) == ([], [kind])
    assert str(path) in told["failed"][kind]
    assert list((tmp_path / "out").glob("*.npy")) == []


def test_a_bad_video_among_good_ones(cuemark, model, tiny_world, tmp_path):
    bad = bad_videos(tmp_path / "bad", tiny_world.videos["training_0004"])
    ended = cuemark("localize", bad["empty"], tiny_world.videos["training_0004"], bad["text"], "--model", model,
                    "--out", tmp_path / "p.json", "--json")
    assert ended.status == 1
    assert list(json.loads(ended.out)["results"]) == ["training_0004"]
    assert list(read_predictions(tmp_path / "p.json")) == ["training_0004"]
    assert ended.err.count("left out: ") == 2


# ---------------------------------------------------------------------------------------------- localize, extract


def test_localize_prints_a_table(cuemark, model, tiny_world, tiny_localizer):
    path = tiny_world.videos["training_0004"]
    ended = cuemark("localize", path, "--model", model, "--top", 3)
    assert ended.status == 0
    expected = localize(path, tiny_localizer)
    assert "training_0004" in ended.out
    assert ended.out.count(" s ") == 6
    for s in expected[:3]:
        assert f"{s.start:.2f} s" in ended.out
        assert s.label in ended.out


def test_localize_json(cuemark, model, tiny_world, tiny_localizer, tmp_path):
    path = tiny_world.videos["training_0004"]
    ended = cuemark("localize", path, "--model", model, "--json", "--out", tmp_path / "p.json")
    assert ended.status == 0
    told = json.loads(ended.out)
    assert told.keys() == {"version", "results", "external_data"}
    assert list(told["results"]) == ["training_0004"]
    duration = tiny_world.truth["training_0004"].duration
    for item in told["results"]["training_0004"]:
        assert item.keys() == {"segment", "label", "score"}
        start, end = item["segment"]
        assert 0 <= start < end <= duration + 1e-6
        assert item["label"] in tiny_localizer.classes
        assert 0 <= item["score"] <= 1
    assert read_predictions(tmp_path / "p.json") == {"training_0004": localize(path, tiny_localizer)}
    assert json.loads((tmp_path / "p.json").read_text()) == told


def test_names_that_look_like_markup_are_printed_as_they_are(cuemark, tiny_localizer, tiny_world, tiny_features,
                                                             tmp_path):
    """Also the label of proposals without a class, ``[class-agnostic]``."""
    nameless = build("gtad", SMALL_GTAD | {"names": "none"}, tiny_features.dim, []).eval()
    replace(tiny_localizer, network=nameless).save(tmp_path / "nameless.safetensors")
    (tmp_path / "[bold]a[").mkdir()
    (tmp_path / "[bold]a[" / "[red]x :smile:.mp4").symlink_to(tiny_world.videos["training_0004"])
    ended = cuemark("localize", tmp_path / "[bold]a[", "--model", tmp_path / "nameless.safetensors", "--top", 2,
                    "--out", tmp_path / "[bold]a[" / "p.json")
    assert ended.status == 0
    assert "[red]x :smile:" in ended.out
    assert ended.out.count("[class-agnostic]") == 2
    assert f"segments of 1 videos in {tmp_path / '[bold]a[' / 'p.json'}\n" in ended.out


def test_localize_without_an_encoder_inside(cuemark, tiny_localizer, tiny_world, tmp_path):
    replace(tiny_localizer, encoder=None).save(tmp_path / "bare.safetensors")
    ended = cuemark("localize", tiny_world.videos["training_0004"], "--model", tmp_path / "bare.safetensors")
    assert "without an encoder" in complaint(ended)


def test_extract(cuemark, encoder, tiny_world, tmp_path):
    chosen = [tiny_world.videos[v] for v in ("trimmed_0000", "training_0004")]
    first = cuemark("extract", *chosen, "--encoder", encoder, "--out", tmp_path / "out", "--stride", 4, "--json")
    assert first.status == 0
    told = json.loads(first.out)
    folder = FeatureFolder.open(tmp_path / "out")
    assert (told["done"], told["skipped"], told["failed"]) == (["trimmed_0000", "training_0004"], [], {})
    assert told["clips"] == sum(folder[v].grid.count for v in folder)
    assert folder.meta["clip"]["stride"] == 4
    again = cuemark("extract", *chosen, "--encoder", encoder, "--out", tmp_path / "out", "--stride", 4)
    assert (again.status, again.out) == (0, f"{tmp_path / 'out'}: 0 videos extracted, 2 were there, 0 failed\n")
    other = cuemark("extract", *chosen, "--encoder", encoder, "--out", tmp_path / "out", "--stride", 8)
    assert "'stride': 4" in complaint(other)
    assert "stride must be" in complaint(
        cuemark("extract", *chosen, "--encoder", encoder, "--out", tmp_path / "new", "--stride", 0), 2)
    assert not (tmp_path / "new").exists()


def test_extract_in_other_ways(cuemark, encoder, tiny_world, tmp_path):
    video, out = tiny_world.videos["trimmed_0000"], tmp_path / "out"
    ended = cuemark("extract", video, "--encoder", encoder, "--out", out, "--crops", 3, "--pooling", "max", "--half",
                    "--fps", 10, "--bf16", "--workers", 1, "--device", "cpu", "--batch", 6)
    assert ended.status == 0
    meta = FeatureFolder.open(out).meta
    assert (meta["crops"], meta["pooling"], meta["dtype"], meta["precision"], meta["clip"]["fps"]) == (
        3, "max", "float16", "bf16", 10.0)
    assert "PyTorch sees" in complaint(
        cuemark("extract", video, "--encoder", encoder, "--out", tmp_path / "gpu", "--device", "cuda:7"), 2)
    assert "is no device" in complaint(
        cuemark("extract", video, "--encoder", encoder, "--out", tmp_path / "gpu", "--device", "tpo"), 2)
    assert not (tmp_path / "gpu").exists()


def test_extract_two_videos_of_one_name(cuemark, encoder, tiny_world, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.mp4").symlink_to(tiny_world.videos["trimmed_0000"])
    ended = cuemark("extract", tmp_path / "a", tmp_path / "b", "--encoder", encoder, "--out", tmp_path / "out")
    assert "x.mp4' cannot be the name" in complaint(ended, 2)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"x.mp4"}


def test_extract_takes_the_videos_of_a_truth_file(cuemark, encoder, tiny_world, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "v_training_0004.mp4").symlink_to(tiny_world.videos["training_0004"])
    (tmp_path / "videos" / "another.mp4").symlink_to(tiny_world.videos["trimmed_0000"])
    ended = cuemark("extract", tmp_path / "videos", "--truth", tiny_world.folder / "truth.json", "--encoder", encoder,
                    "--out", tmp_path / "out")
    assert ended.status == 0
    assert list(FeatureFolder.open(tmp_path / "out")) == ["training_0004"]
    assert (f"17 of 18 videos of the truth have no file in {tmp_path / 'videos'}: 'trimmed_0000', 'trimmed_0001', "
            "'trimmed_0002', …\n") in ended.err


def test_a_folder_that_is_not_there_leaves_none_behind(cuemark, encoder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    for words in (["extract", "nope/", "--encoder", encoder, "--out", "out"], ["prepare", "nope/", "--out", "out"],
                  ["localize", "nope/", "--model", model]):
        assert "'nope' does not exist; check the path." in complaint(cuemark(*words))
    assert sorted(tmp_path.iterdir()) == before


def test_prepare(cuemark, tiny_world, tmp_path):
    sources = [tiny_world.videos[v] for v in ("training_0000", "training_0001")]
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    ended = cuemark("prepare", *sources, tmp_path / "broken.mp4", "--out", tmp_path / "out", "--short-side", 64)
    assert ended.status == 1
    assert "2 videos prepared, 0 were there, 1 failed" in ended.out
    assert "broken" in ended.out
    assert {file.name for file in (tmp_path / "out").glob("*.mp4")} == {source.name for source in sources}
    again = json.loads(cuemark("prepare", *sources, "--out", tmp_path / "out", "--short-side", 64, "--json").out)
    assert (again["done"], len(again["skipped"])) == ([], 2)
    assert complaint(cuemark("prepare", *sources, "--out", tmp_path / "out", "--quality", 0), 2)
    assert "short_side must be" in complaint(
        cuemark("prepare", *sources, "--out", tmp_path / "new", "--short-side", 0), 2)
    assert not (tmp_path / "new").exists()


def test_what_is_prepared_beside_its_sources_is_no_source(cuemark, tiny_world, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "x.mp4").symlink_to(tiny_world.videos["trimmed_0000"])
    words = ["prepare", tmp_path, "--out", tmp_path / "out", "--short-side", 64, "--workers", 0, "--json"]
    assert json.loads(cuemark(*words).out)["done"] == ["x"]
    assert json.loads(cuemark(*words).out)["skipped"] == ["x"]


@pytest.mark.parametrize("command", ["prepare", "extract"])
def test_one_decides_how_many_work_at_once(cuemark, encoder, tmp_path, command):
    more = ["--encoder", encoder] if command == "extract" else []
    ended = cuemark(command, "a.mp4", "--out", tmp_path / "out", "--ray", "local", "--workers", 2, *more)
    assert "Ray decides how many work at once" in complaint(ended, 2)
    assert not (tmp_path / "out").exists()


def test_weights_by_name(cuemark, tmp_path, monkeypatch):
    monkeypatch.setenv("CUEMARK_CACHE", str(tmp_path))
    rows = json.loads(cuemark("weights", "list", "--json").out)
    assert len([row for row in rows if row["name"].startswith(("tsp-", "tac-"))]) == 13
    assert not any(row["path"] for row in rows if row["encoder"])
    table = cuemark("weights", "list")
    *lines, kept = table.out.splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert [row[0].removesuffix(" *") for row in cells] == [row["name"] for row in rows]
    assert {row[0]: row[2] for row in cells if row[2] != "–"} == {
        "torchvision-r2plus1d_18": "126", "torchvision-r3d_18": "134", "clip-b32": "605", "clip-b16": "599",
        "clip-l14": "1711"}
    assert max(map(len, lines)) <= 80
    assert kept.startswith(f"kept in {tmp_path / 'weights'};")
    assert "tsp-activitynet-r2plus1d_18" in complaint(cuemark("weights", "fetch", "tsp-activitynet-r2plus1d18"), 2)
    assert "tsp-activitynet" in complaint(cuemark("extract", "v.mp4", "--encoder", "tsp-activitynet", "--out", "o"), 2)


@pytest.mark.parametrize("width", [20, 50, 80, 120, None])
def test_tables_lose_nothing_however_narrow(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width or ""))
    long = "androidx_bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4"
    rows = [[long, 10.0, "300", "160x128", "h264", 29.97, "800x640"], ["a b.mp4", None, "4", "2x2", "vp9", 1.0, "8x8"]]
    why = [["x", "video 'x.mp4' cannot be opened: it is damaged, cut off or not a video; get another copy of it."]]
    columns = ["file", "seconds", "frames", "size", "was", "at fps", "of size"]
    screen().print(tabulated(columns, rows, "Prepared"))
    screen().print(tabulated(["video", "why"], why, "Not prepared"))
    out = capsys.readouterr().out
    lines = out.splitlines()
    if width:
        assert max(map(len, lines)) <= width
        joined = "".join(re.sub(r"[│┃\s]", "", line) for line in lines)
    else:  # a pipe: one line for each row, however wide
        assert sum(long in line for line in lines) == 1
        assert sum(why[0][1] in line for line in lines) == 1
        joined = out.replace(" ", "")
    for cell in ["Prepared", *columns, long, "10.00", "300", "160x128", "h264", "29.97", "800x640", "a b.mp4", "–"]:
        assert cell.replace(" ", "") in joined
    if width and width >= 50:  # words go to the next line, and none is broken
        assert {word for line in lines for word in line.split()} >= set(why[0][1].split())


def test_a_column_takes_what_the_others_leave():
    assert shell._fitted([(3, 3), (4, 4)], 7) == [3, 4]
    assert shell._fitted([(3, 9), (4, 40)], 20) == [9, 11]
    assert shell._fitted([(3, 90), (4, 5)], 20) == [15, 5]
    assert shell._fitted([(3, 3), (4, 4)], 6) is None
    assert shell._fitted([], 5) == []


def test_features_out_and_in_again(cuemark, tiny_features, tmp_path):
    folder = tiny_features.folder
    told = json.loads(cuemark("features", "info", folder, "--json").out)
    assert told["videos"] == len(tiny_features)
    assert str(told["clips"]) in cuemark("features", "info", folder).out
    whole = cuemark("features", "verify", folder)
    assert (whole.status, whole.out) == (0, f"{folder}: whole\n")
    assert "--out" in complaint(cuemark("features", "export", folder, "--to", "tsp"), 2)
    assert json.loads(cuemark("features", "export", folder, "--to", "actionformer").out)["file_ext"] == ".npy"
    assert cuemark("features", "export", folder, "--to", "tsp", "--out", tmp_path / "a.hdf5").status == 0
    assert cuemark("features", "import", tmp_path / "a.hdf5", "--out", tmp_path / "again").status == 0
    for file in folder.glob("*.npy"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    victim = next((tmp_path / "again").glob("*.npy"))
    victim.write_bytes(victim.read_bytes()[:-8])
    ended = cuemark("features", "verify", tmp_path / "again")
    assert ended.status == 1
    assert victim.stem in ended.out.replace("\n", "")  # a table breaks long paths
    assert cuemark("features", "merge", folder, "--out", tmp_path / "all").status == 0
    assert "features folder already" in complaint(cuemark("features", "import", folder, "--out", tmp_path / "b"))
    assert "--own-fps" in complaint(cuemark("features", "import", folder, "--out", "b", "--own-fps"), 2)


# ---------------------------------------------------------------------------------------------- evaluate, report


def test_the_committed_example_has_the_recorded_figure(cuemark, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    recorded = json.loads((DATA / "detection_small.json").read_text())
    words = ["evaluate", "detection", "--truth", TRUTH, "--predictions", PREDICTIONS]
    printed = cuemark(*words, "--json")
    assert (printed.status, printed.err) == (0, "")
    told = json.loads(printed.out)
    figures = {name: row["value"] / 100 for name, row in told["figures"].items()}
    assert figures.pop("average mAP") == pytest.approx(recorded["average_mAP"], abs=1e-12)
    assert list(figures.values()) == pytest.approx(recorded["mAP"], abs=1e-12)
    assert json.loads(cuemark(*words[:2], "--json", *words[2:]).out) == told

    table = cuemark(*words)
    assert f"{100 * recorded['average_mAP']:.2f}" in table.out
    assert all(f"{100 * m:.2f}" in table.out for m in recorded["mAP"])
    assert max(map(len, table.out.splitlines())) <= 80
    written = cuemark(*words, "--json", tmp_path / "new" / "scores.json")
    assert written.status == 0
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == told
    assert f"{100 * recorded['average_mAP']:.2f}" in written.out


def test_evaluate_says_what_is_missing_and_shows_the_floor(cuemark, tiny_world, tmp_path):
    truth = read_truth(tiny_world.folder / "truth.json")
    found = {v: [replace(s, score=1.0) for s in truth[v].annotations] for v in ("testing_0000", "testing_0001")}
    write_predictions(tmp_path / "p.json", found)
    words = ["evaluate", "detection", "--truth", tiny_world.folder / "truth.json", "--predictions", tmp_path / "p.json"]
    ended = cuemark(*words)
    assert "floor" in ended.out.splitlines()[1]
    assert "chosen on training truth" in ended.out
    assert "1 videos have no prediction, 'testing_0002' first" in ended.out
    assert json.loads(cuemark(*words, "--json").out)["missing_videos"] == ["testing_0002"]
    assert "subset 'tset'" in complaint(cuemark(*words, "--subset", "tset"))


def test_swapped_files_are_told(cuemark):
    ended = cuemark("evaluate", "detection", "--truth", PREDICTIONS, "--predictions", TRUTH)
    assert "perhaps the two files are swapped" in complaint(ended)


def test_report(cuemark, tmp_path):
    out = tmp_path / "page.html"
    ended = cuemark("report", "--truth", TRUTH, "--predictions", f"my run={PREDICTIONS}", "--out", out)
    assert (ended.status, ended.out.strip()) == (0, str(out))
    assert "my run" in out.read_text()
    twice = cuemark("report", "--truth", TRUTH, "--predictions", f"a={PREDICTIONS}", "--predictions", f"a={TRUTH}",
                    "--out", tmp_path / "second.html")
    assert "names 'a' twice" in complaint(twice, 2)
    assert not (tmp_path / "second.html").exists()


# ---------------------------------------------------------------------------------------------- world, recipes


def test_world(cuemark, tmp_path):
    ended = cuemark("world", tmp_path / "w", "--trimmed", 1, "--training", 0, "--validation", 0, "--testing", 0,
                    "--novel", 0, "--workers", 1)
    assert ended.status == 0
    assert ended.out.startswith("1 videos in ")
    assert list(read_truth(tmp_path / "w" / "truth.json")) == ["trimmed_0000"]
    assert video.probe(tmp_path / "w" / "videos" / "trimmed_0000.mp4").frames > 0
    other = cuemark("world", tmp_path / "w", "--trimmed", 2, "--workers", 1)
    assert "holds another world" in complaint(other)


@pytest.mark.parametrize(("change", "text"), [
    ("optim.stepz=3", "did you mean 'optim.steps'"),
    ("optim", "write section.field=value"),
    ("=3", "write section.field=value"),
    ("system.name=tac", "'system' in 'system.name=tac' is a value"),
    ("optim.lr=-1", "optim.lr must be"),
])
def test_settings_that_cannot_be_meant(cuemark, tmp_path, change, text):
    for command, recipe in (("pretrain", "world_tac"), ("train", "world_gtad")):
        ended = cuemark(command, recipe, "--out", tmp_path / "run", "--set", change)
        assert text in complaint(ended, 2)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_the_wrong_type_is_one_sentence(cuemark, tmp_path):
    ended = cuemark("pretrain", "world_tac", "--out", tmp_path / "run", "--set", "optim.steps=many")
    assert ended.status in (1, 2)
    assert "optim.steps 'many'" in complaint(ended, ended.status)
    assert not (tmp_path / "run").exists()


def test_pretrain_and_train(cuemark, tiny_world, tiny_features, tmp_path):
    truth = f"data.truth={json.dumps(str(tiny_world.folder / 'truth.json'))}"
    changes = [truth, f"data.videos={json.dumps(str(tiny_world.folder / 'videos'))}", "encoder.network.width=4",
               "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4", "optim.steps=2"]
    words = ["pretrain", "world_tac", "--out", tmp_path / "tac", *(w for c in changes for w in ("--set", c))]
    ended = cuemark(*words, "--json")
    assert ended.status == 0
    told = json.loads(ended.out)
    assert told["checkpoint"] == str(tmp_path / "tac" / "encoder.safetensors")
    assert (told["steps"], told["skipped_updates"], told["validation"]) == (2, 0, None)
    assert Path(told["checkpoint"]).exists()
    assert cuemark(*words).out.startswith(f"{told['checkpoint']}: 2 updates")

    changes = [truth, f"data.features={json.dumps(str(tiny_features.folder))}", "optim.batch=4", "optim.steps=2",
               *(f"options.{k}={v}" for k, v in SMALL_GTAD.items())]
    ended = cuemark("train", "world_gtad", "--out", tmp_path / "gtad", *(w for c in changes for w in ("--set", c)))
    assert ended.status == 0
    *table, last = ended.out.splitlines()
    assert last.startswith(f"{tmp_path / 'gtad' / 'localizer.safetensors'}: 2 updates, validation: score ")
    assert table[0].startswith("Validation")
    assert "kept" in table[-2]


def test_pretrain_on_own_data(cuemark, tiny_world, tmp_path):
    """Labels as somebody has them, no recipe: one is made, said and kept."""
    videos, labels, out = tiny_world.folder / "videos", tmp_path / "labels.csv", tmp_path / "own"
    cuemark("convert", tiny_world.folder / "truth.json", "--to", "csv", "--out", labels)
    changes = ["encoder.network.width=4", "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4",
               "optim.steps=2", "validate_every=1"]
    words = ["pretrain", "--videos", videos, "--annotations", labels, "--objective", "tsp", "--out", out,
             *(w for c in changes for w in ("--set", c))]
    ended = cuemark(*words, "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["steps"] == 2
    assert "is in format csv" in ended.err
    assert "warning: " in ended.err
    assert f"the recipe is {out / 'recipe.toml'}" in ended.err
    again = cuemark("pretrain", out / "recipe.toml", "--out", tmp_path / "again", "--json")
    assert (tmp_path / "again" / "encoder.safetensors").read_bytes() == (out / "encoder.safetensors").read_bytes()
    assert again.status == 0
    assert "without a recipe" in complaint(cuemark("pretrain", "world_tac", "--videos", videos, "--out", out), 2)
    assert "--annotations" in complaint(cuemark("pretrain", "--videos", videos, "--out", out), 2)


# ---------------------------------------------------------------------------------------------- how it ends


def test_an_interrupted_command_says_whether_it_goes_on(cuemark, monkeypatch, tmp_path):
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cuemark.evaluation.evaluate", interrupted)
    ended = cuemark("evaluate", "detection", "--truth", TRUTH, "--predictions", PREDICTIONS)
    assert "begins anew" in complaint(ended, 130)
    monkeypatch.setattr("cuemark.datasets.world.make", interrupted)
    assert "goes on from here" in complaint(cuemark("world", tmp_path / "w"), 130)


def test_a_bug_is_not_hidden(monkeypatch):
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("cuemark.evaluation.evaluate", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["evaluate", "detection", "--truth", str(TRUTH), "--predictions", str(PREDICTIONS)])


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough():
    """``cuemark … | head -c 1``: no traceback."""
    done = subprocess.run(
        f"{sys.executable} -m cuemark evaluate detection --truth {TRUTH} --predictions {PREDICTIONS} --json | true",
        shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# ---------------------------------------------------------------------------------------------- recipes, sweeps, GVF


def test_recipes_are_listed_and_shown_in_full(cuemark, tmp_path):
    told = json.loads(cuemark("recipes", "--json").out)
    assert {"title", "commands", "cost", "score"} <= told["activitynet_tsp_r2plus1d_18"].keys()
    listed = cuemark("recipes").out
    names = [line for line in listed.splitlines() if not line.startswith(" ")]
    assert names == sorted(told)
    assert max(map(len, listed.splitlines())) <= 80
    (tmp_path / "mine.toml").write_text('# Mine.\nbase = "world_tac"\nseed = 12\n')
    whole = cuemark("recipes", tmp_path / "mine.toml").out
    assert whole.startswith("# Mine.\n\nsystem = \"tac\"\nseed = 12\n")
    assert json.loads(cuemark("recipes", tmp_path / "mine.toml", "--json").out)["seed"] == 12
    assert "did you mean 'world_tac'?" in complaint(cuemark("recipes", "world_tak"))


def test_gvf(cuemark, tiny_features, tmp_path):
    for pooling, reduce in (("max", np.max), ("mean", np.mean)):
        out = tmp_path / f"{pooling}.h5"
        ended = cuemark("gvf", tiny_features.folder, "--out", out, "--pooling", pooling)
        assert ended.out == f"{out}: {len(tiny_features)} videos, 32 numbers each ({pooling} over time)\n"
        found = read_global(out)
        assert set(found) == set(tiny_features)
        for vid, vector in found.items():
            np.testing.assert_allclose(vector, reduce(tiny_features[vid].data.astype(np.float64), axis=0), rtol=1e-5)
    assert "ends in .h5" in complaint(cuemark("gvf", tiny_features.folder, "--out", tmp_path / "gvf"), 2)
    assert "nowhere" in complaint(cuemark("gvf", "nowhere", "--out", tmp_path / "g.h5"))
    assert not (tmp_path / "g.h5").exists()


def test_a_sweep(cuemark, tiny_world, tmp_path):
    changes = [f"data.truth={json.dumps(str(tiny_world.folder / 'truth.json'))}",
               f"data.videos={json.dumps(str(tiny_world.folder / 'videos'))}", "encoder.network.width=4",
               "encoder.clip.short_side=20", "encoder.clip.crop=16", "optim.batch=4", "optim.steps=1",
               "data.train=['training']", "data.validate=['validation']", "workers=0"]
    words = ["pretrain", "world_tac", "--out", tmp_path / "s", *(w for c in changes for w in ("--set", c))]
    told = json.loads(cuemark(*words, "--sweep", "head_lr=1e-3,0.5", "--json").out)
    assert told == json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [run["folder"] for run in told["runs"]] == ["optim.lr_heads=0.001", "optim.lr_heads=0.5"]
    shown = cuemark(*words, "--sweep", "optim.lr_heads=0.001,0.5").out  # goes on, and has nothing to do
    assert "class" in shown
    assert f"{tmp_path / 's' / 'encoder.safetensors'}: optim.lr_heads={told['best']}" in shown
    for wrong, text in (("head_lr", "write FIELD=V1,V2"), ("head_lr=", "write FIELD=V1,V2"), ("lr_head=1", "lr_head")):
        assert text in complaint(cuemark(*words[:2], "--out", tmp_path / "t", "--sweep", wrong), 2)
    assert not (tmp_path / "t").exists()


# ---------------------------------------------------------------------------------------------- one grid, one array


def features_folder(folder: Path, rows: dict[str, np.ndarray], step: float, weights: str, stride: int = 1) -> Path:
    """Features of videos of 10 s whose rows are ``step`` seconds apart and seen through as much."""
    folder.mkdir()
    videos = {}
    for vid, data in rows.items():
        np.save(folder / f"{vid}.npy", data.astype(np.float32))
        grid = {"start": 0.0, "step": step, "count": len(data), "window": step}
        videos[vid] = {"grid": grid, "duration": 10.0, "padded": False}
    clip = {"frames": stride, "fps": stride / step, "stride": stride}
    (folder / "features.json").write_text(json.dumps({
        "software": "test", "encoder": weights, "weights": weights, "dim": data.shape[1], "clip": clip,
        "pooling": "mean", "dtype": "float32", "scaling": "none", "precision": "fp32", "complete": True,
        "videos": videos}))
    return folder


def test_features_on_another_grid(cuemark, tmp_path):
    """Straight lines stay straight lines, read off by hand; beyond the outer centres the nearest row."""
    rng = np.random.default_rng(0)
    rows = {"a": rng.normal(size=(10, 3)), "b": rng.normal(size=(10, 3)), "alone": rng.normal(size=(10, 3))}
    ours = features_folder(tmp_path / "ours", rows, 1.0, "one")
    other = features_folder(tmp_path / "other", {v: rng.normal(size=(25, 7)) for v in ("a", "b", "c")}, 0.4, "two")
    ended = cuemark("features", "match", ours, "--to", other, "--out", tmp_path / "out")
    assert (ended.status, ended.out) == (1, f"{tmp_path / 'out'}: 2 videos, 0 were there, 1 left out\n")
    assert "'alone'" in ended.err
    found = FeatureFolder.open(tmp_path / "out")
    assert list(found) == ["a", "b"]
    assert [p for p in verify(tmp_path / "out") if p.serious] == []
    assert found.meta["weights"] == "one on the grid of two"  # so that no encoder passes for what made them
    for vid in found:
        assert found[vid].grid == FeatureFolder.open(other)[vid].grid
        for i, row in enumerate(found[vid].data):
            at = (i + 0.5) * 0.4 - 0.5  # of our rows, whose centres are at 0.5, 1.5 … s
            low = int(np.clip(np.floor(at), 0, 9))
            high, part = min(low + 1, 9), min(max(at - low, 0.0), 1.0)
            np.testing.assert_allclose(row, rows[vid][low] * (1 - part) + rows[vid][high] * part, atol=1e-5)
        # the release's way; the two grids have one extent
        released = torch.nn.functional.interpolate(torch.tensor(rows[vid].T[None], dtype=torch.float32), size=25,
                                                   mode="linear", align_corners=False)[0].T
        np.testing.assert_allclose(found[vid].data, released.numpy(), atol=1e-5)
    again = cuemark("features", "match", ours, "--to", other, "--out", tmp_path / "out")
    assert again.out == f"{tmp_path / 'out'}: 0 videos, 2 were there, 1 left out\n"
    assert "one of the folders" in complaint(cuemark("features", "match", ours, "--to", other, "--out", other))
    third = features_folder(tmp_path / "third", {"z": rows["a"]}, 1.0, "three")
    assert "no video in common" in complaint(cuemark("features", "match", ours, "--to", third, "--out", tmp_path / "n"))
    assert "holds features with" in complaint(cuemark("features", "match", other, "--to", ours, "--out",
                                                      tmp_path / "out"))
    assert not (tmp_path / "n").exists()


def test_features_side_by_side(cuemark, tmp_path):
    rng = np.random.default_rng(1)
    rows = {name: {v: rng.normal(size=(25, dim)) for v in "ab"} for name, dim in (("rgb", 3), ("flow", 2))}
    rgb, flow = (features_folder(tmp_path / name, rows[name], 0.4, name) for name in rows)
    assert cuemark("features", "concat", rgb, flow, "--out", tmp_path / "both").status == 0
    both = FeatureFolder.open(tmp_path / "both")
    assert (both.dim, both.meta["weights"], both.meta["encoder"]) == (5, "rgb + flow", "rgb + flow")
    assert [p for p in verify(tmp_path / "both") if p.serious] == []
    for vid in both:
        np.testing.assert_array_equal(both[vid].data, np.hstack([rows["rgb"][vid], rows["flow"][vid]]).astype("f4"))
    coarse = features_folder(tmp_path / "coarse", {v: rng.normal(size=(10, 3)) for v in "ab"}, 1.0, "coarse")
    said = complaint(cuemark("features", "concat", coarse, flow, "--out", tmp_path / "no"))
    assert "10 rows" in said
    assert "25 from" in said
    assert "cuemark features match" in said
    later = features_folder(tmp_path / "later", rows["rgb"], 0.41, "later")
    assert "cuemark features match" in complaint(cuemark("features", "concat", later, flow, "--out", tmp_path / "no"))
    assert "two features folders" in complaint(cuemark("features", "concat", rgb, "--out", tmp_path / "no"), 2)
    assert not (tmp_path / "no").exists()
    assert cuemark("features", "match", coarse, "--to", flow, "--out", tmp_path / "fine").status == 0
    assert cuemark("features", "concat", tmp_path / "fine", flow, "--out", tmp_path / "again").status == 0
    assert FeatureFolder.open(tmp_path / "again").dim == 5
    (coarse / "a.npy").write_bytes(b"no")
    assert "is not a NumPy array file" in complaint(cuemark("features", "match", coarse, "--to", flow, "--out",
                                                            tmp_path / "no"))
