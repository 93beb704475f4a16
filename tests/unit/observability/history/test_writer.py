"""The writer survives failures of the database and counts the lines lost."""

from __future__ import annotations

import functools
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sftp_gateway.observability.history import writer as module
from sftp_gateway.observability.history.channel import HistoryChannel, HistorySink
from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.observability.history.session_registry import SessionRegistry
from sftp_gateway.observability.history.store import MIN_SIZE
from sftp_gateway.observability.history.writer import HistoryWriter, open_store
from tests.support.gateway import TIMEOUT, wait_for
from tests.support.history import line, read
from tests.support.measured import Measured


class RunningWriter:
    """A history writer with its channel and database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channel = HistoryChannel()
        self.sink = HistorySink(self.channel)
        self.registry = SessionRegistry()
        self.measured = Measured()
        self.writer = HistoryWriter(
            channel=self.channel,
            registry=self.registry,
            open_store=functools.partial(open_store, path, max_age=1e9, max_size=MIN_SIZE),
            values=self.measured.values,
        )

    def start(self) -> RunningWriter:
        self.writer.start()
        return self

    def count(self) -> int:
        try:
            return len(list(History(self.path).lines(Filter())))
        except sqlite3.Error:
            return 0

    def metric(self, name: str) -> float:
        return self.measured.metric(f"sftp_gateway_history_{name}")

    def close(self) -> None:
        self.writer.close(TIMEOUT)
        self.channel.close()
        self.measured.close()


@pytest.fixture
def make_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], RunningWriter]]:
    monkeypatch.setattr(module, "_RETRY_INTERVAL", 0.05)
    made: list[RunningWriter] = []

    def make() -> RunningWriter:
        made.append(RunningWriter(tmp_path / "history.sqlite3"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_lines_are_written_promptly(make_writer: Callable[[], RunningWriter]) -> None:
    running = make_writer().start()
    running.sink.write(read("models/a") + read("models/b"))
    wait_for(lambda: running.count() == 2, "two rows")
    wait_for(lambda: running.metric("size_bytes") > 0, "the metrics, which follow the rows")
    assert running.metric("rows_total") == 2
    assert running.metric("dropped_total") == 0


def test_bytes_of_an_open_file_are_written_promptly(
    make_writer: Callable[[], RunningWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOUSEKEEPING", 1e6)  # housekeeping does not wake the writer
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    snapshot = {"worker": 7, "more": False, "started": time.time(), "total": 0, "sessions": []}
    running.channel.send(json.dumps({"live": {**snapshot, "sent": {"models": 1000}}}).encode())
    history = History(running.path)
    wait_for(lambda: sum(history.throughput("share", 0).values()) == 1000, "the bytes")


def test_everything_sent_is_written_before_the_writer_ends(tmp_path: Path) -> None:
    running = RunningWriter(tmp_path / "history.sqlite3").start()
    for number in range(500):
        running.sink.write(read(f"models/{number}"))
    running.writer.close(TIMEOUT)
    assert running.count() + running.sink.dropped == 500
    assert not list(tmp_path.glob("*-wal"))
    running.channel.close()
    running.measured.close()


def test_an_invalid_line_is_counted_and_skipped(
    make_writer: Callable[[], RunningWriter],
) -> None:
    running = make_writer().start()
    running.channel.send(b"not a line\n" + read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    assert running.metric("dropped_total") == 1


def test_an_invalid_database_is_moved_aside(
    make_writer: Callable[[], RunningWriter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history.sqlite3").write_bytes(b"not a database, but long enough" * 100)
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    assert (tmp_path / "history.sqlite3.broken").read_bytes().startswith(b"not a database")
    assert "is corrupt" in caplog.text
    assert "history.sqlite3.broken" in caplog.text


def test_a_database_corrupted_meanwhile_is_moved_aside(
    make_writer: Callable[[], RunningWriter], tmp_path: Path
) -> None:
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    with sqlite3.connect(running.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with running.path.open("r+b") as file:  # its header and table roots
        file.write(b"\xff" * 16_384)
    (tmp_path / "history.sqlite3-shm").unlink()

    def written() -> int:
        running.sink.write(read("models/b"))
        return running.count()

    wait_for(written, "rows in a new file")
    assert (tmp_path / "history.sqlite3.broken").exists()


def test_a_locked_database_loses_no_line(
    make_writer: Callable[[], RunningWriter], caplog: pytest.LogCaptureFixture
) -> None:
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    other = sqlite3.connect(running.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    running.sink.write(read("models/b"))
    wait_for(lambda: running.metric("errors_total") >= 1, "an error")
    other.execute("COMMIT")
    other.close()
    wait_for(lambda: running.count() == 2, "both rows")
    assert running.metric("dropped_total") == 0
    assert caplog.text.count("retrying") == 1
    wait_for(lambda: "can be written again" in caplog.text, "that it is well again")


def test_a_full_disk_is_reported_and_the_queue_is_bounded(
    make_writer: Callable[[], RunningWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20_000)
    running = make_writer()
    running.path.mkdir()  # makes the path unwritable
    running.start()
    for _ in range(200):
        running.writer.take(read("models/a"))
    wait_for(lambda: running.metric("errors_total") >= 1, "an error")
    dropped = running.metric("dropped_total")
    assert 0 < dropped < 200
    running.path.rmdir()
    wait_for(lambda: running.count() == 200 - dropped, "the queued rows")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_deleted_or_replaced_database_is_recreated(
    replaced: bool,
    tmp_path: Path,
    make_writer: Callable[[], RunningWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HOUSEKEEPING", 0.0)
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    if replaced:
        other = tmp_path / "other"
        other.touch()
        other.replace(running.path)
    else:
        for file in running.path.parent.glob("history*"):
            file.unlink()

    def again() -> int:
        running.sink.write(read("models/b"))
        return running.count()

    wait_for(again, "a row in a new file")


def test_session_ends_and_snapshots_reach_the_registry(
    make_writer: Callable[[], RunningWriter],
) -> None:
    running = make_writer().start()
    snapshot = {"worker": 7, "more": False, "started": 0.0, "total": 3, "sent": {}, "sessions": []}
    running.channel.send(json.dumps({"live": snapshot}).encode().replace(b'"live": ', b'"live":'))
    wait_for(lambda: running.registry.live([7]).total == 3, "the snapshot")
    running.sink.write(line("session_end", at=4e9, user="ana", bytes=500, duration=1.0))
    wait_for(lambda: running.count() and History(running.path).throughput("user", 0), "its bytes")
    assert sum(History(running.path).throughput("user", 0).values()) == 500


def test_overload_drops_lines_of_the_busiest_user(
    make_writer: Callable[[], RunningWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20_000)
    running = make_writer()
    forged = line("denied", client_version='","user":"ana"', user="ben", path="x" * 300)
    for _ in range(50):
        running.writer.take(forged * 5)
        if running.metric("dropped_total") == 0:
            running.writer.take(read("models/a", user="ana"))
    running.writer.take(read("models/b", user="ana") + line("session_end", user="ana"))
    running.start()
    wait_for(lambda: running.count() > 2, "rows")
    found = [entry.line for entry in History(running.path).lines(Filter(user="ana"))]
    assert '"session_end"' in found[-1]
    assert "models/b" in found[-2]
    assert found[:-2]
    assert all("models/a" in each for each in found[:-2])


def test_closing_ends_a_reader_that_waits(
    make_writer: Callable[[], RunningWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_POLL_INTERVAL", 10 * TIMEOUT)
    running = make_writer().start()
    running.sink.write(read("models/a"))
    wait_for(lambda: running.count() == 1, "a row")
    running.writer.close(TIMEOUT)
    assert not running.writer._reader.is_alive()


def test_closing_ends_a_writer_that_wakes_before_the_reader_has_ended(
    make_writer: Callable[[], RunningWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wake(threading.Event):
        def set(self) -> None:
            super().set()
            if writer._closing.is_set():
                wait_for(lambda: not (self.is_set() and writer_thread.is_alive()), "the writer")

    monkeypatch.setattr(module, "_HOUSEKEEPING", 1e6)
    writer = make_writer().writer
    writer._wake = Wake()
    writer.start()
    writer_thread = wait_for(lambda: writer._writer, "the writer to start")
    writer.close(TIMEOUT)
    assert not writer_thread.is_alive()
