"""INIT, READ, handles and folders, request by request, over a real SSH channel."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any

import pytest

from tests.conformance.conftest import BIG, MANY
from tests.support.gateway import Gateway
from tests.support.live import connected, live, open_live, status_of
from tests.support.sftp_wire import (
    AttrsReply,
    DataReply,
    ExtendedReply,
    HandleReply,
    NameReply,
    Status,
    decode_limits,
    decode_users_groups_by_id,
    encode_check_file,
    encode_close,
    encode_fstat,
    encode_fstatvfs,
    encode_init,
    encode_limits,
    encode_lstat,
    encode_open,
    encode_opendir,
    encode_read,
    encode_readdir,
    encode_readlink,
    encode_stat,
    encode_statvfs,
    encode_users_groups_by_id,
    string,
)

pytestmark = pytest.mark.integration

SHARE = b"/home/gvpocr/share/"
_MD5_OF_BIG = hashlib.md5(BIG, usedforsecurity=False).digest()


# INIT


async def test_version_3_is_answered_with_the_served_extensions(gateway: Gateway) -> None:
    async with connected(gateway) as connection:
        session = await open_live(connection)
        version = await session.init()
    assert version.version == 3
    assert dict(version.extensions) == {
        b"statvfs@openssh.com": b"2",
        b"fstatvfs@openssh.com": b"2",
        b"limits@openssh.com": b"1",
        b"expand-path@openssh.com": b"1",
        b"home-directory": b"1",
        b"users-groups-by-id@openssh.com": b"1",
        b"check-file": b"1",
    }


@pytest.mark.parametrize("wanted", [0, 1, 3, 6, 2**32 - 1])
async def test_any_requested_version_is_answered_with_3(gateway: Gateway, wanted: int) -> None:
    async with connected(gateway) as connection:
        session = await open_live(connection)
        session.send(encode_init(wanted, ((b"newline@vandyke.com", b"\n"),)))
        [version] = await session.take(1)
        assert getattr(version, "version", None) == 3


# READ


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 262_144), (1, 262_144), (len(BIG) - 262_144, 262_144), (0, 1), (4095, 65_536),
        (len(BIG) - 1, 1), (len(BIG) - 1, 32_768), (len(BIG) - 32_767, 32_768),
    ],
)  # fmt: skip
async def test_a_read_is_short_only_at_the_end_of_the_file(
    gateway: Gateway, offset: int, length: int
) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        reply = await session.ask(encode_read, handle, offset, length)
        assert reply == DataReply(reply.request_id, BIG[offset : offset + length])


async def test_a_read_returns_at_most_256_kib(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        for length in (262_145, 1_000_000, 2**32 - 1):
            reply = await session.ask(encode_read, handle, 7, length)
            assert reply == DataReply(reply.request_id, BIG[7 : 7 + 262_144])


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (len(BIG), 1), (len(BIG) + 1, 32_768), (2**40, 4096), (2**63 - 1, 4096), (2**63, 4096),
        (2**64 - 1, 262_144), (2**63 - 10, 10), (2**64 - 1, 1),
    ],
)  # fmt: skip
async def test_a_read_at_or_beyond_the_end_is_eof(
    gateway: Gateway, offset: int, length: int
) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        assert status_of(await session.ask(encode_read, handle, offset, length)) is Status.EOF
        empty = await session.handle(encode_open, SHARE + b"empty")
        assert status_of(await session.ask(encode_read, empty, offset, length)) is Status.EOF


async def test_a_read_of_zero_bytes_returns_no_data(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        for offset in (0, 2**63, 2**64 - 1):
            reply = await session.ask(encode_read, handle, offset, 0)
            assert reply == DataReply(reply.request_id, b"")


async def test_reads_pipelined_before_a_close_all_get_their_data(
    gateway: Gateway,
) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        reads = [(encode_read, handle, number * 16_384, 16_384) for number in range(64)]
        *data, closed = await session.ask_all([*reads, (encode_close, handle)])
        assert b"".join(getattr(reply, "data", b"") for reply in data) == BIG[: 64 * 16_384]
        assert status_of(closed) is Status.OK


async def test_more_reads_than_fit_the_window_are_all_answered(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        replies = await session.ask_all([(encode_read, handle, 0, 262_144)] * 100)
        assert {getattr(reply, "data", b"") for reply in replies} == {BIG[:262_144]}


async def test_open_read_and_close_sent_without_waiting_are_answered_in_order(
    gateway: Gateway,
) -> None:
    # sshfs waits neither for OPEN before it requests attributes, nor for CLOSE.
    async with live(gateway) as session:
        requests = [
            request
            for _ in range(20)
            for request in ((encode_open, SHARE + b"small"), (encode_lstat, SHARE + b"small"))
        ]
        replies = await session.ask_all(requests)
        handles = [reply.handle for reply in replies[::2] if isinstance(reply, HandleReply)]
        assert len({*handles}) == 20
        assert all(isinstance(reply, AttrsReply) for reply in replies[1::2])
        closed = await session.ask_all([(encode_close, handle) for handle in handles])
        assert {status_of(reply) for reply in closed} == {Status.OK}


# Handles


async def test_a_handle_serves_only_its_own_kind(gateway: Gateway) -> None:
    async with live(gateway) as session:
        file = await session.handle(encode_open, SHARE + b"small")
        folder = await session.handle(encode_opendir, SHARE)
        assert status_of(await session.ask(encode_read, folder, 0, 10)) is Status.FAILURE
        assert status_of(await session.ask(encode_readdir, file)) is Status.FAILURE
        for handle in (file, folder):
            assert isinstance(await session.ask(encode_fstat, handle), AttrsReply)
            assert isinstance(await session.ask(encode_fstatvfs, handle), ExtendedReply)


@pytest.mark.parametrize("handle", [b"", b"\0\0\0\0", b"\xff" * 4, b"x" * 256, b"../../etc"])
async def test_an_unknown_handle_is_a_failure(gateway: Gateway, handle: bytes) -> None:
    async with live(gateway) as session:
        for request in _of_handle(handle):
            assert status_of(await session.ask(*request)) is Status.FAILURE


async def test_a_closed_handle_is_a_failure(gateway: Gateway) -> None:
    async with live(gateway) as session:
        for encode, path in ((encode_open, b"small"), (encode_opendir, b"folder")):
            handle = await session.handle(encode, SHARE + path)
            assert status_of(await session.ask(encode_close, handle)) is Status.OK
            for request in _of_handle(handle):
                assert status_of(await session.ask(*request)) is Status.FAILURE


async def test_a_handle_of_another_session_is_a_failure(gateway: Gateway) -> None:
    async with live(gateway) as one, live(gateway) as other:
        handle = await one.handle(encode_open, SHARE + b"small")
        for request in _of_handle(handle):
            assert status_of(await other.ask(*request)) is Status.FAILURE
        reply = await one.ask(encode_read, handle, 0, 10)
        assert reply == DataReply(reply.request_id, b"small\n")


async def test_a_handle_of_another_channel_is_a_failure(
    gateway: Gateway,
) -> None:
    async with connected(gateway) as connection:
        one, other = await open_live(connection), await open_live(connection)
        await one.init()
        await other.init()
        handle = await one.handle(encode_open, SHARE + b"small")
        assert status_of(await other.ask(encode_read, handle, 0, 10)) is Status.FAILURE
        assert status_of(await one.ask(encode_close, handle)) is Status.OK


def _of_handle(handle: bytes) -> list[tuple[Any, ...]]:
    return [
        (encode_read, handle, 0, 10),
        (encode_fstat, handle),
        (encode_readdir, handle),
        (encode_fstatvfs, handle),
        (encode_close, handle),
    ]


async def test_a_handle_over_the_limit_is_refused_until_one_is_closed(gateway: Gateway) -> None:
    async with live(gateway) as session:
        limits = await session.ask(encode_limits)
        assert isinstance(limits, ExtendedReply)
        capacity = decode_limits(limits).max_open_handles
        opened = [await session.handle(encode_open, SHARE + b"small") for _ in range(capacity)]
        for encode, path in ((encode_open, b"small"), (encode_opendir, b"folder")):
            assert status_of(await session.ask(encode, SHARE + path)) is Status.FAILURE
        assert status_of(await session.ask(encode_close, opened[50])) is Status.OK
        assert await session.handle(encode_opendir, SHARE)
        async with live(gateway) as other:
            assert await other.handle(encode_open, SHARE + b"small")


# Folders


async def test_pipelined_readdirs_return_every_name_once_in_order(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_opendir, SHARE + b"many")
        names: list[bytes] = []
        ended = False
        while not ended:
            replies = await session.ask_all([(encode_readdir, handle)] * 32)
            for reply in replies:
                if isinstance(reply, NameReply):
                    assert not ended, "names after EOF"
                    names += [name.filename for name in reply.names]
                else:
                    assert status_of(reply) is Status.EOF
                    ended = True
        # The replies are in the order of the requests, too.
        ids = [int.from_bytes(frame[1:5], "big") for frame in session.frames[1:]]
        assert ids == sorted(ids)
        assert len(names) == len({*names}) == MANY + 2
        assert {*names} == {
            b".",
            b"..",
            *os.listdir(os.fsencode(gateway.folder / "shared/share/many")),
        }
        assert max(map(len, session.frames)) <= 131_072
        assert status_of(await session.ask(encode_close, handle)) is Status.OK
    path = "/home/gvpocr/share/many"
    assert gateway.wait_event("folder_listed", path=path, entries=MANY)["complete"] is True


async def test_a_close_leaves_no_pending_readdir_unanswered(
    gateway: Gateway,
) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_opendir, SHARE + b"many")
        requests = [(encode_readdir, handle)] * 40
        *replies, closed = await session.ask_all([*requests, (encode_close, handle)])
        assert status_of(closed) is Status.OK
        names = [name for r in replies if isinstance(r, NameReply) for name in r.names]
        assert len(names) == len({name.filename for name in names})


async def test_names_carry_the_attributes_that_lstat_gives(gateway: Gateway) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_opendir, SHARE)
        reply = await session.ask(encode_readdir, handle)
        assert isinstance(reply, NameReply)
        for name in reply.names:
            if name.filename not in (b".", b".."):
                looked = await session.ask(encode_lstat, SHARE + name.filename)
                assert looked == AttrsReply(looked.request_id, name.attrs)
            assert None not in (name.attrs.size, name.attrs.permissions, name.attrs.mtime)
            assert name.longname.endswith(b" " + name.filename)
            mode = name.attrs.permissions or 0
            assert name.longname.startswith(stat.filemode(mode).encode())
            assert stat.S_ISLNK(mode) or mode & 0o7444 == 0o444
        assert status_of(await session.ask(encode_readdir, handle)) is Status.EOF
        assert status_of(await session.ask(encode_readdir, handle)) is Status.EOF


async def test_virtual_folders_are_folders(gateway: Gateway) -> None:
    async with live(gateway) as session:
        for path, children in ((b"/", b"home"), (b"/home", b"gvpocr"), (b"", b"share")):
            attrs = await session.ask(encode_stat, path)
            assert isinstance(attrs, AttrsReply)
            assert attrs.attrs.permissions == stat.S_IFDIR | 0o755
            reply = await session.ask(encode_readdir, await session.handle(encode_opendir, path))
            assert isinstance(reply, NameReply)
            assert [name.filename for name in reply.names] == [b".", b"..", children]
            assert status_of(await session.ask(encode_open, path)) is Status.FAILURE
            assert status_of(await session.ask(encode_readlink, path)) is Status.FAILURE
            assert isinstance(await session.ask(encode_statvfs, path), ExtendedReply)


# Checksums


@pytest.mark.parametrize("extension", [b"check-file-handle", b"check-file-name", b"check-file"])
async def test_checksums_are_answered_in_the_requested_form(
    gateway: Gateway, extension: bytes
) -> None:
    async with live(gateway) as session:
        target = SHARE + b"big"
        if extension != b"check-file-name":
            target = await session.handle(encode_open, target)
        tag = string(b"check-file") if extension == b"check-file" else b""
        for offset, length, block in (
            (0, 0, 0), (1, 0, 0), (len(BIG), 0, 0), (len(BIG) + 5, 9, 0), (5, 70_000, 0),
            (5, 1 << 60, 0), (0, 2560, 256), (1, 1000, 300), (0, 0, 65_536),
        ):  # fmt: skip
            reply = await session.ask(
                encode_check_file, extension, target, b"tiger,sha256,md5", offset, length, block
            )
            assert isinstance(reply, ExtendedReply)
            asked = BIG[offset : offset + length] if length else BIG[offset:]
            step = block or len(BIG)
            blocks = [asked[at : at + step] for at in range(0, len(asked), step)]
            expected = b"".join(hashlib.sha256(each).digest() for each in blocks or [b""])
            assert reply.payload == tag + string(b"sha256") + expected


async def test_checksums_that_cannot_be_computed_fail(gateway: Gateway) -> None:
    async with live(gateway) as session:
        for path, algorithms, block, code in (
            (b"missing", b"md5", 0, Status.NO_SUCH_FILE),
            (b"out", b"md5", 0, Status.PERMISSION_DENIED),
            (b"folder", b"md5", 0, Status.FAILURE),
            (b"", b"md5", 0, Status.FAILURE),
            (b"../../../etc/passwd", b"md5", 0, Status.NO_SUCH_FILE),
            (b"../others/keys/worker_ed25519", b"md5", 0, Status.NO_SUCH_FILE),
            (b"big", b"tiger,crc32", 0, Status.OP_UNSUPPORTED),
            (b"big", b"", 0, Status.OP_UNSUPPORTED),
            (b"big", b"md5", 1, Status.FAILURE),
            (b"big", b"md5", 255, Status.FAILURE),
            (b"big", b"md5", 256, Status.FAILURE),  # more blocks than are told at once
        ):
            reply = await session.ask(
                encode_check_file, b"check-file-name", SHARE + path, algorithms, 0, 0, block
            )
            assert status_of(reply) is code, path
        reply = await session.ask(encode_check_file, b"check-file-handle", b"none", b"md5")
        assert status_of(reply) is Status.FAILURE
    denied = gateway.wait_event("denied", operation="check-file", reason="outside_shares")
    assert denied["path"] == "/home/gvpocr/share/../../../etc/passwd"


async def test_a_close_does_not_abort_a_pending_checksum(
    gateway: Gateway,
) -> None:
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        check, closed = await session.ask_all(
            [(encode_check_file, b"check-file-handle", handle, b"md5"), (encode_close, handle)]
        )
        assert isinstance(check, ExtendedReply)
        assert check.payload == string(b"md5") + _MD5_OF_BIG
        assert status_of(closed) is Status.OK


# Names of owners


async def test_an_owners_name_is_resolved_only_after_it_was_shown(gateway: Gateway) -> None:
    async with live(gateway) as session:
        reply = await session.ask(encode_users_groups_by_id, [0, 1, 12345], [0])
        assert isinstance(reply, ExtendedReply)
        assert decode_users_groups_by_id(reply) == ([b"", b"", b""], [b""])
        handle = await session.handle(encode_opendir, SHARE + b"folder")
        await session.ask(encode_readdir, handle)
        reply = await session.ask(encode_users_groups_by_id, [0, 1, 12345], [0, 0])
        assert isinstance(reply, ExtendedReply)
        assert decode_users_groups_by_id(reply) == ([b"root", b"", b""], [b"root", b"root"])
        reply = await session.ask(encode_users_groups_by_id, range(1025), [])
        assert status_of(reply) is Status.FAILURE
