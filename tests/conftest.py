"""What holds for every test: what a machine lacks skips a test, and in CI nothing may skip."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.support.machine import lacking

#: Set by CI services and by .ci/run.
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


def pytest_runtest_setup(item: pytest.Item) -> None:
    real = [mark for mark in ("integration", "container") if item.get_closest_marker(mark)]
    if real and (missing := lacking()):
        pytest.skip(f"{real[0]} tests need {missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI and report.skipped:
        _fail(report)
    return report


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that gives the skip's reason."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{reason}: in CI, where nothing may skip"
