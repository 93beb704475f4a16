"""Clients other than OpenSSH's: rclone, lftp, curl, paramiko, asyncssh; and older ciphers."""

from __future__ import annotations

import io
import os
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import paramiko
import pytest

from tests.support.gateway import Gateway, fill, running
from tests.support.trees import ODD_NAMES, below, read_tree, some_tree, write_tree

pytestmark = pytest.mark.integration

TREE = some_tree()
LETTER = b"Dear reader,\n"
BIG = TREE[b"sizes/3000001.bin"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Shared by all tests here, as no client can change anything."""
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        _fill(gateway)
        yield gateway


@pytest.fixture(scope="module")
def compatible(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway that also offers older ciphers."""
    with running(
        tmp_path_factory.mktemp("compatible"), SFTP_GATEWAY_CIPHERS="compatible"
    ) as gateway:
        _fill(gateway)
        yield gateway


def _fill(gateway: Gateway) -> None:
    write_tree(gateway.folder / "shared/Bhushanji", TREE)
    fill(gateway.folder / "shared/newsletters", {"2024/letter.txt": LETTER})
    (gateway.folder / "shared/newsletters/latest").symlink_to("2024/letter.txt")


# rclone


def _rclone(gateway: Gateway, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    settings = gateway.rclone_settings()
    return subprocess.run(
        ["rclone", *arguments], env={**os.environ, **settings}, capture_output=True, timeout=120
    )


def test_rclone_lists_and_shows_files(gateway: Gateway) -> None:
    listed = _rclone(gateway, "lsf", "-R", "--files-only", ":sftp:newsletters")
    assert listed.returncode == 0, listed.stderr
    # rclone follows links if the server does.
    assert {*listed.stdout.decode().split()} == {"2024/letter.txt", "README.txt", "latest"}
    shown = _rclone(gateway, "cat", ":sftp:/home/gvpocr/newsletters/2024/letter.txt")
    assert (shown.returncode, shown.stdout) == (0, LETTER)


def test_rclone_copies_the_tree_and_finds_no_difference(gateway: Gateway, tmp_path: Path) -> None:
    copied = _rclone(gateway, "copy", "--multi-thread-streams=4", ":sftp:Bhushanji", tmp_path)
    assert copied.returncode == 0, copied.stderr
    got = read_tree(tmp_path)
    assert got.pop(b"README.txt")
    assert got == TREE
    checked = _rclone(gateway, "check", "--download", ":sftp:Bhushanji/sizes", tmp_path / "sizes")
    assert checked.returncode == 0, checked.stderr.decode()


def test_rclone_cannot_upload(gateway: Gateway) -> None:
    ran = _rclone(gateway, "copyto", "/etc/hostname", ":sftp:newsletters/uploaded")
    assert ran.returncode != 0
    path = "/home/gvpocr/newsletters/uploaded"
    assert gateway.wait_event("denied", path=path)["reason"] == "read_only"


# lftp


def test_lftp_mirrors_the_tree(gateway: Gateway, tmp_path: Path) -> None:
    ssh = shlex.join(["ssh", "-a", "-x", *gateway.ssh_options()])
    ran = subprocess.run(
        [
            "lftp", "--norc", "-c",
            f'set sftp:connect-program "{ssh}"; set net:max-retries 1; set net:timeout 30;'
            f"open -u gvpocr, -p {gateway.port} sftp://127.0.0.1;"
            f"mirror --parallel=3 /home/gvpocr/Bhushanji {tmp_path}/got",
        ],
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    got = read_tree(tmp_path / "got")
    assert got.pop(b"README.txt")
    assert got == TREE


# curl


@pytest.mark.parametrize("name", ["gateway", "compatible"])
def test_curl_fetches_and_lists(request: pytest.FixtureRequest, tmp_path: Path, name: str) -> None:
    gateway: Gateway = request.getfixturevalue(name)

    def curl(path: str) -> bytes:
        public = (gateway.folder / "keys/ssh_host_ed25519_key.pub").read_text().split()[1]
        known_hosts = tmp_path / ".ssh/known_hosts"
        known_hosts.parent.mkdir(exist_ok=True)
        known_hosts.write_text(f"[127.0.0.1]:{gateway.port} ssh-ed25519 {public}\n")
        ran = subprocess.run(
            [
                "curl", "--disable", "--silent", "--show-error", "--user", "gvpocr:",
                "--key", gateway.key, "--pubkey", f"{gateway.key}.pub",
                f"sftp://127.0.0.1:{gateway.port}{path}",
            ],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            timeout=60,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert curl("/home/gvpocr/newsletters/2024/letter.txt") == LETTER
    assert curl("/~/Bhushanji/sizes/3000001.bin") == BIG
    assert b" letter.txt\n" in curl("/home/gvpocr/newsletters/2024/")


# paramiko


@pytest.fixture(params=["gateway", "compatible"])
def paramiko_client(request: pytest.FixtureRequest) -> Iterator[paramiko.SFTPClient]:
    gateway: Gateway = request.getfixturevalue(request.param)
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(gateway.known_hosts))
        client.connect(
            "127.0.0.1", gateway.port, "gvpocr", key_filename=str(gateway.key),
            look_for_keys=False, allow_agent=False,
        )  # fmt: skip
        with client.open_sftp() as sftp:
            yield sftp


def test_paramiko_lists_and_stats_files(paramiko_client: paramiko.SFTPClient) -> None:
    sftp = paramiko_client
    assert sftp.normalize(".") == "/home/gvpocr"
    assert sorted(sftp.listdir()) == [".cache", "Bhushanji", "models", "newsletters"]
    listed = {entry.filename: entry for entry in sftp.listdir_attr("newsletters")}
    assert stat.S_ISLNK(listed["latest"].st_mode or 0)
    assert sftp.readlink("newsletters/latest") == "2024/letter.txt"
    assert sftp.stat("newsletters/latest").st_size == len(LETTER)
    assert stat.S_ISLNK(sftp.lstat("newsletters/latest").st_mode or 0)
    assert sftp.normalize("newsletters/../Bhushanji//sizes/.") == "/home/gvpocr/Bhushanji/sizes"
    sizes = {entry.filename: entry.st_size for entry in sftp.listdir_iter("Bhushanji/sizes")}
    assert sizes == {name.decode(): len(c) for name, c in below(b"sizes/", TREE).items()}
    with pytest.raises(FileNotFoundError):
        sftp.stat("newsletters/nothing")


def test_paramiko_reads_sequentially_prefetched_and_at_random(
    paramiko_client: paramiko.SFTPClient,
) -> None:
    sftp = paramiko_client
    with sftp.open("Bhushanji/sizes/3000001.bin") as file:
        file.prefetch(len(BIG))
        assert file.read() == BIG
        assert file.stat().st_size == len(BIG)
        pieces = [(2_999_990, 100), (0, 1), (1_000_000, 70_000), (5_000_000, 10)]
        assert list(file.readv(pieces[:3])) == [BIG[o : o + n] for o, n in pieces[:3]]
        file.seek(5_000_000)
        assert file.read(10) == b""
    whole = io.BytesIO()
    sftp.getfo("Bhushanji/sizes/3000001.bin", whole, max_concurrent_prefetch_requests=16)
    assert whole.getvalue() == BIG


def test_paramiko_cannot_change_anything(paramiko_client: paramiko.SFTPClient) -> None:
    sftp = paramiko_client
    for change in (
        lambda: sftp.open("newsletters/new", "w"),
        lambda: sftp.open("newsletters/2024/letter.txt", "a"),
        lambda: sftp.open("newsletters/2024/letter.txt", "r+"),
        lambda: sftp.remove("newsletters/2024/letter.txt"),
        lambda: sftp.truncate("newsletters/2024/letter.txt", 0),
        lambda: sftp.utime("newsletters/2024/letter.txt", (1, 1)),
        lambda: sftp.posix_rename("newsletters/2024", "newsletters/2025"),
    ):
        with pytest.raises(PermissionError):
            change()
    assert sftp.stat("newsletters/2024/letter.txt").st_size == len(LETTER)


# asyncssh


async def test_asyncssh_reads_the_tree_and_uses_openssh_extensions(
    gateway: Gateway, tmp_path: Path
) -> None:
    async with (
        asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_keys=[str(gateway.key)],
            known_hosts=str(gateway.known_hosts), config=None,
        ) as connection,
        connection.start_sftp_client(path_encoding=None) as sftp,
    ):  # fmt: skip
        await sftp.get(b"Bhushanji/sizes", os.fsencode(tmp_path / "got"), recurse=True)
        assert read_tree(tmp_path / "got") == below(b"sizes/", TREE)
        assert {*await sftp.listdir(b"Bhushanji/names")} == {b".", b"..", *ODD_NAMES}
        assert await sftp.realpath(b"newsletters/latest/..") == b"/home/gvpocr/newsletters"
        assert await sftp.readlink(b"newsletters/latest") == b"2024/letter.txt"
        disk = os.statvfs(gateway.folder)
        assert (await sftp.statvfs(b".")).blocks == disk.f_blocks * disk.f_frsize // 4096
        assert sftp.limits.max_read_len == 256 * 1024 - 1024
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await sftp.mkdir(b"newsletters/2025")
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat(b"newsletters/nothing")


# Ciphers


@pytest.mark.parametrize(
    "cipher",
    [
        "aes256-ctr", "aes192-ctr", "aes128-ctr", "chacha20-poly1305@openssh.com",
        "aes256-gcm@openssh.com", "aes128-gcm@openssh.com",
    ],
)  # fmt: skip
def test_each_cipher_transfers_identical_bytes(
    compatible: Gateway, tmp_path: Path, cipher: str
) -> None:
    options = [*compatible.ssh_options(), "-c", cipher]
    ran = compatible.sftp(f"get Bhushanji/sizes/* {tmp_path}", options=options)
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == below(b"sizes/", TREE)
    got = sum(map(len, below(b"sizes/", TREE).values()))
    assert compatible.wait_event("session_end", cipher=cipher, bytes=got)


@pytest.mark.parametrize("mac", ["hmac-sha2-256", "hmac-sha2-512-etm@openssh.com"])
def test_each_mac_transfers_identical_bytes(compatible: Gateway, tmp_path: Path, mac: str) -> None:
    options = compatible.ssh_options(Ciphers="aes128-ctr", MACs=mac)
    ran = compatible.sftp(f"get Bhushanji/sizes/* {tmp_path}", options=options)
    assert ran.returncode == 0, ran.stderr
    assert read_tree(tmp_path) == below(b"sizes/", TREE)


def test_obsolete_ciphers_are_not_offered(compatible: Gateway) -> None:
    for weak in ("-caes128-cbc", "-mhmac-sha1", "-oKexAlgorithms=diffie-hellman-group14-sha1"):
        options = [*compatible.ssh_options(), "-oCiphers=aes128-ctr,aes128-cbc", weak]
        ran = compatible.ssh("echo hello", options=options)
        assert ran.returncode == 255
        assert "no matching" in ran.stderr
