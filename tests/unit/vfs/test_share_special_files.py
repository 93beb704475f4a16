"""Fifos, sockets and devices are hidden, and never opened."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, FileSystemError, NotFound
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import FOLLOWING, MakeShare, listing, without_blocking


@pytest.fixture
def special(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Special files of every kind that can be created, and links to them."""
    os.mkfifo(root / "fifo")
    monkeypatch.chdir(root)  # a socket's path is short
    made = {"fifo": b"fifo", "socket": b"socket"}
    if os.geteuid() == 0:
        os.mknod(root / "character", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        os.mknod(root / "block", 0o666 | stat.S_IFBLK, os.makedev(7, 0))
        made |= {"character": b"character", "block": b"block"}
    for name in tuple(made):
        (root / f"to_{name}").symlink_to(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        yield made


def test_a_special_file_is_never_opened(any_share: Share, special: dict[str, bytes]) -> None:
    for name in special.values():
        for path in (name, b"to_" + name):
            with pytest.raises(Denied) as raised:
                without_blocking(lambda path=path: any_share.open_file(path, wait=True))  # type: ignore[misc]
            assert raised.value.reason == "special_file"
            assert raised.value.hidden


def test_attributes_of_a_fifo_are_read_without_opening_it(
    any_share: Share, root: Path, special: dict[str, bytes]
) -> None:
    for operation in FOLLOWING[:3]:
        with pytest.raises(FileSystemError):
            without_blocking(lambda operation=operation: operation(any_share, special["fifo"]))  # type: ignore[misc]
    with pytest.raises(OSError, match="No such device or address"):  # it has no reader
        os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_a_special_file_is_hidden(any_share: Share, special: dict[str, bytes]) -> None:
    for name in special.values():
        for operation in (
            any_share.lstat,
            any_share.stat,
            any_share.open_directory,
            any_share.readlink,
        ):
            with pytest.raises(NotFound):
                operation(name, wait=True)
        with pytest.raises(NotFound):
            any_share.stat(b"to_" + name, wait=True)
        with pytest.raises(NotFound):
            any_share.stat(name + b"/x", wait=True)


def test_a_special_file_is_not_listed(any_share: Share, special: dict[str, bytes]) -> None:
    shown = set(listing(any_share))
    assert shown.isdisjoint(special.values())
    linked = {b"to_" + name for name in special.values()}
    assert shown & linked == (set() if any_share.links is Links.DEREFERENCE else linked)


def test_devices_in_a_shared_dev_are_hidden(make_share: MakeShare) -> None:
    share = make_share(Path("/dev"))
    assert not {b"null", b"zero", b"full", b"tty"} & set(listing(share))
    with pytest.raises(NotFound):
        share.lstat(b"null", wait=True)
    with pytest.raises(Denied, match="special_file"):
        share.open_file(b"zero", wait=True)
