"""The installed asyncssh is verified by digests of its internals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import asyncssh
import pytest
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHConnection

from sftp_gateway.server.packets import compatibility


@pytest.fixture(autouse=True)
def looked_at_anew() -> Iterator[None]:
    compatibility.unverified.cache_clear()
    yield
    compatibility.unverified.cache_clear()


def test_the_installed_asyncssh_is_verified() -> None:
    """If this fails after an update, review the changes and renew the digests."""
    assert compatibility.unverified() == ()


def test_a_changed_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def _recv_packet(self: SSHConnection) -> bool:
        raise NotImplementedError

    monkeypatch.setattr(SSHConnection, "_recv_packet", _recv_packet)
    assert compatibility.unverified() == ("SSHConnection._recv_packet",)


def test_a_missing_function_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SSHChannel, "_flush_send_buf")
    assert compatibility.unverified() == ("SSHChannel._flush_send_buf",)


def test_the_command_prints_the_digests() -> None:
    done = subprocess.run(
        [sys.executable, "-m", compatibility.__name__], capture_output=True, text=True, check=True
    )
    known = dict(compatibility._VERIFIED)
    assert done.stdout.splitlines() == [f'    "{name}": "{known[name]}",' for name in known]


@pytest.mark.parametrize(
    "owner", compatibility._ASYNCSSH_INTERNALS, ids=lambda owner: owner.__name__
)
def test_the_internals_are_asyncsshs(owner: type) -> None:
    assert owner.__module__.startswith(asyncssh.__name__)
