"""Attacks on SSH itself: identification strings, packets, windows and key exchanges."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_DEBUG,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_NEWKEYS,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)
from asyncssh.packet import Boolean, Byte, String, UInt32

from tests.hostile.conftest import INSIDE, Target, in_thread
from tests.support.gateway import TIMEOUT, Gateway, running, wait_for
from tests.support.live import Live, connected, open_live
from tests.support.record_client import KeyExchanges
from tests.support.sftp_wire import AttrsReply, DataReply, encode_open, encode_read, encode_stat

pytestmark = pytest.mark.integration

SHARE = b"/home/gvpocr/share/"

#: KiB that the server may hold for one client that reads nothing. Replies of a few bytes take
#: several times their length in memory.
_MAX_CLIENT_MEMORY = 36 * 1024

#: A password hash of the highest cost that a configuration may ask for.
_SLOW_PASSWORD = f"""
workers = 1
[users.password_user]
password_hash = "$argon2id$v=19$m=8192,t=512,p=1$c29tZXNhbHRzb21lc2FsdA${"A" * 43}"
"""

_HELLO = b"SSH-2.0-OpenSSH_9.9\r\n"


@contextlib.contextmanager
def _dial(gateway: Target) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT) as connection:
        yield connection


def _assert_closed(connection: socket.socket) -> None:
    """Read until the server ends the connection."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass


# Before key exchange


@pytest.mark.parametrize(
    "first",
    [
        b"\0" * 65_536, os.urandom(100_000), b"GET / HTTP/1.0\r\n\r\n", b"SSH-1.5-old\r\n",
        b"SSH-2.0", b"SSH-3.0-new\r\n", b"SSH-2.0-" + b"x" * 100_000, b"x" * 100_000,
        b"SSH-2.0-\xff\xfe\xfd\r\n", b"\r\n" * 5000, b"SSH-2.0-\0\0\r\n\0\0\0\0",
        _HELLO + os.urandom(50_000),
        _HELLO + struct.pack(">I", 2**32 - 1) + b"\0" * 100,
        _HELLO + struct.pack(">I", 0) + b"\0" * 100,
        _HELLO + struct.pack(">I", 1) + b"\0" * 100,
        _HELLO + struct.pack(">IB", 12, 255) + b"\0" * 100,
        _HELLO + struct.pack(">IBB", 12, 10, 20) + b"\0" * 100,  # KEXINIT of one byte
    ],
)  # fmt: skip
def test_input_that_is_not_ssh_ends_the_connection(attacked: Target, first: bytes) -> None:
    with _dial(attacked) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
        with contextlib.suppress(OSError):  # ENOTCONN if the server has reset the connection
            connection.shutdown(socket.SHUT_WR)
        _assert_closed(connection)


def test_an_endless_banner_costs_little_and_ends_the_connection(attacked: Target) -> None:
    with _dial(attacked) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                sent += connection.send(b"x" * 1000)
        assert sent < 100_000_000


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 256 * 1024 + 1])
def test_an_overlong_packet_ends_the_connection_early(attacked: Target, length: int) -> None:
    with _dial(attacked) as connection:
        connection.sendall(_HELLO + struct.pack(">I", length) + b"\0" * 28)
        _assert_closed(connection)


# Key exchange


