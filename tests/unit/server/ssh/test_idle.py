"""The idle timeout expires without requests only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sftp_gateway.server.ssh.idle import IdleTimer
from tests.support.gateway import TIMEOUT


async def checks_until_expiry(seen: Iterator[int | None]) -> int:
    """How many checks passed before the timeout expired."""
    expired = asyncio.Event()
    checks = 0

    def active() -> int | None:
        nonlocal checks
        checks += 1
        return next(seen)

    watch = IdleTimer(seconds=0.01, activity=active, expired=expired.set)
    async with asyncio.timeout(TIMEOUT):
        await expired.wait()
    watch.stop()
    return checks


async def test_a_client_without_requests_expires() -> None:
    # The first check is at login, the others after each quarter of the timeout.
    assert await checks_until_expiry(iter([7] * 100)) == 6


async def test_each_request_restarts_the_timeout() -> None:
    assert await checks_until_expiry(iter([*range(20), *[19] * 100])) == 20 + 5


async def test_a_client_that_waits_for_an_answer_is_not_idle() -> None:
    assert await checks_until_expiry(iter([*[None] * 20, *[0] * 100])) == 20 + 6


async def test_a_stopped_timer_does_not_expire() -> None:
    calls: list[str] = []

    def active() -> int:
        calls.append("look")
        return 0

    watch = IdleTimer(seconds=0.0004, activity=active, expired=lambda: calls.append("expired"))
    watch.stop()
    for _ in range(3):  # other timers expire meanwhile
        await checks_until_expiry(iter([0] * 100))
    assert calls == ["look"]
