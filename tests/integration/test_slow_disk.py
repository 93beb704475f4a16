"""A hanging disk blocks neither other sessions nor other requests of its own session."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, wait_for
from tests.support.slow_disk import slow_disk

pytestmark = pytest.mark.integration

#: One READ each. The disk serves ten requests at once, and some must remain free.
STUCK_FILES = 5
CONTENT = {f"{number}.bin": bytes([number]) * 30_000 for number in range(STUCK_FILES)}

#: Further clients whose reads hang.
STUCK_CLIENTS = 3


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While this file exists, reads of the slow disk hang."""
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def slow_gateway(
    make_gateway: Callable[..., Gateway], tmp_path: Path, gate: Path
) -> Iterator[Gateway]:
    """A gateway with a share `slow` on a disk that hangs, and a share `good`."""
    behind, good = tmp_path / "behind", tmp_path / "good"
    fill(behind, CONTENT)
    fill(good, {"file": b"x" * 100_000})
    with slow_disk(behind, tmp_path / "slow", gate) as slow:
        gateway = make_gateway(
            f'[shares.slow]\npath = "{slow}"\n[shares.good]\npath = "{good}"\n',
            SFTP_GATEWAY_DRAIN_TIMEOUT="5",
        ).start()
        yield gateway
        gateway.close()


def _hanging_reads(gateway: Gateway, mount: Path, pool: ThreadPoolExecutor) -> list[Future[bytes]]:
    """Readers of every file of the slow share, all hanging in their first read."""
    readers = [pool.submit((mount / "slow" / name).read_bytes) for name in CONTENT]
    _wait_for_slow_reads(gateway, STUCK_FILES)
    return readers


def _wait_for_slow_reads(gateway: Gateway, count: int) -> None:
    wait_for(
        lambda: gateway.metric("sftp_gateway_slow_reads_total", share="slow") >= count,
        f"{count} reads to hang",
    )


def _get(gateway: Gateway, name: str, target: Path) -> subprocess.Popen[bytes]:
    """An `sftp` that fetches a file of the slow share with pipelined READs."""
    return subprocess.Popen(
        [
            "sftp", "-q", *gateway.ssh_options(), "-P", str(gateway.port),
            f"gvpocr@127.0.0.1:slow/{name}", str(target),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_hanging_reads_block_no_other_requests(
    slow_gateway: Gateway, tmp_path: Path, gate: Path
) -> None:
    with (
        slow_gateway.mounted(tmp_path / "a") as own,
        slow_gateway.mounted(tmp_path / "b") as other,
        ThreadPoolExecutor(STUCK_FILES) as pool,
    ):
        readers = _hanging_reads(slow_gateway, own, pool)
        clients = [
            _get(slow_gateway, "0.bin", tmp_path / f"got{number}")
            for number in range(STUCK_CLIENTS)
        ]
        try:
            _wait_for_slow_reads(slow_gateway, STUCK_FILES + STUCK_CLIENTS)
            for mount in (own, other):
                assert (mount / "good/file").read_bytes() == b"x" * 100_000
                assert {path.name for path in (mount / "slow").iterdir()} == set(CONTENT)
                assert (mount / "slow/3.bin").stat().st_size == 30_000
                assert not (mount / "slow/no such file").exists()
            assert slow_gateway.http("/healthz") == (200, "ok\n")
            assert slow_gateway.sftp("get good/file /dev/null").returncode == 0
            assert not any(reader.done() for reader in readers)
            assert not any(client.poll() for client in clients)
        finally:
            gate.unlink()
        assert [reader.result() for reader in readers] == list(CONTENT.values())
        for number, client in enumerate(clients):
            assert client.wait(60) == 0
            assert (tmp_path / f"got{number}").read_bytes() == CONTENT["0.bin"]


def test_a_stop_waits_for_pending_reads_and_refuses_logins(
    slow_gateway: Gateway, tmp_path: Path, gate: Path
) -> None:
    target = tmp_path / "got"
    reading = _get(slow_gateway, "3.bin", target)
    _wait_for_slow_reads(slow_gateway, 1)
    assert slow_gateway.process is not None
    slow_gateway.process.send_signal(signal.SIGTERM)
    slow_gateway.wait_event("server_stopping", signal="SIGTERM")
    refused = slow_gateway.ssh("echo hello")
    assert refused.returncode == 255
    assert "Connection refused" in refused.stderr
    assert slow_gateway.process.poll() is None
    gate.unlink()
    assert slow_gateway.process.wait(30) == 0
    assert reading.wait(30) == 0
    assert target.read_bytes() == CONTENT["3.bin"]
    assert slow_gateway.events("file_closed", path="/home/gvpocr/slow/3.bin", whole=True)
    assert slow_gateway.events("session_end", reason="server_stopping")
    assert slow_gateway.events("server_stopped")


def test_a_stop_does_not_wait_forever_for_a_hanging_disk(
    slow_gateway: Gateway, tmp_path: Path, gate: Path
) -> None:
    assert slow_gateway.process is not None
    with (
        slow_gateway.mounted(tmp_path / "a") as mount,
        ThreadPoolExecutor(STUCK_FILES) as pool,
    ):
        readers = _hanging_reads(slow_gateway, mount, pool)
        slow_gateway.process.send_signal(signal.SIGTERM)
        slow_gateway.wait_event("server_stopped")
        for reader in readers:
            with pytest.raises(OSError, match=r"Errno"):
                reader.result()
        # A killed process stays in the kernel until its reads end.
        gate.unlink()
        assert slow_gateway.process.wait(30) == 0
