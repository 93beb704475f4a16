"""The scp protocol (`scp -O`, and OpenSSH before 9.0), compared with sshd."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import pytest

from benchmarks.processes import memory_now
from tests.support.gateway import TIMEOUT, Gateway, fill, free_port, running, wait_for
from tests.support.keys import public_line
from tests.support.live import connected
from tests.support.old_server import OldServer
from tests.support.slow_disk import failing_disk
from tests.support.trees import read_tree, write_tree

pytestmark = pytest.mark.integration

#: A thousand files in folders, most of them small, some of a few packets.
_NOISE = random.Random(1983)
TREE = {
    b"%d/%d/file %d.pdf" % (n % 3, n % 7, n): _NOISE.randbytes((0, 1, 100, 5_000, 70_000)[n % 5])
    for n in range(1000)
}
BIG = bytes(range(256)) * 4096 * 3 + b"end"
NAMES = [b"a.pdf", b"b.pdf", b"c.txt", b".hidden.pdf", b"with space.pdf", b"gl*b[x]?.pdf", b"it's"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    share = folder / "shared/models"
    write_tree(share / "tree", TREE)
    write_tree(share / "names", {name: b"in " + name for name in NAMES})
    fill(share, {"big.bin": BIG, "empty": b"", "deep/er/file": b"below\n"})
    fill(folder / "shared/others", {"secret": b"not theirs"})
    (share / "deep/link").symlink_to("../big.bin")
    (share / "deep/out").symlink_to("/etc/passwd")
    (share / "cycle").mkdir()
    (share / "cycle/again").symlink_to(".")
    fill(share, {"cycle/file": b"once\n"})
    (share / "script").write_bytes(b"#!/bin/sh\n")
    (share / "script").chmod(0o755)
    os.utime(share / "script", (1_000_000_000, 1_234_567_890))
    os.utime(share / "deep/er", (1_000_000_000, 1_111_111_111))
    config = f"""
        [shares.models]
        path = "{share}"
        [shares.others]
        path = "{folder}/shared/others"
        [users.gvpocr]
        shares = ["models"]
    """
    with running(folder, config) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Iterator[OldServer]:
    """An sshd with the same files."""
    folder = tmp_path_factory.mktemp("old")
    (folder / "authorized_keys").write_text(f"{public_line(gateway.key)}\n")
    shares = folder / "shares"
    for name in ("Bhushanji", "newsletters", "huggingface/hub"):
        (shares / name).mkdir(parents=True)
    (shares / "models").symlink_to(gateway.folder / "shared/models")
    server = OldServer(folder, shares, free_port())
    yield server.start()
    server.stop()


def _scp(
    gateway: Gateway, source: str, target: Path, *options: str, port: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Copy `source` from the gateway, or the server on `port`, by the scp protocol."""
    unknown = {} if port is None else {"StrictHostKeyChecking": "no", "LogLevel": "ERROR"}
    return subprocess.run(
        [
            "scp", "-O", *gateway.ssh_options(**unknown), "-P", str(port or gateway.port),
            *options, f"gvpocr@127.0.0.1:{source}", target,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
    )  # fmt: skip


# Downloads


def test_a_thousand_files_are_copied_as_sshd_copies_them(
    gateway: Gateway, sshd: OldServer, tmp_path: Path
) -> None:
    for name, port in (("ours", None), ("theirs", sshd.port)):
        ran = _scp(gateway, "models/tree", tmp_path / name, "-r", port=port)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert read_tree(tmp_path / "ours") == read_tree(tmp_path / "theirs") == TREE


@pytest.mark.parametrize(
    "source",
    ["models/big.bin", "~/models/big.bin", "/home/gvpocr/models/deep/link", "models/empty"],
)
def test_a_file_is_copied(gateway: Gateway, tmp_path: Path, source: str) -> None:
    ran = _scp(gateway, source, tmp_path / "file")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "file").read_bytes() == (b"" if source.endswith("empty") else BIG)


def test_a_copy_is_logged_like_one_by_sftp(gateway: Gateway, tmp_path: Path) -> None:
    ran = _scp(gateway, "models/deep", tmp_path, "-r")
    assert (ran.returncode, ran.stderr) == (1, "scp: models/deep/out: Permission denied\n")
    gateway.wait_event("command_answered", command="scp -r -f models/deep")
    listed = gateway.wait_event("folder_listed", path="/home/gvpocr/models/deep/er")
    assert (listed["entries"], listed["complete"], listed["user"]) == (1, True, "gvpocr")
    opened = gateway.wait_event("file_opened", path="/home/gvpocr/models/deep/link")
    closed = gateway.wait_event("file_closed", path="/home/gvpocr/models/deep/link")
    assert opened["session"] == closed["session"]
    assert (closed["size"], closed["bytes"]) == (len(BIG), len(BIG))
    assert (closed["whole"], closed["result"], closed["share"]) == (True, "ok", "models")


