"""Limits on what one client can make the gateway store, sign, verify or wait for."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
import struct
import subprocess
from typing import Any

import pytest
from asyncssh.constants import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_GLOBAL_REQUEST,
    MSG_IGNORE,
    MSG_KEXINIT,
    MSG_USERAUTH_REQUEST,
)
from asyncssh.packet import Boolean, String, UInt32

from tests.hostile.conftest import Target, in_thread
from tests.hostile.test_hostile_ssh import (
    SHARE,
    _BufferedTransport,
    _client,
    _live,
    _RecordingChannel,
    _wait_closed,
)
from tests.support.gateway import TIMEOUT, wait_for
from tests.support.live import live
from tests.support.sftp_wire import (
    AttrsReply,
    StatusReply,
    encode_expand_path,
    encode_open,
    encode_read,
    encode_realpath,
    encode_stat,
)

pytestmark = pytest.mark.integration

_PROVE = "hostkeys-prove-00@openssh.com"


def _host_key(gateway: Target) -> bytes:
    public = (gateway.folder / "keys/ssh_host_ed25519_key.pub").read_text().split()[1]
    return base64.b64decode(public)


async def _asked(connection: Any, request: str, *arguments: bytes) -> tuple[int, Any]:
    async with asyncio.timeout(TIMEOUT):
        kind, packet = await connection._make_global_request(request.encode(), *arguments)
        return kind, packet


# Signatures


async def test_ownership_of_a_host_key_is_proved(attacked: Target) -> None:
    async with _client(attacked) as connection:
        kind, packet = await _asked(connection, _PROVE, String(_host_key(attacked)))
        assert kind == 81, "REQUEST_SUCCESS"
        assert packet.get_string()
        assert not packet


async def test_a_host_key_that_is_named_twice_is_not_proved(attacked: Target) -> None:
    async with _client(attacked) as connection:
        kind, _ = await _asked(connection, _PROVE, 2 * String(_host_key(attacked)))
        assert kind == 82, "REQUEST_FAILURE"


async def test_host_key_signatures_per_client_are_limited(attacked: Target) -> None:
    async with _client(attacked) as connection:
        for _ in range(30):
            connection.send_packet(
                MSG_GLOBAL_REQUEST, String(_PROVE), Boolean(False), String(_host_key(attacked))
            )
        await _wait_closed(connection)


# Other SSH messages


async def test_too_many_messages_end_the_connection_with_a_penalty(attacked: Target) -> None:
    ended = len(attacked.events("session_end", reason="protocol_error"))
    async with _client(attacked) as connection:
        for _ in range(3000):
            connection.send_packet(MSG_IGNORE, String(b""))
        await _wait_closed(connection)
    wait_for(
        lambda: attacked.events("session_end", reason="protocol_error")[ended:], "the end's line"
    )


async def test_one_ignore_message_per_request_is_not_a_flood(attacked: Target) -> None:
    """asyncssh's client sends MSG_IGNORE before every packet."""
    async with live(attacked) as session:
        for _ in range(5000):
            assert isinstance(await session.ask(encode_stat, SHARE + b"small"), AttrsReply)


async def test_a_channel_type_named_like_a_method_is_unknown(
    attacked: Target,
) -> None:
    refused = asyncio.Event()

    def note(_connection: object, _kind: int, *_packet: object) -> None:
        refused.set()

    async with _client(attacked) as connection:
        connection._packet_handlers = {
            **connection._packet_handlers, MSG_CHANNEL_OPEN_FAILURE: note,
        }  # fmt: skip
        connection.send_packet(
            MSG_CHANNEL_OPEN, String("channel"), UInt32(1), UInt32(1), UInt32(1000)
        )
        async with asyncio.timeout(TIMEOUT):
            await refused.wait()
        await _live(connection)


# Key exchanges


async def test_requests_during_a_client_key_exchange_end_the_connection(
    attacked: Target,
) -> None:
    """RFC 4253 §7.1: no reply could be sent before the exchange ends."""
    ended = len(attacked.events("session_end", reason="protocol_error"))
    async with _client(attacked) as connection:
        connection._packet_handlers = {
            **connection._packet_handlers, MSG_KEXINIT: lambda *_: True,
        }  # fmt: skip
        sent = _BufferedTransport(connection)
        connection._send_kexinit()
        connection._kex_complete = True  # so that the rest is sent and not kept
        connection.send_packet(MSG_CHANNEL_OPEN, String("x"), UInt32(1), UInt32(1), UInt32(1000))
        sent.release()
        await _wait_closed(connection)
    wait_for(
        lambda: attacked.events("session_end", reason="protocol_error")[ended:], "the end's line"
    )


# Packets of one byte


async def test_packets_of_one_byte_cost_bounded_memory(attacked: Target) -> None:
    before = attacked.memory()
    async with _client(attacked) as connection:
        for number in range(4):
            taken = _RecordingChannel()
            connection._channels[100 + number] = taken
            connection.send_packet(
                MSG_CHANNEL_OPEN, String("session"), UInt32(100 + number), UInt32(2**31), UInt32(1)
            )
            async with asyncio.timeout(TIMEOUT):
                await taken.opened.wait()
            channel = UInt32(number)
            connection.send_packet(
                MSG_CHANNEL_REQUEST, channel, String("subsystem"), Boolean(False), String("sftp")
            )
            requests = [
                bytes([0, 0, 0, 5, 1, 0, 0, 0, 3]),
                encode_open(1, SHARE + b"big"),
                *(encode_read(10 + read, bytes(4), 0, 256 * 1024) for read in range(8)),
            ]
            for request in requests:
                connection.send_packet(MSG_CHANNEL_DATA, channel, String(request))
        connection._transport.pause_reading()
        most = 0
        for _ in range(20):
            await in_thread(attacked)
            most = max(most, await asyncio.to_thread(attacked.memory_now) - before)
        assert most < 24 * 1024, f"{most} KiB"
        connection.abort()


