"""Settings: every fault of a recipe, a header or a command line is named by its path; nothing is bent to fit."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from cuemark.errors import CallError, CuemarkError, DataError
from cuemark.settings import build, override


@dataclass(frozen=True)
class Engine:
    power: int = 90
    """kW"""
    fuel: Literal["petrol", "diesel"] = "petrol"
    gears: tuple[float, ...] = (3.5, 2.0)
    bore: tuple[int, int] | None = None


@dataclass(frozen=True)
class Car:
    name: str
    engine: Engine = field(default_factory=Engine)
    spare: Engine | None = None
    doors: int | None = None
    load: float = 1.0
    electric: bool = False
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.load < 0:
            raise CallError(f"a car cannot carry {self.load} t.")


@dataclass
class Fleet:
    first: Car
    limit: float | None = None


WHERE = "recipe 'fleet.toml'"


def car(**changes: Any) -> dict[str, Any]:
    return {"name": "a", **changes}


# ------------------------------------------------------------------------------------- what is accepted


def test_defaults_fill_what_is_not_given():
    assert build(Car, {"name": "a"}, WHERE) == Car("a")
    assert build(Engine, {}, WHERE) == Engine()


def test_nested_dictionaries_become_dataclasses():
    built = build(Fleet, {"first": car(engine={"power": 50, "fuel": "diesel"}, spare={}, doors=3)}, WHERE)
    assert built == Fleet(Car("a", Engine(50, "diesel"), Engine(), 3))
    assert isinstance(built.first.engine, Engine)
    assert type(built) is Fleet


def test_lists_become_tuples():
    built = build(Engine, {"gears": [4, 3.5], "bore": [80, 90]}, WHERE)
    assert (built.gears, built.bore) == ((4.0, 3.5), (80, 90))
    assert all(type(g) is float for g in built.gears)
    assert build(Engine, {"gears": []}, WHERE).gears == ()
    hash(built)


def test_nothing_is_a_value_where_it_may_be():
    built = build(Car, car(spare=None, doors=None, engine={"bore": None}), WHERE)
    assert (built.spare, built.doors, built.engine.bore) == (None, None, None)


def test_whole_numbers_are_numbers():
    built = build(Car, car(load=2), WHERE)
    assert built.load == 2.0
    assert type(built.load) is float


def test_free_dictionaries_are_kept():
    assert build(Car, car(extras={"a": {"b": [1, "x", 1.5]}}), WHERE).extras == {"a": {"b": [1, "x", 1.5]}}


def test_what_is_written_is_read_again():
    """A checkpoint's header: through JSON and back."""
    whole = Fleet(Car("a", Engine(50, "diesel", (1.0,), (3, 4)), None, 5, 0.1, True, {"x": [1]}), 1e-300)
    assert build(Fleet, json.loads(json.dumps(asdict(whole))), WHERE) == whole


def test_the_data_given_is_left_alone():
    data = car(engine={"gears": [1, 2]}, extras={"a": 1})
    build(Car, data, WHERE)
    assert data == car(engine={"gears": [1, 2]}, extras={"a": 1})


# ------------------------------------------------------------------------------------- unknown names


@pytest.mark.parametrize(("data", "path", "near", "known"), [
    ({"frist": {}}, "frist", "first", "first, limit"),
    ({"first": car(nam="b")}, "first.nam", "first.name", "first.doors, first.electric, first.engine"),
    ({"first": car(engine={"powr": 3})}, "first.engine.powr", "first.engine.power",
     "first.engine.bore, first.engine.fuel, first.engine.gears, first.engine.power"),
    ({"first": car(spare={"fule": "x"})}, "first.spare.fule", "first.spare.fuel", "first.spare.bore"),
])
def test_an_unknown_name_is_answered_with_the_known_ones(data: dict, path: str, near: str, known: str):
    with pytest.raises(CallError) as error:
        build(Fleet, data, WHERE)
    assert str(error.value).startswith(f"{WHERE}: unknown setting '{path}'; did you mean '{near}'? Known: ")
    assert known in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_like_no_other():
    with pytest.raises(CallError, match=r"unknown setting 'engine\.xyz'; .*nown: engine\.bore, engine\.fuel, "):
        build(Car, car(engine={"xyz": 1}), WHERE)


def test_unknown_names_inside_free_dictionaries_are_nobodys_business():
    build(Car, car(extras={"powr": 1, "engine": {"powr": 1}}), WHERE)


