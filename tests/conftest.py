"""What all tests share: the real data beside the checkout, when it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REQUIRED = bool(os.environ.get("CUEMARK_REQUIRE_DATA"))
"""Set by CI where the data is beside the checkout: nothing that needs it may then be skipped unnoticed."""


def shared(path: str) -> Path:
    """A file or folder of the real data that is never shipped; skips the test where it is absent."""
    found = SHARED / path
    if not found.exists():
        absent = f"real data not here: ../shared/data/{path}"
        pytest.fail(f"{absent}, and CUEMARK_REQUIRE_DATA is set") if REQUIRED else pytest.skip(absent)
    return found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Under CUEMARK_REQUIRE_DATA, a golden test (scores of the official evaluators) that skips has failed."""
    report = yield
    if REQUIRED and report.skipped and "golden" in item.nodeid:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CUEMARK_REQUIRE_DATA is set"
    return report
