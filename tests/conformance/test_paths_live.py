"""Paths, links and file systems, request by request, over a real SSH channel."""

from __future__ import annotations

import os
import stat

import pytest

from tests.conformance.conftest import BIG
from tests.support.gateway import Gateway
from tests.support.live import live, status_of
from tests.support.sftp_wire import (
    NO_ATTRS,
    AttrsReply,
    DataReply,
    ExtendedReply,
    NameReply,
    Reply,
    Status,
    StatusReply,
    decode_limits,
    decode_statvfs,
    encode_expand_path,
    encode_fstatvfs,
    encode_home_directory,
    encode_limits,
    encode_lstat,
    encode_open,
    encode_opendir,
    encode_read,
    encode_readlink,
    encode_realpath,
    encode_stat,
    encode_statvfs,
)

pytestmark = pytest.mark.integration

SHARE = b"/home/gvpocr/share/"


def _path(reply: Reply) -> bytes:
    """The single name of a reply, without attributes."""
    assert isinstance(reply, NameReply), reply
    [name] = reply.names
    assert (name.longname, name.attrs) == (name.filename, NO_ATTRS)
    return name.filename


# Paths


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"", b"/home/gvpocr"),
        (b".", b"/home/gvpocr"),
        (b"..", b"/home"),
        (b"../..", b"/"),
        (b"../../../..", b"/"),
        (b"/", b"/"),
        (b"//", b"/"),
        (b"share", b"/home/gvpocr/share"),
        (b"share/", b"/home/gvpocr/share"),
        (b"./share//folder/./../small", b"/home/gvpocr/share/small"),
        (b"share/link", b"/home/gvpocr/share/small"),
        (b"share/out", b"/home/gvpocr/share/out"),
        (b"share/out/../x", b"/home/gvpocr/share/x"),
        (b"share/link/below", b"/home/gvpocr/share/link/below"),
        (b"/home/gvpocr/share/nothing/at/all", b"/home/gvpocr/share/nothing/at/all"),
        (b"/etc/passwd", b"/etc/passwd"),
        (b"share/\xff\xfe", b"/home/gvpocr/share/\xff\xfe"),
        (b"~", b"/home/gvpocr/~"),
    ],
)
async def test_realpath_canonicalizes_existing_and_missing_paths(
    gateway: Gateway, path: bytes, canonical: bytes
) -> None:
    async with live(gateway) as session:
        assert _path(await session.ask(encode_realpath, path)) == canonical


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        (b"~", b"/home/gvpocr"),
        (b"~/", b"/home/gvpocr"),
        (b"~/share/small", b"/home/gvpocr/share/small"),
        (b"~gvpocr/share", b"/home/gvpocr/share"),
        (b"share", b"/home/gvpocr/share"),
        (b"/home/~", b"/home/~"),
    ],
)
async def test_expand_path_expands_the_home_folder(
    gateway: Gateway, path: bytes, expanded: bytes
) -> None:
    async with live(gateway) as session:
        assert _path(await session.ask(encode_expand_path, path)) == expanded


async def test_other_users_home_folders_are_not_revealed(gateway: Gateway) -> None:
    async with live(gateway) as session:
        for name in (b"", b"gvpocr"):
            assert _path(await session.ask(encode_home_directory, name)) == b"/home/gvpocr"
        for name in (b"root", b"nobody", b"\xff"):
            assert status_of(await session.ask(encode_home_directory, name)) is Status.NO_SUCH_FILE
            expanded = await session.ask(encode_expand_path, b"~" + name)
            assert status_of(expanded) is Status.NO_SUCH_FILE


async def test_links_can_be_lstated_read_and_followed(gateway: Gateway) -> None:
    async with live(gateway) as session:
        link = await session.ask(encode_lstat, SHARE + b"link")
        target = await session.ask(encode_stat, SHARE + b"link")
        assert isinstance(link, AttrsReply)
        assert isinstance(target, AttrsReply)
        assert stat.S_ISLNK(link.attrs.permissions or 0)
        assert target.attrs.size == len(b"small\n")
        assert _path(await session.ask(encode_readlink, SHARE + b"link")) == b"small"
        assert status_of(await session.ask(encode_readlink, SHARE + b"small")) is Status.FAILURE
        looks = {"stat": encode_stat, "open": encode_open, "readlink": encode_readlink}
        for operation, encode in looks.items():
            reply = await session.ask(encode, SHARE + b"out")
            assert status_of(reply) is Status.PERMISSION_DENIED
            path = "/home/gvpocr/share/out"
            denied = gateway.wait_event("denied", path=path, operation=operation)
            assert denied["reason"] == "link_leads_out"


