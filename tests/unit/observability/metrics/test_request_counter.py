import threading

import pytest
from prometheus_client import CollectorRegistry

from sftp_gateway.observability.metrics.request_counter import BUCKETS, RequestCounter
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedCollector, SharedValues

PREFIX = "sftp_gateway_"


@pytest.fixture
def tally(values):
    return RequestCounter(values)


@pytest.fixture
def memory():
    memory = Memory.make()
    yield memory
    memory.close()


@pytest.fixture
def values(memory):
    values = SharedValues(memory)
    yield values
    values.close()


@pytest.fixture
def value(memory, tally):
    """Returns the value of a published series."""

    def published(name, **labels):
        tally.publish()
        registry = CollectorRegistry()
        registry.register(SharedCollector(lambda: [memory]))
        return registry.get_sample_value(PREFIX + name, labels)

    return published


def test_requests_are_counted_by_share_operation_and_result(tally, value):
    tally.add("a", "read", "ok", 0.001, 10)
    tally.add("a", "read", "ok", 0.001, 20)
    tally.add("a", "read", "eof", 0.001, 0)
    tally.add("b", "lstat", "no_such_file", 0.001, 0)
    assert value("requests_total", share="a", operation="read", result="ok") == 2
    assert value("requests_total", share="a", operation="read", result="eof") == 1
    assert value("requests_total", share="b", operation="lstat", result="no_such_file") == 1
    assert value("requests_total", share="a", operation="read", result="failure") is None


def test_bytes_are_summed_by_share(tally, value):
    tally.add("a", "read", "ok", 0.001, 10)
    tally.add("a", "read", "ok", 0.001, 20)
    tally.add("a", "lstat", "ok", 0.001, 0)
    tally.add("b", "read", "ok", 0.001, 7)
    assert value("bytes_sent_total", share="a") == 30
    assert value("bytes_sent_total", share="b") == 7


def test_a_duration_falls_into_the_bucket_it_does_not_exceed(tally, value):
    for seconds in (0.0, 0.00005, 0.0000501, 10.0, 11.0):
        tally.add("a", "read", "ok", seconds, 0)

    def bucket(bound):
        labels = {"share": "a", "operation": "read", "le": bound}
        return value("request_duration_seconds_bucket", **labels)

    assert bucket("5e-05") == 2
    assert bucket("0.0001") == 3
    assert bucket("5.0") == 3
    assert bucket("10.0") == 4
    assert bucket("+Inf") == 5
    assert value("request_duration_seconds_count", share="a", operation="read") == 5
    total = value("request_duration_seconds_sum", share="a", operation="read")
    assert total == pytest.approx(21.0001001)


def test_buckets_go_from_50_microseconds_to_10_seconds():
    assert BUCKETS[0] == 50e-6
    assert BUCKETS[-1] == 10
    assert list(BUCKETS) == sorted(BUCKETS)


def test_unknown_words_are_counted_in_one_series_other(tally, value):
    for number in range(100):
        tally.add("a", f"x{number}@client.example", f"y{number}", 0.001, 1)
    assert value("requests_total", share="a", operation="other", result="other") == 100
    assert value("bytes_sent_total", share="a") == 100
    assert value("requests_total", share="a", operation="x1@client.example", result="ok") is None


def test_concurrent_additions_are_all_counted(tally, value):
    def add():
        for _ in range(2000):
            tally.add("a", "read", "ok", 0.001, 1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        tally.publish()
    for thread in threads:
        thread.join()
    assert value("requests_total", share="a", operation="read", result="ok") == 8000
    assert value("bytes_sent_total", share="a") == 8000
