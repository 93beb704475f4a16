import errno
import json
import logging
import os
import threading
from collections import Counter
from dataclasses import replace

import pytest

from sftp_gateway.observability.access_log import rate_limit
from sftp_gateway.observability.access_log.events import (
    CommandRefused,
    Connection,
    Event,
    FileClosed,
    FileOpened,
    FolderListed,
    LoginAccepted,
    Request,
    ServerStarted,
    ServerStopped,
    ServerStopping,
    Session,
    SessionEnded,
)
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.access_log.sinks import FileSink, StreamSink

SESSION = Session(session="00112233445566aa", client_ip="192.0.2.7", client_port=50122)
FOREVER = 60.0


class MemorySink:
    """Stores lines, and blocks the writer while the gate is closed."""

    def __init__(self, *, gate_open=True):
        self.gate = threading.Event()
        self.arrived = threading.Event()
        self.written = threading.Condition()
        self.lines = []
        self.failure = None
        self.closed = False
        if gate_open:
            self.gate.set()

    def write(self, lines):
        self.arrived.set()
        assert self.gate.wait(FOREVER)
        if self.failure:
            raise self.failure
        with self.written:
            self.lines.extend(json.loads(line) for line in lines.splitlines())
            self.written.notify_all()

    def wait_for(self, name, count=1):
        """Wait until `count` events of this name have been written."""
        with self.written:
            assert self.written.wait_for(lambda: self.events.count(name) >= count, FOREVER)

    def close(self):
        self.closed = True

    @property
    def events(self):
        return [line["event"] for line in self.lines]


def numbered(number):
    return ServerStarted(
        version=str(number), address="", port=number, record_layer="own", landlock=7
    )


def request():
    return Request(session=SESSION, operation="read", bytes=0, duration=0.0, result="ok")


def opened(session):
    return FileOpened(session=session, share="models", path=b"/a", size=1)


def closed(session):
    return FileClosed(
        session=session,
        share="models",
        path=b"/a",
        size=1,
        bytes=1,
        reads=1,
        duration=0.0,
        whole=True,
        result="ok",
    )


def ended(session):
    return SessionEnded(
        session=session,
        duration=0.0,
        bytes=0,
        files=0,
        folders=0,
        requests=0,
        denied=0,
        reason="closed",
    )


def listed(session):
    return FolderListed(session=session, path=b"/", entries=0, complete=True, duration=0.0)


ATTACKER = replace(SESSION, session="a" * 16, user="mallory")
VICTIM = replace(SESSION, session="b" * 16, user="ana")


@pytest.fixture
def blocked_log():
    """Makes a log whose writer is blocked with one event."""
    made = []

    def make(**options):
        sink = MemorySink(gate_open=False)
        log = AccessLog(sinks=[sink], **options)
        made.append((log, sink))
        log.emit(numbered(0))
        assert sink.arrived.wait(FOREVER)
        return log, sink

    yield make
    for log, sink in made:
        sink.gate.set()
        log.close(FOREVER)


def test_events_are_written_in_order_without_a_flush():
    sink = MemorySink()
    log = AccessLog(sinks=[sink])
    log.emit(Connection(session=SESSION))
    sink.wait_for("connection")
    assert sink.events == ["connection"]
    log.close(FOREVER)


def test_an_idle_writer_is_woken():
    sink = MemorySink()
    log = AccessLog(sinks=[sink])
    for number in range(5):
        log.emit(numbered(number))
        sink.wait_for("server_started", number + 1)
    assert [line["port"] for line in sink.lines] == [0, 1, 2, 3, 4]
    log.close(FOREVER)


def test_close_writes_pending_events_and_closes_the_sinks():
    sinks = [MemorySink(), MemorySink()]
    log = AccessLog(sinks=sinks)
    for number in range(1000):
        log.emit(numbered(number))
    assert log.close(FOREVER) == 0
    for sink in sinks:
        assert [line["port"] for line in sink.lines] == list(range(1000))
        assert sink.closed
    assert (log.emitted, log.dropped, log.depth) == (1000, 0, 0)


