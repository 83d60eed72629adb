"""The doors of scores and files, as a stranger opens them: evaluate, compare, diagnose, episodes, convert, check."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Call, complaint, shared

from cuemark.datasets import FORMATS

DATA = Path(__file__).parent / "data"
TRUTH, PREDICTIONS = DATA / "detection_small_truth.json", DATA / "detection_small_predictions.json"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def truth_json(path: Path, sentences: bool = False, **videos: tuple[float, list[tuple[float, float, str]]]) -> Path:
    """An ActivityNet truth file: video -> duration and (start, end, what)."""
    word = "sentence" if sentences else "label"
    return written(path, json.dumps({"version": "1", "database": {
        vid: {"duration": duration, "subset": "validation",
              "annotations": [{"segment": [a, b], word: what} for a, b, what in rows]}
        for vid, (duration, rows) in videos.items()}}))


def results_json(path: Path, **videos: list[dict[str, object]]) -> Path:
    return written(path, json.dumps({"version": "1", "results": videos}))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a small truth (t.json) and three predictions of it (p.json)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    truth_json(tmp_path / "t.json", v1=(20, [(0, 5, "run"), (7, 9, "jump")]), v2=(30, [(3, 12, "run")]))
    results_json(tmp_path / "p.json",
                 v1=[{"segment": [0, 5], "label": "run", "score": 0.9},
                     {"segment": [7, 9], "label": "jump", "score": 1}],
                 v2=[{"segment": [3, 12], "label": "run", "score": 0.8}])
    return tmp_path


def frame_labels(folder: Path, **videos: str) -> Path:
    """MS-TCN's layout; each letter stands for ten frames: s silence, t take, p put."""
    names = {"s": "SIL", "t": "take", "p": "put"}
    for vid, letters in videos.items():
        written(folder / f"{vid}.txt", "".join(f"{names[letter]}\n" * 10 for letter in letters))
    return folder


BAD_FILES = {
    "gone.json": (None, "'gone.json' does not exist"),
    "empty.json": ("", "'empty.json' is empty"),
    "words.txt": ("hello there\n", "'words.txt' is in no format that is known by its content"),
    "object.json": ("{}", "'object.json' is in no format"),
    "cut.json": ('{"version": "1", "database": {"v1": {"duration": 20, "subset": "val', "'cut.json'"),
    "binary.json": ("\0\1\2\3" * 50, "'binary.json'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("words", [
    ["evaluate", "detection", "--truth", "BAD", "--predictions", "p.json", "--json", "s.json"],
    ["evaluate", "proposals", "--truth", "t.json", "--predictions", "BAD", "--json"],
    ["evaluate", "detection", "--truth", "t.json", "--predictions", "p.json", "--train", "BAD"],
    ["compare", "detection", "p.json", "BAD", "--truth", "t.json", "--json", "s.json"],
    ["diagnose", "--truth", "t.json", "--predictions", "BAD", "--plots", "e.png"],
    ["episodes", "--support", "BAD", "--classes", "c.txt", "--out", "e.json"],
    ["convert", "BAD", "--to", "csv", "--out", "o.csv"],
    ["convert", "p.json", "--to", "csv", "--out", "o.csv", "--truth", "BAD"],
    ["check", "BAD", "--json"],
], ids=" ".join)
def test_a_bad_file_is_one_sentence_and_nothing_is_written(cuemark: Call, desk, name, words):
    text, said = BAD_FILES[name]
    if text is not None:
        (desk / name).write_text(text)
    (desk / "c.txt").write_text("run\njump\n")
    before = {p.name for p in desk.iterdir()}
    assert said in complaint(cuemark(*(name if word == "BAD" else word for word in words)))
    assert {p.name for p in desk.iterdir()} == before


@pytest.mark.parametrize("task", ["detection", "proposals", "grounding", "highlights", "frames", "captions",
                                  "episodes"])
def test_every_task_refuses_missing_files_and_folders(cuemark, desk, task):
    (desk / "folder").mkdir()
    for truth, found in (("gone", "p.json"), ("t.json", "gone"), ("folder", "p.json"), ("t.json", "folder")):
        if task == "highlights" and truth == "t.json":
            continue  # its truth is refused first, which another test looks at
        line = complaint(cuemark("evaluate", task, "--truth", truth, "--predictions", found))
        assert f"'{truth if found == 'p.json' else found}'" in line


