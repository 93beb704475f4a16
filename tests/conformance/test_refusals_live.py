"""Refused requests: writing, unknown and malformed ones, over a real SSH channel."""

from __future__ import annotations

import os
from typing import Any

import asyncssh
import pytest

from tests.conformance.conftest import BIG
from tests.support.gateway import Gateway, wait_for
from tests.support.live import connected, live, open_live, status_of
from tests.support.sftp_wire import (
    NO_ATTRS,
    Attrs,
    AttrsReply,
    DataReply,
    Open,
    PacketType,
    Status,
    StatusReply,
    decode_reply,
    encode_copy_data,
    encode_extended,
    encode_fsetstat,
    encode_fsync,
    encode_hardlink,
    encode_init,
    encode_lsetstat,
    encode_lstat,
    encode_mkdir,
    encode_open,
    encode_opendir,
    encode_posix_rename,
    encode_read,
    encode_readlink,
    encode_realpath,
    encode_remove,
    encode_rename,
    encode_rmdir,
    encode_setstat,
    encode_stat,
    encode_symlink,
    encode_write,
    packet,
    string,
    uint32,
)

pytestmark = pytest.mark.integration

SHARE = b"/home/gvpocr/share/"


async def test_every_writing_request_is_denied_and_logged(
    gateway: Gateway,
) -> None:
    async with live(gateway) as session:
        path, new = SHARE + b"small", SHARE + b"new"
        handle = await session.handle(encode_open, path)
        everything = Attrs(size=0, uid=0, gid=0, permissions=0o777, atime=1, mtime=1)
        requests: dict[str, tuple[Any, ...]] = {
            "write": (encode_write, handle, 0, b"x" * 1000),
            "setstat": (encode_setstat, path, everything),
            "fsetstat": (encode_fsetstat, handle, everything),
            "remove": (encode_remove, path),
            "mkdir": (encode_mkdir, new, NO_ATTRS),
            "rmdir": (encode_rmdir, SHARE + b"folder"),
            "rename": (encode_rename, path, new),
            "symlink": (encode_symlink, b"small", new),
            "posix-rename": (encode_posix_rename, path, new),
            "hardlink": (encode_hardlink, path, new),
            "fsync": (encode_fsync, handle),
            "lsetstat": (encode_lsetstat, path, everything),
            "copy-data": (encode_copy_data, handle, handle),
        }
        for operation, request in requests.items():
            reply = await session.ask(*request)
            assert status_of(reply) is Status.PERMISSION_DENIED, operation
            denied = gateway.wait_event("denied", operation=operation)
            assert (denied["reason"], denied["share"]) == ("read_only", "share")
            assert denied["path"].startswith("/home/gvpocr/share/")
        for flags in range(2, 64):
            if flags & ~Open.READ:
                assert status_of(await session.ask(encode_open, new, flags)) is (
                    Status.PERMISSION_DENIED
                )
        # The session continues, and nothing has changed.
        reply = await session.ask(encode_read, handle, 0, 100)
        assert reply == DataReply(reply.request_id, b"small\n")
        assert status_of(await session.ask(encode_lstat, new)) is Status.NO_SUCH_FILE


async def test_unknown_requests_are_unsupported(gateway: Gateway) -> None:
    def of_type(number: int) -> Any:
        return lambda request_id: packet(number, uint32(request_id), string(b"whatever"))

    known = {*PacketType} - {PacketType.VERSION, *range(101, 106), PacketType.EXTENDED_REPLY}
    async with live(gateway) as session:
        for number in range(256):
            if number not in known:
                reply = await session.ask(of_type(number))
                assert status_of(reply) is Status.OP_UNSUPPORTED, number
        for name in (
            b"", b"check-file@openssh.com", b"md5-hash", b"md5-hash-handle", b"\xff" * 1000,
            b"statvfs", b"space-available", b"text-seek", b"vendor-id", b"version-select",
            b"copy-file", b"get-temp-folder", b"owner-group-query@generic-extensions",
            b"filename-translation-control",
        ):  # fmt: skip
            reply = await session.ask(encode_extended, name, string(b"/"))
            assert status_of(reply) is Status.OP_UNSUPPORTED


