"""Failing disks, changing files and silent clients do not affect others."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.processes import memory, memory_now
from tests.support.gateway import TIMEOUT, Gateway, fill, free_port, wait_for
from tests.support.record_client import Proxy
from tests.support.slow_disk import Disk, failing_disk

pytestmark = pytest.mark.integration

GOOD = b"x" * 100_000
BIG = bytes(range(256)) * 256 * 64

#: Threads of one share in one worker: server/io_pools.py.
_THREADS = 26


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file that controls the bad disk: see tests/support/slow_disk.py."""
    return tmp_path / "gate"


@pytest.fixture
def disk(tmp_path: Path, gate: Path) -> Iterator[Disk]:
    fill(tmp_path / "behind", {"folder/a": b"a" * 1000, "b": b"b" * 300_000, "c": bytes(8_000_000)})
    with failing_disk(tmp_path / "behind", tmp_path / "bad", gate) as disk:
        yield disk


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway], tmp_path: Path, disk: Disk) -> Iterator[Gateway]:
    """One worker with a share `bad` on a failing disk, and a share `good`."""
    fill(tmp_path / "good", {"file": GOOD})
    gateway = make_gateway(
        f'[shares.bad]\npath = "{tmp_path}/bad"\n[shares.good]\npath = "{tmp_path}/good"\n',
        SFTP_GATEWAY_WORKERS="1",
        SFTP_GATEWAY_DISK_TIMEOUT="1",
    ).start()
    yield gateway
    disk.resume()  # the kernel keeps a process until its reads have ended
    gateway.close()


def _pid(gateway: Gateway) -> int:
    (pid,) = {event["pid"] for event in gateway.events("worker_started")}
    return int(pid)


def _fails(mount: Path, name: str) -> bool:
    try:
        (mount / name).read_bytes()
    except OSError:
        return True
    return False