@pytest.mark.parametrize(("words", "text"), [
    (["--seed", "-1", "--bootstrap", "20"], "--seed"),
    (["--bootstrap", "5"], "at least 20"),
    (["--bootstrap", "-3"], "at least 20"),
    (["--bootstrap", "many"], "--bootstrap"),
    (["--tiou", "-0.5"], "from 0 to 1"),
    (["--tiou", "nan"], "from 0 to 1"),
    (["--tiou", "1.5"], "from 0 to 1"),
    (["--fps", "0"], "fps must be a number above 0"),
    (["--fps", "nan"], "fps must be a number above 0"),
    (["--recall", "0"], "whole numbers from 1"),
    (["--recall", "1", "--style", "thumos14"], "choose one"),
    (["--recall", "1", "--classes"], "--classes"),
    (["--style", "voc"], "--style"),
    (["extra"], "extra"),
])
def test_calls_of_detection_that_cannot_be_meant(cuemark, desk, words, text):
    assert text in complaint(cuemark("evaluate", "detection", "--truth", "t.json", "--predictions", "p.json", "--json",
                                     "s.json", *words), 2)
    assert not (desk / "s.json").exists()


def test_options_of_other_tasks_are_told_without_pythons_words(cuemark, desk):
    line = complaint(cuemark("compare", "detection", "p.json", "p.json", "--truth", "t.json", "--strict"), 2)
    assert "does not take the option 'strict'; it takes style, tious" in line
    line = complaint(cuemark("evaluate", "proposals", "--truth", "t.json", "--predictions", "p.json", "--max-number",
                             "0"), 2)
    assert "above 0" in line


@pytest.mark.parametrize(("place", "text"), [("folder", "'folder'"), ("t.json/s.json", "t.json")])
def test_json_where_it_cannot_be_written(cuemark, desk, place, text):
    (desk / "folder").mkdir()
    before = {p.name for p in desk.iterdir()}
    for words in (["evaluate", "detection", "--truth", "t.json", "--predictions", "p.json"],
                  ["compare", "detection", "p.json", "p.json", "--truth", "t.json", "--bootstrap", "20"],
                  ["diagnose", "--truth", "t.json", "--predictions", "p.json"], ["check", "t.json"]):
        ended = cuemark(*words, "--json", place)
        lines = [line for line in ended.err.splitlines() if not line.startswith("drawing videos")]
        assert text in complaint(ended._replace(err="\n".join(lines)))
        assert ".tmp" not in ended.err
    assert {p.name for p in desk.iterdir()} == before


def test_json_on_its_own_and_with_a_file(cuemark, desk):
    words = ["evaluate", "detection", "--truth", "t.json", "--predictions", "p.json"]
    told = json.loads(cuemark(*words, "--json").out)
    assert told == json.loads(cuemark(*words, "--json", "-").out)
    assert told["figures"]["average mAP"]["value"] == 100
    assert cuemark(*words, "--json", "new/s.json").out.startswith("┏")
    assert json.loads((desk / "new" / "s.json").read_text()) == told


# ---------------------------------------------------------------------------------------------- files that do not fit


def test_predictions_without_scores_or_labels_or_sentences(cuemark, desk):
    results_json(desk / "noscore.json", v1=[{"segment": [0, 5], "label": "run"}])
    for task in ("detection", "proposals"):
        line = complaint(cuemark("evaluate", task, "--truth", "t.json", "--predictions", "noscore.json"))
        assert "video 'v1', prediction 0: there is no score" in line
    results_json(desk / "nolabel.json", v1=[{"segment": [0, 5], "score": 1}])
    told = json.loads(cuemark("evaluate", "detection", "--truth", "t.json", "--predictions", "nolabel.json",
                              "--json").out)
    assert told["figures"]["average mAP"]["value"] == 0
    assert any("no class of the truth ('[class-agnostic]') and were left out" in note for note in told["notes"])
    truth_json(desk / "s.json", sentences=True, v1=(20, [(0, 5, "a man runs")]))
    assert "no sentence" in complaint(cuemark("evaluate", "captions", "--truth", "s.json", "--predictions", "p.json",
                                              "--no-meteor"))