def test_events_of_many_threads_are_all_written():
    sink = MemorySink()
    log = AccessLog(sinks=[sink], capacity=100_000)
    barrier = threading.Barrier(8)

    def emit(thread):
        barrier.wait()
        for number in range(500):
            log.emit(numbered(thread * 500 + number))

    threads = [threading.Thread(target=emit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.close(FOREVER) == 0
    assert sorted(line["port"] for line in sink.lines) == list(range(4000))


def test_level_files_omits_requests():
    sink = MemorySink()
    log = AccessLog(sinks=[sink], level="files")
    assert not log.wants_requests
    log.emit(request())
    log.emit(Connection(session=SESSION))
    log.close(FOREVER)
    assert sink.events == ["connection"]


def test_level_requests_writes_requests():
    sink = MemorySink()
    log = AccessLog(sinks=[sink], level="requests")
    assert log.wants_requests
    log.emit(request())
    log.close(FOREVER)
    assert sink.events == ["request"]


def test_drop_reports_the_number_of_dropped_events(blocked_log):
    log, sink = blocked_log(overflow="drop", capacity=3)
    for number in range(1, 4):
        log.emit(numbered(number))
    log.emit(ServerStopping(time=1.5, signal="SIGTERM"))
    log.emit(numbered(5))
    assert (log.depth, log.dropped, log.emitted, log.congested()) == (3, 2, 4, False)
    sink.gate.set()
    assert log.close(FOREVER) == 0
    assert [line["port"] for line in sink.lines[:4]] == [0, 1, 2, 3]
    assert len(sink.lines) == 5
    dropped = sink.lines[4]
    assert dropped["event"] == "log_dropped"
    assert (dropped["count"], dropped["reason"]) == (2, "queue_full")
    assert dropped["since"] == "1970-01-01T00:00:01.500000Z"


def test_each_gap_is_reported_once_in_position(blocked_log):
    log, sink = blocked_log(overflow="drop", capacity=1)
    for gaps in range(1, 4):
        log.emit(numbered(1))
        log.emit(numbered(2))
        sink.gate.set()
        sink.wait_for("log_dropped", gaps)
        sink.gate.clear()
        sink.arrived.clear()
        log.emit(numbered(0))
        assert sink.arrived.wait(FOREVER)
    sink.gate.set()
    log.close(FOREVER)
    once = ["server_started", "server_started", "log_dropped"]
    assert sink.events == [*once * 3, "server_started"]
    assert [line["count"] for line in sink.lines if line["event"] == "log_dropped"] == [1, 1, 1]


def test_a_gap_is_reported_without_a_later_event(blocked_log):
    log, sink = blocked_log(overflow="drop", capacity=1)
    log.emit(numbered(1))
    log.emit(numbered(2))
    sink.gate.set()
    sink.wait_for("log_dropped")


def test_block_is_congested_from_capacity_down_to_half(blocked_log):
    log, sink = blocked_log(overflow="block", capacity=100)
    for number in range(1, 100):
        log.emit(numbered(number))
    assert not log.congested()
    log.emit(numbered(100))
    assert log.congested()
    room = threading.Event()
    depths = []

    def on_room():
        depths.append(log.depth)
        room.set()

    log.add_room_callback(on_room)
    assert not room.is_set()
    sink.gate.set()
    assert room.wait(FOREVER)
    assert not log.congested()
    assert depths[0] < 50
    log.close(FOREVER)
    assert [line["port"] for line in sink.lines] == list(range(101))


def test_every_room_callback_is_called_each_time(blocked_log):
    log, sink = blocked_log(overflow="block", capacity=2)
    called = [threading.Semaphore(0), threading.Semaphore(0)]
    for semaphore in called:
        log.add_room_callback(semaphore.release)
    for _ in range(3):
        log.emit(numbered(1))
        log.emit(numbered(2))
        assert log.congested()
        sink.gate.set()
        assert all(semaphore.acquire(timeout=FOREVER) for semaphore in called)
        assert not log.congested()
        sink.gate.clear()
        sink.arrived.clear()
        log.emit(numbered(3))
        assert sink.arrived.wait(FOREVER)


def test_a_failing_callback_stops_neither_others_nor_the_log(blocked_log, caplog):
    log, sink = blocked_log(overflow="block", capacity=1)
    room = threading.Event()

    def fail():
        raise RuntimeError("Event loop is closed")

    log.add_room_callback(fail)
    log.add_room_callback(room.set)
    log.emit(numbered(1))
    assert log.congested()
    with caplog.at_level(logging.ERROR):
        sink.gate.set()
        assert room.wait(FOREVER)
    log.emit(numbered(2))
    log.close(FOREVER)
    assert [line["port"] for line in sink.lines] == [0, 1, 2]
    assert "callback" in caplog.text


def test_block_accepts_up_to_four_times_the_capacity(blocked_log):
    log, sink = blocked_log(overflow="block", capacity=10)
    for number in range(1, 46):
        log.emit(numbered(number))
    assert (log.depth, log.dropped) == (40, 5)
    sink.gate.set()
    log.close(FOREVER)
    assert [line["port"] for line in sink.lines[:41]] == list(range(41))
    assert sink.lines[41]["count"] == 5


def test_close_returns_the_number_of_lost_events_after_its_timeout(blocked_log):
    log, _sink = blocked_log()
    log.emit(numbered(1))
    log.emit(numbered(2))
    assert log.close(0.01) == 3


def test_an_unread_pipe_blocks_neither_emit_nor_close():
    reader, writer = os.pipe()
    log = AccessLog(sinks=[StreamSink(writer)], overflow="drop", capacity=100_000)
    for number in range(5_000):
        log.emit(numbered(number))
    assert log.close(0.5) > 0
    # Reading the pipe lets the writer end.
    os.set_blocking(reader, True)
    received = b""
    while received.count(b"\n") < 5_000:
        received += os.read(reader, 65536)
    assert log.close(FOREVER) == 0
    os.close(reader)
    os.close(writer)


def test_events_after_close_are_dropped():
    log = AccessLog(sinks=[])
    log.close(FOREVER)
    log.emit(ServerStopped())
    assert (log.emitted, log.dropped) == (0, 1)


def test_close_may_be_called_twice():
    sink = MemorySink()
    log = AccessLog(sinks=[sink])
    log.emit(ServerStopped())
    assert (log.close(FOREVER), log.close(FOREVER)) == (0, 0)
    assert sink.events == ["server_stopped"]


def test_the_writer_sleeps_after_each_of_many_batches():
    sink = MemorySink(gate_open=False)
    log = AccessLog(sinks=[sink])
    rests = []
    log._closing.wait = rests.append
    for number in range(1000):
        log.emit(numbered(number))
    sink.gate.set()
    sink.wait_for("server_started", 1000)
    assert log.close(FOREVER) == 0
    assert len(rests) >= 1000 / 64
    assert all(0 < rest < 0.01 for rest in rests)


@pytest.mark.parametrize("failure", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left")])
def test_a_failing_sink_loses_its_own_batch_only(caplog, failure):
    broken, good = MemorySink(gate_open=False), MemorySink()
    broken.failure = failure
    log = AccessLog(sinks=[broken, good])
    for number in range(3):
        log.emit(numbered(number))
    with caplog.at_level(logging.ERROR):
        broken.gate.set()
        assert log.close(FOREVER) == 0
    assert [line["port"] for line in good.lines] == [0, 1, 2]
    assert log.write_errors >= 1
    assert log.lines_lost == 3
    assert len(caplog.records) == 1


def test_a_recovered_sink_reports_what_it_lost():
    sink = MemorySink()
    sink.failure = OSError(errno.ENOSPC, "No space left on device")
    log = AccessLog(sinks=[sink, after := MemorySink()])
    log.emit(numbered(1))
    after.wait_for("server_started")
    sink.failure = None
    log.emit(numbered(2))
    assert log.close(FOREVER) == 0
    assert sink.events == ["log_dropped", "server_started"]
    assert (sink.lines[0]["count"], sink.lines[0]["reason"]) == (1, "write_failed")
    assert after.events == ["server_started", "server_started"]
    assert (log.write_errors, log.lines_lost) == (1, 1)


def test_an_unencodable_event_is_dropped_alone(caplog):
    class Stranger(Event):
        name = "stranger"

    sink = MemorySink()
    log = AccessLog(sinks=[sink])
    with caplog.at_level(logging.ERROR):
        log.emit(Stranger())
        log.emit(ServerStopped(time=float("nan")))
        log.emit(ServerStopped())
        assert log.close(FOREVER) == 0
    assert sink.events == ["server_stopped"]
    assert len(caplog.records) == 2


def test_standard_output_and_a_file_get_the_same_lines(tmp_path):
    reader, writer = os.pipe()
    log = AccessLog(sinks=[StreamSink(writer), FileSink(tmp_path / "access.log")])
    log.emit(Connection(session=SESSION))
    log.emit(ServerStopped())
    assert log.close(FOREVER) == 0
    os.close(writer)
    with open(reader, "rb") as stream:
        assert stream.read() == (tmp_path / "access.log").read_bytes() != b""


@pytest.mark.parametrize("overflow", ["block", "drop"])
@pytest.mark.parametrize(
    "flood_event",
    [
        lambda: CommandRefused(session=ATTACKER, kind="forwarding"),
        lambda: listed(ATTACKER),
        lambda: opened(ATTACKER),
        lambda: Connection(session=replace(ATTACKER, user=None)),
    ],
)
def test_a_flood_from_one_user_drops_no_line_of_another(blocked_log, overflow, flood_event):
    log, sink = blocked_log(overflow=overflow, capacity=100)
    for _ in range(1000):
        log.emit(flood_event())
    lines = [LoginAccepted(session=VICTIM), opened(VICTIM), closed(VICTIM), ended(VICTIM)]
    for event in lines:
        log.emit(event)
    for _ in range(1000):
        log.emit(flood_event())
    assert log.depth <= 400 + len(lines)
    sink.gate.set()
    assert log.close(FOREVER) == 0
    names = [line["event"] for line in sink.lines if line.get("user") == "ana"]
    assert names == [event.name for event in lines]


def test_a_flood_is_summarized_and_delays_nobody(blocked_log, monkeypatch):
    monkeypatch.setattr(rate_limit, "SESSION_RATE", 0.0)
    log, sink = blocked_log(overflow="block", capacity=1000)
    for _ in range(80_000):
        log.emit(CommandRefused(session=ATTACKER, kind="forwarding"))
    assert (log.depth, log.dropped, log.congested()) == (rate_limit.SESSION_BURST, 0, False)
    log.emit(ended(ATTACKER))
    sink.gate.set()
    assert log.close(FOREVER) == 0
    assert sink.events[-2:] == ["events_suppressed", "session_end"]
    counts = Counter(sink.events)
    assert counts["command_refused"] + sink.lines[-2]["command_refused"] == 80_000
    assert log.suppressed == sink.lines[-2]["count"] == 80_000 - counts["command_refused"]


def test_a_summary_is_written_during_its_session(blocked_log, monkeypatch):
    monkeypatch.setattr(rate_limit, "INTERVAL", 0.0)
    log, sink = blocked_log()
    for _ in range(rate_limit.SESSION_BURST + 1):
        log.emit(CommandRefused(session=ATTACKER, kind="forwarding"))
    sink.gate.set()
    sink.wait_for("events_suppressed")


def test_close_writes_pending_summaries(blocked_log):
    log, sink = blocked_log()
    for _ in range(rate_limit.SESSION_BURST + 1):
        log.emit(CommandRefused(session=ATTACKER, kind="forwarding"))
    sink.gate.set()
    assert log.close(FOREVER) == 0
    assert sink.events[-1] == "events_suppressed"


def test_block_writes_thousands_of_simultaneous_closes(blocked_log):
    log, sink = blocked_log(overflow="block", capacity=10)
    for _ in range(50):
        log.emit(listed(ATTACKER))
    for _ in range(5000):
        log.emit(closed(ATTACKER))
    log.emit(ended(ATTACKER))
    sink.gate.set()
    assert log.close(FOREVER) == 0
    assert Counter(sink.events)["file_closed"] == 5000
    assert sink.events.count("session_end") == 1


def test_a_user_with_half_of_the_queue_waits_alone(blocked_log):
    log, sink = blocked_log(overflow="block", capacity=100)
    for _ in range(49):
        log.emit(opened(ATTACKER))
    assert not log.congested("mallory")
    log.emit(opened(ATTACKER))
    assert log.congested("mallory")
    assert not log.congested("ana")
    assert not log.congested()
    room = threading.Event()
    log.add_room_callback(room.set)
    sink.gate.set()
    assert room.wait(FOREVER)
    assert not log.congested("mallory")


def test_drop_never_waits(blocked_log):
    log, _sink = blocked_log(overflow="drop", capacity=100)
    for _ in range(1000):
        log.emit(opened(ATTACKER))
    assert not log.congested("mallory")
    assert not log.congested()


def test_a_user_over_the_byte_limit_waits_alone(monkeypatch):
    monkeypatch.setattr(rate_limit, "BYTE_BURST", 2000)
    monkeypatch.setattr(rate_limit, "BYTE_RATE", 1)
    sink = MemorySink()
    log = AccessLog(sinks=[sink])
    log.emit(closed(VICTIM))
    for _ in range(100):
        log.emit(opened(ATTACKER))
    assert log.close(FOREVER) == 0
    assert log.congested("mallory")
    assert not log.congested("ana")
    assert not log.congested()
    assert len(sink.events) == 101


def test_a_user_over_the_byte_limit_waits_as_long_as_the_rate_demands(monkeypatch):
    monkeypatch.setattr(rate_limit, "BYTE_BURST", 20_000)
    monkeypatch.setattr(rate_limit, "BYTE_RATE", 100_000)
    log = AccessLog(sinks=[MemorySink()])
    room = threading.Event()
    log.add_room_callback(room.set)
    for _ in range(150):
        log.emit(opened(ATTACKER))
    assert room.wait(FOREVER)
    assert not log.congested("mallory")
    log.close(FOREVER)


def test_drop_does_not_make_a_user_over_the_byte_limit_wait(monkeypatch):
    monkeypatch.setattr(rate_limit, "BYTE_BURST", 2000)
    monkeypatch.setattr(rate_limit, "BYTE_RATE", 1)
    log = AccessLog(sinks=[MemorySink()], overflow="drop")
    for _ in range(100):
        log.emit(opened(ATTACKER))
    log.close(FOREVER)
    assert not log.congested("mallory")
