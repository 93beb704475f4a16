"""What Landlock prevents if the gateway is faulty or a worker runs injected code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sftp_gateway.sandbox import landlock
from tests.support import faulty_gateway
from tests.support.faulty_gateway import ATTEMPTS, OF_ALL, RESULTS, UNANSWERED
from tests.support.gateway import Gateway, environment, fill, wait_for
from tests.support.without_syscalls import LANDLOCK_CREATE_RULESET, runner

pytestmark = pytest.mark.integration

SECRET = b"nobody may read this"
FAULTY = (sys.executable, faulty_gateway.__file__)

SHARES = ("Bhushanji", "newsletters", "models", "huggingface/hub")

#: Attempts that must succeed; all others must fail.
GOOD = frozenset({"read-a-share"})


@pytest.fixture(scope="module", params=["require", "off"])
def faulty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that executes whatever a client requests, with Landlock and without."""
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "outside.txt").write_bytes(SECRET)
    (folder / "logs").mkdir()
    gateway = Gateway(
        folder, f'landlock = "{request.param}"\naccess_log.file = "{faulty_gateway.LOG}"\n'
    )
    try:
        gateway.start(FAULTY)
        (folder / "shared/models/leads-out").symlink_to(folder / "outside.txt")
        yield gateway
    finally:
        gateway.close()


@pytest.fixture
def confined(faulty: Gateway) -> bool:
    return bool(faulty.events("server_started")[-1]["landlock"])


@pytest.mark.parametrize("attempt", [name for name in ATTEMPTS if name not in {*GOOD, *UNANSWERED}])
def test_the_kernel_stops_injected_code_in_a_worker(
    faulty: Gateway, confined: bool, attempt: str
) -> None:
    answer = faulty.ssh(f"echo {attempt}").stdout.strip()
    if confined:
        assert answer in ("EACCES", "EPERM")
    else:  # so it is Landlock that stops it, and not the attempt that is wrong
        assert answer == "done"
    for name, content in {"README.txt": b"", "new": b""}.items():  # what some of them spoil
        if not confined:
            (faulty.folder / "shared/models" / name).write_bytes(content)


@pytest.mark.parametrize("attempt", UNANSWERED)
def test_injected_code_in_a_worker_cannot_lift_a_ban(faulty: Gateway, attempt: str) -> None:
    assert faulty.run("bans", "list").returncode == 0
    assert faulty.ssh(f"echo {attempt}").stdout.strip() in ("ECONNRESET", "EPIPE")


def test_the_supervisor_is_denied_what_no_process_needs(faulty: Gateway, confined: bool) -> None:
    results = json.loads((faulty.folder / RESULTS).read_text())
    assert set(results) == set(OF_ALL)
    assert set(results.values()) == {"EACCES" if confined else "done"}


@pytest.mark.parametrize("attempt", sorted(GOOD))
def test_a_confined_worker_serves(faulty: Gateway, attempt: str) -> None:
    assert faulty.ssh(f"echo {attempt}").stdout == "done\n"


def _held(pid: int) -> list[str]:
    """The targets of a process's descriptors."""
    return [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]


def _memory(pid: int) -> set[int]:
    """The inodes of the anonymous memory that a process has open."""
    descriptors = Path(f"/proc/{pid}/fd").iterdir()
    return {os.stat(each).st_ino for each in descriptors if "/memfd:" in os.readlink(each)}


def test_a_worker_holds_no_unneeded_descriptor(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_ACCESS_LOG__FILE="logs/a.log", SFTP_GATEWAY_WORKERS="2")
    (gateway.folder / "logs").mkdir()
    supervisor, observer, *workers = gateway.start().pids
    wait_for((gateway.folder / "state/history.sqlite3").exists, "the history")
    held = {pid: Counter(_held(pid)) for pid in gateway.pids}
    shares = {str(gateway.folder / "shared" / name) for name in SHARES}
    assert len(workers) == 2
    for pid in workers:
        kinds = {name.partition(":")[0] for name in held[pid]}
        assert kinds - shares - {"socket", "pipe", "anon_inode"} == {
            "/dev/null",  # standard input and output
            str(gateway.folder / "stderr.log"),
            "/memfd",  # its metrics
        }
        assert shares <= kinds
        sockets = {pid: {s for s in held[pid] if s.startswith("socket:")} for pid in held}
        # One to the supervisor, one for the history, one for the log's lines, and the event loop's
        # own pair.
        assert len(sockets[pid]) == 5
        assert len(sockets[pid] & sockets[supervisor]) == 2
        assert len(sockets[pid] & sockets[observer]) == 1
    assert len(sockets[workers[0]] & sockets[workers[1]]) == 1
    metrics = [_memory(pid) for pid in workers]
    assert [len(each) for each in metrics] == [2, 2]
    assert not metrics[0] & metrics[1]
    log = str(gateway.folder / "logs/a.log")
    assert [pid for pid in held if log in held[pid]] == [observer]


def test_the_kernel_stops_a_path_that_escapes_a_share(
    faulty: Gateway, confined: bool, tmp_path: Path
) -> None:
    got = tmp_path / "got"
    fill(faulty.folder / "shared/newsletters", {"one": b"public"})
    assert faulty.sftp(f"get newsletters/one {got}").returncode == 0
    assert got.read_bytes() == b"public"
    got.unlink()
    fetched = faulty.sftp(f"get models/leads-out {got}")
    if confined:
        assert fetched.returncode != 0
        assert b"Permission denied" in fetched.stderr
        assert not got.exists() or got.read_bytes() == b""
    else:
        assert got.read_bytes() == SECRET


