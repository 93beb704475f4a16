"""The status page of a real gateway: content, history and access control."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.support.gateway import TIMEOUT, Gateway, children_of, environment, fill, wait_for

pytestmark = pytest.mark.integration

Make = Callable[..., Gateway]


def present(gateway: Gateway) -> dict[str, Any]:
    """The current state as JSON."""
    return dict(json.loads(gateway.http("/status.json")[1]))


def history(gateway: Gateway, *arguments: str) -> list[dict[str, Any]]:
    found = gateway.run("logs", "--json", "--since", "1h", *arguments)
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


def observer_of(gateway: Gateway) -> int:
    """The PID of the observer: the supervisor's child that is not a worker."""
    assert gateway.process is not None
    workers = {event["pid"] for event in gateway.events("worker_started")}
    return wait_for(
        lambda: next(iter(set(children_of(gateway.process.pid)) - workers), 0),  # type: ignore[union-attr]
        "an observer",
    )


def test_a_mount_is_shown_with_its_open_file(gateway: Gateway, tmp_path: Path) -> None:
    fill(gateway.folder / "shared/models", {"weights-भूषण.bin": os.urandom(4 << 20)})
    with gateway.mounted(tmp_path / "mount") as mount:
        with (mount / "models/weights-भूषण.bin").open("rb") as file:
            file.read(1 << 20)

            def reading() -> list[list[dict[str, Any]]]:
                return [each["files"] for each in present(gateway)["sessions"] if each["files"]]

            (files,) = wait_for(reading, "the file that is read")
            assert files[0]["share"] == "models"
            assert files[0]["path"] == "/home/gvpocr/models/weights-भूषण.bin"
            assert files[0]["size"] == 4 << 20
            assert 1 << 20 <= files[0]["served"] <= 4 << 20
            page = gateway.http("/")[1]
            assert "weights-भूषण.bin" in page
            assert "127.0.0.1 · OpenSSH_" in page
        wait_for(lambda: not present(gateway)["sessions"][0]["files"], "the file to be closed")
    wait_for(lambda: not present(gateway)["sessions"], "the session to be gone")


def test_reads_are_totalled_by_share_and_user(gateway: Gateway) -> None:
    fill(gateway.folder / "shared/models", {"weights.bin": os.urandom(3_000_000)})
    for _ in range(2):
        assert gateway.sftp("get models/weights.bin /dev/null").returncode == 0

    def sums(by: str) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for line in gateway.run("logs", "--by", by, "--json").stdout.split("\n")[:-1]
        ]

    (user,) = wait_for(lambda: [each for each in sums("user") if each["bytes"] == 6_000_000], "it")
    assert (user["user"], user["accesses"], user["files"]) == ("gvpocr", 2, 1)
    assert sums("file")[0]["file"] == "models/weights.bin"
    for by in ("share", "user"):
        # The chart and the log get their bytes separately: both must be right.
        wait_for(lambda by=by: "<b>6 MB</b>" in gateway.http(f"/?by={by}")[1], f"6 MB by {by}")  # type: ignore[misc]


def test_the_history_survives_a_restart(gateway: Gateway) -> None:
    fill(gateway.folder / "shared/models", {"before.bin": b"x"})
    assert gateway.sftp("get models/before.bin /dev/null").returncode == 0
    assert gateway.stop() == 0
    assert [each["path"] for each in history(gateway, "--event", "file_closed")] == [
        "/home/gvpocr/models/before.bin"
    ]
    assert history(gateway)[-1]["event"] == "server_stopped"
    gateway.start()
    assert "before.bin" in gateway.http("/")[1]


def test_a_killed_observer_is_replaced_and_loses_nothing(
    gateway: Gateway,
) -> None:
    files = {f"{number:02}.bin": os.urandom(100_000) for number in range(30)}
    fill(gateway.folder / "shared/models", files)
    killed = observer_of(gateway)
    os.kill(killed, signal.SIGKILL)
    commands = [f"get models/{name} /dev/null" for name in files]
    assert gateway.sftp(*commands).returncode == 0
    wait_for(lambda: observer_of(gateway) != killed, "another observer")
    wait_for(lambda: gateway.http("/healthz")[0] == 200, "its endpoint")
    wait_for(lambda: len(history(gateway, "--event", "file_closed")) == 30, "all that was read")
    assert gateway.metric("sftp_gateway_history_dropped_total") == 0