def test_a_time_that_is_no_number(cuemark, desk):
    (desk / "nan.json").write_text('{"version": "1", "results": {"v1": [{"segment": [NaN, 5], "score": 1}]}}')
    line = complaint(cuemark("evaluate", "proposals", "--truth", "t.json", "--predictions", "nan.json"))
    assert "'nan.json', video 'v1', prediction 0" in line


def test_the_wrong_task_for_a_file(cuemark, desk):
    assert "sentence to ground" in complaint(cuemark("evaluate", "grounding", "--truth", "t.json", "--predictions",
                                                     "p.json"))
    assert "highlights are scored on files of QVHighlights" in complaint(
        cuemark("evaluate", "highlights", "--truth", "t.json", "--predictions", "p.json"))
    truth_json(desk / "s.json", sentences=True, v1=(20, [(0, 5, "a man runs")]))
    assert "no labelled segment" in complaint(cuemark("evaluate", "detection", "--truth", "s.json", "--predictions",
                                                      "p.json"))
    assert "holds no video" in complaint(cuemark(
        "evaluate", "detection", "--truth", written(desk / "none.json", '{"database": {}}'), "--predictions", "p.json"))


@pytest.mark.parametrize("words", [["evaluate", "detection"], ["evaluate", "episodes"], ["diagnose"]])
def test_swapped_files(cuemark, desk, words):
    assert "swapped" in complaint(cuemark(*words, "--truth", "p.json", "--predictions", "t.json"))


def test_swapped_files_of_highlights(cuemark, desk):
    row = {"qid": 1, "query": "a man runs", "vid": "v1"}
    truth = row | {"duration": 10, "relevant_windows": [[0, 4]], "relevant_clip_ids": [0, 1],
                   "saliency_scores": [[4, 3, 3], [2, 2, 3]]}
    found = row | {"pred_relevant_windows": [[0, 4, 0.9]], "pred_saliency_scores": [0.9, 0.8, 0.1, 0, 0]}
    written(desk / "truth.jsonl", json.dumps(truth) + "\n")
    written(desk / "found.jsonl", json.dumps(found) + "\n")
    words = ["evaluate", "highlights", "--truth", "truth.jsonl", "--predictions", "found.jsonl"]
    assert json.loads(cuemark(*words, "--json").out)["figures"]["MR-full-R1@0.7"]["value"] == 100
    assert "swapped" in complaint(cuemark("evaluate", "highlights", "--truth", "found.jsonl", "--predictions",
                                          "truth.jsonl"))
    line = complaint(cuemark("compare", "highlights", "found.jsonl", "found.jsonl", "--truth", "truth.jsonl",
                             "--subset", "test"), 2)
    assert "no splits" in line


def test_predictions_of_other_videos_are_told(cuemark, desk, caplog):
    results_json(desk / "other.json", elsewhere=[{"segment": [0, 5], "label": "run", "score": 1}])
    ended = cuemark("evaluate", "detection", "--truth", "t.json", "--predictions", "other.json")
    said = " ".join(ended.out.split())
    assert ended.status == 0
    assert "2 videos have no prediction, 'v1' first" in said
    assert "none of the videos that are scored is predicted: they are called such as 'v1'" in said
    assert "such as 'elsewhere'" in said
    assert "no prediction is of a video of the truth" in complaint(
        cuemark("evaluate", "episodes", "--truth", "t.json", "--predictions", "other.json"))
    cuemark("compare", "detection", "p.json", "other.json", "--truth", "t.json", "--bootstrap", "20")
    assert caplog.messages[0] == "second: 2 videos have no prediction, 'v1' first."
    assert not [line for line in caplog.messages if line.startswith("first:")]


