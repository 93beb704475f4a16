"""The health check's handshake returns a host key or an error."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import asyncssh
import pytest

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.server.ssh.probe import handshake
from tests.support.gateway import TIMEOUT, free_port

PAIR = generate_ed25519("host")
PUBLIC = " ".join(PAIR.public_line.split()[:2])


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of an SSH server with the host key PAIR."""
    key = asyncssh.import_private_key(PAIR.private_pem)
    async with asyncssh.listen(
        "127.0.0.1", 0, server_factory=asyncssh.SSHServer, server_host_keys=[key], config=None
    ) as server:
        yield server.get_port()


async def test_the_handshake_returns_the_host_key(port: int) -> None:
    line = await handshake("127.0.0.1", port, seconds=TIMEOUT)
    assert line.split()[:2] == PUBLIC.split()


async def test_a_closed_port_is_an_error() -> None:
    with pytest.raises(OSError, match=r"Connect call failed|refused"):
        await handshake("127.0.0.1", free_port(), seconds=TIMEOUT)


async def test_another_protocol_is_an_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000)
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        number = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError):
            await handshake("127.0.0.1", number, seconds=TIMEOUT)


async def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        await handshake("127.0.0.1", silent.getsockname()[1], seconds=0.01)
