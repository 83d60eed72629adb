"""Splits of classes: the few-shot and zero-shot protocols."""

from __future__ import annotations

import json

import pytest
from conftest import shared

from cuemark.datasets import bmn, splits, thumos
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth, labels_of

MAPPING = "annotations/tsp/{}_action_label_mapping.json"


def test_the_few_shot_classes():
    parts = splits.few_shot(shared("annotations/activitynet_few_shot_classes.json"))
    assert {part: len(names) for part, names in parts.items()} == {"base": 160, "validation": 20, "novel": 20}
    assert sorted(name for names in parts.values() for name in names) == sorted(
        splits.read_classes(shared(MAPPING.format("activitynet/activitynet_v1-3"))))
    assert {"Hurling", "BMX", "Snatch", "Pole vault"} <= set(parts["novel"])
    assert {"Dodgeball", "Cumbia", "Rafting", "Hula hoop"} <= set(parts["validation"])


def test_the_few_shot_videos_are_those_of_the_reference():
    """It counts a video by the class of its first annotation; a few have classes of two parts."""
    truth = bmn.FORMAT.parse(shared("annotations/bmn"), Reading())
    parts = splits.few_shot(shared("annotations/activitynet_few_shot_classes.json"))
    counts, found = {}, {}
    for part, names in parts.items():
        chosen = splits.classes(truth, names)
        assert set(labels_of(chosen)) == set(names)
        for subset in ("training", "validation"):
            first = [v for v in truth.values() if v.subset == subset and v.annotations[0].label in names]
            counts[part, subset] = len(first), sum(len(v.annotations) for v in first)
            shown = [v for v in chosen.values() if v.subset == subset]
            found[part, subset] = len(shown), sum(len(v.annotations) for v in shown)
    assert [n for n, _ in counts.values()] == [7_721, 3_787, 938, 472, 990, 469]
    assert (counts["novel", "training"], counts["novel", "validation"]) == ((990, 1_505), (469, 715))
    assert list(found.values()) == [(7_723, 11_964), (3_789, 5_861), (938, 1_392), (472, 716), (990, 1_503), (470, 716)]
    assert sum(n for _, n in found.values()) == 14_859 + 7_293  # each annotation is in one part


@pytest.mark.parametrize(("folder", "seen", "unseen"), [
    ("train50%; test50%/ActivityNet1.3", 100, 100), ("train75%; test25%/ActivityNet1.3", 150, 50),
    ("train50%; test50%/THUMOS14", 10, 10), ("train75%; test25%/THUMOS14", 15, 5)])
def test_the_zero_shot_splits(folder, seen, unseen):
    found = splits.zero_shot(shared(f"annotations/zero_shot_splits/{folder}"))
    assert [(len(a), len(b)) for a, b in found] == [(seen, unseen)] * 10
    mapping = "thumos14/thumos14" if "THUMOS14" in folder else "activitynet/activitynet_v1-3"
    names = sorted(splits.read_classes(shared(MAPPING.format(mapping))))
    assert all(sorted(a + b) == names for a, b in found)
    assert len({tuple(sorted(b)) for _, b in found}) == 10
    if "THUMOS14" in folder:
        assert names == list(thumos.CLASS_IDS)


def test_the_folder_above_is_not_one_datasets():
    with pytest.raises(DataError, match=r"holds no train/split_0\.list; name the folder of one dataset"):
        splits.zero_shot(shared("annotations/zero_shot_splits/train50%; test50%"))


def lists(folder, **parts):
    for name, classes in parts.items():
        part, number = name.split("_")
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"split_{number}.list").write_text("\n".join(classes))
    return folder


def test_small_splits(tmp_path):
    lists(tmp_path, train_0="ab", test_0="c", train_1="ca", test_1="b")
    (tmp_path / "train" / "split_x.list").write_text("not one of them")
    assert splits.zero_shot(tmp_path) == [(["a", "b"], ["c"]), (["c", "a"], ["b"])]


@pytest.mark.parametrize(("parts", "message"), [
    ({"train_0": "ab"}, r"lacks split_0\.list in train or in test"),
    ({"train_0": "ab", "test_0": "c", "test_1": "c"}, r"lacks split_1\.list in train or in test"),
    ({"train_1": "ab", "test_1": "c"}, r"lacks split_0\.list"),
    ({"train_0": "ab", "test_0": "ca"}, r"test/split_0\.list': class 'a' is there and in '.*train/split_0\.list' too"),
    ({"train_0": "aba", "test_0": "c"}, r"train/split_0\.list': class 'a' is there twice"),
    ({"train_0": "", "test_0": "c"}, r"train/split_0\.list': expected a list of class names, got \[\]"),
    ({"train_0": "ab", "test_0": "c", "train_1": "a", "test_1": "bc"}, "1 and 2 classes, and not those of split 0"),
    ({"train_0": "ab", "test_0": "c", "train_1": "ab", "test_1": "d"}, "and not those of split 0"),
])
def test_malformed_splits(tmp_path, parts, message):
    with pytest.raises(DataError, match=message):
        splits.zero_shot(lists(tmp_path, **parts))


@pytest.mark.parametrize(("data", "message"), [
    ([], r"f\.json' is not a few-shot class file; expected an object with the lists base, validation"),
    ({"base": ["a"], "novel": ["b"]}, "is not a few-shot class file"),
    ({"base": ["a"], "validation": ["b"], "novel": ["a"]}, "novel: class 'a' is there and in '.*', base too"),
    ({"base": ["a", "a"], "validation": ["b"], "novel": ["c"]}, "base: class 'a' is there twice"),
    ({"base": [], "validation": ["b"], "novel": ["c"]}, r"base: expected a list of class names, got \[\]"),
    ({"base": [1], "validation": ["b"], "novel": ["c"]}, r"base: expected a list of class names, got \[1\]"),
])
def test_malformed_few_shot_files(tmp_path, data, message):
    (tmp_path / "f.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        splits.few_shot(tmp_path / "f.json")


def test_class_lists(tmp_path):
    (tmp_path / "c.txt").write_text("\ufeffBMX\r\n\r\n Fun sliding down \r\n")
    assert splits.read_classes(tmp_path / "c.txt") == ["BMX", "Fun sliding down"]
    (tmp_path / "c.json").write_text('["b", "a"]')
    assert splits.read_classes(tmp_path / "c.json") == ["b", "a"]
    with pytest.raises(DataError, match=r"class file '.*' does not exist"):
        splits.read_classes(tmp_path / "none.txt")
    (tmp_path / "c.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"expected a list of class names, got {'a': 1}"):
        splits.read_classes(tmp_path / "c.json")


def test_only_annotations_of_these_classes_and_videos_with_one():
    truth = {"v": VideoTruth(9.0, (Segment(0, 1, "a"), Segment(1, 2, "b"), Segment(2, 3)), "testing", 25.0),
             "w": VideoTruth(9.0, (Segment(0, 1, "b"),)), "x": VideoTruth(9.0)}
    assert splits.classes(truth, ["a", "c"]) == {"v": VideoTruth(9.0, (Segment(0, 1, "a"),), "testing", 25.0)}
    assert list(splits.classes(truth, {"b"})) == ["v", "w"]
    assert len(truth["v"].annotations) == 3
    for names in (["c"], []):
        with pytest.raises(DataError, match=f"no annotation of these {len(names)} classes; its labels are a, b"):
            splits.classes(truth, names)
