"""The configuration is read in a child process, and every outcome is a result."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor import config_probe
from sftp_gateway.process.supervisor.config_probe import ConfigProbe


def probed(load: Callable[[], Any]) -> object:
    """The result of a probe that calls `load`."""
    loop = Loop()
    found: list[object] = []

    def done(result: object) -> None:
        found.append(result)
        loop.stop()

    ConfigProbe(loop=loop, load=load, done=done)
    loop.run()
    loop.close()
    os.wait()
    (result,) = found
    return result


def test_a_valid_configuration_is_the_result() -> None:
    assert probed(lambda: {"shares": "x" * 1_000_000}) == {"shares": "x" * 1_000_000}


def test_errors_are_the_result() -> None:
    def load() -> object:
        raise ConfigurationError(["one", "two"])

    assert probed(load) == ["one", "two"]


@pytest.mark.parametrize("load", [lambda: 1 / 0, lambda: os._exit(0)], ids=["error", "end"])
def test_a_child_without_a_result_is_an_error(load: Callable[[], object]) -> None:
    found = probed(load)
    assert isinstance(found, list)
    assert "could not be read" in found[0]


def test_a_hanging_child_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_probe, "TIMEOUT", 0.05)
    found = probed(lambda: threading.Event().wait())
    assert isinstance(found, list)
    assert "within" in found[0]
