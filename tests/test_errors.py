"""Errors: one family, one sentence, and a name that is unknown answers with the known ones."""

from __future__ import annotations

import doctest
import math

import pytest

from cuemark import errors
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError, unknown, within


@pytest.mark.parametrize("kind", [VideoError, DataError, ModelError, CallError])
def test_one_family(kind: type[CuemarkError]):
    assert issubclass(kind, CuemarkError)
    assert str(kind("what, where, what to do.")) == "what, where, what to do."


def test_the_family_is_not_caught_by_accident():
    """``except ValueError`` and ``except OSError`` around a library call must not swallow what the user should read."""
    for kind in (CuemarkError, VideoError, DataError, ModelError, CallError):
        assert not issubclass(kind, (ValueError, OSError, KeyError, RuntimeError))


def test_unknown_with_a_near_name():
    error = unknown("localizer", "gtda", ["gtad", "bmn"])
    assert isinstance(error, CallError)
    assert str(error) == "unknown localizer 'gtda'; did you mean 'gtad'? Known: bmn, gtad."


def test_unknown_with_nothing_near():
    assert str(unknown("encoder", "zzz", {"tac": 1, "clip": 2})) == "unknown encoder 'zzz'; known: clip, tac."


def test_unknown_in_an_empty_table():
    assert str(unknown("format", "x", [])) == "unknown format 'x'; known: none."


@pytest.mark.parametrize(("value", "low", "high"), [
    (0, 0, None), (1, 1, None), (1e300, 0, None), (0.0, 0, 1), (1.0, 0, 1), (0.5, 0, 1), (3, 3, 3), (-2, -3, -1)])
def test_within_its_bounds_a_value_passes(value: float, low: float, high: float | None):
    within("optim.lr", value, low, high)


@pytest.mark.parametrize(("value", "low", "high", "bounds"), [
    (-1e-9, 0, None, "at least 0"), (math.nan, 0, None, "at least 0"), (math.inf, 0, None, "at least 0"),
    (-math.inf, 0, None, "at least 0"), (0, 1, None, "at least 1"), (1.5, 0, 1, "from 0 to 1"),
    (-0.5, 0, 1, "from 0 to 1"), (math.nan, 0, 1, "from 0 to 1"), (math.inf, 0, 1, "from 0 to 1")])
def test_outside_its_bounds_a_value_is_refused(value: float, low: float, high: float | None, bounds: str):
    with pytest.raises(CallError) as error:
        within("optim.lr", value, low, high)
    assert str(error.value) == f"optim.lr must be a number {bounds}, got {value}."


def test_the_docstrings_examples_are_true():
    result = doctest.testmod(errors)
    assert result.attempted > 0
    assert result.failed == 0