@pytest.mark.parametrize(
    "malformed",
    [
        encode_init(),
        uint32(0),
        uint32(256 * 1024 + 1) + b"\x05",
        uint32(2**32 - 1),
        packet(PacketType.STAT),
        packet(PacketType.STAT, b"\0\0"),
        packet(PacketType.STAT, uint32(1)),
        packet(PacketType.STAT, uint32(1), uint32(2**32 - 1), b"path"),
        packet(PacketType.READ, uint32(1), string(b"x" * 257), b"\0" * 12),
        packet(PacketType.EXTENDED, uint32(1), uint32(100), b"short"),
        packet(PacketType.SETSTAT, uint32(1), string(b"/"), uint32(0x80000000), uint32(2**32 - 1)),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=repr,
)
async def test_malformed_bytes_close_only_their_channel(gateway: Gateway, malformed: bytes) -> None:
    async with connected(gateway) as connection:
        session, beside = await open_live(connection), await open_live(connection)
        await session.init()
        await beside.init()
        handle = await session.handle(encode_open, SHARE + b"small")
        assert handle
        session.send(malformed)
        await session.end()
        assert session.replies == []
        assert isinstance(await beside.ask(encode_stat, SHARE), AttrsReply)
        again = await open_live(connection)
        await again.init()
        assert isinstance(await again.ask(encode_stat, SHARE), AttrsReply)
    assert "Traceback" not in gateway.stderr


@pytest.mark.parametrize(
    "first", [encode_stat(1, b"/"), encode_realpath(1, b"."), packet(99, uint32(1)), packet(2)]
)
async def test_a_request_before_init_closes_the_channel(gateway: Gateway, first: bytes) -> None:
    async with connected(gateway) as connection:
        session = await open_live(connection)
        session.send(first)
        await session.end()
        assert session.replies == []
        other = await open_live(connection)
        assert (await other.init()).version == 3


async def test_requests_before_a_malformed_one_are_answered(gateway: Gateway) -> None:
    async with live(gateway) as session:
        session.send(encode_stat(5, SHARE), encode_stat(6, SHARE), packet(PacketType.STAT))
        assert [reply.request_id for reply in await session.take(2)] == [5, 6]  # type: ignore[union-attr]
        await session.end()


async def test_packets_split_anywhere_are_reassembled(gateway: Gateway) -> None:
    async with live(gateway) as session:
        stream = encode_stat(1, SHARE) + encode_realpath(2, b"share") + encode_lstat(3, b"/")
        for byte in stream:
            session.send(bytes([byte]))
        replies = await session.take(3)
        assert [reply.request_id for reply in replies] == [1, 2, 3]  # type: ignore[union-attr]


async def test_requests_before_eof_are_answered(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        session.send(*(encode_read(number, handle, 0, 65_536) for number in range(100, 140)))
        session.channel.write_eof()
        replies = await session.take(40)
        assert {getattr(reply, "data", b"") for reply in replies} == {BIG[:65_536]}
        await session.end()
        assert session.exit_status == 0
    assert gateway.wait_event("file_closed", path="/home/gvpocr/share/big", result="aborted")


async def test_a_connection_has_at_most_ten_channels(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        sessions = [await open_live(connection) for _ in range(10)]
        with pytest.raises(asyncssh.ChannelOpenError):
            await open_live(connection)
        sessions[3].channel.close()
        await sessions[3].end()
        assert (await (await open_live(connection)).init()).version == 3


async def test_messages_reveal_nothing_about_the_server(gateway: Gateway) -> None:
    async with live(gateway) as session:
        paths = (b"share/nothing", b"share/out", b"others", b"/etc/passwd", b"share/small/x", b"\0")
        for path in paths:
            for encode in (encode_stat, encode_open, encode_opendir, encode_readlink):
                await session.ask(encode, path)
        replies = map(decode_reply, session.frames)
        messages = {reply.message for reply in replies if isinstance(reply, StatusReply)}
        assert messages == {"No such file", "Permission denied"}
        for frame in session.frames:
            for secret in (str(gateway.folder).encode(), b"Errno", b"Error", b"python", b".py"):
                assert secret not in frame


async def test_ended_sessions_leave_nothing_open(gateway: Gateway) -> None:
    async with live(gateway) as session:
        for _ in range(50):
            await session.handle(encode_open, SHARE + b"big")
            await session.handle(encode_opendir, SHARE + b"many")
        wait_for(lambda: gateway.metric("sftp_gateway_open_handles") == 100, "100 open handles")
        reads = [encode_read(number, uint32(0), 0, 262_144) for number in range(50)]
        session.send(*reads)
    wait_for(lambda: gateway.metric("sftp_gateway_open_handles") == 0, "all handles to be closed")
    shares = str(gateway.folder / "shared/share/")
    open_there = [
        target
        for pid in gateway.pids
        for name in os.listdir(f"/proc/{pid}/fd")
        if (target := _readlink(f"/proc/{pid}/fd/{name}")).startswith(shares + "/")
    ]
    assert open_there == []


def _readlink(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
