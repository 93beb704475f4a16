"""Migration from OpenSSH's sshd to the gateway and back, under a mount."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, free_port, unmount, wait_for
from tests.support.keys import make_key, public_line
from tests.support.old_server import OldServer

pytestmark = pytest.mark.integration

CONTENT = bytes(range(256)) * 40_000

#: The options of the workers' scripts without keepalives, which are too slow for tests.
OPTIONS = (
    "allow_other,default_permissions,reconnect,ServerAliveInterval=1,ServerAliveCountMax=3,"
    "cache_timeout=3600"
)


@pytest.fixture
def shares(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    fill(folder, {f"models/{number}.bin": CONTENT[number:] for number in range(20)})
    for share in ("Bhushanji", "newsletters", "huggingface/hub"):
        fill(folder / share, {"file.txt": share.encode()})
    return folder


@pytest.fixture
def old(tmp_path: Path, shares: Path) -> Iterator[OldServer]:
    """The old server, with the keys `one` and `two` authorized."""
    folder = tmp_path / "old"
    folder.mkdir()
    keys = [make_key(tmp_path / "one", "ed25519"), make_key(tmp_path / "two", "rsa", 3072)]
    (folder / "authorized_keys").write_text("".join(f"{public_line(key)}\n" for key in keys))
    server = OldServer(folder, shares, free_port())
    yield server.start()
    server.stop()


@pytest.fixture
def new(make_gateway: Callable[..., Gateway], old: OldServer, shares: Path) -> Gateway:
    """A gateway that replaces the old server, with its keys; not yet started."""
    config = "".join(
        f'[shares."{name}"]\npath = "{shares}/{path}"\n'
        for name, path in {
            "Bhushanji": "Bhushanji",
            "newsletters": "newsletters",
            "models": "models",
            ".cache/huggingface/hub": "huggingface/hub",
        }.items()
    )
    gateway = make_gateway(config, SFTP_GATEWAY_PORT=str(old.port))
    ran = gateway.run("import-authorized-keys", str(old.folder / "authorized_keys"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    ran = gateway.run("import-host-key", str(old.folder / "etc/ssh"))
    assert ran.returncode == 1, "the ECDSA key is not used"
    return gateway


@contextlib.contextmanager
def mounted(old: OldServer, at: Path, key: Path, known_hosts: Path) -> Iterator[Path]:
    """A mount as by the old setup script, which accepted the host key on first use."""
    at.mkdir()
    sshfs = subprocess.Popen(
        [
            "sshfs", "-f", "-p", str(old.port), "gvpocr@127.0.0.1:/home/gvpocr", at,
            "-o", OPTIONS, "-o", f"IdentityFile={key},UserKnownHostsFile={known_hosts}",
            "-o", "StrictHostKeyChecking=accept-new,IdentitiesOnly=yes,IdentityAgent=none",
        ],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: os.path.ismount(at), f"{at} to be mounted")
        yield at
    finally:
        unmount(at, sshfs)


def digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def test_a_mount_survives_the_migration_and_the_way_back(
    old: OldServer, new: Gateway, tmp_path: Path
) -> None:
    fresh = iter(range(20))

    def reads(mount: Path) -> None:
        """Read files that are not cached, as soon as the mount is back."""
        number = next(fresh)
        expected = hashlib.sha256(CONTENT[number:]).hexdigest()
        path = mount / f"models/{number}.bin"
        wait_for(lambda: digest(path) is not None, "the mount to be back")
        # Requests sent while the link was cut may have failed.
        wait_for(lambda: digest(path) == expected, "the file to be whole")

    with (
        mounted(old, tmp_path / "a", tmp_path / "one", tmp_path / "known_a") as first,
        mounted(old, tmp_path / "b", tmp_path / "two", tmp_path / "known_b") as second,
    ):
        known = [(tmp_path / f"known_{name}").read_text() for name in "ab"]
        for mount in (first, second):
            reads(mount)
        old.stop()
        new.start()
        for mount in (first, second):
            reads(mount)
            assert os.listdir(mount / ".cache/huggingface/hub") == ["file.txt"]
        wait_for(lambda: len(new.events("login_accepted")) == 2, "both logins' lines")
        assert {event["key"] for event in new.events("login_accepted")} == {
            fingerprint(tmp_path / name) for name in ("one", "two")
        }
        assert new.stop() == 0
        old.start()
        for mount in (first, second):
            reads(mount)
        assert old.log.count("Accepted publickey for gvpocr") >= 4
        # No worker saw or learned another host key.
        assert [(tmp_path / f"known_{name}").read_text() for name in "ab"] == known
        old.stop()


def fingerprint(key: Path) -> str:
    ran = subprocess.run(["ssh-keygen", "-lf", key], capture_output=True, text=True, check=True)
    return ran.stdout.split()[1]


def test_unlike_the_old_server_the_gateway_has_no_writes_and_no_shell(
    old: OldServer, new: Gateway, tmp_path: Path
) -> None:
    key, known = tmp_path / "one", tmp_path / "known"

    def ssh(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "ssh", "-F", "none", "-p", str(old.port), "-i", key, "-o", "BatchMode=yes",
                "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=accept-new",
                "gvpocr@127.0.0.1", command,
            ],
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip

    assert ssh("echo 'SSH connection successful'").stdout == "SSH connection successful\n"
    assert ssh("id -un").stdout == "gvpocr\n"
    assert ssh("ls -a /home/gvpocr").stdout.split() == [
        ".", "..", ".cache", ".ssh", "Bhushanji", "models", "newsletters",
    ]  # fmt: skip
    old.stop()
    new.start()
    assert ssh("echo 'SSH connection successful'").stdout == "SSH connection successful\n"
    refused = ssh("id -un")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("sftp-gateway:")
