"""COIN: steps of videos, and the taxonomy from a workbook."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from hostile import NAMES, broken_json, broken_table, survives, truths
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import coin
from cuemark.datasets.format import Reading
from cuemark.errors import DataError
from cuemark.segments import Segment, VideoTruth

FORMAT = coin.FORMAT
DATA = {"database": {
    "LtRSn-ntcLY": {"duration": 131.03, "class": "ReplaceCDDriveWithSSD", "video_url": "u", "start": 56.6, "end": 85.7,
                    "subset": "training", "recipe_type": 131, "annotation": [
                        {"id": "212", "segment": [60.0, 69.0], "label": "take out the laptop CD drive"},
                        {"id": 216, "segment": [71.0, 182.0], "label": "insert the hard disk tray"}]},
    "b": {"duration": 9, "subset": "validation", "annotation": []}}}
TRUTH = {"LtRSn-ntcLY": VideoTruth(131.03, (Segment(60, 69, "take out the laptop CD drive", id="212"),
                                            Segment(71, 182, "insert the hard disk tray", id="216")), "training"),
         "b": VideoTruth(9.0, (), "validation")}


def saved(path, data=DATA):
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def with_step(step, **fields):
    return {"database": {"v": {"duration": 9, "subset": "testing", "annotation": [step]} | fields}}


def test_a_step_has_its_text_and_its_number(tmp_path):
    reading = Reading()
    assert FORMAT.parse(saved(tmp_path / "COIN.json"), reading) == TRUTH
    assert reading.problems == []


def test_what_is_missing_is_filled_and_what_is_inverted_dropped(tmp_path):
    path = saved(tmp_path / "c.json", {"database": {"v": {"annotation": [
        {"segment": [2, 1], "label": "x"}, {"segment": [1, 2], "label": "x"}]}}})
    reading = Reading(subset="mine")
    assert FORMAT.parse(path, reading) == {"v": VideoTruth(2.0, (Segment(1, 2, "x"),), "mine")}
    assert [(p.where, p.done) for p in reading.problems] == [(f"'{path}', video 'v', annotation 0", "dropped")]


@pytest.mark.parametrize(("data", "message"), [
    ({}, r"c\.json' has no \"database\" object; a COIN file is"),
    ({"database": {"v": {"annotations": []}}}, "video 'v': expected an object with .* a list \"annotation\""),
    (with_step({"segment": [1, 2]}), "video 'v', annotation 0: expected an object with \"segment\""),
    (with_step({"segment": [1], "label": "x"}), "annotation 0: expected an object"),
    (with_step({"segment": [1, "x"], "label": "x"}), "annotation 0: expected a start and an end in seconds"),
    (with_step({"segment": [1, 2], "label": "x", "id": [1]}), "expected a step's number as \"id\", got \\[1\\]"),
    (with_step({"segment": [1, 2], "label": "x"}, duration="x"), 'expected "duration" in seconds, got \'x\''),
    ('{"database": {"v": {}, "v": {}}}', 'has the key "v" twice in one object'),
])
def test_malformed_files(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        FORMAT.parse(saved(tmp_path / "c.json", data), Reading())


def test_broken_files_are_read_or_refused(tmp_path):
    read, refused = survives(tmp_path / "c.json", broken_json(DATA), FORMAT.parse)
    assert read > 50
    assert refused > 50


@settings(max_examples=50, deadline=None)
@given(truth=truths(NAMES, NAMES, ("training", "validation", "other"), id=st.integers(1, 778).map(str)))
def test_what_is_written_is_read(tmp_path_factory, truth):
    path = tmp_path_factory.mktemp("coin") / "c.json"
    FORMAT.write(path, truth)
    assert FORMAT.parse(path, Reading()) == truth


def test_steps_without_a_number_get_new_ones(tmp_path):
    segments = (Segment(0, 1, "b"), Segment(1, 2, "a"), Segment(2, 3, "z", id="7"), Segment(3, 4, "b"))
    FORMAT.write(tmp_path / "c.json", {"v": VideoTruth(9.0, segments)})
    assert [s.id for s in FORMAT.parse(tmp_path / "c.json", Reading())["v"].annotations] == ["9", "8", "7", "9"]
    with pytest.raises(DataError, match="an annotation without a label, which COIN's file cannot hold"):
        FORMAT.write(tmp_path / "d.json", {"v": VideoTruth(9.0, (Segment(0, 1),))})
    assert not (tmp_path / "d.json").exists()


@pytest.mark.parametrize(("head", "kind"), [
    (json.dumps(DATA), "truth"), ('{"database": {"v": {"annotations": []}}}', None), ('{"annotation": []}', None)])
def test_whose_file_it_is(tmp_path, head, kind):
    assert FORMAT.looks(tmp_path / "c.json", head) == kind


# ---------------------------------------------------------------------------------------------- taxonomy

COLUMNS = ["Target Id", "Target Label", "Action Id", "Action Label"]
CSV = ("Target Id,Target Label,Action Id,Action Label\n13,ChangeCarTire,259,unscrew the screw\n"
       "13,ChangeCarTire,260,jack up the car\n131,ReplaceCDDriveWithSSD,212,take out the laptop CD drive\n")
STEPS = [coin.Step(259, "unscrew the screw", 13, "ChangeCarTire"),
         coin.Step(260, "jack up the car", 13, "ChangeCarTire"),
         coin.Step(212, "take out the laptop CD drive", 131, "ReplaceCDDriveWithSSD")]
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def workbook(path: Path, sheets: list[list[list[str]]], before: str = "") -> Path:
    """A workbook as spreadsheet programs write it: texts shared, numbers in place, empty cells left out."""
    texts: list[str] = []

    def cell(place: str, value: str) -> str:
        if value.isdecimal():
            return f'<c r="{place}" s="3"><v>{value}</v></c>'
        texts.append(value)
        return f'<c r="{place}" t="s"><v>{len(texts) - 1}</v></c>'

    with zipfile.ZipFile(path, "w") as book:
        for i, sheet in enumerate(sheets, 1):
            rows = "".join(
                f'<row r="{n}">' + "".join(cell(f"{'ABCDEF'[c]}{n}", v) for c, v in enumerate(row) if v) + "</row>"
                for n, row in enumerate(sheet, 1))
            book.writestr(f"xl/worksheets/sheet{i}.xml",
                          f"{before}<worksheet {MAIN}><sheetData>{rows}</sheetData></worksheet>")
        items = "".join(f"<si><r><t>{t[:2]}</t></r><r><t>{t[2:]}</t></r></si>" for t in texts)
        book.writestr("xl/sharedStrings.xml", f"<sst {MAIN}>{items}</sst>")
    return path


def test_the_taxonomy_from_a_workbook(tmp_path):
    domains = [["Domains", "Targets"], ["Vehicle", "ChangeCarTire"], ["Gadgets", "ReplaceCDDriveWithSSD"]]
    actions = [line.split(",") for line in CSV.splitlines()] + [["", "", "", ""]]
    for sheets in ([domains, actions], [actions, domains]):
        found = coin.taxonomy(workbook(tmp_path / "taxonomy.xlsx", sheets))
        assert [s.domain for s in found] == ["Vehicle", "Vehicle", "Gadgets"]
        assert [coin.Step(s.id, s.label, s.task_id, s.task) for s in found] == STEPS


def test_the_taxonomy_from_text(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    assert coin.taxonomy(tmp_path / "t.csv") == STEPS
    rows = [dict(zip(COLUMNS, line.split(","))) for line in CSV.splitlines()[1:]]
    saved(tmp_path / "t.json", [row | {"Action Id": int(row["Action Id"])} for row in rows])
    assert coin.taxonomy(tmp_path / "t.json") == STEPS


def test_taxonomies_that_cannot_be_read(tmp_path):
    for name in ("none.xlsx", "none.csv", "none.json"):
        with pytest.raises(DataError, match="does not exist"):
            coin.taxonomy(tmp_path / name)
    (tmp_path / "x.xlsx").write_text("no workbook")
    with pytest.raises(DataError, match=r"x\.xlsx' cannot be read as a workbook: File is not a zip file"):
        coin.taxonomy(tmp_path / "x.xlsx")
    with pytest.raises(DataError, match="has no sheet with the columns Target Id, Target Label, Action Id, Action La"):
        coin.taxonomy(workbook(tmp_path / "x.xlsx", [[["a", "b"], ["c", "d"]], []]))
    with pytest.raises(DataError, match="declares a document type"):
        coin.taxonomy(workbook(tmp_path / "x.xlsx", [[COLUMNS]], '<!DOCTYPE x [<!ENTITY a "b">]>'))
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", "<worksheet><c")
    with pytest.raises(DataError, match="cannot be read as a workbook"):
        coin.taxonomy(tmp_path / "x.xlsx")
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", '<worksheet><row r="1"><c r="A1" t="s"><v>9</v></c></row></worksheet>'
                      )
    with pytest.raises(DataError, match="cannot be read as a workbook"):
        coin.taxonomy(tmp_path / "x.xlsx")
    saved(tmp_path / "t.json", {"Target Id": 1})
    with pytest.raises(DataError, match="expected a list of objects with Target Id"):
        coin.taxonomy(tmp_path / "t.json")


@pytest.mark.parametrize(("change", "message"), [
    (("260", "259"), r"t\.csv', line 3: step 259 has no label or no task, or is there twice"),
    (("jack up the car", ""), "line 3: step 260 has no label or no task"),
    (("260", "x"), "line 3: expected an Action Id, got 'x'"), (("\n131", "\n1.5"), "line 4: expected a Target Id"),
])
def test_malformed_taxonomies(tmp_path, change, message):
    (tmp_path / "t.csv").write_text(CSV.replace(*change))
    with pytest.raises(DataError, match=message):
        coin.taxonomy(tmp_path / "t.csv")


def test_broken_taxonomies_are_read_or_refused(tmp_path):
    read, refused = survives(tmp_path / "t.csv", broken_table(CSV), lambda path, _: coin.taxonomy(path))
    assert read > 10
    assert refused > 50
    rows = [dict(zip(COLUMNS, line.split(","))) for line in CSV.splitlines()[1:]]
    read, refused = survives(tmp_path / "t.json", broken_json(rows), lambda path, _: coin.taxonomy(path))
    assert read > 10
    assert refused > 50