def test_rows_that_a_reader_dropped_are_told(cuemark, desk, caplog):
    written(desk / "p.csv", "video,start,end,label,score\nv1,5,1,run,0.5\nv1,0,5,run,0.9\n")
    words = ["--truth", "t.json", "--predictions", "p.csv"]
    told = json.loads(cuemark("evaluate", "detection", *words, "--json").out)
    assert told["notes"] == ["'p.csv': 1 dropped, the first: line 2: ends before it starts: [5, 1]."]
    assert "1 dropped, the first: line 2" in " ".join(cuemark("evaluate", "detection", *words).out.split())
    assert caplog.messages == []
    cuemark("compare", "detection", "p.csv", "p.json", "--truth", "t.json", "--bootstrap", "20")
    assert caplog.messages == ["first: 1 videos have no prediction, 'v2' first.", f"first: {told['notes'][0]}"]
    caplog.clear()
    assert json.loads(cuemark("diagnose", *words, "--json").out)["notes"] == told["notes"]


# ---------------------------------------------------------------------------------------------- frames


def test_fps_reaches_the_files_that_count_frames(cuemark, desk):
    """``evaluate frames --truth groundTruth --predictions results --fps 15``, as its help says."""
    frame_labels(desk / "gt", a="ssttpp", b="sttt")
    frame_labels(desk / "res", a="sstttp", b="sttt")
    words = ["evaluate", "frames", "--truth", "gt", "--predictions", "res", "--background", "SIL"]
    assert "say so with --fps" in complaint(cuemark(*words))
    told = json.loads(cuemark(*words, "--fps", "15", "--json").out)
    assert told["figures"]["accuracy"]["value"] == pytest.approx(90)
    assert told["notes"] == []
    detected = cuemark("evaluate", "proposals", "--truth", "gt", "--predictions", "res", "--fps", "15")
    assert "no score" in complaint(detected)  # read, and found wanting
    compared = cuemark("compare", "frames", "res", "gt", "--truth", "gt", "--fps", "15", "--bootstrap", "20", "--json")
    assert json.loads(compared.out)["figures"]["accuracy"]["second"] == 100


def test_videos_without_frames_are_no_sentences(cuemark, desk):
    frame_labels(desk / "gt", a="sst", b="st")
    frame_labels(desk / "res", a="sst")
    ended = cuemark("evaluate", "frames", "--truth", "gt", "--predictions", "res", "--fps", "15")
    assert "1 videos have no prediction, 'b' first" in ended.out
    assert "sentence" not in ended.out


# ---------------------------------------------------------------------------------------------- tables


def test_tables_fit_80_columns_and_cut_nothing(cuemark, desk):
    said = [cuemark("compare", "detection", "p.json", "t2.json", "--truth", "t.json", "--bootstrap", "20").out
            for _ in [written(desk / "t2.json", (desk / "p.json").read_text())]]
    words = ["--truth", TRUTH, "--predictions", PREDICTIONS]
    said += [cuemark("diagnose", *words, "--bootstrap", "20").out,
             cuemark("evaluate", "detection", *words, "--bootstrap", "20", "--classes").out,
             cuemark("check", "t.json").out]
    for out in said:
        assert max(map(len, out.splitlines())) <= 80
        assert "…" not in out
    assert "average mAP" in said[0]
    assert "first: p.json\nsecond: t2.json\n" in said[0]
    assert "no: chance alone" in " ".join(said[0].split())


def test_numbers_are_to_the_right(cuemark, desk):
    truth_json(desk / "many.json", v1=(2000, [(i, i + 0.5, "long" if i % 12 else "b") for i in range(120)]))
    ended = cuemark("check", "many.json")
    assert ended.status == 0
    rows = [line for line in ended.out.splitlines() if line.startswith(("│ b ", "│ long"))]
    assert rows == ["│ b     │        10 │      1 │         0.50 │", "│ long  │       110 │      1 │         0.50 │"]


def test_floor_and_ceiling_are_explained(cuemark, desk):
    said = " ".join(cuemark("evaluate", "detection", "--truth", "t.json", "--predictions", "p.json").out.split())
    assert "The floor never looks at a video" in said
    assert "floor: none, it needs training truth with labelled segments" in said
    assert "--train" in said
    said = " ".join(cuemark("evaluate", "proposals", "--truth", "t.json", "--predictions", "p.json").out.split())
    assert "floor: uniform random stretches (no training truth was given)." in said
    assert "ceiling: the truth itself" in said


# ---------------------------------------------------------------------------------------------- zero-shot splits


