"""Numbers of several processes in files: what prometheus_client makes of them.

This is also the contract with prometheus_client, of which shared.py uses parts that it does not
document.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from sftp_gateway.observability.shared import SharedValues, forget_gauges

Writer = Callable[[str], SharedValues]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """Makes writers."""
    made: list[SharedValues] = []

    def make(name: str) -> SharedValues:
        made.append(SharedValues(tmp_path, name))
        return made[-1]

    yield make
    for each in made:
        each.close()


def value(folder: Path, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    return registry.get_sample_value(f"sftp_gateway_{name}", labels)


def test_counters_are_summed(writer: Writer, tmp_path: Path) -> None:
    for name in ("worker0", "worker1"):
        counter = writer(name).counter("reads", "Reads.", "share")
        counter.inc("a")
        counter.inc("b", by=2)
    assert value(tmp_path, "reads_total", share="a") == 2
    assert value(tmp_path, "reads_total", share="b") == 4


def test_a_successor_counts_on(writer: Writer, tmp_path: Path) -> None:
    for _ in range(3):
        values = writer("worker0")
        values.counter("reads", "Reads.").inc()
        values.close()
    assert value(tmp_path, "reads_total") == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_gauges_are_summed_or_the_least_counts_and_they_end_with_their_process(
    writer: Writer, tmp_path: Path
) -> None:
    for name, number in (("worker0", 1), ("worker1", 0)):
        values = writer(name)
        values.gauge("open", "Open.").inc(by=number + 1)
        values.gauge("up", "Up.", "share", mode="livemin").set(number, "a")
        values.counter("reads", "Reads.").inc()
    assert value(tmp_path, "open") == 3
    assert value(tmp_path, "up", share="a") == 0
    forget_gauges(tmp_path, "worker1")
    assert value(tmp_path, "open") == 2
    assert value(tmp_path, "up", share="a") == 1
    assert value(tmp_path, "reads_total") == 2


def test_histograms_are_cumulated_and_counted(writer: Writer, tmp_path: Path) -> None:
    for name in ("worker0", "worker1"):
        histogram = writer(name).histogram("seconds", "Seconds.", "share", bounds=(0.5, 2.0))
        histogram.add("a", counts=(3, 2, 1), total=12.5)
    buckets = [value(tmp_path, "seconds_bucket", share="a", le=le) for le in ("0.5", "2.0", "+Inf")]
    assert buckets == [6, 10, 12]
    assert value(tmp_path, "seconds_count", share="a") == 12
    assert value(tmp_path, "seconds_sum", share="a") == 25


def test_the_page_has_types_and_help(writer: Writer, tmp_path: Path) -> None:
    values = writer("worker0")
    values.counter("reads", "How many reads.").inc()
    values.gauge("open", "How many open.").set(0)
    values.histogram("seconds", "How long.", bounds=(1.0,)).add(counts=(1, 0), total=0.5)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))
    page = generate_latest(registry).decode()
    for line in (
        "# HELP sftp_gateway_reads_total How many reads.",
        "# TYPE sftp_gateway_reads_total counter",
        "# TYPE sftp_gateway_open gauge",
        "# TYPE sftp_gateway_seconds histogram",
        "sftp_gateway_open 0.0",
    ):
        assert line in page.splitlines()


def test_more_series_than_a_file_holds_at_first(writer: Writer, tmp_path: Path) -> None:
    counter = writer("worker0").counter("reads", "Reads.", "share")
    for number in range(2000):
        counter.inc(f"a share with the number {number}")
    assert value(tmp_path, "reads_total", share="a share with the number 1999") == 1
    assert max(path.stat().st_size for path in tmp_path.iterdir()) > 1 << 16


def test_nothing_is_lost_with_a_process_that_is_killed(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        SharedValues(tmp_path, "worker0").counter("reads", "Reads.").inc(by=5)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert value(tmp_path, "reads_total") == 5


def test_a_number_after_the_close_still_counts(writer: Writer, tmp_path: Path) -> None:
    values = writer("worker0")
    counter = values.counter("reads", "Reads.")
    counter.inc()
    values.close()
    counter.inc()
    assert value(tmp_path, "reads_total") == 2


def test_labels_may_hold_anything(writer: Writer, tmp_path: Path) -> None:
    share = 'a"b\\c\nभूषण'
    writer("worker0").counter("reads", "Reads.", "share").inc(share)
    assert value(tmp_path, "reads_total", share=share) == 1