def _reads(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


# Disks


def test_a_hanging_disk_fails_its_own_readers_only(
    gateway: Gateway, tmp_path: Path, disk: Disk
) -> None:
    pid = _pid(gateway)
    with (
        gateway.mounted(tmp_path / "a", "/home/gvpocr", "direct_io", "reconnect") as own,
        gateway.mounted(tmp_path / "b", "/home/gvpocr", "direct_io", "reconnect") as other,
    ):
        held = os.open(own / "bad/c", os.O_RDONLY)
        assert os.pread(held, 10, 0) == bytes(10)
        closed = os.open(other / "bad/b", os.O_RDONLY)
        assert os.pread(closed, 10, 0) == b"b" * 10
        disk.hang()
        os.close(closed)  # that waits for the disk too
        assert (other / "good/file").read_bytes() == GOOD
        # sshfs takes any error of the pending read for the end of the file.
        with contextlib.suppress(OSError):
            assert os.pread(held, 1000, 7_000_000) == b""
        with pytest.raises(OSError, match="Errno"):
            os.pread(held, 1000, 7_000_000)
        asked: list[Callable[[], object]] = [
            (own / "bad/folder/a").read_bytes,
            (own / "bad/folder/a").stat,
            lambda: os.listdir(own / "bad/folder"),
            lambda: os.statvfs(own / "bad"),
        ]
        for ask in asked * 3:
            with contextlib.suppress(OSError):  # some is still in a cache
                ask()
        wait_for(lambda: _reads(own / "good/file") == GOOD, "the mount to be back")
        for mount in (own, other):
            assert (mount / "good/file").read_bytes() == GOOD
        assert gateway.sftp("get good/file /dev/null").returncode == 0
        assert gateway.http("/healthz") == (200, "ok\n")
        assert gateway.metric("sftp_gateway_slow_lane_depth", share="bad") <= _THREADS
        assert gateway.metric("sftp_gateway_requests_total", result="failure") > 0
        with contextlib.suppress(OSError):  # its session is over
            os.close(held)
        assert (other / "good/file").read_bytes() == GOOD
        disk.resume()
        wait_for(lambda: _reads(own / "bad/b") == b"b" * 300_000, "the disk to be back")
    assert _pid(gateway) == pid


def test_a_hanging_disk_uses_no_more_than_its_own_threads(
    gateway: Gateway, tmp_path: Path, disk: Disk
) -> None:
    pid = _pid(gateway)
    before = len(os.listdir(f"/proc/{pid}/task"))
    disk.hang()
    with ThreadPoolExecutor(40) as pool:
        results = list(
            pool.map(lambda _: gateway.sftp("get bad/b /dev/null").returncode, range(40))
        )
    assert all(results), "a hanging disk returned a file"
    assert len(os.listdir(f"/proc/{pid}/task")) <= before + _THREADS
    wait_for(
        lambda: gateway.metric("sftp_gateway_slow_lane_depth", share="bad") <= _THREADS,
        "the others to be given up",
    )
    assert gateway.sftp("get good/file /dev/null").returncode == 0
    disk.resume()
    wait_for(lambda: gateway.sftp("get bad/b /dev/null").returncode == 0, "the disk to be back")
    wait_for(lambda: gateway.metric("sftp_gateway_slow_lane_depth") == 0, "its threads to be back")


def test_bad_blocks_fail_only_their_own_reads(gateway: Gateway, tmp_path: Path, gate: Path) -> None:
    with gateway.mounted(tmp_path / "a", "/home/gvpocr", "direct_io", "cache=no") as mount:
        gate.write_text("EIO")
        got = gateway.sftp(f"get bad/b {tmp_path}/got")
        assert got.returncode != 0
        assert b"a read failed (Input/output error); disconnecting" in got.stderr
        assert os.listdir(mount / "bad/folder") == ["a"]
        assert (mount / "good/file").read_bytes() == GOOD
        gate.unlink()
        assert (mount / "bad/b").read_bytes() == b"b" * 300_000
    assert "Input/output error" in gateway.stderr


def _readiness(gateway: Gateway) -> tuple[int, str]:
    """The status of /readyz, and its entry for the share `bad`."""
    status, body = gateway.http("/readyz")
    return status, json.loads(body)["shares"]["bad"]


def _bytes_read(gateway: Gateway) -> bool:
    return gateway.sftp("get bad/b /dev/null").returncode == 0


def test_a_share_with_failing_reads_is_not_ready(gateway: Gateway, gate: Path) -> None:
    assert _readiness(gateway) == (200, "ok")
    gate.write_text("EIO")
    assert not _bytes_read(gateway)
    failing = (503, "reads fail: Input/output error")
    wait_for(lambda: _readiness(gateway) == failing, "the share to be missed")
    wait_for(lambda: gateway.metric("sftp_gateway_share_up", share="bad") == 0, "its metric")
    assert gateway.metric("sftp_gateway_share_up", share="good") == 1
    assert gateway.metric("sftp_gateway_disk_errors_total", share="bad", error="EIO") >= 1
    assert "reads fail: Input/output error" in gateway.http("/")[1]
    assert gateway.http("/healthz")[0] == 200
    gate.unlink()
    assert _bytes_read(gateway)
    wait_for(lambda: _readiness(gateway) == (200, "ok"), "the share to be back")
    wait_for(lambda: gateway.metric("sftp_gateway_share_up", share="bad") == 1, "its metric")


def test_a_share_with_hanging_reads_is_not_ready(gateway: Gateway, gate: Path) -> None:
    gate.touch()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(_bytes_read, gateway)
        _, says = wait_for(
            lambda: (found := _readiness(gateway))[0] == 503 and found, "the share to be missed"
        )
        assert says.startswith("reads hang: ")
        assert not reading.result(), "a hanging disk returned a file"
        errors = "sftp_gateway_disk_errors_total"
        assert gateway.metric(errors, share="bad", lane="read", error="ETIMEDOUT") >= 1
        gate.unlink()
    assert _bytes_read(gateway)
    wait_for(lambda: _readiness(gateway) == (200, "ok"), "the share to be back")


def test_a_remounted_disk_is_served_again(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    share = tmp_path / "tmpfs"
    share.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "test", share], check=True)
        fill(share, {"file": GOOD})

    options = ("direct_io", "cache=no", "reconnect")
    mount()
    try:
        fill(tmp_path / "good", {"file": GOOD})
        gateway = make_gateway(
            f'[shares.gone]\npath = "{share}"\n[shares.good]\npath = "{tmp_path}/good"\n'
        ).start()
        with gateway.mounted(tmp_path / "a", "/home/gvpocr", *options) as own:
            with open(own / "gone/file", "rb") as held:
                assert held.read(10) == GOOD[:10]
                subprocess.run(["umount", "-l", share], check=True)
                share.rmdir()
                wait_for(lambda: gateway.http("/readyz")[0] == 503, "the share to be missed")
                assert held.read() == GOOD[10:], "the open file is complete"
            assert (own / "good/file").read_bytes() == GOOD
            assert gateway.http("/healthz")[0] == 200
            share.mkdir()
            mount()
            wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be back")
            # A new worker serves it: the old one's Landlock rules name the old file system.
            wait_for((own / "gone/file").exists, "the mount to be there too")
            assert (own / "gone/file").read_bytes() == GOOD
    finally:
        subprocess.run(["umount", "-l", share], check=False)


