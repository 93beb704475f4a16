"""Who asks for nothing is noticed, and who asks for something now and then is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from sftp_gateway.server.ssh.idle import IdleTimer
from tests.support.gateway import TIMEOUT


async def looks_until_expired(seen: Iterator[int | None]) -> int:
    """How often it was looked before it was too long."""
    expired = asyncio.Event()
    looks = 0

    def active() -> int | None:
        nonlocal looks
        looks += 1
        return next(seen)

    watch = IdleTimer(seconds=0.01, activity=active, expired=expired.set)
    async with asyncio.timeout(TIMEOUT):
        await expired.wait()
    watch.stop()
    return looks


async def test_a_client_without_requests_expires() -> None:
    # The first look is at the login, the next ones at the end of each quarter.
    assert await looks_until_expired(iter([7] * 100)) == 6


async def test_each_request_restarts_the_timeout() -> None:
    assert await looks_until_expired(iter([*range(20), *[19] * 100])) == 20 + 5


async def test_a_client_that_waits_for_an_answer_is_not_idle() -> None:
    assert await looks_until_expired(iter([*[None] * 20, *[0] * 100])) == 20 + 6


async def test_a_stopped_timer_does_not_expire() -> None:
    calls: list[str] = []

    def active() -> int:
        calls.append("look")
        return 0

    watch = IdleTimer(seconds=0.0004, activity=active, expired=lambda: calls.append("expired"))
    watch.stop()
    for _ in range(3):  # other watches come to their end meanwhile
        await looks_until_expired(iter([0] * 100))
    assert calls == ["look"]
