"""Steps of the wall clock affect log timestamps and expiry times, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.test_abuse import BAD, GOOD, greeting, log_in, misbehave, session
from tests.support.clock import DAY, Clock
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

#: Seconds by which the log may differ from the clock.
_MINUTES = timedelta(minutes=5)


@pytest.fixture
def clocked(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[..., tuple[Gateway, Clock]]:
    """Creates a gateway, not yet started, and its clock."""

    def make(config: str, **options: str) -> tuple[Gateway, Clock]:
        fill(tmp_path / "share", {"file": b"x" * 100_000})
        gateway = make_gateway(
            f'{config}\n[shares.share]\npath = "{tmp_path}/share"\n',
            SFTP_GATEWAY_WORKERS="2",
            **options,
        )
        return gateway, Clock(tmp_path / "share/clock")

    return make


@pytest.mark.parametrize("step", [DAY, -DAY], ids=["a day on", "a day back"])
def test_stepping_the_clock_changes_no_ban_or_session(
    clocked: Callable[..., tuple[Gateway, Clock]], tmp_path: Path, step: int
) -> None:
    wrong = make_key(tmp_path / "wrong", "ed25519")
    gateway, clock = clocked(
        "idle_timeout = 3_600\nlogin_grace_time = 15\n"
        "[penalties]\nfailed_login = 15\nminimum = 15\nmaximum = 15\n",
        SFTP_GATEWAY_KEEPALIVE_INTERVAL="1",
        SFTP_GATEWAY_DISK_TIMEOUT="60",
    )
    clock.start(gateway)
    with (
        session(gateway, GOOD) as client,
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "direct_io", "cache=no") as mount,
        open(mount / "share/file", "rb", buffering=0) as held,
    ):
        assert held.read(10) == b"x" * 10
        misbehave(gateway, BAD, wrong, 1)
        gateway.wait_event("source_banned", source=BAD)
        clock.step(step)
        assert greeting(gateway, BAD) == b""
        assert log_in(gateway, GOOD).stdout == "in\n"
        assert held.read(10) == b"x" * 10
        assert (mount / "share/file").read_bytes() == b"x" * 100_000
        assert not gateway.events("source_unbanned")
        again = wait_for(
            lambda: gateway.events("login_accepted", client_ip=GOOD)[1:], "the login's line"
        )
        logged = datetime.fromisoformat(again[0]["time"])
        assert abs(logged - datetime.now(UTC) - timedelta(seconds=step)) < _MINUTES
        # It expires after its duration.
        assert gateway.wait_event("source_unbanned", source=BAD)["reason"] == "expired"
        assert log_in(gateway, BAD).stdout == "in\n"
        assert held.read(10) == b"x" * 10
        assert client.poll() is None
        assert not gateway.events("session_end", reason="idle")
        assert not gateway.events("session_end", reason="not_responding")
    assert gateway.http("/healthz") == (200, "ok\n")
    assert not gateway.events("worker_exited")
    assert gateway.stop() == 0


def test_expiry_times_follow_the_wall_clock(
    clocked: Callable[..., tuple[Gateway, Clock]],
) -> None:
    gateway, clock = clocked("[penalties]\nenabled = false\n")
    assert gateway.run("init").returncode == 0
    until = datetime.now(UTC) + timedelta(seconds=DAY)
    gateway.authorize("gvpocr", f'expiry-time="{until:%Y%m%d%H%M}Z" {public_line(gateway.key)}')
    clock.start(gateway)
    with session(gateway, GOOD) as client:
        clock.step(2 * DAY)
        assert log_in(gateway, GOOD).returncode == 255
        assert gateway.wait_event("login_refused", client_ip=GOOD)["reason"] == "key_expired"
        clock.step(-2 * DAY)
        wait_for(lambda: log_in(gateway, GOOD).stdout == "in\n", "the key to be good again")
        assert client.poll() is None, "an expired key must not end its sessions"