def test_the_path_of_a_section():
    with pytest.raises(CallError, match=r"'options\.engine\.powr'; did you mean 'options\.engine\.power'"):
        build(Car, car(engine={"powr": 1}), WHERE, "options")
    with pytest.raises(DataError, match=r": options\.engine\.power 'x' is wrong"):
        build(Car, car(engine={"power": "x"}), WHERE, "options")
    with pytest.raises(DataError, match=r": 'options\.name' is missing"):
        build(Car, {}, WHERE, "options")


def test_fields_that_are_computed_cannot_be_given():
    @dataclass
    class Square:
        side: float
        area: float = field(init=False, default=0.0)

    globals()["Square"] = Square
    with pytest.raises(CallError, match="unknown setting 'area'; known: side"):
        build(Square, {"side": 2.0, "area": 4.0}, WHERE)


# ------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(("data", "path", "shown"), [
    (car(name=3), "name", "3"),
    (car(name=None), "name", "None"),
    (car(name=["a"]), "name", r"\['a'\]"),
    (car(doors=1.5), "doors", "1.5"),
    (car(doors="many"), "doors", "'many'"),
    (car(doors=[3]), "doors", r"\[3\]"),
    (car(load="heavy"), "load", "'heavy'"),
    (car(load=None), "load", "None"),
    (car(electric="perhaps"), "electric", "'perhaps'"),
    (car(electric=2), "electric", "2"),
    (car(engine=3), "engine", "3"),
    (car(engine=None), "engine", "None"),
    (car(engine=[1]), "engine", r"\[1\]"),
    (car(spare="big"), "spare", "'big'"),
    (car(extras=3), "extras", "3"),
    (car(engine={"power": 1.5}), r"engine\.power", "1.5"),
    (car(engine={"power": math.nan}), r"engine\.power", "nan"),
    (car(engine={"power": math.inf}), r"engine\.power", "inf"),
    (car(engine={"power": {"kW": 3}}), r"engine\.power", ""),
    (car(engine={"fuel": "water"}), r"engine\.fuel", "'water'"),
    (car(engine={"fuel": 3}), r"engine\.fuel", "3"),
    (car(engine={"gears": 3}), r"engine\.gears", "3"),
    (car(engine={"gears": "34"}), r"engine\.gears", "'34'"),
    (car(engine={"gears": [1, "two"]}), r"engine\.gears\.1", "'two'"),
    (car(engine={"bore": [1, 2, 3]}), r"engine\.bore", ""),
    (car(engine={"bore": [1.5, 2]}), r"engine\.bore\.0", "1.5"),
])
def test_a_wrong_value_is_named_by_its_path(data: dict, path: str, shown: str):
    with pytest.raises(DataError, match=rf"^recipe 'fleet\.toml': {path} ?{shown}.* is wrong: ") as error:
        build(Car, data, WHERE)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert "pydantic" not in str(error.value)


def test_a_choice_is_answered_with_the_choices():
    with pytest.raises(DataError, match=r"engine\.fuel 'water' is wrong: .*'petrol' or 'diesel'"):
        build(Car, car(engine={"fuel": "water"}), WHERE)


def test_a_missing_value_is_named():
    with pytest.raises(DataError, match=rf"^{WHERE}: 'name' is missing; add it\.$"):
        build(Car, {}, WHERE)
    with pytest.raises(DataError, match=r"'first\.name' is missing"):
        build(Fleet, {"first": {"doors": 3}}, WHERE)
    with pytest.raises(DataError, match=r"'engine\.bore\.1' is missing"):
        build(Car, car(engine={"bore": [1]}), WHERE)


@pytest.mark.parametrize(("data", "shown"), [
    (car(doors="12"), "doors '12'"), (car(load="1.5"), r"load '1\.5'"), (car(doors=3.0), r"doors 3\.0"),
    (car(engine={"power": 50.0}), r"engine\.power 50\.0"), (car(engine={"gears": [1, "2"]}), r"engine\.gears\.1 '2'"),
    (car(electric=1), "electric 1"), (car(electric="true"), "electric 'true'"), (car(name=True), "name True")])
def test_nothing_is_bent_to_fit(data: dict, shown: str):
    with pytest.raises(DataError, match=rf"^recipe 'fleet\.toml': {shown} is wrong: "):
        build(Car, data, WHERE)


