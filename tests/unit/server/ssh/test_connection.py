"""Global requests that a connection answers itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from asyncssh.packet import SSHPacket, String

from sftp_gateway.server.ssh.connection import Connection


class Counted(SSHPacket):
    """Counts the strings that are read of it."""

    strings = 0

    def get_string(self) -> bytes:
        self.strings += 1
        return super().get_string()


@pytest.mark.parametrize(
    ("keys", "read"),
    [
        ([b"own"] * 600, 2),
        ([b"own", b"other"] * 300, 3),
        ([b"unknown"] * 600, 1),
        ([b"own", b"unknown"] * 300, 2),
    ],
)
def test_no_more_host_keys_are_read_than_the_server_has(keys: list[bytes], read: int) -> None:
    answers: list[bool] = []
    connection: Any = SimpleNamespace(
        _all_server_host_keys={b"own": None, b"other": None}, _report_global_response=answers.append
    )
    packet = Counted(b"".join(map(String, keys)))
    Connection._process_hostkeys_prove_00_at_openssh_dot_com_global_request(connection, packet)
    assert answers == [False]
    assert packet.strings == read