def test_no_process_of_the_gateway_can_gain_privileges(gateway: Gateway) -> None:
    for pid in gateway.pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            assert "NoNewPrivs:\t1\n" in (task / "status").read_text()


def test_check_metric_and_log_report_the_landlock_state(gateway: Gateway) -> None:
    version = landlock.abi()
    assert version > 0
    assert gateway.events("server_started")[-1]["landlock"] == version
    assert gateway.metric("sftp_gateway_landlock_abi") == version
    checked = gateway.run("check")
    assert checked.returncode == 0
    message = f"Landlock: version {version} confines the workers."
    assert message in checked.stderr.splitlines()
    assert "landlock" not in gateway.stderr


def test_a_kernel_without_landlock_is_a_prominent_warning(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway().start(runner(LANDLOCK_CREATE_RULESET))
    assert "warning: landlock: the kernel has no Landlock" in gateway.stderr
    assert gateway.events("server_started")[-1]["landlock"] == 0
    assert gateway.metric("sftp_gateway_landlock_abi") == 0
    assert gateway.sftp("ls").returncode == 0


def test_required_landlock_without_kernel_support_refuses_to_start(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_LANDLOCK="require")
    with pytest.raises(AssertionError, match="did not start"):
        gateway.start(runner(LANDLOCK_CREATE_RULESET))
    assert gateway.process is not None
    assert gateway.process.returncode == 2
    assert "error: SFTP_GATEWAY_LANDLOCK: the kernel has no Landlock" in gateway.stderr


def test_logging_continues_after_logrotate_moved_the_log(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(
        SFTP_GATEWAY_ACCESS_LOG__FILE="logs/a.log", SFTP_GATEWAY_LANDLOCK="require"
    )
    log = gateway.folder / "logs/a.log"
    log.parent.mkdir()
    gateway.start()
    gateway.sftp("ls")
    log.rename(log.with_name("a.log.1"))
    gateway.sftp("ls")
    wait_for(lambda: log.exists() and b"login_accepted" in log.read_bytes(), "the new log")


def test_a_log_writable_through_standard_error_is_a_warning(
    gateway: Gateway,
) -> None:
    assert "standard error" not in gateway.stderr
    both = gateway.folder / "both"
    taken = {"SFTP_GATEWAY_PORT": "0", "SFTP_GATEWAY_METRICS_PORT": str(gateway.metrics_port)}
    with both.open("wb") as file:
        ended = subprocess.run(
            [sys.executable, "-m", "sftp_gateway", "serve"],
            stdout=file, stderr=file, cwd=gateway.folder, env=environment(**taken), timeout=60,
        )  # fmt: skip
    assert ended.returncode == 2  # the port is taken
    assert "the log on standard output go to the same file" in both.read_text()


def test_events_logged_while_an_observer_is_killed_are_written_by_the_next(
    gateway: Gateway,
) -> None:
    fill(gateway.folder / "shared/models", {f"{n}": b"x" for n in range(100)})
    observer = gateway.pids[1]
    os.kill(observer, signal.SIGSTOP)
    assert gateway.sftp(*(f"get models/{n} /dev/null" for n in range(100))).returncode == 0
    assert not gateway.events("file_closed")
    os.kill(observer, signal.SIGKILL)
    wait_for(lambda: len(gateway.events("file_closed")) == 100, "the lines")


@pytest.fixture
def disk(make_gateway: Callable[..., Gateway]) -> Iterator[tuple[Gateway, Path]]:
    """A gateway whose share is a mount point with a mounted disk."""
    gateway = make_gateway(
        'shares.models.path = "disk"\nshares.other.path = "other"\n[users.gvpocr]\n',
        SFTP_GATEWAY_WORKERS="2",
        SFTP_GATEWAY_LANDLOCK="require",
    )
    at = gateway.folder / "disk"
    at.mkdir()
    (gateway.folder / "other").mkdir()
    _mount(at, b"first")
    try:
        yield gateway.start(), at
    finally:
        gateway.close()
        while os.path.ismount(at):
            subprocess.run(["umount", "-l", str(at)], check=True)


def _mount(at: Path, content: bytes) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "disk", str(at)], check=True)
    (at / "file").write_bytes(content)


def test_a_remounted_disk_is_served_by_new_workers(
    disk: tuple[Gateway, Path], tmp_path: Path
) -> None:
    gateway, at = disk
    assert gateway.sftp(f"get models/file {tmp_path}/got").returncode == 0
    before = {event["pid"] for event in gateway.events("worker_started")}
    subprocess.run(["umount", "-l", str(at)], check=True)
    _mount(at, b"second")

    def served() -> bool:
        gateway.sftp(f"get models/file {tmp_path}/got")
        return (tmp_path / "got").read_bytes() == b"second"

    wait_for(served, "the new disk to be served")
    outdated = wait_for(
        lambda: (
            len(gateway.events("worker_outdated", share="models")) == 2
            and gateway.events("worker_outdated")
        ),
        "both workers to be replaced",
    )
    assert {event["pid"] for event in outdated} == before
    wait_for(lambda: len(gateway.events("worker_exited", expected=True)) == 2, "the old to end")
    assert gateway.sftp("ls models").returncode == 0
    assert gateway.metric("sftp_gateway_worker_restarts_total") == 0
