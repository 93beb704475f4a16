"""Several workers act as one server: replacement, counters and limits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import TIMEOUT, Gateway, children_of, fill, free_port, wait_for
from tests.support.without_syscalls import LANDLOCK_RESTRICT_SELF, runner

pytestmark = pytest.mark.integration

SIZE = 3_000_000


@pytest.fixture
def two(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway with two workers, and a file for each reader."""
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="2", SFTP_GATEWAY_PORT=str(free_port())).start()
    fill(gateway.folder / "shared/models", {f"{n}.bin": content(n) for n in range(4)})
    return gateway


def content(number: int) -> bytes:
    return hashlib.shake_128(bytes([number])).digest(SIZE)


def workers(gateway: Gateway) -> dict[int, int]:
    """The PIDs of the current workers, by number."""
    alive: dict[int, int] = {}
    for event in gateway.events():
        if event["event"] == "worker_started":
            alive[event["worker"]] = event["pid"]
        elif event["event"] == "worker_exited":
            del alive[event["worker"]]
    return alive


def observer(gateway: Gateway) -> int:
    (pid,) = set(children_of(gateway.pids[0])) - set(workers(gateway).values())
    return pid


def connections(pid: int, port: int) -> int:
    """Number of the process's TCP connections on the gateway's port."""
    sockets = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if int(line.split()[1].rpartition(":")[2], 16) == port and line.split()[3] == "01"
    }
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(descriptor).removeprefix("socket:[").removesuffix("]") in sockets
    return found


class Reader:
    """Reads a file of a mount repeatedly until stopped."""

    def __init__(self, path: Path, expected: bytes) -> None:
        self.errors: list[OSError] = []
        self.wrong = 0
        self.rounds = 0
        self._path = path
        self._expected = expected
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.wrong += self._path.read_bytes() != self._expected
            except OSError as error:
                self.errors.append(error)
            else:
                self.rounds += 1

    def read_more(self) -> None:
        """Wait until it has read the whole file again, starting now."""
        seen = self.rounds
        wait_for(lambda: self.rounds >= seen + 2, f"{self._path} to be read again")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def reading(gateway: Gateway, at: Path, *numbers: int) -> Iterator[list[Reader]]:
    """Mounts with `reconnect`, each with a reader of its own file."""
    with contextlib.ExitStack() as stack:
        readers = []
        for number in numbers:
            mount = stack.enter_context(
                gateway.mounted(at / f"mnt{number}", "/home/gvpocr", "reconnect", "direct_io")
            )
            reader = Reader(mount / f"models/{number}.bin", content(number))
            stack.callback(reader.stop)
            readers.append(reader)
        for reader in readers:
            reader.read_more()
        yield readers


