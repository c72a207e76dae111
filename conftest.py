"""The rule of tests on real data: skipped when there is none, and never skipped when there is."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

DATA = "TWOTOWER_DATA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(DATA):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=f"{DATA} is not set"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get(DATA) and item.get_closest_marker("data"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped although {DATA} is set: {report.longrepr}"
    return report