@pytest.mark.parametrize("name", ["script", "deep/er"])
def test_times_and_modes_are_kept(
    gateway: Gateway, sshd: OldServer, tmp_path: Path, name: str
) -> None:
    shown = os.stat(gateway.folder / "shared/models" / name)
    for to, port in (("ours", None), ("theirs", sshd.port)):
        ran = _scp(gateway, f"models/{name}", tmp_path / to, "-r", "-p", port=port)
        assert (ran.returncode, ran.stderr) == (0, "")
        got = os.stat(tmp_path / to)
        assert (got.st_mtime, got.st_mode & 0o555) == (shown.st_mtime, shown.st_mode & 0o555)


@pytest.mark.parametrize(
    "pattern",
    [
        "names/*.pdf", "names/[ab].pdf", "names/[!a].pdf", "names/?.*", "names/.h*", "n*/c.*",
        "names/with\\ space.pdf", "'names/gl*b[x]?.pdf'", "names/gl\\**.pdf", '"names/it\'s"',
        "names/{a}.pdf", "names/*.none", "*/nothing", "./names//a.*", "na*/../names/a.pdf",
        "names/a.pdf models/names/b.pdf", "names/[a-b].pdf", "names/*' '*",
    ],
)  # fmt: skip
def test_wildcards_and_quotes_work_as_in_a_shell(
    gateway: Gateway, sshd: OldServer, tmp_path: Path, pattern: str
) -> None:
    source = pattern.replace("names", "models/names", 1) if pattern[0] in "'\"" else None
    source = source or f"models/{pattern}"
    ends = []
    for name, port in (("ours", None), ("theirs", sshd.port)):
        (tmp_path / name).mkdir()
        ran = _scp(gateway, source, tmp_path / name, "-T", port=port)
        ends.append((ran.returncode, ran.stderr))
    if "{" not in pattern:  # no braces are expanded or taken
        assert ends[0] == ends[1]
        assert read_tree(tmp_path / "ours") == read_tree(tmp_path / "theirs")
    else:
        assert ends[0][0] == 1


def test_a_folder_linking_to_itself_is_copied_once(gateway: Gateway, tmp_path: Path) -> None:
    ran = _scp(gateway, "models/cycle", tmp_path, "-r")
    assert ran.returncode == 1
    assert "again: Too many levels" in ran.stderr
    assert read_tree(tmp_path) == {b"cycle/file": b"once\n"}


def test_the_home_folder_is_copied_with_its_shares(gateway: Gateway, tmp_path: Path) -> None:
    ran = _scp(gateway, "/home/gvpocr/models/../../gvpocr", tmp_path, "-r")
    assert "others" not in ran.stderr
    assert (tmp_path / "gvpocr/models/big.bin").read_bytes() == BIG
    assert not (tmp_path / "gvpocr/others").exists()


# Refusals


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/etc/passwd", "outside_shares"),
        ("../../etc/passwd", "outside_shares"),
        ("others/secret", "share_not_granted"),
        ("/home/gvpocr/others/secret", "share_not_granted"),
        ("models/deep/out", "link_leads_out"),
        ("models/../../../etc/pass*", "outside_shares"),
    ],
)
def test_a_path_outside_the_shares_is_refused_and_logged(
    gateway: Gateway, tmp_path: Path, source: str, reason: str
) -> None:
    before = len(gateway.events("denied", reason=reason))
    ran = _scp(gateway, source, tmp_path / "got")
    assert ran.returncode == 1
    assert ran.stderr.endswith(("No such file or directory\n", "Permission denied\n"))
    assert not (tmp_path / "got").exists()
    denied = wait_for(lambda: gateway.events("denied", reason=reason)[before:], "the refusal")
    assert {event["user"] for event in denied} == {"gvpocr"}