def test_a_hanging_observer_delays_nobody_and_loses_nothing(
    make_gateway: Make,
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start()
    name = "/".join(["x" * 200] * 9)
    fill(gateway.folder / "shared/models", {f"{name}/a.bin": b"x"})
    stopped = observer_of(gateway)
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert gateway.sftp(*[f"get models/{name}/a.bin /dev/null"] * 2000).returncode == 0
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_for(lambda: len(gateway.events("file_closed")) == 2000, "the log itself to have all")

    def all_told() -> bool:
        kept = len(history(gateway, "--event", "file_closed"))
        missing = gateway.metric("sftp_gateway_history_dropped_total")
        return kept > 0 and kept + missing >= 2000

    wait_for(all_told, "the history to keep or count every line")


def test_a_history_folder_that_cannot_be_created_is_a_warning(
    make_gateway: Make, tmp_path: Path
) -> None:
    gateway = make_gateway(
        SFTP_GATEWAY_HISTORY__FILE="/proc/nowhere/history.sqlite3", TMPDIR=str(tmp_path)
    ).start()
    assert "history.file: /proc/nowhere/history.sqlite3 cannot be written" in gateway.stderr
    fill(gateway.folder / "shared/models", {"a.bin": b"x"})
    assert gateway.sftp("get models/a.bin /dev/null").returncode == 0
    page = wait_for(lambda: (p := gateway.http("/")[1]) and "a.bin" in p and p, "it on the page")
    assert "may be lost when the gateway stops" in page


def test_without_a_history_the_current_state_is_shown(make_gateway: Make) -> None:
    gateway = make_gateway(SFTP_GATEWAY_HISTORY__ENABLED="false").start()
    wait_for(lambda: "Serving" in gateway.http("/")[1], "the page")
    assert "The history is off" in gateway.http("/")[1]
    assert not list((gateway.folder / "state").glob("history*"))


def test_the_page_can_be_disabled(make_gateway: Make) -> None:
    gateway = make_gateway(SFTP_GATEWAY_STATUS__ENABLED="false").start()
    assert gateway.http("/")[1].count("<a href") == 3
    assert gateway.http("/status.json")[0] == 404


def test_refused_logins_and_bans_are_shown(make_gateway: Make) -> None:
    gateway = make_gateway("[penalties]\nexempt = []\nminimum = 4\n").start()
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        transport = paramiko.Transport(connection)
        transport.start_client(timeout=30)
        with pytest.raises(paramiko.AuthenticationException):
            transport.auth_publickey("<b>root</b>", paramiko.RSAKey.generate(2048))
        transport.close()
    gateway.wait_event("source_banned")
    name = "&lt;b&gt;root&lt;/b&gt;"
    page = wait_for(lambda: name in (page := gateway.http("/")[1]) and page, "the refusal")
    assert "<b>root" not in page
    assert "unknown user" in page
    (ban,) = wait_for(lambda: present(gateway)["bans"], "the ban")
    assert ban["source"] == "127.0.0.1"
    assert ban["seconds"] > 0


# Access control


def test_the_first_start_creates_a_token_unless_local_only(make_gateway: Make) -> None:
    gateway = make_gateway(SFTP_GATEWAY_METRICS_HOST="0.0.0.0").start()
    file = gateway.folder / "keys/status_token"
    assert file.stat().st_mode & 0o777 == 0o600
    token = file.read_text().strip()
    assert len(token) >= 32
    assert token not in gateway.stderr
    assert "it asks for the token in keys/status_token" in gateway.stderr
    assert gateway.http("/")[0] == 401
    assert gateway.http("/status.json")[0] == 401
    assert gateway.http("/healthz") == (200, "ok\n")
    assert gateway.http("/metrics")[0] == 200
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    url = f"http://127.0.0.1:{gateway.metrics_port}/"
    with opener.open(url, f"token={token}".encode()) as answer:  # follows to the page
        assert answer.url == url
        assert "Throughput" in answer.read().decode()
    with opener.open(url) as answer:
        assert "Throughput" in answer.read().decode()


def test_a_new_token_takes_effect_without_dropping_mounts(
    make_gateway: Make, tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_METRICS_HOST="0.0.0.0").start()

    def status_with(token: str) -> int:
        return subprocess.run(
            ["curl", "-so/dev/null", "-f", "-H", f"Authorization: Bearer {token}",
             f"http://127.0.0.1:{gateway.metrics_port}/"]
        ).returncode  # fmt: skip

    old = (gateway.folder / "keys/status_token").read_text().strip()
    with gateway.mounted(tmp_path / "mount"):
        assert status_with(old) == 0
        (gateway.folder / "keys/status_token").write_text("another-token-of-some-length\n")
        wait_for(lambda: status_with("another-token-of-some-length") == 0, "the new token")
        assert status_with(old) != 0
        assert not gateway.events("session_end")


def test_a_short_token_closes_the_page_but_not_the_gateway(make_gateway: Make) -> None:
    gateway = make_gateway(SFTP_GATEWAY_METRICS_HOST="0.0.0.0")
    (gateway.folder / "keys").mkdir()
    (gateway.folder / "keys/status_token").write_text("short\n")
    gateway.start()
    assert "the token has fewer than 16 characters" in gateway.stderr
    assert gateway.http("/")[0] == 401


def test_logs_follow_prints_new_lines(gateway: Gateway) -> None:
    fill(gateway.folder / "shared/models", {"a.bin": b"x"})
    wait_for((gateway.folder / "state/history.sqlite3-wal").exists, "the history")
    with subprocess.Popen(
        [sys.executable, "-m", "sftp_gateway", "logs", "--follow", "--event", "file_closed"],
        stdout=subprocess.PIPE, env=environment(), cwd=gateway.folder,
    ) as following:  # fmt: skip
        try:
            assert gateway.sftp("get models/a.bin /dev/null").returncode == 0
            assert following.stdout is not None
            assert b"/home/gvpocr/models/a.bin 1 B" in following.stdout.readline()
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(TIMEOUT) == 130