@pytest.mark.parametrize(
    "path",
    [
        b"nothing", b"share/nothing", b"share/small/below", b"share/folder/../nothing", b"/etc",
        b"share/\0", b"share/small\0.txt", b"/home/root", b"share/" + b"x" * 256,
        b"share/" + b"x/" * 50_000, b"x" * 100_000, b"/" * 100_000 + b"x",
    ],
    ids=repr,
)  # fmt: skip
async def test_missing_paths_are_no_such_file(gateway: Gateway, path: bytes) -> None:
    async with live(gateway) as session:
        for encode in (
            encode_stat, encode_lstat, encode_open, encode_opendir, encode_readlink, encode_statvfs,
        ):  # fmt: skip
            assert status_of(await session.ask(encode, path)) is Status.NO_SUCH_FILE


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"/etc/passwd", "outside_shares"),
        (b"../../etc/passwd", "outside_shares"),
        (b"share/../../../etc", "outside_shares"),
        (b"share/folder/../../../../../../../etc/shadow", "outside_shares"),
        (b"/home/gvpocr/../../" + b"../" * 1000 + b"etc/passwd", "outside_shares"),
        (b"/proc/self/environ", "outside_shares"),
        (b"others", "share_not_granted"),
        (b"others/keys/worker_ed25519", "share_not_granted"),
        (b"share/../others", "share_not_granted"),
    ],
)
async def test_a_path_outside_the_granted_shares_is_no_such_file_and_logged(
    gateway: Gateway, path: bytes, reason: str
) -> None:
    async with live(gateway) as session:
        for encode in (encode_stat, encode_open, encode_opendir, encode_statvfs):
            reply = await session.ask(encode, path)
            assert reply == StatusReply(
                reply.request_id,
                Status.NO_SUCH_FILE,
                "No such file",
                b"",  # type: ignore[union-attr]
            )
    denied = gateway.wait_event("denied", path=path.decode(), operation="opendir")
    assert denied["reason"] == reason


# File systems and limits


async def test_statvfs_gives_the_disks_figures_and_read_only(gateway: Gateway) -> None:
    disk = os.statvfs(gateway.folder)
    async with live(gateway) as session:
        handle = await session.handle(encode_open, SHARE + b"small")
        folder = await session.handle(encode_opendir, SHARE)
        for request in (
            (encode_statvfs, b"/"),
            (encode_statvfs, SHARE),
            (encode_statvfs, SHARE + b"small"),
            (encode_fstatvfs, handle),
            (encode_fstatvfs, folder),
        ):
            reply = await session.ask(*request)
            assert isinstance(reply, ExtendedReply)
            shown = decode_statvfs(reply)
            assert shown.f_blocks * shown.f_frsize == disk.f_blocks * disk.f_frsize
            assert 0 < shown.f_bavail <= shown.f_bfree <= shown.f_blocks
            assert shown.f_namemax == disk.f_namemax
            assert shown.f_flag & 1


async def test_limits_are_the_enforced_ones(gateway: Gateway) -> None:
    async with live(gateway) as session:
        reply = await session.ask(encode_limits)
        assert isinstance(reply, ExtendedReply)
        limits = decode_limits(reply)
        assert limits.max_packet_length == 256 * 1024
        assert limits.max_read_length == 256 * 1024 - 1024
        assert limits.max_open_handles == 100
        handle = await session.handle(encode_open, SHARE + b"big")
        data = await session.ask(encode_read, handle, 0, limits.max_read_length)
        assert data == DataReply(data.request_id, BIG[: limits.max_read_length])
        assert len(session.frames[-1]) <= limits.max_packet_length