@pytest.fixture
def splits(desk: Path) -> Path:
    """Two splits of the desk's classes (s), each with its answers (a/0.json, a/1.json): right ones, and none."""
    for part, names in (("train", ("jump", "run")), ("test", ("run", "jump"))):
        for number, name in enumerate(names):
            written(desk / "s" / part / f"split_{number}.list", f"{name}\n")
    written(desk / "a" / "0.json", (desk / "p.json").read_text())
    results_json(desk / "a" / "1.json", v1=[{"segment": [15, 16], "label": "jump", "score": 1}])
    return desk


def test_each_split_is_answered_by_a_file_of_its_own(cuemark, splits):
    words = ["evaluate", "detection", "--truth", "t.json", "--zero-shot", "s", "--predictions"]
    row = json.loads(cuemark(*words, "a/{split}.json", "--json").out)["figures"]["average mAP"]
    assert (row["value"], row["ceiling"]) == (50, 100)
    assert row["spread"] == pytest.approx(100 / 2 ** 0.5)
    one = json.loads(cuemark(*words, "p.json", "--json").out)["figures"]["average mAP"]
    assert (one["value"], one["spread"]) == (100, 0)
    ended = cuemark(*words, "a/{split}.json", "--bootstrap", "20")
    assert "± splits: standard deviation between the 2 splits." in ended.out
    (line,) = [line for line in ended.out.splitlines() if "average mAP" in line]
    assert [cell.strip() for cell in line.split("│")[1:4]] == ["average mAP", "50.00", "70.71"]
    assert "1 predictions carry a label that is no unseen class of their split ('jump')" in " ".join(ended.out.split())
    compared = cuemark("compare", "detection", "a/{split}.json", "p.json", "--truth", "t.json", "--zero-shot", "s",
                       "--bootstrap", "20", "--json")
    row = json.loads(compared.out)["figures"]["average mAP"]
    assert (row["first"], row["second"]) == (50, 100)


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.parametrize(("found", "folder", "status", "said"), [
    ("a/{split}.json", None, 2, "{split} in 'a/{split}.json' is the number of a zero-shot split; name their folder"),
    ("a/{fold}.json", "s", 1, "'a/{fold}.json' does not exist, and has no {split} in it"),
    ("b/{split}.json", "s", 1, "'b/0.json' does not exist, and each of the 2 splits needs its file"),
    ("a/{split}.json", "more", 1, "'a/2.json' does not exist, and each of the 3 splits needs its file"),
    ("a/{split}.json", "a", 1, "folder 'a' holds no train/split_0.list"),
    ("a/{split}.json", "gone", 1, "folder 'gone' holds no train/split_0.list"),
])
def test_splits_that_cannot_be_answered_are_one_sentence(cuemark, splits, command, found, folder, status, said):
    for number in range(3):
        written(splits / "more" / "train" / f"split_{number}.list", "run")
        written(splits / "more" / "test" / f"split_{number}.list", "jump")
    words = ["detection", "p.json", found] if command == "compare" else ["detection", "--predictions", found]
    words += ["--truth", "t.json", *(["--zero-shot", folder] if folder else [])]
    assert said in complaint(cuemark(command, *words), status)


# ---------------------------------------------------------------------------------------------- other commands


def test_compare(cuemark, desk):
    results_json(desk / "worse.json", v1=[{"segment": [0, 3], "label": "run", "score": 0.9}])
    words = ["compare", "detection", "worse.json", "p.json", "--truth", "t.json", "--bootstrap", "50"]
    row = json.loads(cuemark(*words, "--json").out)["figures"]["mAP@0.95"]
    assert (row["first"], row["second"], row["difference"], row["real"]) == (0, 100, 100, True)
    assert "at least 20" in complaint(cuemark(*words[:-1], "5"), 2)
    assert complaint(cuemark("compare", "detecton", *words[2:]), 2).endswith('(did you mean "detection"?).')


def test_diagnose(cuemark, desk):
    words = ["diagnose", "--truth", "t.json", "--predictions", "p.json"]
    told = json.loads(cuemark(*words, "--json").out)
    assert told["figures"]["mAP_N"]["value"] == told["diagnosis"]["mAP_N"] > 0
    assert ".svg, .png, .pdf" in complaint(cuemark(*words, "--plots", "e.docx"), 2)
    assert "'gone'" in complaint(cuemark(*words, "--characteristics", "gone"))
    assert "DETAD" in complaint(cuemark(*words, "--characteristics", "p.json"))
    results_json(desk / "strange.json", v1=[{"segment": [0, 5], "label": "swim", "score": 1}])
    assert "('swim') and were left out" in " ".join(cuemark(*words[:-1], "strange.json").out.split())


