"""Notifications to systemd through NOTIFY_SOCKET."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sftp_gateway.system import systemd
from tests.support.gateway import TIMEOUT


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_the_state_is_sent_to_notify_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{path}" if abstract else path)
        receiver.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
        systemd.notify(systemd.READY)
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all"])
def test_without_notify_socket_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd.notify(systemd.STOPPING)
