"""Work waiting for one share's disk delays neither other shares nor other kinds of work."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from sftp_gateway.server.io_pools import IoPools, Job, Pool
from sftp_gateway.server.limits.scheduler import TURN
from tests.support.gateway import TIMEOUT

Occupy = Callable[[str, Pool, int], None]

#: Seconds; the gate opens later.
SOON = 0.05


@pytest.fixture
def gate() -> threading.Event:
    return threading.Event()


@pytest.fixture
def pools(gate: threading.Event) -> Iterator[IoPools]:
    made = IoPools(["a", "b"])
    yield made
    gate.set()
    made.close()


@pytest.fixture
def occupy(pools: IoPools, gate: threading.Event) -> Occupy:
    """Submits work that blocks until the gate opens."""

    def submit(share: str, pool: Pool, count: int) -> None:
        for _ in range(count):
            pools.submit(share, pool, lambda: gate.wait(TIMEOUT), lambda job: None)

    return submit


async def run_in_pool(pools: IoPools, share: str, pool: Pool, work: Callable[[], object]) -> object:
    """Submit work; return its result or raise its error, as `done` is given them."""
    told: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def done(job: Job[object]) -> None:
        if (error := job.error) is not None:
            told.set_exception(error)
        else:
            told.set_result(job.result())

    pools.submit(share, pool, work, done)
    async with asyncio.timeout(TIMEOUT):
        return await told


async def test_work_runs_on_a_thread_and_is_reported_on_the_event_loop(pools: IoPools) -> None:
    reported: asyncio.Future[threading.Thread] = asyncio.get_running_loop().create_future()
    pools.submit(
        "a",
        Pool.READ,
        threading.current_thread,
        lambda job: reported.set_result(threading.current_thread()),
    )
    assert await reported is threading.current_thread()
    worker = await run_in_pool(pools, "a", Pool.READ, threading.current_thread)
    assert worker is not threading.current_thread()
    assert isinstance(worker, threading.Thread)
    assert worker.name.startswith("a read")


async def test_results_come_back_in_time_slices(pools: IoPools) -> None:
    turn = 0
    delivered: list[int] = []
    executed = threading.Semaphore(0)

    def done(job: Job[None]) -> None:
        delivered.append(turn)
        time.sleep(2 * TURN)

    for _ in range(20):
        pools.submit("a", Pool.READ, executed.release, done)
    for _ in range(20):
        assert executed.acquire(timeout=TIMEOUT)
    async with asyncio.timeout(TIMEOUT):
        while len(delivered) < 20:
            await asyncio.sleep(0)
            turn += 1
    assert len(set(delivered)) == 20


async def test_an_error_of_one_caller_does_not_keep_results_from_others(pools: IoPools) -> None:
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda loop, context: reported.append(context))

    def fail(job: Job[None]) -> None:
        raise ValueError("broken")

    for _ in range(3):
        pools.submit("a", Pool.READ, lambda: None, fail)
    assert await run_in_pool(pools, "a", Pool.READ, lambda: 1) == 1
    async with asyncio.timeout(TIMEOUT):
        while len(reported) < 3:
            await asyncio.sleep(0)
    assert [str(context["exception"]) for context in reported] == ["broken"] * 3


class _Keeping:
    """Work that keeps its job, as a READ does."""

    job: Job[None] | None = None

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def run(self) -> None:
        if self._error is not None:
            raise self._error

    def done(self, job: Job[None]) -> None:
        self.job = job


@pytest.mark.parametrize("error", [None, OSError("broken")])
async def test_a_job_leaves_no_garbage(pools: IoPools, error: Exception | None) -> None:
    gc.collect()
    gc.disable()
    try:
        keeping = _Keeping(error)
        pools.submit("a", Pool.READ, keeping.run, keeping.done)
        async with asyncio.timeout(TIMEOUT):
            while keeping.job is None:
                await asyncio.sleep(0)
        if error is not None:
            error.__traceback__ = None  # its frames are those of the work
        gone = weakref.ref(keeping.job)
        del keeping
        await asyncio.sleep(0)
        assert gone() is None
    finally:
        gc.enable()


async def test_an_error_is_reported_as_one(pools: IoPools) -> None:
    def broken() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        await run_in_pool(pools, "a", Pool.READ, broken)


@pytest.mark.parametrize(
    ("share", "pool"), [("a", Pool.METADATA), ("b", Pool.READ), ("b", Pool.METADATA)]
)
async def test_a_full_pool_does_not_block_others(
    pools: IoPools, occupy: Occupy, share: str, pool: Pool
) -> None:
    occupy("a", Pool.READ, 100)
    assert await run_in_pool(pools, share, pool, lambda: "served") == "served"


async def test_queued_work_runs_when_a_thread_is_free(
    pools: IoPools, occupy: Occupy, gate: threading.Event
) -> None:
    occupy("a", Pool.METADATA, 100)
    behind = asyncio.create_task(run_in_pool(pools, "a", Pool.METADATA, lambda: "served"))
    await run_in_pool(pools, "a", Pool.READ, lambda: None)
    assert not behind.done()
    gate.set()
    assert await behind == "served"


async def test_depths_count_running_and_queued_work(
    pools: IoPools, occupy: Occupy, gate: threading.Event
) -> None:
    nothing = {(share, pool): 0 for share in ("a", "b") for pool in Pool}
    assert pools.depths() == nothing
    occupy("a", Pool.READ, 20)
    occupy("b", Pool.METADATA, 3)
    assert pools.depths() == {**nothing, ("a", "read"): 20, ("b", "metadata"): 3}
    gate.set()
    # Work that needs all threads of a pool runs after all earlier work.
    for share, pool, threads in [("a", Pool.READ, 16), ("b", Pool.METADATA, 8)]:
        together = threading.Barrier(threads, timeout=TIMEOUT)
        await asyncio.gather(
            *(run_in_pool(pools, share, pool, together.wait) for _ in range(threads))
        )
    assert pools.depths() == nothing


async def test_close_cancels_queued_work_without_waiting(pools: IoPools, occupy: Occupy) -> None:
    occupy("a", Pool.METADATA, 8)
    cancelled: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    pools.submit(
        "a",
        Pool.METADATA,
        lambda: None,
        lambda job: cancelled.set_result(job.cancelled),
    )
    pools.close()
    assert await cancelled


# A hanging disk


@pytest.fixture
def with_timeout(gate: threading.Event) -> Iterator[IoPools]:
    """IoPools with a short timeout."""
    made = IoPools(["a", "b"], timeout=SOON)
    yield made
    gate.set()
    made.close()


async def test_slow_work_is_abandoned_and_its_result_comes_late(
    with_timeout: IoPools, gate: threading.Event
) -> None:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[BaseException | None] = loop.create_future()
    late: asyncio.Future[str] = loop.create_future()

    def work() -> str:
        assert gate.wait(TIMEOUT)
        return "too late"

    with_timeout.submit(
        "a",
        Pool.READ,
        work,
        lambda job: told.set_result(job.error),  # a second call would raise
        on_late_result=late.set_result,
    )
    async with asyncio.timeout(TIMEOUT):
        assert isinstance(await told, TimeoutError)
        assert not late.done()
        assert with_timeout.depths()["a", "read"] == 1
        gate.set()
        assert await late == "too late"
    assert with_timeout.depths()["a", "read"] == 0


async def test_work_queued_in_a_hanging_pool_is_abandoned(
    with_timeout: IoPools, gate: threading.Event
) -> None:
    ran_after_all = []
    waiting = [
        run_in_pool(with_timeout, "a", Pool.METADATA, lambda: gate.wait(TIMEOUT))
        for _ in range(_METADATA)
    ]
    behind = run_in_pool(with_timeout, "a", Pool.METADATA, lambda: ran_after_all.append(1))
    ended = await asyncio.gather(*waiting, behind, return_exceptions=True)
    assert all(isinstance(each, TimeoutError) for each in ended)
    gate.set()
    await _wait_until_recovered(with_timeout)
    assert not ran_after_all


async def test_new_work_is_abandoned_at_once_while_all_threads_hang(
    with_timeout: IoPools, gate: threading.Event
) -> None:
    hanging = [
        run_in_pool(with_timeout, "a", Pool.METADATA, lambda: gate.wait(TIMEOUT))
        for _ in range(_METADATA)
    ]
    await asyncio.gather(*hanging, return_exceptions=True)
    for _ in range(1000):
        with pytest.raises(TimeoutError):
            await run_in_pool(with_timeout, "a", Pool.METADATA, lambda: None)
        assert with_timeout.depths()["a", "metadata"] == _METADATA, "it waits behind them"
    assert await run_in_pool(with_timeout, "a", Pool.READ, lambda: "served") == "served"
    assert await run_in_pool(with_timeout, "b", Pool.METADATA, lambda: "served") == "served"
    gate.set()
    await _wait_until_recovered(with_timeout)


async def test_work_without_timeout_is_never_abandoned(
    with_timeout: IoPools, gate: threading.Event
) -> None:
    told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    with_timeout.submit(
        "a",
        Pool.METADATA,
        lambda: gate.wait(TIMEOUT),
        lambda job: told.set_result(job.result()),
        no_timeout=True,
    )
    # All later work was abandoned, as this work would have been.
    with pytest.raises(TimeoutError):
        await run_in_pool(with_timeout, "a", Pool.METADATA, lambda: gate.wait(TIMEOUT))
    assert not told.done()
    gate.set()
    async with asyncio.timeout(TIMEOUT):
        assert await told is True


async def test_finished_work_is_not_abandoned(with_timeout: IoPools) -> None:
    for number in range(50):
        assert (
            await run_in_pool(with_timeout, "a", Pool.READ, lambda number=number: number) == number
        )


_METADATA = 8


async def _wait_until_recovered(pools: IoPools) -> None:
    """Wait until the pool's threads have returned."""
    async with asyncio.timeout(TIMEOUT):
        while pools.depths()["a", "metadata"]:
            await asyncio.sleep(0)
    assert await run_in_pool(pools, "a", Pool.METADATA, lambda: "served") == "served"