# Files


def test_files_can_change_or_vanish_while_they_are_read(gateway: Gateway, tmp_path: Path) -> None:
    good = tmp_path / "good"
    fill(good, dict.fromkeys(("cut", "replaced", "deleted"), BIG))
    with (
        gateway.mounted(
            tmp_path / "a", "/home/gvpocr", "direct_io", "cache=no", "reconnect"
        ) as mount,
        contextlib.suppress(OSError),  # of close(2)
        open(mount / "good/cut", "rb", buffering=0) as cut,
        open(mount / "good/replaced", "rb", buffering=0) as replaced,
        open(mount / "good/deleted", "rb", buffering=0) as deleted,
    ):
        for file in (cut, replaced, deleted):
            assert file.read(4096) == BIG[:4096]
        os.truncate(good / "cut", 10_000)
        (good / "new").write_bytes(b"new")
        (good / "new").rename(good / "replaced")
        (good / "deleted").unlink()
        assert _rest(replaced) == BIG[4096:], "old and new content are mixed"
        assert _rest(deleted) == BIG[4096:]
        assert (mount / "good/replaced").read_bytes() == b"new"
        assert _fails(mount, "good/deleted")
        with pytest.raises(OSError, match="Errno"):
            _rest(cut)
    gateway.wait_event("read_failed", path="/home/gvpocr/good/cut", error="truncated")
    gateway.wait_event("file_closed", path="/home/gvpocr/good/cut", whole=False, result="aborted")


def _rest(file: object) -> bytes:
    pieces = []
    while piece := file.read(65536):  # type: ignore[attr-defined]
        pieces.append(piece)
    return b"".join(pieces)


# Processes


def test_a_mount_survives_a_killed_worker_and_a_restart_under_load(
    make_gateway: Callable[..., Gateway], tmp_path: Path, record_property: Callable[..., None]
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(free_port()), SFTP_GATEWAY_WORKERS="1").start()
    fill(gateway.folder / "shared/models", {"big": BIG})
    with gateway.mounted(
        tmp_path / "mnt", "/home/gvpocr", "reconnect", "direct_io", "cache=no"
    ) as mount:
        wrong, rounds, stop = [], [], threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen = _reads(mount / "models/big")
                if seen is not None:
                    rounds.append(time.monotonic())
                    if seen != BIG:
                        wrong.append(len(seen))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            wait_for(lambda: len(rounds) > 5, "the readers to read")
            for fault in ("killed worker", "restart"):
                broken = time.monotonic()
                if fault == "restart":
                    gateway.stop()
                    gateway.start()
                else:
                    os.kill(gateway.events("worker_started")[-1]["pid"], signal.SIGKILL)
                wait_for(lambda: rounds[-1] > broken + 0.01, f"reads behind a {fault}")  # noqa: B023
                record_property(f"seconds behind a {fault}", round(rounds[-1] - broken, 2))
                reached = len(rounds)
                wait_for(lambda: len(rounds) > reached + 3, "more reads")  # noqa: B023
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not wrong, "a successful read returned wrong bytes"


# The log


