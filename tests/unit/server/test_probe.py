"""The health check's handshake: a host key, or the reason why there is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.server.probe import handshake, same_key
from tests.support.gateway import PATIENCE, free_port

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


async def test_a_server_shows_its_host_key(port: int) -> None:
    line = await handshake("127.0.0.1", port, seconds=PATIENCE)
    assert line.split()[:2] == PUBLIC.split()


async def test_where_nothing_listens_there_is_an_error() -> None:
    with pytest.raises(OSError, match=r"Connect call failed|refused"):
        await handshake("127.0.0.1", free_port(), seconds=PATIENCE)


async def test_what_is_no_ssh_server_is_an_error() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000)
        await reader.read(100)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        number = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError):
            await handshake("127.0.0.1", number, seconds=PATIENCE)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        await handshake("127.0.0.1", silent.getsockname()[1], seconds=0.01)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (f"{PUBLIC}\n", True),
        (f"{PUBLIC} another comment\n", True),
        (f"  {PUBLIC}", True),
        (generate_ed25519("other").public_line, False),
        (PUBLIC.split()[0], False),
        ("", False),
    ],
)
def test_keys_are_compared_without_their_comments(tmp_path: Path, text: str, same: bool) -> None:
    (tmp_path / "key.pub").write_text(text)
    assert same_key(f"{PUBLIC} comment", tmp_path / "key.pub") is same


def test_a_comment_may_be_of_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(f"{PUBLIC} Andr".encode() + b"\xe9\n")
    assert same_key(PUBLIC, tmp_path / "key.pub")


def test_a_key_that_cannot_be_read_is_another(tmp_path: Path) -> None:
    assert not same_key(PUBLIC, tmp_path / "missing")
    assert not same_key(PUBLIC, tmp_path)
