"""Stock sshfs mounts the gateway with the workers' options."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, unmount, wait_for

pytestmark = pytest.mark.integration

#: The options of the workers' scripts.
WORKER_OPTIONS = (
    "allow_other,default_permissions,reconnect,ServerAliveInterval=15,ServerAliveCountMax=3,"
    "cache_timeout=3600"
)


def _fill(gateway: Gateway) -> dict[str, bytes]:
    """Create files of many sizes in all shares; returns them by path below the home folder."""
    noise = random.Random(4251)
    files = {
        f"Bhushanji/{size}.bin": noise.randbytes(size)
        for size in (0, 1, 4095, 32_768, 32_769, 131_072, 1_000_003)
    }
    files["newsletters/2024/एक पत्र.pdf"] = noise.randbytes(70_000)
    files["models/deep/er/weights.safetensors"] = noise.randbytes(9_000_000)
    files["huggingface/hub/version.txt"] = b"1"
    fill(gateway.folder / "shared", files)
    files[".cache/huggingface/hub/version.txt"] = files.pop("huggingface/hub/version.txt")
    return files


def _read(mount: Path, below: str = "") -> dict[str, bytes]:
    return {
        str(path.relative_to(mount)): path.read_bytes()
        for path in mount.rglob("*")
        if path.is_file() and path.name != "README.txt"
    }


@pytest.mark.parametrize("source", ["/home/gvpocr", "", "/home/gvpocr/", "."])
def test_the_home_folder_is_identical_through_a_mount(
    gateway: Gateway, tmp_path: Path, source: str
) -> None:
    files = _fill(gateway)
    with gateway.mounted(tmp_path / "mnt", source) as mount:
        assert _read(mount) == files


def test_one_share_can_be_mounted_with_follow_symlinks(gateway: Gateway, tmp_path: Path) -> None:
    files = _fill(gateway)
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/Bhushanji", "follow_symlinks") as mount:
        assert _read(mount) == {
            name.removeprefix("Bhushanji/"): content
            for name, content in files.items()
            if name.startswith("Bhushanji/")
        }


def test_a_mount_with_a_password_works(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway()
    hashed = gateway.run("hash-password", input="a good password\n").stdout.strip()
    secret = gateway.folder / "secret"
    secret.write_text(hashed + "\n")
    (gateway.folder / "config/sftp-gateway.toml").write_text(
        f'[users.gvpocr]\npassword_hash_file = "{secret}"\n'
    )
    gateway.start()
    files = _fill(gateway)
    mount = tmp_path / "mnt"
    mount.mkdir()
    sshfs = subprocess.Popen(
        [
            "sshfs", "-f", "-p", str(gateway.port), "gvpocr@127.0.0.1:/home/gvpocr", str(mount),
            "-o", f"password_stdin,UserKnownHostsFile={gateway.known_hosts},{WORKER_OPTIONS}",
        ],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert sshfs.stdin is not None
        sshfs.stdin.write(b"a good password\n")
        sshfs.stdin.close()
        wait_for(lambda: os.path.ismount(mount), "the mount")
        assert _read(mount) == files
    finally:
        unmount(mount, sshfs)
    assert gateway.wait_event("login_accepted")["auth"] == "password"


def test_df_shows_the_disks_figures(gateway: Gateway, tmp_path: Path) -> None:
    with gateway.mounted(tmp_path / "mnt") as mount:
        disk = os.statvfs(gateway.folder / "shared")
        for folder in (mount, mount / "Bhushanji", mount / ".cache"):
            shown = os.statvfs(folder)
            assert shown.f_blocks * shown.f_frsize == disk.f_blocks * disk.f_frsize
            assert 0 < shown.f_bavail * shown.f_frsize <= disk.f_blocks * disk.f_frsize
        printed = subprocess.run(["df", "-h", mount], capture_output=True, text=True, check=True)
        assert str(mount) in printed.stdout


def test_every_change_fails_and_is_logged_as_denied(gateway: Gateway, tmp_path: Path) -> None:
    _fill(gateway)
    with gateway.mounted(tmp_path / "mnt") as mount:
        victim = mount / "Bhushanji/4095.bin"
        changes: dict[str, Callable[[], object]] = {
            "open": lambda: (mount / "Bhushanji/new").write_bytes(b"x"),
            "setstat": lambda: victim.chmod(0o777),
            "rename": lambda: victim.rename(mount / "Bhushanji/other"),
            "remove": victim.unlink,
            "mkdir": (mount / "Bhushanji/folder").mkdir,
            "rmdir": (mount / "newsletters/2024").rmdir,
            "symlink": lambda: (mount / "Bhushanji/link").symlink_to("4095.bin"),
        }
        for operation, change in changes.items():
            with pytest.raises(PermissionError):
                change()
            denied = gateway.wait_event("denied", operation=operation)
            assert denied["reason"] == "read_only"
            assert denied["path"].startswith("/home/gvpocr/")
            assert denied["user"] == "gvpocr"
        with pytest.raises(PermissionError):
            os.truncate(victim, 0)
    assert (gateway.folder / "shared/Bhushanji/4095.bin").stat().st_size == 4095


def test_the_old_setup_script_works_unchanged(gateway: Gateway, tmp_path: Path) -> None:
    files = _fill(gateway)
    mount = tmp_path / "mnt" / "main-server"
    mount.mkdir(parents=True)
    server, options = "gvpocr@127.0.0.1", " ".join(f"'{o}'" for o in gateway.ssh_options())
    script = f"""
        set -e
        ssh {options} -p {gateway.port} {server} "echo 'SSH connection successful'"
        sshfs -o {WORKER_OPTIONS} -o UserKnownHostsFile={gateway.known_hosts} \
              -o IdentityFile={gateway.key} -p {gateway.port} {server}:/home/gvpocr {mount}
        ls {mount}/Bhushanji {mount}/newsletters {mount}/models {mount}/.cache/huggingface/hub
        df -h {mount}
    """
    try:
        ran = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("SSH connection successful\n")
        assert _read(mount) == files
    finally:
        subprocess.run(["fusermount3", "-u", mount], check=True)


def test_a_file_read_is_logged_with_user_and_file(gateway: Gateway, tmp_path: Path) -> None:
    files = _fill(gateway)
    with gateway.mounted(tmp_path / "mnt") as mount:
        (mount / "models/deep/er/weights.safetensors").read_bytes()
        with open(mount / "Bhushanji/1000003.bin", "rb", buffering=0) as part:
            part.seek(900_000)
            part.read(10)
        path = "/home/gvpocr/models/deep/er/weights.safetensors"
        whole = gateway.wait_event("file_closed", path=path)
        assert whole["whole"] is True
        assert whole["bytes"] == whole["size"] == len(files["models/deep/er/weights.safetensors"])
        assert whole["share"] == "models"
        assert whole["user"] == "gvpocr"
        assert whole["auth"] == "publickey"
        assert whole["key"].startswith("SHA256:")
        assert whole["client_ip"] == "127.0.0.1"
        assert "OpenSSH" in whole["client_version"]
        partly = gateway.wait_event("file_closed", path="/home/gvpocr/Bhushanji/1000003.bin")
        assert partly["whole"] is False
    end = gateway.wait_event("session_end")
    assert end["bytes"] >= whole["bytes"]
    assert end["files"] == 2
