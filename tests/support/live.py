"""A raw SFTP session over a real SSH channel, which keeps every reply as received."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import count
from typing import Any

import asyncssh

from tests.support.gateway import TIMEOUT, Gateway
from tests.support.sftp_wire import (
    HandleReply,
    Reply,
    Status,
    StatusReply,
    VersionReply,
    decode_reply,
    encode_init,
)


class Live(asyncssh.SSHClientSession[bytes]):
    """One channel. `frames` are all packets received, `replies` those not yet taken."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.replies: list[Reply] = []
        self.exit_status: int | None = None
        self._buffer = b""
        self._ids = count(1)
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self.channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        assert datatype is None, f"bytes on stderr: {data!r}"
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                break
            self.frames.append(self._buffer[4:end])
            self.replies.append(decode_reply(self._buffer[4:end]))
            self._buffer = self._buffer[end:]
        self._arrived.set()

    def exit_status_received(self, status: int) -> None:
        self.exit_status = status

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()
        self._arrived.set()

    def send(self, *packets: bytes) -> None:
        self.channel.write(b"".join(packets))

    async def init(self) -> VersionReply:
        """Send INIT; return the reply."""
        self.send(encode_init())
        [version] = await self.take(1)
        assert isinstance(version, VersionReply)
        return version

    async def take(self, number: int) -> list[Reply]:
        """Wait for `number` more replies, and remove them from `replies`."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.replies) < number:
                assert not self._ended.is_set(), f"the channel ended behind {self.replies}"
                self._arrived.clear()
                await self._arrived.wait()
        taken = self.replies[:number]
        del self.replies[:number]
        return taken

    async def ask(self, encode: Callable[..., bytes], *arguments: Any) -> Reply:
        """Send one request; return its reply."""
        [reply] = await self.ask_all([(encode, *arguments)])
        return reply

    async def ask_all(self, requests: Iterable[tuple[Any, ...]]) -> list[Reply]:
        """Send all requests at once; return their replies in the order of the requests."""
        numbered = {next(self._ids): request for request in requests}
        self.send(*(encode(number, *rest) for number, (encode, *rest) in numbered.items()))
        replies: dict[int, Reply] = {}
        for reply in await self.take(len(numbered)):
            assert not isinstance(reply, VersionReply)
            assert reply.request_id not in replies, "a second reply"
            replies[reply.request_id] = reply
        assert replies.keys() == numbered.keys()
        return [replies[number] for number in numbered]

    async def handle(self, encode: Callable[..., bytes], path: bytes) -> bytes:
        """Open a file or folder; return its handle."""
        reply = await self.ask(encode, path)
        assert isinstance(reply, HandleReply), reply
        return reply.handle

    async def end(self) -> None:
        """Wait for the server to close the channel."""
        async with asyncio.timeout(TIMEOUT):
            await self._ended.wait()


@contextlib.asynccontextmanager
async def connected(
    gateway: Gateway, user: str = "gvpocr"
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An SSH connection with the worker's key."""
    async with asyncssh.connect(
        "127.0.0.1", gateway.port, username=user, client_keys=[str(gateway.key)],
        known_hosts=str(gateway.known_hosts), config=None, agent_path=None,
    ) as connection:  # fmt: skip
        yield connection


async def open_live(connection: asyncssh.SSHClientConnection) -> Live:
    """A channel of the SFTP subsystem, before INIT."""
    _, session = await connection.create_session(Live, subsystem="sftp", encoding=None)
    return session


@contextlib.asynccontextmanager
async def live(gateway: Gateway) -> AsyncIterator[Live]:
    """A session on its own connection, after INIT."""
    async with connected(gateway) as connection:
        session = await open_live(connection)
        await session.init()
        yield session


def status_of(reply: Reply) -> Status:
    """The code of a STATUS."""
    assert isinstance(reply, StatusReply), reply
    return reply.code