def test_episodes_from_drawing_to_score(cuemark, desk):
    videos = {f"v{k}{i}": (20.0, [(1.0 + i, 9.0, f"class {k}")]) for k in range(3) for i in range(4)}
    truth_json(desk / "support.json", **videos)
    truth_json(desk / "query.json", **{f"q{vid}": row for vid, row in videos.items()})
    (desk / "c.txt").write_text("class 0\nclass 1\nclass 2\n")
    words = ["episodes", "--support", "support.json", "--classes", "c.txt", "--out", "e.json"]
    assert "it has no training videos; name others with --query" in complaint(cuemark(*words))
    words += ["--query", "query.json"]
    for option, text in (("--seed=-1", "--seed"), ("--ways=0", "ways"), ("--draws=0", "draws"), ("--ways=4", "3")):
        assert text in complaint(cuemark(*words, option), 2)
    assert "too few for 9 shots" in complaint(cuemark(*words, "--ways=2", "--shots=9"))
    assert not (desk / "e.json").exists()
    ended = cuemark(*words, "--ways", "2", "--shots", "2", "--draws", "2")
    assert ended == (0, "2 draws of 2 classes with 2 examples each in e.json\n", "")

    results_json(desk / "a.json", **{f"q{vid}": [{"segment": [a, b], "label": what, "score": 1}]
                                     for vid, (_, [(a, b, what)]) in videos.items()})
    score = ["evaluate", "episodes", "--truth", "query.json", "--episodes", "e.json", "--json", "--predictions"]
    assert "holds 2 draws and there are 1 prediction files" in complaint(cuemark(*score, "a.json"), 2)
    assert json.loads(cuemark(*score, "a.json", "a.json").out)["figures"]["average mAP"]["value"] == 100
    assert "need --episodes" in complaint(cuemark("evaluate", "episodes", "--truth", "query.json", "--predictions",
                                                  "a.json", "a.json"), 2)


def test_the_novel_classes_of_a_few_shot_split(cuemark, desk):
    truth_json(desk / "s.json", **{f"v{i}": (20, [(1, 9, "run"), (3, 4, "jump")]) for i in range(3)})
    truth_json(desk / "q.json", w=(20, [(1, 9, "run")]))
    written(desk / "split.json", json.dumps({"base": ["swim"], "validation": ["jump"], "novel": ["run"]}))
    words = ["episodes", "--support", "s.json", "--query", "q.json", "--classes", "split.json", "--out", "e.json"]
    assert cuemark(*words, "--ways", "1", "--shots", "2", "--draws", "1").status == 0
    assert json.loads((desk / "e.json").read_text())["episodes"][0]["classes"] == ["run"]
    written(desk / "split.json", json.dumps({"train": ["swim"]}))
    assert "few-shot class file" in complaint(cuemark(*words))


# ---------------------------------------------------------------------------------------------- convert, check


def test_from_a_table_to_label_studio_to_cuemark(cuemark, desk):
    written(desk / "mine.csv", "video,start,end,label\nv1,0,5,run\nv1,7.2,9,jump\n")
    assert "--fps" in complaint(cuemark("convert", "mine.csv", "--to", "label-studio", "--out", "ls.json"))
    assert not (desk / "ls.json").exists()
    ended = cuemark("convert", "mine.csv", "--to", "label-studio", "--out", "ls.json", "--fps", "25")
    assert (ended.status, ended.out) == (0, "2 segments of 1 videos in ls.json\n")
    assert ended.err == "'mine.csv' looks like csv (CSV table); --from names another format\n"
    assert cuemark("convert", "ls.json", "--to", "cuemark", "--out", "back.json", "--fps", "25").status == 0
    rows = json.loads((desk / "back.json").read_text())["database"]["v1"]["annotations"]
    assert [(row["label"], *(round(t, 6) for t in row["segment"])) for row in rows] == [("run", 0, 5), ("jump", 7.2, 9)]