def test_a_full_log_disk_is_reported_and_serving_continues(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "test", logs], check=True)
    try:
        log = logs / "access.log"
        gateway = make_gateway(
            SFTP_GATEWAY_ACCESS_LOG__FILE=str(log), SFTP_GATEWAY_WORKERS="1"
        ).start()
        (logs / "filler").write_bytes(bytes(4096))
        with contextlib.suppress(OSError), open(logs / "filler", "ab", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        for _ in range(20):
            assert gateway.sftp("ls Bhushanji").returncode == 0
        wait_for(
            lambda: len(gateway.events("login_accepted")) == 20, "every line in the other sink"
        )
        assert "No space left" in gateway.stderr
        (logs / "filler").unlink()
        assert gateway.sftp("ls models").returncode == 0
        wait_for(lambda: len(gateway.events("session_end")) == 21, "its end")
        end = gateway.events("session_end")[-1]
        wait_for(lambda: _event(log.read_text().splitlines()[-1]) == end, "lines in the file again")
        # Lost lines are counted, truncated ones included.
        written = [_event(line) for line in log.read_text().splitlines()]
        missing = [event for event in gateway.events() if event not in written]
        gaps = [event for event in written if event and event["event"] == "log_dropped"]
        assert {gap["reason"] for gap in gaps} == {"write_failed"}
        assert sum(gap["count"] for gap in gaps) >= len(missing) > 0
    finally:
        gateway.close()
        subprocess.run(["umount", "-l", logs], check=False)


def _event(line: str) -> dict[str, Any] | None:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return event


@pytest.mark.parametrize("overflow", ["block", "drop"])
def test_a_blocked_standard_output_blocks_or_drops_as_configured(
    make_gateway: Callable[..., Gateway], tmp_path: Path, overflow: str
) -> None:
    """`block` waits and loses nothing; `drop` serves and counts lost lines."""
    gateway = make_gateway(
        SFTP_GATEWAY_ACCESS_LOG__OVERFLOW=overflow,
        SFTP_GATEWAY_ACCESS_LOG__CAPACITY="1000",
        SFTP_GATEWAY_ACCESS_LOG__LEVEL="requests",
        SFTP_GATEWAY_WORKERS="1",
        SFTP_GATEWAY_PORT=str(free_port()),
    )
    gateway.start(runner=_with_pipe(tmp_path / "go on"))
    fill(gateway.folder / "shared/models", {f"{n}": b"x" for n in range(300)})
    client = subprocess.Popen(
        [
            "sftp", "-q", *gateway.ssh_options(), "-P", str(gateway.port), "-b", "-",
            "gvpocr@127.0.0.1",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write(f"get -r models {tmp_path}/got\n".encode() * 3)
    client.stdin.close()
    if overflow == "drop":
        assert client.wait(TIMEOUT) == 0
        dropped = functools.partial(gateway.metric, "sftp_gateway_access_log_dropped_total")
        wait_for(lambda: dropped() > 0, "the dropped lines to be counted")
    else:
        depth = functools.partial(gateway.metric, "sftp_gateway_access_log_queue_depth")
        wait_for(lambda: depth() >= 400, "the queue to be as full as one user may make it")
        wait_for(lambda: _rests(depth), "the client to be kept waiting")
        assert client.poll() is None
        assert gateway.http("/healthz") == (200, "ok\n")
        assert gateway.metric("sftp_gateway_access_log_dropped_total") == 0
    (tmp_path / "go on").touch()
    assert client.wait(TIMEOUT) == 0
    if overflow == "block":
        gateway.wait_event("session_end")
        assert len(gateway.events("file_closed", result="ok")) >= 900


def _rests(read: Callable[[], float]) -> bool:
    """Whether the number stays the same for a second."""
    before = read()
    time.sleep(1)
    return read() == before


def _with_pipe(go_on: Path) -> list[str]:
    """A runner whose output goes through a small pipe that is not read for a while.

    The pipe is read until the gateway has started, and again once `go_on` exists.
    """
    script = f"""
import fcntl, os, subprocess, sys, time
reading, writing = os.pipe()
fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
if os.fork() == 0:
    os.close(writing)
    started = False
    while not started:
        data = os.read(reading, 65536)
        os.write(1, data)
        started = b"server_started" in data
    while not os.path.exists({str(go_on)!r}):
        time.sleep(0.02)
    while data := os.read(reading, 65536):
        os.write(1, data)
    os._exit(0)
os.close(reading)
os.dup2(writing, 1)
os.close(writing)
os.execv(sys.argv[1], sys.argv[1:])
"""
    return ["python3", "-c", script]


# Connections


def test_a_gateway_out_of_descriptors_keeps_serving_open_sessions(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start(runner=["prlimit", "--nofile=64:64"])
    fill(gateway.folder / "shared/models", {"file": GOOD})
    with (
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "direct_io", "cache=no") as mount,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT))
        wait_for(lambda: "limit of 64 open files" in gateway.stderr, "connections to be refused")
        assert (mount / "models/file").stat().st_size == len(GOOD)
        stack.close()
        wait_for(lambda: gateway.sftp("ls models").returncode == 0, "new clients to be taken")
        assert (mount / "models/file").read_bytes() == GOOD
    assert len(gateway.events("worker_started")) == 1


async def test_a_peer_whose_link_goes_down_is_disconnected(
    make_gateway: Callable[..., Gateway],
) -> None:
    """Like a peer whose link is down: its TCP connection stays open but silent."""
    gateway = make_gateway(
        SFTP_GATEWAY_KEEPALIVE_INTERVAL="0.3", SFTP_GATEWAY_KEEPALIVE_COUNT_MAX="3"
    ).start()
    proxy = Proxy(gateway.port)
    async with proxy.listening() as port:
        client = subprocess.Popen(
            [
                "ssh", *gateway.ssh_options(StrictHostKeyChecking="no", HostKeyAlias="proxy"), "-p",
                str(port), "-s", "gvpocr@127.0.0.1", "sftp",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await _in_thread(gateway.wait_event, "login_accepted")
            proxy.up.hold()
            proxy.down.hold()
            await _in_thread(gateway.wait_event, "session_end", reason="not_responding")
        finally:
            client.kill()
            client.communicate()
    assert gateway.metric("sftp_gateway_connections") == 0


async def _in_thread(function: Callable[..., object], *arguments: object, **more: object) -> object:
    return await asyncio.to_thread(function, *arguments, **more)


@pytest.mark.parametrize("landlock", ["off", "require"])
def test_workers_started_without_a_share_serve_the_others(
    make_gateway: Callable[..., Gateway], tmp_path: Path, landlock: str
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1", SFTP_GATEWAY_LANDLOCK=landlock).start()
    models = gateway.folder / "shared/models"
    models.rename(tmp_path / "aside")
    (pid,) = {event["pid"] for event in gateway.events("worker_started")}
    os.kill(pid, signal.SIGKILL)
    gateway.wait_event("worker_exited", pid=pid)
    assert gateway.sftp("get newsletters/README.txt /dev/null").returncode == 0
    assert b"Bhushanji" in gateway.sftp("ls").stdout
    assert gateway.sftp("ls models").returncode == 1
    wait_for(lambda: gateway.http("/readyz")[0] == 503, "it to be told")
    (tmp_path / "aside").rename(models)
    wait_for(
        lambda: gateway.sftp("get models/README.txt /dev/null").returncode == 0, "it to be back"
    )
    assert gateway.http("/healthz")[0] == 200


def test_thousands_of_silent_connections_cost_little_and_are_closed(
    make_gateway: Callable[..., Gateway],
) -> None:
    """Every second one sends its version and the first bytes of a packet."""
    count, beginning = 3_000, b"SSH-2.0-x\r\n\0\0\1"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, 2 * count))
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, hard))
    gateway = make_gateway(
        SFTP_GATEWAY_MAX_CONNECTIONS=str(2 * count),
        SFTP_GATEWAY_MAX_STARTUPS=f"{2 * count}:100:{2 * count}",
        SFTP_GATEWAY_LOGIN_GRACE_TIME="20",
        SFTP_GATEWAY_PENALTIES__ENABLED="false",  # the first may be gone when the last one comes
    ).start()
    assert gateway.process is not None
    before = memory(gateway.process.pid).anonymous
    with contextlib.ExitStack() as stack:
        for number in range(count):
            source = (f"127.0.1.{1 + number % 200}", 0)
            connection = socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT, source)
            stack.enter_context(connection)
            assert connection.recv(8) == b"SSH-2.0-"
            if number % 2:
                connection.send(beginning)
        held = memory_now(gateway.process.pid).anonymous - before
        assert held < count * 32, f"{held / count} KiB for each"
        assert gateway.sftp("ls models").returncode == 0
        wait_for(lambda: gateway.metric("sftp_gateway_connections") == 0, "them to be gone", 90)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert gateway.sftp("ls models").returncode == 0
    wait_for(
        lambda: len(gateway.events("session_end", reason="login_timeout")) == count, "all lines"
    )
