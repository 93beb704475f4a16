"""A gateway to attack, checked after each attack."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.processes import family, memory, memory_now
from tests.support.gateway import Gateway, fill, wait_for

#: The content of every file that the user must not read.
CANARY = b"CANARY-5f1d8e0c93"

#: The content of the user's share: all that a request may return.
INSIDE = {
    "big": bytes(range(256)) * 4096,
    "small": b"small\n",
    "folder/file": b"below\n",
    "100%25": b"a per cent sign\n",
    "dots...": b"dots at the end\n",
}

#: KiB of anonymous memory by which all processes may have grown once the attackers are gone: Python
#: does not free all that a flood of small replies took. The tests bound what an attack may hold.
MAX_GROWTH = 40 * 1024

MAX_HANDLES = 16


class Target(Gateway):
    """A gateway that can tell whether an attack harmed it."""

    worker: int
    resting: int
    stderr_seen = 0

    def record_baseline(self) -> None:
        """Record the worker and its memory, after one session has created all lasting state."""
        self.assert_serves_others()
        self.worker = self.events("worker_started")[-1]["pid"]
        self.resting = self.memory()

    def memory(self) -> int:
        """KiB of all processes, once they are idle."""
        return memory(self.pids[0]).anonymous

    def memory_now(self) -> int:
        """KiB of all processes now."""
        return memory_now(self.pids[0]).anonymous

    def assert_serves_others(self) -> None:
        """A stock client gets a file."""
        target = self.folder / "got"
        target.unlink(missing_ok=True)
        got = self.sftp(f"get share/folder/file {target}", "ls -la share")
        assert got.returncode == 0, got.stderr
        assert target.read_bytes() == INSIDE["folder/file"]

    def assert_unharmed(self) -> None:
        """It serves with the same worker, has nothing open and has not grown."""
        self.assert_serves_others()
        wait_for(lambda: self.metric("sftp_gateway_connections") == 0, "all connections to end")
        assert self.metric("sftp_gateway_open_handles") == 0
        assert [event["pid"] for event in self.events("worker_started")] == [self.worker]
        assert self.worker in family(self.pids[0])
        grown = self.memory() - self.resting
        assert grown < MAX_GROWTH, f"{grown} KiB more than before"
        printed, self.stderr_seen = self.stderr[self.stderr_seen :], len(self.stderr)
        assert "Traceback" not in printed, printed


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    share, others = folder / "data/share", folder / "data/others"
    fill(share, INSIDE)
    fill(others, {"secret": CANARY})
    fill(folder, {"data/secret": CANARY})
    (share / "out").symlink_to("../others/secret")
    (share / "root").symlink_to("/")
    (share / "loop").symlink_to("loop")
    (share / "many").mkdir()
    for number in range(3000):
        (share / "many" / f"{number:04d} {'n' * 100}").touch()
    config = f"""
        max_handles = {MAX_HANDLES}
        workers = 1
        login_grace_time = 20
        max_auth_tries = 100
        [shares.share]
        path = "{share}"
        [shares.others]
        path = "{others}"
        [users.gvpocr]
        shares = ["share"]
    """
    gateway = Target(folder, config, {})
    try:
        gateway.start()
        gateway.record_baseline()
        yield gateway
    finally:
        gateway.close()


@pytest.fixture(autouse=True)
def unharmed(attacked: Target) -> Iterator[None]:
    """After every attack the gateway is unharmed."""
    yield
    attacked.assert_unharmed()


def raw_session(gateway: Gateway) -> subprocess.Popen[bytes]:
    """The SFTP subsystem through the real `ssh`, with two pipes."""
    return subprocess.Popen(
        [
            "ssh", *gateway.ssh_options(), "-p", str(gateway.port), "-s", "gvpocr@127.0.0.1",
            "sftp",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip


async def in_thread(gateway: Target) -> None:
    """Others are served while the attack goes on."""
    await asyncio.to_thread(gateway.assert_serves_others)