def test_predictions_to_an_edit_list_and_captions_to_subtitles(cuemark, desk):
    assert cuemark("convert", "p.json", "--to", "edl", "--out", "edl", "--fps", "25").status == 0
    assert {p.name for p in (desk / "edl").iterdir()} == {"v1.edl", "v2.edl"}
    assert "already holds something" in complaint(cuemark("convert", "p.json", "--to", "edl", "--out", "edl"), 2)
    truth_json(desk / "s.json", sentences=True, v1=(20, [(0, 5, "a man runs")]), v2=(9, [(1, 2, "he rests")]))
    assert "can hold one video and there are 2" in complaint(cuemark("convert", "s.json", "--to", "srt", "--out",
                                                                     "s.srt"))
    assert cuemark("convert", "s.json", "--to", "srt", "--out", "subtitles/").status == 0
    assert "00:00:00,000 --> 00:00:05,000\na man runs" in (desk / "subtitles" / "v1.srt").read_text()


@pytest.mark.parametrize(("words", "status", "text"), [
    (["--to", "nope", "--out", "o"], 2, "unknown format 'nope'; known: activitynet"),
    (["--to", "cvs", "--out", "o"], 2, "did you mean 'csv'"),
    (["--to", "csv", "--out", "o", "--from", "nope"], 2, "unknown format 'nope'"),
    (["--to", "csv", "--out", "t.json"], 2, "is the source itself"),
    (["--to", "csv", "--out", "folder"], 2, "is a folder, and this format is a file"),
    (["--to", "srt", "--out", "file.txt"], 2, "is a file, and this format is a folder"),
    (["--to", "csv", "--out", "t.json/o.csv"], 1, "t.json"),
    (["--to", "csv", "--out", "o", "--fps", "0"], 2, "fps must be a number above 0"),
    (["--to", "csv", "--out", "o", "--videos", "gone"], 1, "'gone' does not exist"),
    (["--to", "csv", "--out", "o", "--from", "thumos"], 1, "t.json"),
    (["--to", "csv", "--out", "o", "--truth", "p.json"], 2, "holds predictions"),
    (["--to", "charades-sta", "--out", "o"], 1, "has no sentence"),
    (["--to", "csv", "--out", "o", "more"], 2, "more"),
    (["--to", "csv"], 2, "--out"),
])
def test_conversions_that_cannot_be(cuemark, desk, words, status, text):
    (desk / "folder").mkdir()
    (desk / "file.txt").write_text("old")
    before = {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()}
    assert text in complaint(cuemark("convert", "t.json", *words), status)
    assert {p: p.read_bytes() for p in desk.rglob("*") if p.is_file()} == before


def test_check_says_what_is_wrong_and_where(cuemark, desk):
    written(desk / "a.csv", "video,start,end,label\nv1,5,1,run\nv1,0,5,run\nv1,0,5,run\nv1,6,7,jmp\n")
    (desk / "c.txt").write_text("run\njump\n")
    ended = cuemark("check", "a.csv", "--classes", "c.txt")
    assert ended.status == 1
    assert "'a.csv': 1 dropped, the first: line 2: ends before it starts" in ended.err
    assert "did you mean 'jump'?" in " ".join(ended.out.split())
    assert ended.out.endswith("4 findings\n")
    told = json.loads(cuemark("check", "a.csv", "--classes", "c.txt", "--json").out)
    assert told["counts"] == {"dropped": 1, "duplicate": 1, "unknown label": 1, "unused label": 1}
    assert cuemark("check", "a.csv", "--show", "0").status == 1
    for words, status in ((["--show", "-1"], 2), (["--fps", "-1"], 2), (["--classes", "gone"], 1),
                          (["--videos", "gone"], 1), (["--from", "csvv"], 2)):
        complaint(cuemark("check", "a.csv", *words), status)


def test_a_long_path_does_not_hide_the_line(cuemark, desk):
    deep = "a_folder_with_a_long_name/" * 4
    written(desk / deep / "a.csv", "video,start,end,label\nv1,5,1,run\nv1,0,5,run\n")
    ended = cuemark("check", f"{deep}a.csv")
    assert "│ line 2 │ ends before it starts: [5, 1] │" in ended.out


