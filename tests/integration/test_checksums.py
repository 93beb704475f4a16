"""Checksums: the commands of coreutils and rclone, and the check-file extension of SFTP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paramiko
import pytest

from tests.support.clients import installed
from tests.support.gateway import Gateway, fill, running, wait_for
from tests.support.slow_disk import failing_disk
from tests.support.trees import ODD_NAMES, some_tree, write_tree

pytestmark = pytest.mark.integration

TREE = some_tree()
BIG = TREE[b"sizes/3000001.bin"]

#: Debian's rclone and a current one, as scripts/clients installs them.
RCLONES = ("bookworm/bin/rclone", "rclone-1.75/bin/rclone")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    share = folder / "shared/models"
    write_tree(share, TREE)
    fill(folder / "shared/others", {"secret": b"not theirs"})
    (share / "out").symlink_to("/etc/passwd")
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


def _ssh(gateway: Gateway, command: bytes | str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ssh", *gateway.ssh_options(), "-p", str(gateway.port), "gvpocr@127.0.0.1", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


# Commands


@pytest.mark.parametrize(
    "command",
    [
        "md5sum sizes/3000001.bin",
        "sha1sum sizes/0.bin sizes/1.bin",
        "sha224sum sizes/1.bin",
        "sha256sum -b sizes/32768.bin",
        "sha384sum -b -t -- sizes/1.bin",
        "sha512sum sizes/1.bin --binary",
        "sha256sum sizes/*.bin",
        "sha256sum sizes/[136]*.bin 'names/with spaces' names/back\\\\slash",
        "sha256sum names/*",
        "sha256sum names/'new\nline'",
        "md5sum names/missing sizes/1.bin",
        "md5sum names sizes/1.bin",
        "md5sum names/*.missing",
        "md5sum",
        "md5sum -",
        "md5sum - sizes/1.bin",
    ],
)
def test_checksums_are_printed_as_by_coreutils(gateway: Gateway, command: str) -> None:
    here = gateway.folder / "shared/models"
    expected = subprocess.run(
        ["bash", "-c", command], cwd=here, stdin=subprocess.DEVNULL, capture_output=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )  # fmt: skip
    program, *words = command.split(" ", 1)
    there = " ".join([program, *(_in_share(word) for word in words)])
    ran = _ssh(gateway, there)
    printed = ran.stdout.replace(b"models/", b"")
    assert (ran.returncode, sorted(printed.splitlines())) == (
        expected.returncode,
        sorted(expected.stdout.splitlines()),
    )
    assert ran.stderr.replace(b"models/", b"") == expected.stderr.replace(b"'", b"")
    gateway.wait_event("command_answered", command=there.replace("\\", "\\\\"))


def _in_share(words: str) -> str:
    for name in ("sizes/", "names"):
        words = words.replace(name, f"models/{name}")
    return words


def test_checksums_work_for_odd_names(gateway: Gateway) -> None:
    for name in ODD_NAMES:
        quoted = b"'" + (b"models/names/" + name).replace(b"'", b"'\\''") + b"'"
        ran = _ssh(gateway, b"sha256sum " + quoted)
        value = hashlib.sha256(b"in " + name).hexdigest().encode()
        assert (ran.returncode, ran.stdout.lstrip(b"\\")[:64], ran.stderr) == (0, value, b"")


def test_a_checksum_is_logged_with_file_and_user(gateway: Gateway) -> None:
    _ssh(gateway, "sha256sum models/sizes/65536.bin")
    path = "/home/gvpocr/models/sizes/65536.bin"
    opened = gateway.wait_event("file_opened", path=path)
    closed = gateway.wait_event("file_closed", path=path)
    assert (opened["user"], opened["share"], opened["size"]) == ("gvpocr", "models", 65_536)
    assert (closed["bytes"], closed["whole"], closed["result"]) == (0, False, "ok")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "outside_shares"),
        ("~/../../etc/passwd", "outside_shares"),
        ("others/secret", "share_not_granted"),
        ("models/out", "link_leads_out"),
        ("/etc/pass*", "outside_shares"),
    ],
)
def test_no_checksum_is_given_for_a_file_outside_the_shares(
    gateway: Gateway, path: str, reason: str
) -> None:
    before = len(gateway.events("denied", reason=reason))
    ran = _ssh(gateway, f"sha256sum {path}")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.endswith((b"No such file or directory\n", b"Permission denied\n"))
    denied = wait_for(lambda: gateway.events("denied", reason=reason)[before:], "the refusal")
    assert {event["user"] for event in denied} == {"gvpocr"}


def test_standard_input_is_not_read(gateway: Gateway) -> None:
    ran = subprocess.run(
        ["ssh", *gateway.ssh_options(), "-p", str(gateway.port), "gvpocr@127.0.0.1", "md5sum"],
        input=b"data",
        capture_output=True,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout) == (1, b"")


def test_a_changed_file_has_another_checksum(gateway: Gateway) -> None:
    path = gateway.folder / "shared/models/changes"
    for content in (b"one", b"two", b"three"):
        path.write_bytes(content)
        for _ in range(2):
            ran = _ssh(gateway, "sha256sum models/changes")
            assert ran.stdout[:64] == hashlib.sha256(content).hexdigest().encode()


def test_a_blob_whose_name_is_not_its_checksum_is_found(gateway: Gateway) -> None:
    name = hashlib.sha256(b"what was downloaded").hexdigest()
    fill(gateway.folder / "shared/models", {f"models--x/blobs/{name}": b"what the disk has made"})
    ran = _ssh(gateway, f"sha256sum models/models--x/blobs/{name}")
    assert ran.stdout[:64] == hashlib.sha256(b"what the disk has made").hexdigest().encode()


@pytest.mark.parametrize("fault", ["fails", "hangs"])
def test_a_failing_or_hanging_disk_fails_the_checksum(
    make_gateway: Callable[..., Gateway], tmp_path: Path, fault: str
) -> None:
    gate = tmp_path / "gate"
    fill(tmp_path / "behind", {"file": bytes(8_000_000)})
    with failing_disk(tmp_path / "behind", tmp_path / "bad", gate):
        gateway = make_gateway(
            f'[shares.bad]\npath = "{tmp_path}/bad"\n', SFTP_GATEWAY_DISK_TIMEOUT="1"
        ).start()
        gate.write_text("EIO" if fault == "fails" else "")
        ran = _ssh(gateway, "sha256sum bad/file")
        gate.unlink()
        words = b"Input/output error" if fault == "fails" else b"The disk does not answer"
        assert (ran.returncode, ran.stdout) == (1, b"")
        assert ran.stderr == b"sha256sum: bad/file: " + words + b"\n"
        gateway.close()


# rclone


def _rclone(
    rclone: str, gateway: Gateway, *arguments: str | Path, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [installed() / rclone, *arguments],
        env={**os.environ, **gateway.rclone_settings(), **more},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=120,
    )


@pytest.mark.parametrize("rclone", RCLONES)
def test_rclone_check_compares_checksums(rclone: str, gateway: Gateway, tmp_path: Path) -> None:
    write_tree(tmp_path, {name: c for name, c in TREE.items() if name.startswith(b"sizes")})
    checked = _rclone(
        rclone, gateway, "check", "--one-way", "-vv", tmp_path / "sizes", ":sftp:models/sizes"
    )
    assert checked.returncode == 0, checked.stderr
    assert "0 differences found" in checked.stderr
    assert "Using md5 for hash comparisons" in checked.stderr
    assert "could not be checked" not in checked.stderr
    (tmp_path / "sizes/65536.bin").write_bytes(bytes(65_536))
    checked = _rclone(
        rclone, gateway, "check", "--one-way", tmp_path / "sizes", ":sftp:models/sizes"
    )
    assert checked.returncode == 1
    assert "65536.bin: md5 differ" in checked.stderr


@pytest.mark.parametrize("rclone", RCLONES)
def test_rclone_prints_checksums(rclone: str, gateway: Gateway) -> None:
    for command, algorithm in ((("md5sum",), "md5"), (("sha1sum",), "sha1")):
        # While rclone probes for checksum commands, it reports "hash unsupported" for the first
        # files, with any server.
        known = {f"RCLONE_SFTP_{algorithm.upper()}SUM_COMMAND": f"{algorithm}sum"}
        ran = _rclone(rclone, gateway, *command, ":sftp:models/names", **known)
        assert ran.returncode == 0, ran.stderr
        printed = {line.split()[0] for line in ran.stdout.splitlines() if line.strip()}
        names = [name for name in TREE if name.startswith(b"names/")]
        assert {hashlib.new(algorithm, TREE[name]).hexdigest() for name in names} <= printed


def test_a_current_rclone_prints_sha256_if_configured(gateway: Gateway) -> None:
    ran = _rclone(
        RCLONES[1], gateway, "hashsum", "sha256", "--sftp-hashes=sha256", "--checkers=1",
        ":sftp:models/sizes",
        RCLONE_SFTP_SHA256SUM_COMMAND="sha256sum",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    printed = {line.split()[0] for line in ran.stdout.splitlines()}
    names = [name for name in TREE if name.startswith(b"sizes/")]
    assert printed == {hashlib.sha256(TREE[name]).hexdigest() for name in names}


# check-file


def _digest(algorithm: str, data: bytes) -> bytes:
    return hashlib.new(algorithm, data).digest()


@contextlib.contextmanager
def _paramiko(gateway: Gateway) -> Iterator[paramiko.SFTPClient]:
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(gateway.known_hosts))
        client.connect(
            "127.0.0.1", gateway.port, "gvpocr", key_filename=str(gateway.key),
            allow_agent=False, look_for_keys=False,
        )  # fmt: skip
        yield client.open_sftp()


def test_paramiko_checks_a_file_and_its_blocks(gateway: Gateway) -> None:
    with _paramiko(gateway) as sftp, sftp.open("models/sizes/3000001.bin") as file:
        assert file.check("sha256") == hashlib.sha256(BIG).digest()
        assert file.check("md5", 100, 1000) == _digest("md5", BIG[100:1100])
        blocks = (BIG[at : at + 65_536] for at in range(0, len(BIG), 65_536))
        expected = b"".join(_digest("sha1", block) for block in blocks)
        assert file.check("sha1", block_size=65_536) == expected
        for algorithm, block_size in (("crc32", 0), ("md5", 255), ("md5", 256)):
            with pytest.raises(OSError, match=r"Operation unsupported|Failure"):
                file.check(algorithm, block_size=block_size)


# Names of owners


def test_sftp_shows_the_names_of_owners(gateway: Gateway) -> None:
    listed = gateway.sftp("ls -l models/sizes").stdout.decode().splitlines()
    assert [line.split()[2:4] for line in listed[1:]] == [["root", "root"]] * 9
