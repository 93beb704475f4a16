"""What holds for every test: what a machine lacks skips a test, and in CI nothing may skip.

A shell without job control starts what runs in the background with SIGINT ignored, and children
inherit that (POSIX, "Signals and Error Handling"). Tests interrupt programs, so it is undone here.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.machine import lacking

#: Set by CI services and by .ci/run.
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")


#: Files that share something costly (a Docker engine, a Debian) run one after another, and first.
_SHARING = {
    "test_container.py": "docker",
    "test_first_week.py": "docker",
    "test_owners.py": "worker",
    "test_worker_fleet.py": "worker",
    "test_worker_kit.py": "worker",
    "test_worker_mount.py": "worker",
}

#: Files whose tests mostly wait: they start early, beside tests that compute.
_WAITING = {"test_benchmark.py", "test_faults.py", "test_shares_away.py", "test_worker_doctor.py"}

#: The order of the other files' folders: what takes longest starts first.
_FOLDERS = ("hostile", "integration", "clients", "conformance", "fuzz", "property", "unit")

#: Seconds after which a test that is over time is interrupted again, if its limit is not shorter.
_AGAIN = 60.0


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_timeout_set_timer() -> Generator[None, object, object]:
    """Interrupt a test over and over: what it leaves may wait too, as `with Popen(...)` does."""
    result = yield
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    if left:
        signal.setitimer(signal.ITIMER_REAL, left, min(left, _AGAIN))
    return result


class _ByFile(LoadScopeScheduling):
    """Gives each file to one process, so that its fixtures are made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return _SHARING.get(Path(file).name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=_order)


def _order(item: pytest.Item) -> tuple[bool, bool, int]:
    """What takes longest comes first, so that no process is left with it at the end."""
    folder = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    name = item.path.name
    return name not in _SHARING, name not in _WAITING, _FOLDERS.index(folder)


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