# Incomplete packets


def test_an_incomplete_packet_costs_at_most_one_standard_packet(
    attacked: Target,
) -> None:
    """RFC 4253 §6.1 asks for 35,000 bytes."""
    before = attacked.memory()
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", attacked.port), TIMEOUT)
            )
            connection.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", 34_996) + bytes(34_995))
        wait_for(lambda: attacked.metric("sftp_gateway_connections") >= 200, "all to be there")
        attacked.assert_serves_others()
        held = attacked.memory() - before
        assert held < 200 * (36 + 36), f"{held} KiB"


def test_a_packet_longer_than_the_standard_ends_the_connection(attacked: Target) -> None:
    # Not from 127.0.0.1: connections of the health check are not logged.
    with socket.create_connection(
        ("127.0.0.1", attacked.port), TIMEOUT, ("127.0.0.3", 0)
    ) as connection:
        connection.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", 35_004) + bytes(35_000))
        port = connection.getsockname()[1]
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass
    ended = attacked.wait_event("session_end", client_ip="127.0.0.3", client_port=port)
    assert ended["reason"] == "protocol_error"


@pytest.mark.parametrize("ask", [encode_realpath, encode_expand_path, encode_stat, encode_open])
@pytest.mark.parametrize("path", [b"x", b"/.", b"/x/.."])
async def test_an_overlong_path_is_refused(attacked: Target, ask: Any, path: bytes) -> None:
    async with live(attacked) as session:
        reply = await session.ask(ask, path * (262_100 // len(path)))
        assert isinstance(reply, StatusReply)
        assert isinstance(await session.ask(encode_stat, SHARE + b"small"), AttrsReply)


# Clients that stop reading


async def _stuffed(connection: Any) -> Any:
    """A session whose client has requested 12 MiB and reads nothing."""
    session = await _live(connection, window=64 * 1024)
    handle = await session.handle(encode_open, SHARE + b"big")
    session.channel.pause_reading()
    session.send(*(encode_read(number, handle, 0, 64 * 1024) for number in range(200)))
    return session


def _open_files(gateway: Target) -> float:
    return gateway.metric("sftp_gateway_open_handles")


async def test_a_client_that_sends_eow_is_done(attacked: Target) -> None:
    """`ssh` sends eow@openssh.com when its output was closed (OpenSSH's PROTOCOL §2.1)."""
    async with _client(attacked) as connection:
        session = await _stuffed(connection)
        await asyncio.to_thread(wait_for, lambda: _open_files(attacked) == 1, "the file to be open")
        session.channel.send_packet(MSG_CHANNEL_REQUEST, String("eow@openssh.com"), Boolean(False))
        await asyncio.to_thread(wait_for, lambda: _open_files(attacked) == 0, "its end")
        connection.abort()


async def test_a_client_that_sends_eof_and_reads_nothing_is_closed(attacked: Target) -> None:
    async with _client(attacked) as connection:
        session = await _stuffed(connection)
        await asyncio.to_thread(wait_for, lambda: _open_files(attacked) == 1, "the file to be open")
        session.channel.send_packet(MSG_CHANNEL_EOF)
        await asyncio.to_thread(wait_for, lambda: _open_files(attacked) == 0, "its end")
        connection.abort()


async def test_a_client_that_sends_eof_gets_its_pending_replies(attacked: Target) -> None:
    async with _client(attacked) as connection:
        session = await _live(connection, window=64 * 1024)
        handle = await session.handle(encode_open, SHARE + b"big")
        session.send(*(encode_read(number, handle, 0, 64 * 1024) for number in range(100)))
        session.channel.write_eof()
        await session.end()
        assert len(session.frames) == 2 + 100  # VERSION, HANDLE and DATA


def test_killing_sftp_during_a_transfer_ends_the_session(attacked: Target) -> None:
    """`ssh` stays and never extends its window again."""
    (attacked.folder / "data/share/long").touch()
    os.truncate(attacked.folder / "data/share/long", 100_000_000)
    sftp = subprocess.Popen(
        [
            "sftp", *attacked.ssh_options(), "-P", str(attacked.port), "-l", "8000", "-b", "-",
            "gvpocr@127.0.0.1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert sftp.stdin is not None
    with sftp.stdin:
        sftp.stdin.write(f"get share/long {attacked.folder}/cut\n".encode())
        sftp.stdin.flush()
        wait_for(lambda: _open_files(attacked) == 1, "the file to be open")
        wait_for((attacked.folder / "cut").exists, "the first bytes")
        sftp.send_signal(signal.SIGKILL)
        sftp.wait(TIMEOUT)
    wait_for(lambda: attacked.metric("sftp_gateway_connections") == 0, "its connection's end")
    (attacked.folder / "data/share/long").unlink()


# Logins


async def test_attempts_with_unoffered_methods_are_counted(attacked: Target) -> None:
    refused = len(attacked.events("login_refused", reason="method_not_offered"))
    async with _client(attacked, log_in=False) as connection:
        for number in range(200):
            connection.send_packet(
                MSG_USERAUTH_REQUEST, String("gvpocr"), String("ssh-connection"),
                String("none" if not number else "hostbased"),
            )  # fmt: skip
        await _wait_closed(connection)
    wait_for(
        lambda: attacked.events("login_refused", reason="method_not_offered")[refused + 99 :],
        "a line of each that max_auth_tries allows",
    )