class _Tampering:
    """A proxy that injects a packet into the client's stream before encryption starts."""

    def __init__(self, port: int, packet: bytes) -> None:
        self._port = port
        self._packet = packet
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        # Not from 127.0.0.1: connections of the health check are not logged.
        server, to_server = await asyncio.open_connection(
            "127.0.0.1", self._port, local_addr=("127.0.0.2", 0)
        )
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.gather(self._up(client, to_server), _carry(server, to_client))

    async def _up(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with contextlib.closing(to_server):
            to_server.write(await client.readline())
            length = await client.readexactly(4)  # KEXINIT
            to_server.write(length + await client.readexactly(int.from_bytes(length, "big")))
            to_server.write(self._packet)
            await _carry(client, to_server)


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.closing(target):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()


async def _logs_in_through(gateway: Target, packet: bytes, cipher: str) -> bool:
    async with _Tampering(gateway.port, packet).listening() as port:
        try:
            async with asyncssh.connect(
                "127.0.0.1", port, username="gvpocr", client_keys=[str(gateway.key)],
                known_hosts=None, config=None, agent_path=None, encryption_algs=[cipher],
            ):  # fmt: skip
                return True
        except (asyncssh.Error, OSError):
            return False


@pytest.mark.parametrize(
    "message",
    [
        Byte(MSG_IGNORE) + String(bytes(14)),
        Byte(MSG_UNIMPLEMENTED) + UInt32(0),
        Byte(MSG_DEBUG) + Boolean(False) + String("") + String(""),
    ],
    ids=["MSG_IGNORE", "MSG_UNIMPLEMENTED", "MSG_DEBUG"],
)
async def test_a_terrapin_prefix_truncation_ends_the_connection(
    attacked: Target, message: bytes
) -> None:
    """Terrapin (CVE-2023-48795): with strict key exchange, a packet too many ends the connection.

    The cipher that counts no packets is taken: any other would notice by itself.
    """
    padding = 4 + -(5 + len(message) + 4) % 8
    packet = struct.pack(">IB", 1 + len(message) + padding, padding) + message + bytes(padding)
    cipher = "aes128-gcm@openssh.com"
    assert await _logs_in_through(attacked, b"", cipher), "the proxy alone breaks the login"
    ended = len(attacked.events("session_end", reason="protocol_error"))
    assert not await _logs_in_through(attacked, packet, cipher)
    await asyncio.to_thread(
        wait_for,
        lambda: len(attacked.events("session_end", reason="protocol_error")) == ended + 1,
        "the server to end it",
    )


async def test_constant_rekeying_is_served(attacked: Target) -> None:
    with KeyExchanges().counting() as exchanges:
        async with asyncssh.connect(
            "127.0.0.1", attacked.port, username="gvpocr", client_keys=[str(attacked.key)],
            known_hosts=None, config=None, agent_path=None, rekey_bytes=1,
        ) as connection:  # fmt: skip
            session = await open_live(connection)
            await session.init()
            for _ in range(100):
                assert isinstance(await session.ask(encode_stat, SHARE + b"small"), AttrsReply)
    assert exchanges.completed > 50


@pytest.mark.parametrize("message", ["KEXINIT", "NEWKEYS", "KEX"])
async def test_invalid_key_exchanges_end_the_connection(attacked: Target, message: str) -> None:
    async with _client(attacked) as connection:
        await _live(connection)
        for _ in range(10_000):
            match message:
                case "KEXINIT":
                    connection._send_kexinit()
                case "NEWKEYS":
                    connection.send_packet(MSG_NEWKEYS)
                case _:
                    connection.send_packet(30, String(os.urandom(32)))
        await _wait_closed(connection)
    await in_thread(attacked)


# Windows and channels


class _RecordingChannel:
    """A client channel that records what it receives and never extends its window."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.opened = asyncio.Event()

    def process_packet(self, kind: int, _number: int, packet: Any) -> bool:
        if kind == MSG_CHANNEL_DATA:
            self.lengths.append(len(packet.get_string()))
        return True

    def process_open_confirmation(self, *_: object) -> None:
        self.opened.set()

    def log_received_packet(self, *_: object) -> None:
        pass

    def process_connection_close(self, _: object) -> None:
        pass


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1023, 5000, 2**32 - 1])
@pytest.mark.parametrize("window", [0, 1, 40_000, 2**32 - 1])
async def test_the_clients_packet_size_and_window_are_respected(
    attacked: Target, size: int, window: int
) -> None:
    taken = _RecordingChannel()
    async with _client(attacked) as connection:
        connection._channels[77] = taken
        connection.send_packet(
            MSG_CHANNEL_OPEN, String("session"), UInt32(77), UInt32(window), UInt32(size)
        )
        if not size:
            await _wait_closed(connection)
            return
        async with asyncio.timeout(TIMEOUT):
            await taken.opened.wait()
        connection.send_packet(
            MSG_CHANNEL_REQUEST, UInt32(0), String("subsystem"), Boolean(False), String("sftp")
        )
        init = bytes([0, 0, 0, 5, 1, 0, 0, 0, 3])
        connection.send_packet(MSG_CHANNEL_DATA, UInt32(0), String(init))
        connection.send_packet(MSG_CHANNEL_DATA, UInt32(0), String(encode_open(1, SHARE + b"big")))
        for number in range(8):
            read = encode_read(number, bytes(4), 0, 8192)
            connection.send_packet(MSG_CHANNEL_DATA, UInt32(0), String(read))
        await in_thread(attacked)
        async with asyncio.timeout(TIMEOUT):
            while sum(taken.lengths) < min(window, 8 * 8192):
                await asyncio.sleep(0.01)
        connection.abort()
    assert sum(taken.lengths) <= window
    assert max(taken.lengths, default=0) <= size


async def test_a_window_overflow_gains_nothing_and_costs_bounded_memory(attacked: Target) -> None:
    async with _client(attacked) as connection:
        session = await _live(connection)
        for _ in range(400):
            connection.send_packet(
                MSG_CHANNEL_WINDOW_ADJUST, UInt32(session.channel._send_chan), UInt32(2**32 - 1)
            )
        handle = await session.handle(encode_open, SHARE + b"big")
        reply = await session.ask(encode_read, handle, 0, 100)
        assert isinstance(reply, DataReply)
        assert reply.data == INSIDE["big"][:100]


async def test_data_beyond_the_window_ends_the_connection_or_is_served(attacked: Target) -> None:
    """The client takes no answers, so that requests wait here, and goes on sending."""
    async with _client(attacked) as connection:
        session = await _live(connection, window=64 * 1024)
        handle = await session.handle(encode_open, SHARE + b"big")
        session.channel.pause_reading()
        burst = b"".join(encode_read(number, handle, 0, 256 * 1024) for number in range(800))
        for _ in range(200):  # 6 MiB where 512 KiB are allowed
            connection.send_packet(
                MSG_CHANNEL_DATA, UInt32(session.channel._send_chan), String(burst[: 32 * 1024])
            )
        await _wait_closed(connection)


@pytest.mark.parametrize("kind", ["unknown channel", "closed twice", "adjust", "stderr"])
async def test_messages_for_unopened_channels_do_no_harm(attacked: Target, kind: str) -> None:
    async with _client(attacked) as connection:
        session = await _live(connection)
        number = session.channel._send_chan
        for _ in range(1000):
            match kind:
                case "unknown channel":
                    connection.send_packet(MSG_CHANNEL_DATA, UInt32(2**32 - 1), String(b"x"))
                case "closed twice":
                    connection.send_packet(MSG_CHANNEL_CLOSE, UInt32(number))
                case "adjust":
                    connection.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(number + 5), UInt32(1))
                case _:
                    connection.send_packet(
                        MSG_CHANNEL_EXTENDED_DATA, UInt32(number), UInt32(1), String(b"x" * 100)
                    )
        await in_thread(attacked)
        connection.abort()


async def test_a_burst_of_channel_opens_gets_ten(attacked: Target) -> None:
    """Sent in one write, so that none is open when the next is requested."""
    answers = Counter[int]()
    answered = asyncio.Event()

    def count(_connection: object, kind: int, *_packet: object) -> None:
        answers[kind] += 1
        if answers.total() == 400:
            answered.set()

    async with _client(attacked) as connection:
        kinds = (MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE)
        connection._packet_handlers = {**connection._packet_handlers, **dict.fromkeys(kinds, count)}
        for number in range(400):
            connection.send_packet(
                MSG_CHANNEL_OPEN, String("session"), UInt32(number), UInt32(2**20), UInt32(2**15)
            )
        async with asyncio.timeout(TIMEOUT):
            await answered.wait()
        await in_thread(attacked)
    assert answers == {MSG_CHANNEL_OPEN_CONFIRMATION: 10, MSG_CHANNEL_OPEN_FAILURE: 390}


async def test_a_hundred_channel_opens_get_ten_and_refusals(attacked: Target) -> None:
    async with connected(attacked) as connection:
        opened = await asyncio.gather(
            *(open_live(connection) for _ in range(100)), return_exceptions=True
        )
        sessions = [each for each in opened if isinstance(each, Live)]
        assert len(sessions) == 10
        assert all(
            isinstance(each, asyncssh.ChannelOpenError)
            for each in opened
            if not isinstance(each, Live)
        )
        for session in sessions:
            await session.init()


# Floods whose replies are not read


@pytest.mark.parametrize(
    "flood", ["global requests", "channel opens", "unknown", "channel requests"]
)
async def test_unread_replies_after_login_cost_bounded_memory(attacked: Target, flood: str) -> None:
    """Some SSH replies are not subject to a window, and asyncssh buffers what it sends."""
    async with _client(attacked) as connection:
        session = await _live(connection)
        connection._transport.pause_reading()
        one = {
            "global requests": (MSG_GLOBAL_REQUEST, String("keepalive@x"), Boolean(True)),
            "channel opens": (
                MSG_CHANNEL_OPEN, String("x11"), UInt32(1), UInt32(1), UInt32(1000),
            ),
            "unknown": (191, Byte(0)),
            "channel requests": (
                MSG_CHANNEL_REQUEST, UInt32(session.channel._send_chan), String("x"),
                Boolean(True),
            ),
        }[flood]  # fmt: skip
        await _flood(attacked, connection, one)


@pytest.mark.parametrize("flood", ["variables", "an agent", "x11", "a port", "a socket"])
async def test_a_flood_of_requests_costs_bounded_memory_and_ends_the_connection(
    attacked: Target, flood: str
) -> None:
    """Without want_reply. asyncssh would store every variable and queue every request."""
    ended = len(attacked.events("session_end", reason="protocol_error"))
    before = attacked.memory()
    much = String(bytes(10_000))
    async with _client(attacked) as connection:
        session = await _live(connection)
        channel = UInt32(session.channel._send_chan)
        count, one = {
            "variables": (8000, (MSG_CHANNEL_REQUEST, channel, String("env"), Boolean(False))),
            "an agent": (
                150_000,
                (MSG_CHANNEL_REQUEST, channel, String("auth-agent-req@openssh.com"),
                 Boolean(False)),
            ),
            "x11": (
                8000,
                (MSG_CHANNEL_REQUEST, channel, String("x11-req"), Boolean(False), Boolean(True),
                 much, String("00"), UInt32(0)),
            ),
            "a port": (
                8000,
                (MSG_GLOBAL_REQUEST, String("tcpip-forward"), Boolean(False), much, UInt32(7)),
            ),
            "a socket": (
                8000,
                (MSG_GLOBAL_REQUEST, String("streamlocal-forward@openssh.com"), Boolean(False),
                 much),
            ),
        }[flood]  # fmt: skip
        _disable_ignores(connection)
        sent = _BufferedTransport(connection)
        for number in range(count):
            named = (String(str(number)), much) if flood == "variables" else ()
            connection.send_packet(*one, *named)
        transport, most = sent.release(), 0
        while transport.get_write_buffer_size() and not transport.is_closing():
            most = max(most, await asyncio.to_thread(attacked.memory_now) - before)
        await _wait_closed(connection)
        most = max(most, await asyncio.to_thread(attacked.memory_now) - before)
        assert most < _MAX_CLIENT_MEMORY, f"{most} KiB"
    wait_for(
        lambda: attacked.events("session_end", reason="protocol_error")[ended:], "the end's line"
    )


async def test_a_packet_that_inflates_to_megabytes_ends_the_connection(attacked: Target) -> None:
    ended = len(attacked.events("session_end", reason="protocol_error"))
    before = attacked.memory()
    async with asyncssh.connect(
        "127.0.0.1", attacked.port, username="gvpocr", client_keys=[str(attacked.key)],
        known_hosts=None, config=None, agent_path=None, compression_algs=["zlib@openssh.com"],
    ) as connection:  # fmt: skip
        attacker: Any = connection
        attacker.send_packet(MSG_IGNORE, String(bytes(32_768)))  # which is not too long
        await _live(attacker)
        attacker.send_packet(MSG_IGNORE, String(bytes(30_000_000)))
        most = 0
        async with asyncio.timeout(TIMEOUT):
            while not attacker.is_closed():
                most = max(most, await asyncio.to_thread(attacked.memory_now) - before)
        assert most < 16 * 1024, f"{most} KiB"
    wait_for(
        lambda: attacked.events("session_end", reason="protocol_error")[ended:], "the end's line"
    )


def _disable_ignores(connection: Any) -> None:
    """Stop asyncssh from sending MSG_IGNORE before each packet, as these are counted too."""
    send = connection.send_packet

    def send_packet(kind: int, *arguments: bytes, **options: Any) -> None:
        if kind != MSG_IGNORE:
            send(kind, *arguments, **options)

    connection.send_packet = send_packet


class _BufferedTransport:
    """Buffers what a connection sends until `release` writes all of it at once."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._transport = connection, connection._transport
        self._sent = bytearray()
        connection._transport = self

    def write(self, data: bytes) -> None:
        self._sent += data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def release(self) -> Any:
        """Send it; return the connection's own transport."""
        self._connection._transport = self._transport
        self._transport.write(bytes(self._sent))
        return self._transport


@pytest.mark.parametrize("flood", ["logins", "unknown"])
async def test_unread_replies_before_login_cost_bounded_memory(
    attacked: Target, flood: str
) -> None:
    async with _client(attacked, log_in=False) as connection:
        connection._transport.pause_reading()  # of the answers
        one = {
            "logins": (
                MSG_USERAUTH_REQUEST, String("gvpocr"), String("ssh-connection"), String("none"),
            ),
            "unknown": (9,),
        }[flood]  # fmt: skip
        await _flood(attacked, connection, one)


async def test_data_sent_during_a_login_costs_bounded_memory(
    attacked: Target,
) -> None:
    """For each login asyncssh waits a turn of its loop, and keeps all that comes meanwhile.

    The answers are taken, so that nothing else holds the client up.
    """
    before = attacked.memory()
    async with _client(attacked, log_in=False) as connection:
        ask = (
            MSG_USERAUTH_REQUEST, String("gvpocr"), String("ssh-connection"),
            String(b"x" * 30_000),
        )  # fmt: skip
        for _ in range(2000):
            connection.send_packet(*ask)
        held, transport = 0, connection._transport
        while transport.get_write_buffer_size() and held < _MAX_CLIENT_MEMORY:
            held = await asyncio.to_thread(attacked.memory_now) - before
        assert held < _MAX_CLIENT_MEMORY, f"{held} KiB"
        await _wait_closed(connection)  # by max_auth_tries


async def test_data_sent_during_password_verification_stays_in_the_socket(
    attacked: Target, tmp_path: Path
) -> None:
    with running(tmp_path, _SLOW_PASSWORD) as gateway:
        async with _client(gateway, log_in=False) as connection:
            connection.send_packet(
                MSG_USERAUTH_REQUEST, String("password_user"), String("ssh-connection"),
                String("password"), Boolean(False), String("wrong"),
            )  # fmt: skip
            for _ in range(500):
                connection.send_packet(MSG_IGNORE, String(bytes(30_000)))
            await asyncio.sleep(0.5)
            taken = 500 * 30_000 - _unread_bytes(connection._transport)
            assert not gateway.events("login_refused"), "the password was verified too early"
    assert taken < 256 * 1024


def _unread_bytes(transport: asyncio.Transport) -> int:
    """Bytes of a client that wait at its own end, or at the server's (proc(5), tcp rx_queue)."""
    client = transport.get_extra_info("socket")
    waiting = struct.unpack("i", fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    ends = f":{client.getpeername()[1]:04X}", f":{client.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, remote, _, queues, *_ = line.split()
        if local.endswith(ends[0]) and remote.endswith(ends[1]):
            return transport.get_write_buffer_size() + waiting + int(queues.partition(":")[2], 16)
    raise AssertionError("the server has no such connection")


async def test_server_only_messages_from_a_client_are_rejected(attacked: Target) -> None:
    ends = len(attacked.events("session_end", reason="protocol_error"))
    async with _client(attacked, log_in=False) as connection:
        connection.send_packet(MSG_USERAUTH_SUCCESS)
        await _wait_closed(connection)
    ended = wait_for(
        lambda: attacked.events("session_end", reason="protocol_error")[ends:], "its line"
    )[-1]
    assert not attacked.events("login_accepted", session=ended["session"])


async def _flood(gateway: Target, connection: Any, packet: tuple[Any, ...]) -> None:
    """Send until the server stops reading, uses too much memory, or got a million packets."""
    before = gateway.memory()
    transport = connection._transport
    for _ in range(100):
        for _ in range(10_000):
            if connection._transport is not None:
                connection.send_packet(*packet)
        taken = await _is_read(transport, 1024 * 1024)
        held = await asyncio.to_thread(gateway.memory_now) - before
        if not taken or held >= _MAX_CLIENT_MEMORY:
            break
    held = await asyncio.to_thread(gateway.memory) - before
    assert held < _MAX_CLIENT_MEMORY, f"{held} KiB"
    await in_thread(gateway)
    connection.abort()


async def _is_read(transport: Any, enough: int) -> bool:
    """Wait until the server has read what was sent; False once it stops reading."""
    seen, since = -1, time.monotonic()
    while (left := transport.get_write_buffer_size()) > enough:
        if transport.is_closing():
            return False
        if left != seen:
            seen, since = left, time.monotonic()
        elif time.monotonic() > since + 1:
            return False
        await asyncio.sleep(0.01)
    return not transport.is_closing()


# Clients


@contextlib.asynccontextmanager
async def _client(gateway: Gateway, *, log_in: bool = True) -> AsyncIterator[Any]:
    """A connection whose packets the test makes itself; of a user that can log in, or does not."""
    if log_in:
        connection = await asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_keys=[str(gateway.key)],
            known_hosts=None, config=None, agent_path=None, keepalive_interval=0,
        )  # fmt: skip
    else:
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        class Undecided(asyncssh.SSHClient):
            def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
                self.made = conn

            async def public_key_auth_requested(self) -> None:
                if not waiting.done():
                    waiting.set_result(self.made)
                await asyncio.Event().wait()

        async def connect() -> None:
            await asyncssh.connect(
                "127.0.0.1", gateway.port, username="gvpocr", client_factory=Undecided,
                client_keys=None, known_hosts=None, config=None, agent_path=None,
                preferred_auth="publickey", login_timeout=0,
            )  # fmt: skip

        connecting = asyncio.create_task(connect())
        async with asyncio.timeout(TIMEOUT):
            connection = await waiting
    try:
        yield connection
    finally:
        connection.abort()
        if not log_in:
            with contextlib.suppress(asyncssh.Error, OSError, asyncio.CancelledError):
                connecting.cancel()
                await connecting


async def _live(connection: Any, window: int = 2 * 1024 * 1024) -> Live:
    _, session = await connection.create_session(
        Live, subsystem="sftp", encoding=None, window=window
    )
    await session.init()
    assert isinstance(session, Live)
    return session


async def _wait_closed(connection: Any) -> None:
    """Wait for the server to close the connection."""
    async with asyncio.timeout(TIMEOUT):
        await connection.wait_closed()
