"""Errors: one family, one sentence, and a name that is unknown answers with the known ones."""

from __future__ import annotations

import doctest

import pytest

from cuemark import errors
from cuemark.errors import CallError, CuemarkError, DataError, ModelError, VideoError, unknown


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


def test_the_docstrings_examples_are_true():
    result = doctest.testmod(errors)
    assert result.attempted > 0
    assert result.failed == 0