# ---------------------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(("path", "name"), [
    ("annotations/2d-tan/Charades-STA/charades_sta_test.txt", "charades-sta"),
    ("annotations/thumos14/temporal_annotations_test", "thumos"),
    ("annotations/qvhighlights/highlight_val_release.jsonl", "qvhighlights"),
    ("annotations/multithumos.json", "multithumos"),
])
def test_real_files_are_guessed(cuemark, desk, path, name):
    told = json.loads(cuemark("check", shared(path), "--json").out)
    assert (told["format"], told["guessed"]) == (name, True)
    assert told["annotations"] > 1000


def test_charades_says_what_its_reader_clipped(cuemark, desk):
    path = shared("annotations/2d-tan/Charades-STA/charades_sta_test.txt")
    told = json.loads(cuemark("evaluate", "grounding", "--truth", path, "--predictions", path, "--json").out)
    assert told["figures"]["R@1,IoU=0.7"]["value"] == 100
    assert [note for note in told["notes"] if "562 clipped, the first: line 20" in note]


# ---------------------------------------------------------------------------------------------- stopped halfway


def test_an_interrupted_conversion_leaves_nothing(cuemark, desk, monkeypatch):
    """Ctrl-C after the first of two files."""
    def interrupted(path, truth):
        written(path / "v1.srt", "half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "srt", replace(FORMATS["srt"], write=interrupted))
    before = {p.name for p in desk.iterdir()}
    complaint(cuemark("convert", "t.json", "--to", "srt", "--out", "subtitles"), 130)
    assert {p.name for p in desk.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_reader_that_has_seen_enough_of_a_table(desk):
    truth_json(desk / "long.json", v1=(9000.0, [(float(i), float(i), f"label {i}") for i in range(3000)]))
    done = subprocess.run(f"{sys.executable} -m cuemark check long.json --show 3000 | head -1", shell=True,
                          capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("Videos")
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# ---------------------------------------------------------------------------------------------- features


def test_analyze(cuemark, desk, tiny_world, tiny_features):
    words = ("analyze", tiny_features.folder, f"again={tiny_features.folder}", "--truth",
             tiny_world.folder / "truth.json")
    ended = cuemark(*words, "--out", "out", "--show", "2")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "again" in lines[1]
    for title in ("fg-bg minus fg-fg, mean", "retrieval, inside, %", "probe, boundary, s off"):
        row, = (line for line in lines if title in line)
        _, _, floor, first, second, _ = (cell.strip() for cell in row.split("│"))
        assert first == second  # the same features
        assert first != "" != floor
    assert "3 videos" in ended.out
    names = sorted(path.name for path in (desk / "out").iterdir())
    assert names[:2] == ["analysis.json", "distances.png"]
    assert [name.startswith("similarity_validation") for name in names[2:]] == [True, True]
    told = json.loads((desk / "out" / "analysis.json").read_text())
    ended = cuemark(*words, "--json")
    assert json.loads(ended.out) == told
    assert set(told) == {tiny_features.folder.name, "again"}
    assert told["again"]["test"] == ["validation"]
    ended = cuemark(*words, "--json", "--test", "testing", "--clips", "10")
    assert json.loads(ended.out)["again"]["clips"] == {"train": 6, "test": 9}


@pytest.mark.parametrize(("words", "status", "text"), [
    (["--test", "nowhere"], 1, "no video belongs to subset 'nowhere'"),
    (["--test", "trimmed"], 1, "none of the 6 videos of 'trimmed' has features"),
    (["--test", "training"], 2, "both learnt from and tested on"),
    (["--clips", "0"], 2, "clips must be a number at least 1"),
    (["gone"], 1, "'gone"),
    (["again=FOLDER", "again=FOLDER"], 2, "names 'again' twice"),
])
def test_analyses_that_cannot_be(cuemark, desk, tiny_world, tiny_features, words, status, text):
    words = [word.replace("FOLDER", str(tiny_features.folder)) for word in words]
    line = complaint(cuemark("analyze", tiny_features.folder, *words, "--truth", tiny_world.folder / "truth.json",
                             "--out", "out"), status)
    assert text in line
    assert not (desk / "out").exists()
