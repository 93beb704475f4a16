"""Real clients of the gateway and of OpenSSH's sshd, side by side on the same files."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest

from tests.support.gateway import Gateway, fill
from tests.support.live import connected
from tests.support.old_server import Both, beside_openssh

pytestmark = pytest.mark.integration

#: Time zone of both servers, with New York's daylight saving time.
ZONE = "EST5EDT,M3.2.0,M11.1.0"
SUMMER, WINTER = 1_720_000_000, 1_705_000_000

LINKS = {"latest": "v2", "v2/up": "../v1", "v1/other": "../v2", "v2/weights": "../v1/file"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    top = tmp_path_factory.mktemp("both")
    models = top / "data/models"
    fill(models, {"v1/file": b"one", "v2/file": b"two", "v2/deep/file": b"deep"})
    for name, target in LINKS.items():
        (models / name).symlink_to(target)
    for name, when in (("v1/file", SUMMER), ("v2/file", WINTER), ("", 1_600_000_000)):
        os.utime(models / name, (when, when))
    os.chown(models, 54100, 54100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", ZONE)
        with beside_openssh(top) as both:
            yield both


@pytest.fixture(params=["gateway", "openssh"])
def server(request: pytest.FixtureRequest, both: Both) -> Gateway:
    found: Gateway = getattr(both, request.param)
    return found


@pytest.mark.parametrize("source", ["models/latest/", "models/latest/.", "models/latest//./"])
def test_sshfs_mounts_a_linked_folder_given_a_trailing_slash(
    server: Gateway, tmp_path: Path, source: str
) -> None:
    with server.mounted(tmp_path / "mnt", source) as mount:
        assert {"file", "deep"} <= {*os.listdir(mount)}
        assert (mount / "deep/file").read_bytes() == b"deep"


def test_sftp_lists_a_linked_folder_given_a_trailing_slash(server: Gateway) -> None:
    for path in ("models/latest/", "models/latest/."):
        listed = server.sftp(f"ls -1 {path}").stdout.decode()
        assert "file" in listed, listed
        assert "deep" in listed, listed


def test_a_file_with_a_trailing_slash_is_not_found(server: Gateway, tmp_path: Path) -> None:
    for path in ("models/v1/file/", "models/v1/file/."):
        ran = server.sftp(f"get {path} {tmp_path}/got")
        assert ran.returncode == 1
        assert b"not found" in ran.stderr, ran.stderr


def test_dot_dot_after_a_link_is_the_parent_of_its_target(server: Gateway) -> None:
    ran = server.sftp("cd models/latest/deep/..", "pwd", "cd ../latest", "pwd")
    lines = [line for line in ran.stdout.decode().splitlines() if line.startswith("Remote")]
    assert lines == ["Remote working directory: /home/gvpocr/models/v2"] * 2


def test_sftp_shows_times_in_the_servers_time_zone(both: Both) -> None:
    shown = []
    for server in both:
        listed = server.sftp("ls -l models/v1/file", "ls -l models/v2/file").stdout.decode()
        lines = [line for line in listed.splitlines() if line.startswith("-rw")]
        assert len(lines) == 2, listed
        shown.append([line.split()[-4:-1] for line in lines])
    assert shown[0] == shown[1]


def _status(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_mode, status.st_uid, status.st_gid, int(status.st_mtime)


def test_a_mount_shows_the_same_owner_and_time_for_a_share(both: Both, tmp_path: Path) -> None:
    shown = []
    for number, server in enumerate(both):
        with server.mounted(tmp_path / f"mnt{number}", "/home/gvpocr", "allow_other") as mount:
            seen = {_status(mount / "models")}  # LSTAT
            os.listdir(mount)
            seen.add(_status(mount / "models"))  # of the listing
            os.listdir(mount / "models")
            seen.add(_status(mount / "models"))
        shown.append(seen)
    assert shown[0] == shown[1]
    assert shown[0] == {(stat.S_IFDIR | 0o755, 54100, 54100, 1_600_000_000)}


async def test_listing_a_file_is_file_not_found(server: Gateway) -> None:
    async with connected(server) as connection, connection.start_sftp_client() as sftp:
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.listdir("models/v1/file")


def test_paramiko_raises_file_not_found_when_listing_a_file(server: Gateway) -> None:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(server.known_hosts))
        client.connect(
            "127.0.0.1", server.port, "gvpocr", key_filename=str(server.key),
            allow_agent=False, look_for_keys=False,
        )  # fmt: skip
        with client.open_sftp() as sftp:
            with pytest.raises(FileNotFoundError):
                sftp.listdir("models/v1/file")
            assert sftp.normalize("models/latest/up/other/deep") == "/home/gvpocr/models/v2/deep"


async def test_a_walk_that_detects_cycles_by_realpath_ends(both: Both) -> None:
    found = []
    for server in both:
        names, seen, left = 0, set(), ["models"]
        async with connected(server) as connection, connection.start_sftp_client() as sftp:
            while left:
                folder = left.pop()
                real = await sftp.realpath(folder)
                if real in seen:
                    continue
                seen.add(real)
                for entry in await sftp.listdir(folder):
                    if entry in (".", ".."):
                        continue
                    names += 1
                    if await sftp.isdir(f"{folder}/{entry}"):
                        left.append(f"{folder}/{entry}")
        found.append((names, seen))
    assert found[0] == found[1]
    assert found[0][0] == 10


def test_a_tree_with_links_to_parents_is_readable_through_a_stock_mount(
    both: Both, tmp_path: Path
) -> None:
    with both.gateway.mounted(tmp_path / "mnt", "models") as mount:
        assert (mount / "v2/weights").read_bytes() == b"one"
        assert (mount / "v2/up/file").read_bytes() == b"one"
        assert (mount / "latest").readlink() == Path("v2")
        walked = subprocess.run(
            ["find", "."], cwd=mount, capture_output=True, text=True, timeout=60
        )
        assert walked.returncode == 0, walked.stderr
        assert len(walked.stdout.splitlines()) < 25
        copied = subprocess.run(
            ["cp", "-r", mount, tmp_path / "copy"], capture_output=True, text=True, timeout=60
        )
    assert (tmp_path / "copy/v2/weights").read_bytes() == b"one"
    # A link to its own ancestor stays a link, which current sshfs refuses.
    assert all("Operation not permitted" in line for line in copied.stderr.splitlines())
