"""Metrics of several processes in shared memory, aggregated in the exposition."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from sftp_gateway.observability.metrics import shared_memory as shared
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedCollector, SharedValues

Writer = Callable[[str], SharedValues]
Memories = Mapping[str, Memory]


@pytest.fixture
def memories() -> Iterator[Memories]:
    made = {name: Memory.make() for name in ("worker0", "worker1")}
    yield made
    for memory in made.values():
        memory.close()


@pytest.fixture
def writer(memories: Memories) -> Iterator[Writer]:
    """Makes writers."""
    made: list[SharedValues] = []

    def make(name: str) -> SharedValues:
        made.append(SharedValues(memories[name]))
        return made[-1]

    yield make
    for each in made:
        each.close()


def registry_of(memories: Memories) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SharedCollector(memories.values))
    return registry


def value(memories: Memories, name: str, **labels: str) -> float | None:
    return registry_of(memories).get_sample_value(f"sftp_gateway_{name}", labels)


def test_counters_are_summed(writer: Writer, memories: Memories) -> None:
    for name in ("worker0", "worker1"):
        counter = writer(name).counter("reads", "Reads.", "share")
        counter.inc("a")
        counter.inc("b", by=2)
    assert value(memories, "reads_total", share="a") == 2
    assert value(memories, "reads_total", share="b") == 4


def test_a_successor_continues_the_counters(writer: Writer, memories: Memories) -> None:
    for _ in range(3):
        values = writer("worker0")
        values.counter("reads", "Reads.").inc()
        values.close()
    assert value(memories, "reads_total") == 3


def test_gauges_are_aggregated_over_live_processes(writer: Writer, memories: Memories) -> None:
    for name, number in (("worker0", 1), ("worker1", 0)):
        values = writer(name)
        values.gauge("open", "Open.").inc(by=number + 1)
        values.gauge("up", "Up.", "share", mode="livemin").set(number, "a")
        values.counter("reads", "Reads.").inc()
    assert value(memories, "open") == 3
    assert value(memories, "up", share="a") == 0
    memories["worker1"].clear_gauges()
    assert value(memories, "open") == 2
    assert value(memories, "up", share="a") == 1
    assert value(memories, "reads_total") == 2


def test_histograms_are_cumulative(writer: Writer, memories: Memories) -> None:
    for name in ("worker0", "worker1"):
        histogram = writer(name).histogram("seconds", "Seconds.", "share", bounds=(0.5, 2.0))
        histogram.add("a", counts=(3, 2, 1), total=12.5)
    buckets = [value(memories, "seconds_bucket", share="a", le=le) for le in ("0.5", "2.0", "+Inf")]
    assert buckets == [6, 10, 12]
    assert value(memories, "seconds_count", share="a") == 12
    assert value(memories, "seconds_sum", share="a") == 25


def test_the_exposition_has_types_and_help(writer: Writer, memories: Memories) -> None:
    values = writer("worker0")
    values.counter("reads", "How many reads.").inc()
    values.gauge("open", "How many open.").set(0)
    values.histogram("seconds", "How long.", bounds=(1.0,)).add(counts=(1, 0), total=0.5)
    page = generate_latest(registry_of(memories)).decode()
    for line in (
        "# HELP sftp_gateway_reads_total How many reads.",
        "# TYPE sftp_gateway_reads_total counter",
        "# TYPE sftp_gateway_open gauge",
        "# TYPE sftp_gateway_seconds histogram",
        "sftp_gateway_open 0.0",
    ):
        assert line in page.splitlines()


def test_a_segment_grows_for_more_series(writer: Writer, memories: Memories) -> None:
    counter = writer("worker0").counter("reads", "Reads.", "share")
    for number in range(2000):
        counter.inc(f"a share with the number {number}")
    assert value(memories, "reads_total", share="a share with the number 1999") == 1
    assert os.fstat(memories["worker0"].counts).st_size > 1 << 16


def test_a_killed_process_keeps_its_counts(memories: Memories) -> None:
    pid = os.fork()
    if pid == 0:
        SharedValues(memories["worker0"]).counter("reads", "Reads.").inc(by=5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert value(memories, "reads_total") == 5


def test_a_value_added_after_close_is_counted(writer: Writer, memories: Memories) -> None:
    values = writer("worker0")
    counter = values.counter("reads", "Reads.")
    counter.inc()
    values.close()
    counter.inc()
    assert value(memories, "reads_total") == 2


def test_labels_may_hold_any_text(writer: Writer, memories: Memories) -> None:
    share = 'a"b\\c\nभूषण'
    writer("worker0").counter("reads", "Reads.", "share").inc(share)
    assert value(memories, "reads_total", share=share) == 1


def test_memory_is_allocated_before_it_is_written(memories: Memories, writer: Writer) -> None:
    counter = writer("worker0").counter("reads", "Reads.", "share")
    for number in range(1000):
        counter.inc(f"a share with the number {number}")
        for segment in (memories["worker0"].counts, memories["worker0"].gauges):
            status = os.fstat(segment)
            assert status.st_blocks * 512 >= status.st_size > 0


def test_a_series_without_memory_does_not_affect_others(
    memories: Memories,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(shared, "_MAX_SIZE", 1 << 16)
    counter = writer("worker0").counter("reads", "Reads.", "share")
    for _ in range(2):
        for number in range(1000):
            counter.inc(f"a share with the number {number}")
    assert value(memories, "reads_total", share="a share with the number 0") == 2
    assert value(memories, "reads_total", share="a share with the number 999") is None
    assert caplog.text.count("no memory for another metric") == 1


@pytest.mark.parametrize(
    "spoiled",
    [
        b"\xff" * 64,
        (8 + 32).to_bytes(8, "little") + b"\xff" * 32,
        (8 + 24).to_bytes(8, "little") + b"\x08" + bytes(15) + b"not json",
        (8 + 24).to_bytes(8, "little") + b"\x05" + bytes(15) + b'["a"]   ',
        (8 + 64).to_bytes(8, "little") + b"\x30" + bytes(15)
        + b'["a\\n", "counter", "b\\n", [], ""]'.ljust(48),
    ],
    ids=["length", "entry", "text", "fields", "names"],
)  # fmt: skip
def test_a_writer_can_corrupt_its_own_values_only(
    memories: Memories, writer: Writer, spoiled: bytes
) -> None:
    for name in memories:
        writer(name).counter("reads", "Reads.").inc()
    os.pwrite(memories["worker0"].counts, spoiled, 0)
    assert value(memories, "reads_total") == 1
    generate_latest(registry_of(memories))
    writer("worker0").counter("reads", "Reads.").inc()
    generate_latest(registry_of(memories))
    os.ftruncate(memories["worker0"].counts, 0)
    assert value(memories, "reads_total") == 1
    writer("worker0").counter("reads", "Reads.").inc()
    assert value(memories, "reads_total") == 2
