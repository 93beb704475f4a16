"""The life of a gateway from its first start to its stop."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, free_port, unmount, wait_for

pytestmark = pytest.mark.integration


def test_the_first_start_creates_keys_and_shares_and_prints_a_mount_command(
    gateway: Gateway, tmp_path: Path
) -> None:
    folder = gateway.folder
    for private in ("ssh_host_ed25519_key", "worker_ed25519"):
        assert stat.S_IMODE((folder / "keys" / private).stat().st_mode) == 0o600
    for share in ("Bhushanji", "newsletters", "models"):
        assert (folder / "shared" / share / "README.txt").is_file()
    assert list((folder / "shared/huggingface/hub").iterdir()) == []
    (line,) = re.findall(r"^ +(mkdir -p .*sshfs .*)$", gateway.stderr, re.MULTILINE)
    # Only the mount point and the known_hosts file differ from the printed command.
    line = line.replace("~/main-server", str(tmp_path / "mnt")).replace(
        '-o "', f'-o "UserKnownHostsFile={tmp_path}/kh,'
    )
    subprocess.run(["bash", "-c", line], cwd=folder, check=True, stdin=subprocess.DEVNULL)
    try:
        shown = (tmp_path / "mnt/Bhushanji/README.txt").read_bytes()
        assert shown == (folder / "shared/Bhushanji/README.txt").read_bytes()
    finally:
        subprocess.run(["fusermount3", "-u", tmp_path / "mnt"], check=True)


def test_a_second_start_keeps_the_keys_and_creates_nothing(gateway: Gateway) -> None:
    def made() -> dict[str, bytes]:
        return {
            str(path): path.read_bytes()
            for top in ("keys", "shared")
            for path in (gateway.folder / top).rglob("*")
            if path.is_file()
        }

    (gateway.folder / "shared/models/README.txt").unlink()
    before = made()
    assert gateway.stop() == 0
    gateway.start()
    assert made() == before


def test_a_stop_closes_idle_mounts_and_exits_with_status_zero(
    gateway: Gateway, tmp_path: Path
) -> None:
    with gateway.mounted(tmp_path / "mnt") as mount:
        assert (mount / "Bhushanji/README.txt").read_bytes()
        assert gateway.stop() == 0
    gateway.wait_event("session_end", reason="server_stopping")
    assert [e["event"] for e in gateway.events()][-1] == "server_stopped"


def test_a_mount_with_reconnect_survives_a_restart(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    fill(gateway.folder / "shared/models", {"a": b"a" * 100_000, "b": b"b" * 100_000})
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "reconnect", "cache=no") as mount:
        assert (mount / "models/a").read_bytes() == b"a" * 100_000
        assert gateway.stop() == 0
        gateway.start()

        def read() -> bytes | None:
            try:
                return (mount / "models/b").read_bytes()
            except OSError:  # the first request after the break finds the connection gone
                return None

        assert wait_for(read, "the mount to be back") == b"b" * 100_000


@pytest.mark.parametrize("number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_gateway_without_clients_stops_at_once(gateway: Gateway, number: int) -> None:
    assert gateway.stop(number) == 0


def test_health_and_readiness_follow_a_share_that_vanishes_and_returns(
    gateway: Gateway,
) -> None:
    assert gateway.http("/healthz") == (200, "ok\n")
    assert gateway.http("/readyz")[0] == 200
    models = gateway.folder / "shared/models"
    models.rename(gateway.folder / "elsewhere")
    _, body = wait_for(
        lambda: (answer := gateway.http("/readyz"))[0] == 503 and answer, "the share to be missed"
    )
    assert '"models": "No such file or directory"' in body
    assert gateway.metric("sftp_gateway_share_up", share="models") == 0
    assert gateway.http("/healthz")[0] == 200
    fill(models, {"new": b"new"})
    wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be found again")
    shown = gateway.sftp("ls models")
    assert b"new" in shown.stdout


def test_the_health_check_handshakes_without_a_log_line(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    checked = gateway.run("healthcheck")
    assert (checked.returncode, checked.stderr) == (0, "ok\n")
    wait_for(
        lambda: gateway.metric("sftp_gateway_connections") == 0, "the check's connection to end"
    )
    assert {event["event"] for event in gateway.events()} == {"worker_started", "server_started"}
    assert gateway.stop() == 0
    assert gateway.run("healthcheck").returncode == 1


def test_the_health_check_passes_while_a_configuration_is_rejected(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port())).start()
    (gateway.folder / "config/sftp-gateway.toml").write_text("max_conections = 3\n")
    gateway.wait_event("configuration_refused")
    checked = gateway.run("healthcheck")
    assert checked.returncode == 0
    assert "max_conections" in checked.stderr
    assert gateway.stop() == 0
    assert gateway.run("healthcheck").returncode == 2


def test_the_health_check_fails_if_another_server_answers(
    make_gateway: Callable[..., Gateway],
) -> None:
    port = str(free_port())
    gateway, stranger = (make_gateway(SFTP_GATEWAY_PORT=port) for _ in range(2))
    assert stranger.run("init").returncode == 0
    gateway.start()
    checked = stranger.run("healthcheck")
    assert checked.returncode == 1
    assert "answered with a host key that is not in" in checked.stderr


def test_a_port_in_use_stops_the_start(make_gateway: Callable[..., Gateway]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option in ("SFTP_GATEWAY_PORT", "SFTP_GATEWAY_METRICS_PORT"):
            ran = make_gateway(**{option: port}).run("serve")
            assert ran.returncode == 2
            assert option in ran.stderr
            assert port in ran.stderr
            assert "Traceback" not in ran.stderr


def test_all_configuration_errors_are_reported_before_a_port_is_bound(
    make_gateway: Callable[..., Gateway],
) -> None:
    config = """
        colour = "blue"
        port = 70000
        [shares."../etc"]
        path = "/etc"
        [users.gvpocr]
        password_hash = "plain text password"
        password_hash_file = "/run/secrets/nothing"
        [access_log]
        level = "everything"
    """
    for command in ("serve", "check"):
        ran = make_gateway(config, SFTP_GATEWAY_PORT="", SFTP_GATEWAY_PORTT="1").run(command)
        assert ran.returncode == 2
        for word in ("colour", "port", "../etc", "users.gvpocr", "access_log.level", "PORTT"):
            assert word in ran.stderr
        assert "plain text password" not in ran.stderr + ran.stdout
        assert "Traceback" not in ran.stderr


def test_check_prints_the_effective_configuration_without_secrets(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway()
    hashed = gateway.run("hash-password", input="a good secret\n").stdout.strip()
    (gateway.folder / "config/sftp-gateway.toml").write_text(
        f'public_host = "main-server"\n[users.gvpocr]\npassword_hash = "{hashed}"\n'
    )
    assert gateway.run("init").returncode == 0
    checked = gateway.run("check")
    assert checked.returncode == 0, checked.stderr
    assert '"public_host": "main-server"' in checked.stdout
    assert "argon2" not in checked.stdout
    assert "**********" in checked.stdout


def test_keys_accessible_to_others_stop_the_start(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway()
    assert gateway.run("init").returncode == 0
    host_key = gateway.folder / "keys/ssh_host_ed25519_key"
    authorized = gateway.folder / "keys/authorized_keys/gvpocr"
    host_key.chmod(0o644)
    authorized.chmod(0o666)
    ran = gateway.run("serve")
    assert ran.returncode == 2
    assert "chmod 600" in ran.stderr
    assert "authorized_keys/gvpocr" in ran.stderr


def test_an_invalid_key_line_is_a_warning(gateway: Gateway) -> None:
    assert gateway.stop() == 0
    with open(gateway.folder / "keys/authorized_keys/gvpocr", "a") as file:
        file.write("ssh-ed25519 not-base64 a broken line\n")
    gateway.start()
    assert "warning" in gateway.stderr
    assert "gvpocr" in gateway.stderr
    assert gateway.sftp("pwd").returncode == 0


def test_an_unprivileged_gateway_serves_readable_files(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway()
    assert gateway.run("init").returncode == 0
    private = gateway.folder / "shared/models/private"
    fill(gateway.folder / "shared/models", {"private": b"secret", "public": b"public"})
    private.chmod(0o600)
    for path in (gateway.folder, *gateway.folder.parents):
        if path.is_relative_to(tmp_path):
            path.chmod(0o755)
    for top, _, files in os.walk(gateway.folder / "keys"):
        for name in (top, *(os.path.join(top, file) for file in files)):
            os.chown(name, 65_534, 65_534)
    runner = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for each in (tmp_path, *tmp_path.parents):
        if each != Path("/") and not each.stat().st_mode & 0o001:
            each.chmod(each.stat().st_mode | 0o011)
    gateway.start(runner)
    assert gateway.sftp("get models/public /dev/null").returncode == 0
    refused = gateway.sftp("get models/private /dev/null")
    assert refused.returncode != 0
    assert b"Permission denied" in refused.stderr
    denied = gateway.wait_event("denied", path="/home/gvpocr/models/private")
    assert denied["reason"] == "unreadable"


def test_sshfs_with_a_wrong_password_is_refused_and_logged(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway()
    hashed = gateway.run("hash-password", input="right password\n").stdout.strip()
    (gateway.folder / "config/sftp-gateway.toml").write_text(
        f'[users.gvpocr]\npassword_hash = "{hashed}"\n'
    )
    gateway.start()
    mount = tmp_path / "mnt"
    mount.mkdir()
    sshfs = subprocess.Popen(
        [
            "sshfs", "-f", "-p", str(gateway.port), "gvpocr@127.0.0.1:", str(mount),
            "-o", f"password_stdin,UserKnownHostsFile={gateway.known_hosts}",
            "-o", "NumberOfPasswordPrompts=1",
        ],
        stdin=subprocess.PIPE,
    )  # fmt: skip
    try:
        sshfs.communicate(b"wrong\n", timeout=30)
        assert sshfs.returncode != 0
    finally:
        unmount(mount, sshfs)
    refused = gateway.wait_event("login_refused", method="password")
    assert refused["reason"] == "wrong_password"
    assert refused["user_tried"] == "gvpocr"
