"""A configuration is read in a child, and whatever happens there is an answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor import config_probe as trial
from sftp_gateway.process.supervisor.config_probe import ConfigProbe
from sftp_gateway.system.children import fork
from tests.support.gateway import wait_for


def tried(load: Callable[[], object]) -> object:
    """What the trial of `load` comes to; its child has ended."""
    loop = Loop()
    pids: list[int] = []
    found: list[object] = []

    def forked(work: Callable[[], None]) -> int:
        pids.append(fork(work))
        return pids[0]

    def done(result: object) -> None:
        found.append(result)
        loop.stop()

    ConfigProbe(loop=loop, fork=forked, load=load, done=done)
    loop.run()
    loop.abandon()
    wait_for(lambda: os.waitpid(pids[0], os.WNOHANG)[0], "the child to end")
    (result,) = found
    return result


def test_a_good_configuration_is_handed_over() -> None:
    assert tried(lambda: {"shares": "x" * 1_000_000}) == {"shares": "x" * 1_000_000}


def test_mistakes_are_handed_over() -> None:
    def load() -> object:
        raise ConfigurationError(["one", "two"])

    assert tried(load) == ["one", "two"]


@pytest.mark.parametrize("load", [lambda: 1 / 0, lambda: os._exit(0)], ids=["error", "end"])
def test_a_child_that_comes_to_nothing_is_a_mistake(load: Callable[[], object]) -> None:
    found = tried(load)
    assert isinstance(found, list)
    assert "could not be read" in found[0]


def test_a_child_that_hangs_is_a_mistake_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "PATIENCE", 0.05)
    found = tried(lambda: threading.Event().wait())
    assert isinstance(found, list)
    assert "within" in found[0]