def test_what_toml_has_and_json_has_not_is_refused_too():
    data = car()
    override(data, "doors=2020-01-02")
    with pytest.raises(DataError, match="doors '2020-01-02' is wrong"):
        build(Car, data, WHERE)


@pytest.mark.parametrize("data", [car(doors=True), car(load=True), car(engine={"power": False})])
def test_truth_is_no_number(data: dict):
    with pytest.raises(DataError, match=r"(doors|load|power) (True|False) is wrong"):
        build(Car, data, WHERE)


def test_what_a_dataclass_itself_refuses_is_said_in_its_words():
    with pytest.raises(CallError, match=r"a car cannot carry -1\.0 t\."):
        build(Fleet, {"first": car(load=-1)}, WHERE)


def test_a_refusal_in_passing_is_a_cuemark_error():
    @dataclass
    class Even:
        number: int

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("odd")

    globals()["Even"] = Even
    with pytest.raises(CuemarkError, match="odd"):
        build(Even, {"number": 3}, WHERE)


# ------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(("text", "value"), [
    ("200", 200), ("-3", -3), ("1_000", 1000), ("1e-4", 1e-4), ("0.5", 0.5), ("true", True), ("false", False),
    ("[0.5, 0.75]", [0.5, 0.75]), ("[]", []), ('["a", "b"]', ["a", "b"]), ('"200"', "200"), ("'x y'", "x y"),
    ("{power = 3}", {"power": 3}),
    ("adam", "adam"), ("runs/clap/encoder.safetensors", "runs/clap/encoder.safetensors"), ("a=b", "a=b"),
    ("C:\\videos", "C:\\videos"), ("none", "none"), ("True", "True"), ("[0.5", "[0.5"), ("läuft", "läuft"),
])
def test_values_are_toml_or_text(text: str, value: Any):
    data: dict[str, Any] = {}
    override(data, f"field={text}")
    assert data == {"field": value}
    assert type(data["field"]) is type(value)


def test_overrides_reach_any_depth_and_leave_the_rest():
    data: dict[str, Any] = {"a": {"b": {"c": 1, "d": 2}, "e": 3}}
    override(data, "a.b.c=7")
    override(data, "a.new.deep=8")
    override(data, "top=9")
    override(data, "a.b.c=10")
    assert data == {"a": {"b": {"c": 10, "d": 2}, "e": 3, "new": {"deep": 8}}, "top": 9}
    override(data, "a.b=")
    override(data, "a.none= ")
    assert data == {"a": {"e": 3, "new": {"deep": 8}}, "top": 9}


@pytest.mark.parametrize("assignment", ["optim.steps", "", "=3", " =3", ".=3", "a. =3", "a.=3", ".a=3", "a..b=3"])
def test_what_is_no_assignment_is_refused(assignment: str):
    data: dict[str, Any] = {"a": 1}
    with pytest.raises(CallError, match=r"is not a setting; write section\.field=value, such as optim\.steps") as e:
        override(data, assignment)
    assert str(e.value).startswith(f"'{assignment}'")
    assert data == {"a": 1}


def test_a_value_is_no_section():
    data: dict[str, Any] = {"a": {"b": 1}}
    with pytest.raises(CallError, match=r"'b' in 'a\.b\.c=3' is a value, not a section"):
        override(data, "a.b.c=3")
    assert data == {"a": {"b": 1}}


@pytest.mark.parametrize(("assignment", "expected"), [
    ("optim.steps = 3", {"optim": {"steps": 3}}), (" optim . steps=3 ", {"optim": {"steps": 3}}),
    ("optim.name = adam ", {"optim": {"name": "adam"}}), ("a = x y", {"a": "x y"}), ("a = ' x '", {"a": " x "})])
def test_blanks_around_names_and_values_mean_nothing(assignment: str, expected: dict):
    data: dict[str, Any] = {}
    override(data, assignment)
    assert data == expected


def test_an_override_is_checked_like_a_file():
    data = car()
    override(data, "engine.powr=3")
    with pytest.raises(CallError, match=r"'engine\.powr'; did you mean 'engine\.power'"):
        build(Car, data, WHERE)
    data = car()
    override(data, "engine=3")
    with pytest.raises(DataError, match="engine 3 is wrong"):
        build(Car, data, WHERE)
    data = car()
    override(data, "engine.power=1.5")
    with pytest.raises(DataError, match=r"engine\.power 1\.5 is wrong"):
        build(Car, data, WHERE)
