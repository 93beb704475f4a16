"""OpenSSH's sftp and scp: listings, downloads and refused changes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, running
from tests.support.trees import ODD_NAMES, below, read_tree, some_tree, write_tree

pytestmark = pytest.mark.integration

TREE = some_tree()
LETTER = b"Dear reader,\n"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by all tests here, as no client can change anything."""
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        write_tree(gateway.folder / "shared/Bhushanji", TREE)
        fill(gateway.folder / "shared/newsletters", {"2024/letter.txt": LETTER})
        os.utime(gateway.folder / "shared/newsletters/2024/letter.txt", (1e9, 1e9))
        os.chmod(gateway.folder / "shared/newsletters/2024/letter.txt", 0o701)
        yield gateway


def _printed(gateway: Gateway, *commands: str) -> list[str]:
    """The commands' output without their echo."""
    ran = gateway.sftp(*commands)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.decode("utf-8", "surrogateescape").splitlines()
    return [line.rstrip() for line in lines if not line.startswith("sftp> ")]


def _scp(
    gateway: Gateway, *arguments: str, options: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scp", *(options or gateway.ssh_options()), "-P", str(gateway.port), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


# Listing


def test_ls_shows_the_shares_without_hidden_files(gateway: Gateway) -> None:
    assert _printed(gateway, "ls -1") == ["Bhushanji", "models", "newsletters"]
    assert _printed(gateway, "ls -1 .cache/huggingface") == [".cache/huggingface/hub"]


def test_ls_l_shows_modes_without_write_bits_owner_size_and_date(gateway: Gateway) -> None:
    [line] = _printed(gateway, "ls -l newsletters/2024")
    assert re.fullmatch(
        # sftp formats the line itself, with owner names and without link counts.
        rf"-rwxr--r-x\s+\? root\s+root\s+{len(LETTER)} Sep  9  2001 \S*letter.txt",
        line,
    )


def test_ls_la_shows_dot_and_dot_dot(gateway: Gateway) -> None:
    lines = _printed(gateway, "ls -la newsletters/2024")
    assert [line.split()[-1].rpartition("/")[2] for line in lines] == [".", "..", "letter.txt"]
    assert all(line.startswith("drwxr-xr-x") for line in lines[:2])
    assert [line.split()[-1] for line in _printed(gateway, "ls -la")] == [
        ".", "..", ".cache", "Bhushanji", "models", "newsletters",
    ]  # fmt: skip


def test_ls_shows_odd_names(gateway: Gateway) -> None:
    ran = gateway.sftp("ls -1 Bhushanji/names")
    # sftp prints bytes that are invalid in the locale in octal.
    shown = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), ran.stdout)
    assert [name for name in ODD_NAMES if b"/names/" + name + b"\n" not in shown] == []


def test_cd_never_leaves_the_root(gateway: Gateway) -> None:
    places = _printed(
        gateway, "pwd", "cd Bhushanji", "pwd", "cd ..", "pwd", "cd ../../../../..", "pwd", "ls"
    )
    there = [place.removeprefix("Remote working directory: ") for place in places]
    assert there == ["/home/gvpocr", "/home/gvpocr/Bhushanji", "/home/gvpocr", "/", "home"]


def test_df_shows_the_disks_figures(gateway: Gateway) -> None:
    disk = os.statvfs(gateway.folder / "shared")
    for command in ("df", "df Bhushanji", "df Bhushanji/sizes"):
        numbers = _printed(gateway, command)[-1].split()
        assert int(numbers[0]) * 1024 == disk.f_blocks * disk.f_frsize
    assert _printed(gateway, "df -h")[0].split()[0] == "Size"


# Fetching


def test_get_r_fetches_the_whole_tree(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.sftp(f"get -r Bhushanji {tmp_path}").returncode == 0
    got = read_tree(tmp_path / "Bhushanji")
    assert got.pop(b"README.txt")
    assert got == TREE


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ('"names/with spaces"', b"with spaces"),
        (r"names/with\ spaces", b"with spaces"),
        (r'"names/quote\'s and \"quotes\""', b'quote\'s and "quotes"'),
        (r'"names/gl*b[x]?"', b"gl*b[x]?"),
        ("names/new?line", b"new\nline"),
        ("'names/एक पत्र.pdf'", "एक पत्र.pdf".encode()),
        ("'names/not UTF-8 \udcff\udcfe\udc80'", b"not UTF-8 \xff\xfe\x80"),
    ],
)
def test_get_fetches_a_file_with_an_odd_name(
    gateway: Gateway, tmp_path: Path, typed: str, name: bytes
) -> None:
    ran = gateway.sftp("cd Bhushanji", f"get {typed} {tmp_path}")
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == {name: TREE[b"names/" + name]}


def test_a_non_utf_8_name_is_escaped_in_the_log(gateway: Gateway, tmp_path: Path) -> None:
    gateway.sftp("get 'Bhushanji/names/not UTF-8 \udcff\udcfe\udc80' /dev/null")
    gateway.sftp("get Bhushanji/names/new?line /dev/null")
    folder = "/home/gvpocr/Bhushanji/names/"
    assert gateway.wait_event("file_closed", path=folder + r"not UTF-8 \xff\xfe\x80")["whole"]
    assert gateway.wait_event("file_closed", path=folder + "new\nline")["whole"]


