"""A client for the SSH packet layer: sends READs on given terms, records the channel's bytes.

What is on the wire differs from run to run, and how it is cut into packets is the server's
choice; the bytes of the channel are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import asyncssh

from tests.support.gateway import TIMEOUT, Gateway
from tests.support.live import Live
from tests.support.sftp_wire import DataReply, encode_open, encode_read

Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the client offers. `window` and `packet` in bytes, as in RFC 4254 §5.1.

    It asks for new keys after sending `rekey_bytes`; with `apart`, each READ is an SSH packet of
    its own, so that those come between READs.
    """

    cipher: str = "aes128-gcm@openssh.com"
    mac: str | None = None
    compression: str = "none"
    window: int = 2 * 1024 * 1024
    packet: int = 32 * 1024
    rekey_bytes: int = 1024**3
    apart: bool = False

    def __str__(self) -> str:
        """The terms, for a test's id."""
        words = [self.cipher, self.mac, None if self.compression == "none" else "zlib"]
        return "-".join(word.partition("@")[0] for word in words if word)


class Transcript(Live):
    """A channel; `received` is all data received on it."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self.received += data
        super().data_received(data, datatype)

    async def data_of(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """Wait for as many replies, which are DATA with these request ids, each once."""
        found = {}
        for reply in await self.take(len(numbers)):
            assert isinstance(reply, DataReply), reply
            assert reply.request_id not in found
            found[reply.request_id] = reply.data
        assert sorted(found) == sorted(numbers)
        return found


@contextlib.asynccontextmanager
async def channel(
    gateway: Gateway, terms: Terms, *, port: int | None = None
) -> AsyncIterator[Transcript]:
    """A session after INIT, on a connection of its own; `port` is that of a proxy."""
    async with asyncssh.connect(
        "127.0.0.1", port or gateway.port, username="gvpocr", client_keys=[str(gateway.key)],
        known_hosts=None, config=None, agent_path=None, rekey_bytes=terms.rekey_bytes,
        encryption_algs=[terms.cipher], mac_algs=[terms.mac] if terms.mac else (),
        compression_algs=[terms.compression],
    ) as connection:  # fmt: skip
        _, session = await connection.create_session(
            Transcript,
            subsystem="sftp",
            encoding=None,
            window=terms.window,
            max_pktsize=terms.packet,
        )
        assert isinstance(session, Transcript)
        await session.init()
        yield session


async def read_all(
    gateway: Gateway, terms: Terms, path: bytes, places: Sequence[Place]
) -> tuple[list[bytes], bytes]:
    """The replies to pipelined READs, and the channel's bytes after VERSION."""
    async with channel(gateway, terms) as session:
        handle = await session.handle(encode_open, path)
        begin = len(session.received)
        numbers = [1000 + number for number in range(len(places))]
        requests = [
            encode_read(number, handle, *place)
            for number, place in zip(numbers, places, strict=True)
        ]
        for request in requests if terms.apart else [b"".join(requests)]:
            session.send(request)
        answers = await session.data_of(numbers)
        return [answers[number] for number in numbers], bytes(session.received[begin:])


class Proxy:
    """Forwards a connection; either direction can be held back."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._connections: list[asyncio.Task[None]] = []
        self.up, self.down = _Direction(), _Direction()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """The port to connect to."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.up.release()
            self.down.release()
            await asyncio.gather(*self._connections)

    def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._connections.append(asyncio.create_task(self._carry(client, to_client)))

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(
                self.up.carry(client, to_server), self.down.carry(server, to_client)
            )


class _Direction:
    """One direction; `carried` bytes have gone through."""

    def __init__(self) -> None:
        self.carried = 0
        self._open = asyncio.Event()
        self._open.set()
        self._moved = asyncio.Condition()

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def reaches(self, carried: int) -> None:
        """Wait until this many bytes have been forwarded."""
        async with asyncio.timeout(TIMEOUT), self._moved:
            await self._moved.wait_for(lambda: self.carried >= carried)

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.closing(target):
            while data := await source.read(64 * 1024):
                await self._open.wait()
                target.write(data)
                await target.drain()
                async with self._moved:
                    self.carried += len(data)
                    self._moved.notify_all()


class KeyExchanges(logging.Handler):
    """Counts key exchanges logged by asyncssh's client, including the first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.was_asked = self.completed = 0
        self._changed = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.asked += "Requesting key exchange" in text
        self.was_asked += "Received key exchange request" in text
        self.completed += "Completed key exchange" in text
        self._changed.set()

    async def is_asked(self, times: int) -> None:
        """Wait until the server has sent this many KEXINITs."""
        async with asyncio.timeout(TIMEOUT):
            while self.was_asked < times:
                self._changed.clear()
                await self._changed.wait()

    @contextlib.contextmanager
    def counting(self) -> Iterator[KeyExchanges]:
        """Count from here on."""
        logger = logging.getLogger("asyncssh")
        level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