def hold(gateway: Gateway, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    """Open connections that have received a worker's banner."""
    held = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", gateway.port), 10)
        stack.enter_context(connection)
        assert connection.recv(8) == b"SSH-2.0-"
        held.append(connection)
    return held


# Spread and limits


def test_connections_are_spread_evenly_over_workers(two: Gateway) -> None:
    with contextlib.ExitStack() as stack:
        hold(two, 8, stack)
        spread = [connections(pid, two.port) for pid in workers(two).values()]
    assert spread == [4, 4]


def test_connections_are_limited_across_workers(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="2", SFTP_GATEWAY_MAX_CONNECTIONS="5").start()
    with contextlib.ExitStack() as stack:
        held = hold(gateway, 5, stack)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", gateway.port), 10) as refused:
                assert refused.recv(8) == b""
        event = gateway.wait_event("connections_refused")
        assert event["reason"] == "max_connections"
        assert (event["count"], event["open"]) == (1, 5)
        assert (event["client_ip"], event["busiest_ip"]) == ("127.0.0.1", "127.0.0.1")
        wait_for(
            lambda: gateway.metric("sftp_gateway_connections_refused_total") == 3,
            "the refusals to be counted",
        )
        # The others share a line.
        assert gateway.wait_event("connections_refused", count=2)["client_ip"] == "127.0.0.1"
        held.pop().close()
        wait_for(lambda: gateway.ssh("echo hello").stdout == "hello\n", "a place to be free")


def test_workers_auto_starts_one_per_processor(gateway: Gateway) -> None:
    assert gateway.metric("sftp_gateway_workers") >= 1
    assert len(workers(gateway)) <= len(os.sched_getaffinity(0))


# Ending workers


def test_a_killed_worker_is_replaced_without_disturbing_others(
    two: Gateway, tmp_path: Path
) -> None:
    with reading(two, tmp_path, 0, 1) as readers:
        before = workers(two)
        assert [connections(pid, two.port) for pid in before.values()] == [1, 1]
        os.kill(before[0], signal.SIGKILL)
        exited = two.wait_event("worker_exited", worker=0)
        assert exited["signal"] == "SIGKILL"
        assert (exited["pid"], exited["connections"], exited["expected"]) == (before[0], 1, False)
        for reader in readers:
            reader.read_more()
        undisturbed = [reader for reader in readers if not reader.errors]
        assert len(undisturbed) >= 1
        assert [reader.wrong for reader in readers] == [0, 0]
    after = workers(two)
    assert after[1] == before[1]
    assert after[0] != before[0]
    assert two.metric("sftp_gateway_worker_restarts_total") == 1
    assert two.metric("sftp_gateway_workers") == 2
    assert two.http("/readyz")[0] == 200


def test_clients_wait_for_the_replacement_of_the_only_worker(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start()
    (pid,) = workers(gateway).values()
    os.kill(pid, signal.SIGKILL)
    assert gateway.ssh("echo hello").stdout == "hello\n"
    gateway.wait_event("worker_exited", pid=pid)
    wait_for(lambda: workers(gateway), "its successor's line")


def test_a_connection_queued_for_a_killed_worker_gets_another(
    make_gateway: Callable[..., Gateway],
) -> None:
    """Connections passed to it but not accepted are not lost."""
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="1").start()
    (pid,) = workers(gateway).values()
    os.kill(pid, signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        unauthenticated = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT))
            for _ in range(20)
        ]
        wait_for(lambda: connections(gateway.pids[0], gateway.port) == 0, "them to be passed on")
        os.kill(pid, signal.SIGKILL)
        for connection in unauthenticated:
            assert connection.recv(8) == b"SSH-2.0-"
        assert gateway.wait_event("worker_exited", worker=0)["connections"] == 0
        (pid,) = wait_for(lambda: workers(gateway), "its successor's line").values()
        assert connections(pid, gateway.port) == 20
    wait_for(lambda: gateway.metric("sftp_gateway_connections") == 0, "them to be gone")


def test_a_burst_of_connections_waits_and_none_is_refused(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(
        SFTP_GATEWAY_WORKERS="2",
        SFTP_GATEWAY_MAX_STARTUPS="2000",
        SFTP_GATEWAY_MAX_STARTUPS_PER_SOURCE="2000",
        SFTP_GATEWAY_MAX_CONNECTIONS_PER_SOURCE="2000",
        SFTP_GATEWAY_LOGIN_GRACE_TIME="600",
    ).start()
    pids = workers(gateway).values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with contextlib.ExitStack() as stack:
        unauthenticated = [
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT))
            for _ in range(1200)
        ]
        wait_for(lambda: connections(gateway.pids[0], gateway.port) == 1, "the workers to be full")
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for connection in unauthenticated:
            assert connection.recv(8) == b"SSH-2.0-"
        assert sum(connections(pid, gateway.port) for pid in pids) == 1200
        assert not gateway.events("connections_refused")


def test_counters_outlive_ended_workers(two: Gateway) -> None:
    def sent() -> float:
        return two.metric("sftp_gateway_bytes_sent_total", share="models")

    for number in range(2):
        assert two.sftp(f"get models/{number}.bin /dev/null").returncode == 0
    wait_for(lambda: sent() == 2 * SIZE, "what both workers have sent")
    logins = two.metric("sftp_gateway_logins_total", result="accepted")
    spent = two.metric("process_cpu_seconds_total")
    for pid in workers(two).values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: two.metric("sftp_gateway_worker_restarts_total") == 2, "both to be replaced")
    wait_for(lambda: two.metric("sftp_gateway_workers") == 2, "both to serve")
    assert sent() == 2 * SIZE
    assert two.metric("sftp_gateway_connections") == 0
    assert two.sftp("get models/2.bin /dev/null").returncode == 0
    wait_for(lambda: sent() == 3 * SIZE, "the third file to be counted")
    assert two.metric("sftp_gateway_logins_total", result="accepted") == logins + 1
    assert two.metric("process_cpu_seconds_total") >= spent


