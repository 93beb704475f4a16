"""Symbolic links and special files, through real clients."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.support.gateway import Gateway, fill, running

pytestmark = pytest.mark.integration

SECRET = b"not for the client"
LINKS = {
    "beside": "file.txt",
    "down": "folder/inner.txt",
    "folder link": "folder",
    "folder/up": "../file.txt",
    "to a link": "beside",
    "dangling": "nothing",
}
#: Different kinds of links out of the share.
ESCAPES = {
    "absolute": "/etc/passwd",
    "absolute into the share": "{share}/file.txt",
    "climbing": "../secret.txt",
    "climbing to another share": "../newsletters/letter.txt",
    "climbing from the folder": "folder/../../secret.txt",
    "through a folder link": "outside folder/secret.txt",
    "outside folder": "..",
    "magic": "/proc/self/root/etc/passwd",
}


@pytest.fixture(scope="module", params=["auto", "keep", "dereference"])
def links(request: pytest.FixtureRequest) -> str:
    """The share's `links` option."""
    return str(request.param)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, links: str) -> Iterator[Gateway]:
    """A share with links and special files."""
    folder = tmp_path_factory.mktemp("gateway")
    share = folder / "shared/share"
    fill(folder / "shared", {"secret.txt": SECRET, "newsletters/letter.txt": SECRET})
    fill(share, {"file.txt": b"file", "folder/inner.txt": b"inner"})
    for name, target in (LINKS | ESCAPES).items():
        (share / name).symlink_to(target.format(share=share))
    os.mkfifo(share / "fifo")
    os.mknod(share / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(share / "socket", stat.S_IFSOCK | 0o666)
    (share / "fifo link").symlink_to("fifo")
    config = f'[shares.share]\npath = "{share}"\nlinks = "{links}"\n'
    with running(folder, config) as gateway:
        yield gateway


def _fetch(gateway: Gateway, name: str, to: Path) -> bytes | None:
    """The content that `sftp` gets for a name in the share, or None if refused."""
    ran = gateway.sftp(f'get "share/{name}" "{to}"')
    if ran.returncode:
        assert ran.returncode == 1, ran.stderr
        assert not to.exists()
        return None
    return to.read_bytes()


# Links within the share


def test_links_within_the_share_can_be_read(gateway: Gateway, tmp_path: Path) -> None:
    expected = {
        "beside": b"file",
        "down": b"inner",
        "folder link/inner.txt": b"inner",
        "folder/up": b"file",
        "to a link": b"file",
        "folder link/up": b"file",
    }
    got = {name: _fetch(gateway, name, tmp_path / "got") for name in expected}
    assert got == expected
    assert _fetch(gateway, "dangling", tmp_path / "nothing") is None


def test_a_mount_follows_links_without_dot_dot(
    gateway: Gateway, links: str, tmp_path: Path
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/share") as mount:
        assert (mount / "beside").read_bytes() == b"file"
        assert (mount / "down").read_bytes() == b"inner"
        assert (mount / "folder link/inner.txt").read_bytes() == b"inner"
        assert (mount / "to a link").read_bytes() == b"file"
        assert (mount / "beside").is_symlink() == (links != "dereference")
        assert not (mount / "dangling").exists()


def test_a_mount_with_follow_symlinks_follows_every_link_within_the_share(
    gateway: Gateway, tmp_path: Path
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/share", "follow_symlinks") as mount:
        assert (mount / "folder/up").read_bytes() == b"file"
        assert (mount / "folder link/up").read_bytes() == b"file"
        assert not (mount / "beside").is_symlink()


# Links out of the share


@pytest.mark.parametrize("name", list(ESCAPES))
def test_a_link_out_of_the_share_is_refused_and_logged(
    gateway: Gateway, tmp_path: Path, name: str
) -> None:
    assert _fetch(gateway, name, tmp_path / "got") is None
    denied = gateway.wait_event("denied", path=f"/home/gvpocr/share/{name}")
    assert (denied["reason"], denied["share"]) == ("link_leads_out", "share")


def test_nothing_is_found_through_a_folder_link_out_of_the_share(
    gateway: Gateway, tmp_path: Path
) -> None:
    for name in ("outside folder/secret.txt", "outside folder/share/file.txt", "outside folder/no"):
        assert _fetch(gateway, name, tmp_path / "got") is None
        denied = gateway.wait_event("denied", path=f"/home/gvpocr/share/{name}")
        assert denied["reason"] == "link_leads_out"


@pytest.mark.parametrize("options", [[], ["follow_symlinks"]], ids=["plain", "follow_symlinks"])
def test_a_mount_never_shows_files_outside_the_share(
    gateway: Gateway, tmp_path: Path, options: list[str]
) -> None:
    # With default options the worker's kernel follows links: an absolute one names a file of the
    # worker.
    names = [name for name in ESCAPES if options or not ESCAPES[name].startswith("/")]
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/share", *options) as mount:
        for name in names:
            with pytest.raises(OSError, match=r"Permission|not permitted"):
                (mount / name).read_bytes()


def test_a_dereferenced_listing_omits_escaping_and_dangling_links(
    gateway: Gateway, links: str
) -> None:
    ran = gateway.sftp("cd share", "ls -1")
    shown = {line.decode() for line in ran.stdout.splitlines()[2:]}
    inside = {name for name in LINKS if "/" not in name}
    if links == "dereference":
        assert shown == {"file.txt", "folder"} | inside - {"dangling"}
    else:
        assert shown == {"file.txt", "folder", "fifo link"} | inside | ESCAPES.keys()


# Special files


@pytest.mark.parametrize("name", ["fifo", "socket", "device", "fifo link"])
def test_a_special_file_is_hidden_and_never_opened(
    gateway: Gateway, tmp_path: Path, name: str
) -> None:
    # Opening a FIFO for reading would block until it has a writer.
    assert _fetch(gateway, name, tmp_path / "got") is None
    assert gateway.sftp("ls share/file.txt").returncode == 0


@pytest.mark.parametrize("name", ["fifo", "socket", "device", "fifo link"])
async def test_opening_a_special_file_directly_is_refused_and_logged(
    gateway: Gateway, name: str
) -> None:
    async with (
        asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_keys=[str(gateway.key)],
            known_hosts=str(gateway.known_hosts), config=None,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):  # fmt: skip
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.open(f"share/{name}")
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat(f"share/{name}")
    denied = gateway.wait_event("denied", path=f"/home/gvpocr/share/{name}")
    assert (denied["operation"], denied["reason"]) == ("open", "special_file")


def test_a_mount_does_not_show_special_files(gateway: Gateway, tmp_path: Path) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/share") as mount:
        assert not {"fifo", "socket", "device"} & {*os.listdir(mount)}
        with pytest.raises(FileNotFoundError):
            (mount / "fifo").read_bytes()
