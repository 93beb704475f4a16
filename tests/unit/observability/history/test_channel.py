"""Lines reach the observer whole without blocking their sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sftp_gateway.observability.history import channel as module
from sftp_gateway.observability.history.channel import SEND_TIMEOUT, HistoryChannel, HistorySink
from tests.support.history import line, read


@pytest.fixture
def channel() -> Iterator[HistoryChannel]:
    made = HistoryChannel()
    yield made
    made.close()


def received(channel: HistoryChannel) -> list[bytes]:
    found = []
    while (datagram := channel.receive(0.0)) is not None:
        found.append(datagram)
    return found


def test_lines_arrive_unchanged(channel: HistoryChannel) -> None:
    batch = read("models/a") + read("models/भूषण")
    HistorySink(channel).write(batch)
    assert received(channel) == [batch]


def test_excluded_events_are_not_sent(channel: HistoryChannel) -> None:
    kept = read("models/a"), line("denied"), line("session_end")
    left_out = line("file_opened"), line("request"), line("connection")
    HistorySink(channel).write(
        b"".join(x for pair in zip(left_out, kept, strict=True) for x in pair)
    )
    assert received(channel) == [b"".join(kept)]
    HistorySink(channel).write(b"".join(left_out))
    assert received(channel) == []


def test_a_long_batch_is_split_between_lines(channel: HistoryChannel) -> None:
    batch = [read(f"models/{number}{'x' * 3000}") for number in range(40)]
    HistorySink(channel).write(b"".join(batch))
    datagrams = received(channel)
    assert len(datagrams) > 1
    assert b"".join(datagrams) == b"".join(batch)
    assert all(datagram.endswith(b"\n") for datagram in datagrams)


def test_a_line_longer_than_a_message_is_sent_alone(channel: HistoryChannel) -> None:
    long, short = read("models/" + "x" * 60_000), read("models/a")
    HistorySink(channel).write(long + short)
    assert received(channel) == [long, short]


def test_a_slow_observer_delays_the_sender(channel: HistoryChannel) -> None:
    sink = HistorySink(channel)
    batch = b"".join(read(f"models/{number}") for number in range(64))
    found = []

    def take() -> None:
        while not sink_done.is_set():
            if (datagram := channel.receive(0.01)) is not None:
                found.append(datagram)

    sink_done = threading.Event()
    observer = threading.Thread(target=take)
    observer.start()
    for _ in range(500):
        sink.write(batch)
    sink_done.set()
    observer.join()
    assert sink.dropped == 0
    assert b"".join(found + received(channel)).count(b"\n") == 500 * 64


def test_without_room_lines_are_dropped_and_counted_after_one_wait(
    channel: HistoryChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(channel, "wait_for_room", wait)
    monkeypatch.setattr(module, "monotonic", lambda: now)
    sink = HistorySink(channel)
    batch = b"".join(read(f"models/{number}") for number in range(64))
    for _ in range(500):
        sink.write(batch)
    arrived = sum(datagram.count(b"\n") for datagram in received(channel))
    assert 0 < arrived < 500 * 64
    assert sink.dropped == 500 * 64 - arrived
    assert now == SEND_TIMEOUT
    sink.write(batch)
    assert received(channel) == [batch]