def test_a_stuck_worker_is_unhealthy_and_gets_no_connections(
    two: Gateway,
) -> None:
    pid = workers(two)[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: two.http("/healthz")[0] == 503, "the stuck worker to be noticed")
        for _ in range(3):
            assert two.ssh("echo hello").stdout == "hello\n"
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: two.http("/healthz")[0] == 200, "the gateway to be healthy again")


# The other processes


def test_the_observer_yields_the_processor_to_workers(two: Gateway) -> None:
    (served,) = {os.getpriority(os.PRIO_PROCESS, pid) for pid in workers(two).values()}
    threads = os.listdir(f"/proc/{observer(two)}/task")
    assert len(threads) > 3
    assert all(os.getpriority(os.PRIO_PROCESS, int(thread)) > served for thread in threads)


def test_a_killed_observer_is_replaced(two: Gateway) -> None:
    before = observer(two)
    os.kill(before, signal.SIGKILL)
    assert two.sftp("ls models").returncode == 0
    wait_for(lambda: two.http("/healthz") == (200, "ok\n"), "another observer")
    assert observer(two) != before
    assert two.metric("sftp_gateway_connections_accepted_total") >= 1
    assert two.stop() == 0
    assert two.events()[-1]["event"] == "server_stopped"


def test_nothing_survives_a_killed_supervisor(two: Gateway) -> None:
    pids = two.pids
    assert len(pids) == 4
    two.stop(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all processes to end")


def test_a_second_signal_ends_everything_at_once(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="2", SFTP_GATEWAY_DRAIN_TIMEOUT="600").start()
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    with gateway.mounted(tmp_path / "mnt") as mount:
        file = os.open(mount / "models/0.bin", os.O_RDONLY)
        pids = gateway.pids
        assert gateway.process is not None
        gateway.process.terminate()
        gateway.wait_event("server_stopping", signal="SIGTERM")
        assert gateway.stop() == 1
        with contextlib.suppress(OSError):  # there is nobody to tell
            os.close(file)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all processes to end")


def test_a_signal_to_the_process_group_stops_like_one_to_the_supervisor(two: Gateway) -> None:
    for pid in reversed(two.pids):
        os.kill(pid, signal.SIGINT)
    assert two.process is not None
    assert two.process.wait(30) == 0
    assert two.events()[-1]["event"] == "server_stopped"
    assert all(event["status"] == 0 for event in two.events("worker_exited"))


# A new configuration


def hang_up(gateway: Gateway) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)


def test_sighup_replaces_the_workers_without_disturbing_readers(
    two: Gateway, tmp_path: Path
) -> None:
    config = two.folder / "config/sftp-gateway.toml"
    with reading(two, tmp_path, 0, 1, 2, 3) as readers:
        before = workers(two)
        fill(tmp_path / "fresh", {"file": b"fresh"})
        config.write_text(
            "defaults = false\nmax_handles = 99\n[users.gvpocr]\n"
            f'[shares.models]\npath = "{two.folder}/shared/models"\n'
            f'[shares.fresh]\npath = "{tmp_path}/fresh"\n'
        )
        hang_up(two)
        two.wait_event("configuration_reloaded", workers=2)
        for pid in before.values():
            exited = two.wait_event("worker_exited", pid=pid)
            assert (exited["expected"], exited.get("status")) == (True, 0)
        for reader in readers:
            reader.read_more()
        assert [reader.wrong for reader in readers] == [0, 0, 0, 0]
        assert not set(workers(two).values()) & set(before.values())
        fresh = tmp_path / "mnt0/fresh/file"
        wait_for(fresh.exists, "the new share to be seen")
        assert fresh.read_bytes() == b"fresh"
    assert set(json.loads(two.http("/readyz")[1])["shares"]) == {"models", "fresh"}
    assert two.metric("sftp_gateway_worker_restarts_total") == 0


