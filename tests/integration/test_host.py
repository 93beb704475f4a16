"""Faults of the host: temporary folders, and disks of the log and the history."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sftp_gateway.observability.history.queries import Filter, History
from tests.support.gateway import Gateway, children_of, wait_for

pytestmark = pytest.mark.integration


@contextmanager
def tmpfs(at: Path, size: str = "1m") -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "test", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def fill_up(disk: Path) -> Path:
    """Create a file that takes all free space."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler


def kill_children(gateway: Gateway) -> None:
    """Kill all processes except the supervisor; wait for their successors."""
    assert gateway.process is not None
    before = children_of(gateway.process.pid)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: not set(before) & set(gateway.pids) and len(gateway.pids) > len(before),
        "all to be replaced",
    )


def test_a_full_disk_behind_standard_error_ends_nothing(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway().start(("sh", "-c", 'exec "$@" 2>/dev/full', "sh"))
    (gateway.folder / "config/sftp-gateway.toml").write_text("no_such_option = 1\n")
    gateway.wait_event("configuration_refused")
    assert gateway.sftp("ls").returncode == 0
    assert gateway.stop() == 0


# Temporary folders


def test_a_full_temporary_disk_ends_no_worker_and_loses_no_metrics(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "tmp", "256k") as temporary:
        gateway = make_gateway(TMPDIR=str(temporary), SFTP_GATEWAY_WORKERS="2").start()
        fill_up(temporary)
        kill_children(gateway)
        assert gateway.sftp("ls models").returncode == 0
        requests = "sftp_gateway_requests_total"
        wait_for(lambda: gateway.metric(requests, operation="readdir") >= 1, "its metrics")
        assert gateway.metric("sftp_gateway_worker_restarts_total") == 2
        gateway.close()


def test_workers_start_after_the_temporary_folder_is_cleaned(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    gateway = make_gateway(TMPDIR=str(temporary)).start()
    shutil.rmtree(temporary)
    kill_children(gateway)
    assert gateway.sftp("ls models").returncode == 0
    wait_for(lambda: gateway.http("/healthz") == (200, "ok\n"), "the gateway to be healthy")
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGUSR1)
    assert gateway.wait_event("configuration_reloaded")["changed"] == "all"
    assert gateway.events("configuration_refused") == []


def test_a_killed_supervisor_leaves_nothing_behind(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    gateway = make_gateway(TMPDIR=str(temporary)).start()
    gateway.stop(signal.SIGKILL)
    assert list(temporary.iterdir()) == []


def test_counters_outlive_killed_processes_but_gauges_do_not(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start()
    with gateway.mounted(tmp_path / "mnt"):
        wait_for(lambda: gateway.metric("sftp_gateway_sessions") == 1, "a session")
        kill_children(gateway)
    wait_for(lambda: gateway.metric("sftp_gateway_sessions") == 0, "none")
    before = gateway.metric("sftp_gateway_connections_accepted_total")
    assert before >= 1
    gateway.sftp("ls")
    accepted = "sftp_gateway_connections_accepted_total"
    wait_for(lambda: gateway.metric(accepted) == before + 1, "the next")


# The log and the history


@pytest.fixture(params=["require", "off"])
def gateway(
    request: pytest.FixtureRequest, make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Iterator[Gateway]:
    """A gateway with log and history in folders, with and without Landlock; not started."""
    gateway = make_gateway(
        SFTP_GATEWAY_LANDLOCK=request.param,
        SFTP_GATEWAY_ACCESS_LOG__FILE="logs/a.log",
        SFTP_GATEWAY_WORKERS="1",
        TMPDIR=str(tmp_path),
    )
    (gateway.folder / "logs").mkdir()
    yield gateway
    gateway.close()


def lines_of(log: Path) -> list[str]:
    """The log's events."""
    try:
        return [json.loads(line)["event"] for line in log.read_text().splitlines()]
    except FileNotFoundError:
        return []


def rows_of(gateway: Gateway) -> int:
    """The logins in the history."""
    path = gateway.folder / "state/history.sqlite3"
    with suppress(Exception):
        return sum("login_accepted" in each.line for each in History(path).lines(Filter()))
    return 0


@pytest.mark.parametrize("fault", ["replaced", "moved", "mounted over", "deleted"])
def test_replaced_log_and_history_folders_are_reopened(gateway: Gateway, fault: str) -> None:
    gateway.start()
    logs, state = gateway.folder / "logs", gateway.folder / "state"
    gateway.sftp("ls")
    wait_for(lambda: rows_of(gateway) == 1, "a row")
    mounted: list[Path] = []
    for folder in (logs, state):
        if fault == "mounted over":
            subprocess.run(["mount", "-t", "tmpfs", "test", folder], check=True)
            mounted.append(folder)
        elif fault == "deleted":
            shutil.rmtree(folder)
        else:
            folder.rename(folder.with_name(f"{folder.name}.old"))
        if fault in ("replaced", "deleted"):
            folder.mkdir()
    try:
        gateway.sftp("ls")
        if fault == "moved":
            wait_for(
                lambda: lines_of(logs.with_name("logs.old") / "a.log").count("session_end") == 2,
                "lines in the old file",
            )
            assert "cannot write the access log to logs/a.log" in gateway.stderr
            logs.mkdir()
            gateway.sftp("ls")
        wait_for(lambda: "session_end" in lines_of(logs / "a.log"), "lines in the new file")
        wait_for(lambda: rows_of(gateway) >= 1, "rows in the new database")
        assert gateway.metric("sftp_gateway_access_log_lines_lost_total") == 0
        assert gateway.metric("sftp_gateway_history_dropped_total") == 0
    finally:
        gateway.close()
        for folder in mounted:
            subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("fault", ["missing", "fifo"])
def test_processes_without_a_log_serve_and_count_losses(gateway: Gateway, fault: str) -> None:
    gateway.start()
    logs = gateway.folder / "logs"
    if fault == "missing":
        logs.rename(logs.with_name("old"))
    else:
        (logs / "a.log").unlink()
        os.mkfifo(logs / "a.log")
    kill_children(gateway)
    assert gateway.sftp("ls").returncode == 0
    lost = "sftp_gateway_access_log_lines_lost_total"
    wait_for(lambda: gateway.metric(lost) >= 3, "lines to be lost")
    assert "cannot write the access log to logs/a.log" in gateway.stderr
    assert gateway.http("/healthz") == (200, "ok\n")
    if fault == "missing":
        logs.mkdir()
    else:
        (logs / "a.log").unlink()
    gateway.sftp("ls")
    wait_for(lambda: "log_dropped" in lines_of(logs / "a.log"), "lines in the log")
    wait_for(lambda: "session_end" in lines_of(logs / "a.log"), "lines in the log")
    assert gateway.stop() == 0


@pytest.mark.parametrize("kind", ["fifo", "read fifo", "socket", "device"])
def test_a_log_that_is_not_a_regular_file_is_refused(gateway: Gateway, kind: str) -> None:
    log = gateway.folder / "logs/a.log"
    reader = -1
    if kind == "device":
        log.symlink_to("/dev/null")
    elif kind == "socket":
        import socket

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(log))
    else:
        os.mkfifo(log)
    if kind == "read fifo":
        reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    gateway.run("init")
    for command in ("check", "serve"):
        ran = gateway.run(command)
        assert ran.returncode == 2, ran.stderr
        assert "logs/a.log is not a regular file" in ran.stderr
    if reader >= 0:
        os.close(reader)


def test_a_history_that_is_not_a_regular_file_is_a_warning(
    gateway: Gateway, tmp_path: Path
) -> None:
    (gateway.folder / "state").mkdir()
    os.mkfifo(gateway.folder / "state/history.sqlite3")
    gateway.start()
    assert "warning: history.file: " in gateway.stderr
    assert "it is not a regular file" in gateway.stderr
    assert gateway.sftp("ls").returncode == 0
    gateway.run("logs")
    assert gateway.http("/")[0] == 200
    assert gateway.stop() == 0


def test_a_history_replaced_by_a_fifo_blocks_nothing(gateway: Gateway) -> None:
    gateway.start()
    gateway.sftp("ls")
    wait_for(lambda: rows_of(gateway) == 1, "a row")
    file = gateway.folder / "state/history.sqlite3"
    file.unlink()
    os.mkfifo(file)
    gateway.sftp("ls")
    wait_for(lambda: gateway.metric("sftp_gateway_history_errors_total") >= 1, "an error")
    assert gateway.http("/")[0] == 200
    file.unlink()
    wait_for(lambda: rows_of(gateway) == 1, "the row that waited")
    assert gateway.stop() == 0


def test_a_full_history_disk_is_reported_and_loses_nothing_queued(
    gateway: Gateway,
) -> None:
    with tmpfs(gateway.folder / "state") as state:
        gateway.start()
        gateway.sftp("ls")
        wait_for(lambda: rows_of(gateway) == 1, "a row")
        filler = fill_up(state)
        errors = "sftp_gateway_history_errors_total"

        def failed() -> bool:
            assert gateway.sftp("ls").returncode == 0
            return gateway.metric(errors) >= 1

        wait_for(failed, "an error")
        logins = len(gateway.events("login_accepted"))
        assert "the history cannot be written" in gateway.stderr
        filler.unlink()
        wait_for(lambda: rows_of(gateway) >= logins, "all rows")
        assert gateway.metric("sftp_gateway_history_dropped_total") == 0
        gateway.close()