def test_get_p_keeps_time_and_mode(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.sftp(f"get -p newsletters/2024/letter.txt {tmp_path}").returncode == 0
    status = (tmp_path / "letter.txt").stat()
    assert (status.st_mtime, status.st_mode & 0o777) == (1e9, 0o745)


def test_reget_reads_only_the_missing_part(gateway: Gateway, tmp_path: Path) -> None:
    content = TREE[b"sizes/3000001.bin"]
    part = tmp_path / "3000001.bin"
    part.write_bytes(content[:1_234_567])
    assert gateway.sftp(f"reget Bhushanji/sizes/3000001.bin {part}").returncode == 0
    assert part.read_bytes() == content
    path = "/home/gvpocr/Bhushanji/sizes/3000001.bin"
    assert gateway.wait_event("file_closed", path=path, bytes=len(content) - 1_234_567)


def test_the_largest_buffer_and_many_requests_fetch_identical_bytes(
    gateway: Gateway, tmp_path: Path
) -> None:
    options = [*gateway.ssh_options(), "-B", "262144", "-R", "256"]
    ran = gateway.sftp(f"get Bhushanji/sizes/* {tmp_path}", options=options)
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == below(b"sizes/", TREE)


# Changing


@pytest.mark.parametrize(
    ("command", "operation", "path"),
    [
        ("put /etc/hostname new", "open", "new"),
        ("put /etc/hostname newsletters/2024/letter.txt", "open", "newsletters/2024/letter.txt"),
        ("put -r /etc/ssh new", "mkdir", "new"),
        ("rm newsletters/2024/letter.txt", "remove", "newsletters/2024/letter.txt"),
        ("mkdir newsletters/2025", "mkdir", "newsletters/2025"),
        ("rmdir newsletters/2024", "rmdir", "newsletters/2024"),
        ("rename newsletters/2024 newsletters/old", "rename", "newsletters/2024"),
        ("rename newsletters n", "rename", "newsletters"),
        ("chmod 777 newsletters/2024/letter.txt", "setstat", "newsletters/2024/letter.txt"),
        ("chown 1 newsletters/2024/letter.txt", "setstat", "newsletters/2024/letter.txt"),
        ("chgrp 1 newsletters/2024/letter.txt", "setstat", "newsletters/2024/letter.txt"),
        ("ln -s letter.txt newsletters/2024/link", "symlink", "newsletters/2024/link"),
        ("symlink /etc/passwd newsletters/passwd", "symlink", "newsletters/passwd"),
    ],
)
def test_a_change_is_refused_with_a_status_and_logged_as_denied(
    gateway: Gateway, command: str, operation: str, path: str
) -> None:
    before = read_tree(gateway.folder / "shared")
    ran = gateway.sftp(command)
    assert ran.returncode == 1
    denied = gateway.wait_event("denied", operation=operation, path=f"/home/gvpocr/{path}")
    assert (denied["reason"], denied["user"]) == ("read_only", "gvpocr")
    assert read_tree(gateway.folder / "shared") == before


def test_sftp_reports_hard_links_and_copies_as_unsupported(gateway: Gateway) -> None:
    for command in ("ln newsletters/2024/letter.txt newsletters/l", "cp newsletters n"):
        ran = gateway.sftp(command)
        assert ran.returncode == 1
        assert b"does not support" in ran.stderr


@pytest.mark.parametrize(
    "path",
    ["../../../etc/passwd", "Bhushanji/../../../etc/passwd", "/home/../etc/passwd", "/etc/passwd"],
)
def test_a_path_outside_the_shares_is_not_found_and_logged_as_denied(
    gateway: Gateway, tmp_path: Path, path: str
) -> None:
    ran = gateway.sftp(f"get {path} {tmp_path}/got")
    assert ran.returncode == 1
    assert b"not found" in ran.stderr
    assert not (tmp_path / "got").exists()
    asked = path if path.startswith("/") else f"/home/gvpocr/{path}"
    assert gateway.wait_event("denied", path=asked)["reason"] == "outside_shares"


# scp


@pytest.mark.parametrize("path", ["newsletters/2024/letter.txt", "~/newsletters/2024/letter.txt"])
def test_scp_fetches_a_file(gateway: Gateway, tmp_path: Path, path: str) -> None:
    ran = _scp(gateway, "-p", f"gvpocr@127.0.0.1:{path}", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == {b"letter.txt": LETTER}
    assert (tmp_path / "letter.txt").stat().st_mtime == 1e9


def test_scp_r_fetches_the_whole_tree(gateway: Gateway, tmp_path: Path) -> None:
    ran = _scp(gateway, "-r", "gvpocr@127.0.0.1:/home/gvpocr/Bhushanji", str(tmp_path / "got"))
    assert ran.returncode == 0, ran.stderr
    got = read_tree(tmp_path / "got")
    assert got.pop(b"README.txt")
    assert got == TREE


def test_scp_to_the_gateway_is_refused_and_logged_as_denied(gateway: Gateway) -> None:
    ran = _scp(gateway, "/etc/hostname", "gvpocr@127.0.0.1:newsletters/uploaded")
    assert ran.returncode == 1
    path = "/home/gvpocr/newsletters/uploaded"
    assert gateway.wait_event("denied", path=path)["reason"] == "read_only"