def test_sigusr1_replaces_the_workers_without_a_change(two: Gateway, tmp_path: Path) -> None:
    assert two.process is not None
    with reading(two, tmp_path, 0, 1) as readers:
        before = workers(two)
        two.process.send_signal(signal.SIGUSR1)
        two.wait_event("configuration_reloaded", cause="restart", changed="all", workers=2)
        for pid in before.values():
            two.wait_event("worker_exited", pid=pid, expected=True)
        for reader in readers:
            reader.read_more()
        assert [reader.wrong for reader in readers] == [0, 0]
    assert not set(workers(two).values()) & set(before.values())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("max_handles = 'x'\n", "max_handles"),
        ("this is no TOML\n", "not valid TOML"),
        ('[shares.models]\npath = "."\n', "contains keys_dir (keys)"),
    ],
)
def test_sighup_with_an_invalid_configuration_changes_nothing(
    two: Gateway, config: str, reason: str
) -> None:
    before = workers(two)
    (two.folder / "config/sftp-gateway.toml").write_text(config)
    hang_up(two)
    refused = two.wait_event("configuration_refused")
    assert reason in refused["mistakes"]
    assert reason in two.stderr
    assert "keeping the current one" in two.stderr
    assert "Traceback" not in two.stderr
    assert workers(two) == before
    assert two.sftp("ls models").returncode == 0
    # Once fixed, it is loaded.
    (two.folder / "config/sftp-gateway.toml").write_text("workers = 2\n")
    hang_up(two)
    two.wait_event("configuration_reloaded")


def test_a_configuration_that_no_worker_starts_with_is_rejected(
    make_gateway: Callable[..., Gateway],
) -> None:
    two = make_gateway('workers = 2\nlandlock = "off"\n').start(runner(LANDLOCK_RESTRICT_SELF))
    before = workers(two)
    # Landlock's effect is known only by trying.
    (two.folder / "config/sftp-gateway.toml").write_text('workers = 2\nlandlock = "require"\n')
    hang_up(two)
    refused = two.wait_event("configuration_refused")
    assert "the kernel refuses to confine this process" in refused["mistakes"]
    still = workers(two)
    assert {number: still[number] for number in before} == before
    assert two.metric("sftp_gateway_worker_restarts_total") == 0
    assert two.sftp("ls models").returncode == 0


def test_workers_and_log_can_change_at_a_reload_but_not_ports(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("workers = 2\n").start()
    config = gateway.folder / "config/sftp-gateway.toml"
    config.write_text('workers = 3\nkeys_dir = "keys"\n[access_log]\nfile = "second.log"\n')
    hang_up(gateway)
    gateway.wait_event("configuration_reloaded", workers=3)
    wait_for(lambda: gateway.metric("sftp_gateway_workers") == 3, "three workers")
    assert gateway.ssh("echo hello").stdout == "hello\n"
    second = gateway.folder / "second.log"
    wait_for(lambda: b"configuration_reloaded" in second.read_bytes(), "the new log")
    config.write_text("workers = 1\nmetrics_host = '127.0.0.2'\n")
    hang_up(gateway)
    gateway.wait_event("configuration_reloaded", workers=1)
    assert "metrics_host: changing it requires a restart" in gateway.stderr
    wait_for(lambda: gateway.metric("sftp_gateway_workers") == 1, "one worker")
    assert gateway.http("/healthz")[0] == 200
    assert Counter(e["event"] for e in gateway.events())["configuration_refused"] == 0


# The start


_UNCONFINED = """
from sftp_gateway.commands.main import main
from sftp_gateway.sandbox import policy
policy.confine_all = lambda mode: None
raise SystemExit(main(["serve"]))
"""


def test_an_error_that_only_a_worker_detects_stops_the_start(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_LANDLOCK="require")
    refusing = (*runner(LANDLOCK_RESTRICT_SELF), sys.executable, "-c", _UNCONFINED)
    with pytest.raises(AssertionError, match="did not start"):
        gateway.start(refusing)
    assert gateway.process is not None
    assert gateway.process.returncode == 2
    assert (
        "error: SFTP_GATEWAY_LANDLOCK: the kernel refuses to confine this process" in gateway.stderr
    )
    assert "Traceback" not in gateway.stderr
    assert gateway.events("server_started") == []