@pytest.mark.parametrize("options", [(), ("-r",), ("-d",)])
def test_an_upload_is_refused_with_one_line(
    gateway: Gateway, tmp_path: Path, options: tuple[str, ...]
) -> None:
    fill(tmp_path, {"folder/file": b"up"})
    what = tmp_path / "folder" if "-r" in options else tmp_path / "folder/file"
    ran = subprocess.run(
        [
            "scp", "-O", *gateway.ssh_options(), "-P", str(gateway.port), *options, what,
            "gvpocr@127.0.0.1:models/uploaded",
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "scp: this server is read-only\n"
    denied = gateway.wait_event("denied", path="/home/gvpocr/models/uploaded")
    assert (denied["operation"], denied["reason"]) == ("open", "read_only")
    assert not (gateway.folder / "shared/models/uploaded").exists()


def test_a_folder_is_copied_only_with_dash_r(
    gateway: Gateway, sshd: OldServer, tmp_path: Path
) -> None:
    for port in (None, sshd.port):
        ran = _scp(gateway, "models/deep", tmp_path, port=port)
        assert (ran.returncode, ran.stderr) == (1, "scp: models/deep: not a regular file\n")


def test_a_name_with_a_newline_is_skipped_and_reported(gateway: Gateway, tmp_path: Path) -> None:
    write_tree(gateway.folder / "shared/models/lines", {b"new\nline": b"x", b"other": b"y"})
    ran = _scp(gateway, "models/lines", tmp_path, "-r")
    assert ran.returncode == 1
    assert "new?line: a name with a newline cannot be sent" in ran.stderr
    assert read_tree(tmp_path) == {b"lines/other": b"y"}


def test_a_non_utf_8_name_can_be_copied(gateway: Gateway, tmp_path: Path) -> None:
    name = b"not \xff UTF-8"
    write_tree(gateway.folder / "shared/models/bytes", {name: b"x"})
    ran = _scp(gateway, os.fsdecode(b"models/bytes/'" + name + b"'"), tmp_path, "-T")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert read_tree(tmp_path) == {name: b"x"}


# Failing disks and clients


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_a_read_that_fails_or_hangs_fails_the_copy(
    make_gateway: Callable[..., Gateway], tmp_path: Path, fault: str
) -> None:
    gate = tmp_path / "gate"
    fill(tmp_path / "behind", {"folder/first": b"a" * 1000, "folder/second": bytes(8_000_000)})
    with failing_disk(tmp_path / "behind", tmp_path / "bad", gate):
        gateway = make_gateway(
            f'[shares.bad]\npath = "{tmp_path}/bad"\n', SFTP_GATEWAY_DISK_TIMEOUT="1"
        ).start()
        gate.write_text("EIO" if fault == "fails" else "")
        ran = _scp(gateway, "bad/folder/second", tmp_path / "got")
        gate.unlink()
        assert ran.returncode == 1
        words = "Input/output error" if fault == "fails" else "The disk does not answer"
        assert f"scp: bad/folder/second: {words}\n" in ran.stderr
        closed = gateway.wait_event("file_closed", path="/home/gvpocr/bad/folder/second")
        assert (closed["whole"], closed["result"]) == (False, "aborted")
        assert _scp(gateway, "bad/folder/second", tmp_path / "again").returncode == 0
        assert (tmp_path / "again").read_bytes() == bytes(8_000_000)
        gateway.close()


def test_a_file_truncated_during_the_copy_fails_it(gateway: Gateway, tmp_path: Path) -> None:
    path = gateway.folder / "shared/models/shrinks"
    path.write_bytes(bytes(300_000_000))
    scp = subprocess.Popen(
        [
            "scp", "-O", "-l", "100000", *gateway.ssh_options(), "-P", str(gateway.port),
            "gvpocr@127.0.0.1:models/shrinks", tmp_path / "got",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "got").exists() and os.stat(tmp_path / "got").st_size, "bytes")
    os.truncate(path, 1000)
    errors = scp.communicate(timeout=TIMEOUT)[1]
    assert scp.returncode == 1
    assert "scp: models/shrinks: the file has become shorter" in errors


async def test_a_client_that_does_not_read_costs_bounded_memory(
    gateway: Gateway, tmp_path: Path
) -> None:
    path = gateway.folder / "shared/models/huge"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    before = memory_now(gateway.pids[0]).pss
    async with connected(gateway) as connection:
        channels = []
        for _ in range(8):
            channel, _ = await connection.create_session(
                _Deaf, "scp -f models/huge", encoding=None, window=1 << 30
            )
            channel.pause_reading()
            channel.write(b"\0\0")
            channels.append(channel)
        await asyncio.sleep(0)
        await asyncio.to_thread(
            wait_for,
            lambda: len(gateway.events("file_opened", path="/home/gvpocr/models/huge")) >= 8,
            "the files to be open",
        )
        grown = memory_now(gateway.pids[0]).pss - before
        assert grown < 64 * 1024  # KiB
    closed = await asyncio.to_thread(
        wait_for,
        lambda: gateway.events("file_closed", path="/home/gvpocr/models/huge")[7:],
        "the files to be closed",
    )
    assert {event["result"] for event in closed} == {"aborted"}


class _Deaf(asyncssh.SSHClientSession[bytes]):
    """Receives data while its channel allows it."""


def test_a_stop_ends_a_copy_with_an_error(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_DRAIN_TIMEOUT="1").start()
    with (gateway.folder / "shared/models/huge").open("wb") as file:
        file.truncate(1 << 34)
    scp = subprocess.Popen(
        [
            "scp", "-O", "-l", "50000", *gateway.ssh_options(), "-P", str(gateway.port),
            "gvpocr@127.0.0.1:models/huge", tmp_path / "got",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: (tmp_path / "got").exists() and os.stat(tmp_path / "got").st_size, "bytes")
    assert gateway.stop() == 0
    scp.communicate(timeout=TIMEOUT)
    assert scp.returncode == 1
    assert gateway.wait_event("file_closed")["result"] == "aborted"
