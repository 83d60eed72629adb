"""Text files and tables: places, encodings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cuemark.datasets import rows
from cuemark.errors import DataError


def saved(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_is_read_by_its_names_with_places(tmp_path):
    path = saved(tmp_path / "t.csv", b'\xef\xbb\xbfb, a ,c\r\n1,"2\n3",\r\n\r\n ,,\r\n4,5,6\r\n\r\n')
    assert list(rows.table(path, "x", ["a", "b"])) == [
        (f"'{path}', line 3", {"b": "1", "a": "2\n3", "c": ""}), (f"'{path}', line 6", {"b": "4", "a": "5", "c": "6"})]


@pytest.mark.parametrize(("content", "message"), [
    pytest.param("", r"t\.csv' is empty; a toy file begins with the line a,b", id="empty"),
    pytest.param("\n\n", "is empty", id="blank"),
    pytest.param("a,c\n1,2\n", "has no column 'b' in its first line; a toy file has a,b", id="column"),
    pytest.param("a,b\n1,2\n3\n", r"t\.csv', line 3: expected 2 cells, as the first line has, got 1", id="few"),
    pytest.param("a,b\n1,2,3\n", "line 2: expected 2 cells, as the first line has, got 3", id="many"),
    pytest.param('a,b\n1,"2', "line 2: not a CSV row", id="quote"),
    pytest.param(b"a,b\n\xff,2\n", "cannot be read as a toy file: 'utf-8' codec", id="latin"),
    pytest.param(b"a,b\n\0,2\n", "cannot be read as a toy file: it is not text", id="binary"),
    pytest.param("a,b\n" + "9" * 200_000 + ",2\n", "line 2: not a CSV row", id="huge cell"),
])
def test_a_bad_table_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        list(rows.table(saved(tmp_path / "t.csv", content), "toy", ["a", "b"]))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"toy file '.*none' does not exist"):
        rows.read_text(tmp_path / "none", "toy")
    with pytest.raises(DataError, match="is a folder, not a toy file"):
        rows.read_text(tmp_path, "toy")
    with pytest.raises(DataError, match="cannot be read as a toy file"):
        rows.read_text(saved(tmp_path / "f", "") / "below", "toy")


def test_lines_have_places_and_no_blanks(tmp_path):
    path = saved(tmp_path / "t.txt", b"\xef\xbb\xbf a b \r\n\r\n\tc\r\n")
    assert list(rows.lines(path, "toy")) == [(f"'{path}', line 1", "a b"), (f"'{path}', line 3", "c")]


CELLS = st.one_of(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(str.strip),
                  st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=50, deadline=None)
@given(content=st.lists(st.tuples(CELLS, CELLS), max_size=4))
def test_what_is_written_is_read(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    rows.write_table(path, ("a", "b"), content)
    found = [(row["a"], row["b"]) for _, row in rows.table(path, "toy", ("a", "b"))]
    assert [tuple(map(str, row)) for row in content] == found


@pytest.mark.parametrize("cell", ["a\rb", "\0", "\ud800"])
def test_what_no_table_can_hold_leaves_no_file(tmp_path, cell):
    with pytest.raises(DataError, match="rename it"):
        rows.write_table(tmp_path / "t.csv", ("a",), [("x",), (cell,)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["x", "", None, True, "nan", "inf", 10**400, [1]])
def test_no_number_is_said_with_what_it_should_be(value):
    with pytest.raises(DataError, match="here: expected seconds, got "):
        rows.number(value, "here", "seconds")


def test_numbers():
    assert rows.number(" 1.5", "", "") == 1.5
    assert rows.whole("7.0", "", "") == 7
    assert rows.seconds(0, "", "") == 0.0
    with pytest.raises(DataError, match=r"here: expected a class, got '1\.5'"):
        rows.whole(1.5, "here", "a class")
    with pytest.raises(DataError, match=r"here: expected the video's seconds, got '-1'"):
        rows.seconds(-1, "here")


@pytest.mark.parametrize(("head", "names"), [
    ("\ufeffa, b\r\n1,2", ["a", "b"]), ("\n\na\n", ["a"]), ("", []), ('{"a": 1,\n', ['{"a": 1', ""]), ('"', [""])])
def test_the_header_of_a_beginning(head, names):
    assert rows.header(head) == names


@pytest.mark.parametrize(("name", "subset"), [
    ("activitynet_v1-3_train_tsp_groundtruth.csv", "training"), ("thumos14_valid_metadata.csv", "validation"),
    ("EPIC_100_test_timestamps.csv", "testing"), ("latest.csv", "else"), ("val_of_train.csv", "training")])
def test_the_split_in_a_name(name, subset):
    assert rows.split_of(Path(name), "else") == subset


def test_splits_have_one_name():
    assert [rows.split(s) for s in ("Train", "val", "validate", "valid", "TEST", "testing", "Novel")] == [
        "training", "validation", "validation", "validation", "testing", "testing", "Novel"]


@pytest.mark.parametrize(("text", "seconds"), [
    ("12", 12), ("12.5", 12.5), (" .5 ", 0.5), ("1e2", 100), ("-3", -3), ("1:02", 62), ("90:00", 5400),
    ("00:00:01.250", 1.25), ("10:00:00", 36000), ("0:01,5", 1.5)])
def test_clock_times(text, seconds):
    assert rows.clock(text) == seconds


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "1,5", "1:60", "1:61:00", "1:2:3:4", "12 s", "-1:00", "٣",
                                  "1:", ":1", "0x1", "00:00:01:12"])
def test_no_clock_times(text):
    with pytest.raises(ValueError, match="is no time"):
        rows.clock(text)


@pytest.mark.parametrize("value", [0, "0.0", -25, "x"])
def test_a_rate_is_above_0(value):
    assert rows.above_0("29.97", "here", "fps") == 29.97
    with pytest.raises(DataError, match="here: expected fps"):
        rows.above_0(value, "here", "fps")


def test_a_text_is_written_whole_or_not_at_all(tmp_path):
    rows.write_text(tmp_path / "t.txt", "a\n日本\n")
    assert (tmp_path / "t.txt").read_bytes() == "a\n日本\n".encode()
    for bad in ("\ud800", "\r", "\0"):
        with pytest.raises(DataError, match="bad is here"):
            rows.write_text(tmp_path / "u.txt", f"good\nbad is here {bad}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def test_lines_end_as_on_any_system():
    assert rows.split_lines("a\r\nb\rc\n\u2028d\x0be") == ["a", "b", "c", "\u2028d\x0be"]


@pytest.mark.parametrize("value", [{}, [1], "x", [[]], 0])
def test_objects_are_a_list_of_objects(value):
    assert rows.objects(None, "here") == []
    assert rows.objects([{"a": 1}], "here") == [{"a": 1}]
    with pytest.raises(DataError, match="here: expected a list of objects"):
        rows.objects(value, "here")


@pytest.mark.parametrize("item", [None, [], {"segment": [1, 2]}, {"segment": [1], "label": "a"},
                                  {"segment": "12", "label": "a"}, {"segment": [1, 2], "label": 3}])
def test_a_labelled_item_has_both(item):
    assert rows.labelled({"segment": [1, "2"], "label": "a"}, "here") == (1, "2", "a")
    with pytest.raises(DataError, match='here: expected an object with "segment"'):
        rows.labelled(item, "here")
