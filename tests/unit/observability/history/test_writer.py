"""Whatever becomes of the database, the writer goes on, and tells what is missing."""

from __future__ import annotations

import functools
import json
import sqlite3
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


class Kept:
    """A writer at work, and what it has written."""

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

    def start(self) -> Kept:
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
def keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Kept]]:
    monkeypatch.setattr(module, "_RETRY_INTERVAL", 0.05)
    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept(tmp_path / "history.sqlite3"))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_lines_are_written_soon(keep: Callable[[], Kept]) -> None:
    kept = keep().start()
    kept.sink.write(read("models/a") + read("models/b"))
    wait_for(lambda: kept.count() == 2, "two rows")
    wait_for(lambda: kept.metric("size_bytes") > 0, "the metrics, which follow the rows")
    assert kept.metric("rows_total") == 2
    assert kept.metric("dropped_total") == 0


def test_bytes_of_a_file_that_is_still_read_are_written_soon(
    keep: Callable[[], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOUSEKEEPING", 1e6)  # nothing else wakes the writer
    kept = keep().start()
    kept.sink.write(read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    told = {"worker": 7, "more": False, "started": time.time(), "total": 0, "sessions": []}
    kept.channel.send(json.dumps({"live": {**told, "sent": {"models": 1000}}}).encode())
    history = History(kept.path)
    wait_for(lambda: sum(history.throughput("share", 0).values()) == 1000, "the bytes")


def test_at_its_end_everything_is_written_that_was_sent(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "history.sqlite3").start()
    for number in range(500):
        kept.sink.write(read(f"models/{number}"))
    kept.writer.close(TIMEOUT)
    assert kept.count() + kept.sink.dropped == 500
    assert not list(tmp_path.glob("*-wal"))
    kept.channel.close()
    kept.measured.close()


def test_a_line_that_is_none_is_counted_and_the_others_are_written(
    keep: Callable[[], Kept],
) -> None:
    kept = keep().start()
    kept.channel.send(b"not a line\n" + read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    assert kept.metric("dropped_total") == 1


def test_a_file_that_is_no_database_is_moved_aside(
    keep: Callable[[], Kept], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history.sqlite3").write_bytes(b"not a database, but long enough" * 100)
    kept = keep().start()
    kept.sink.write(read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    assert (tmp_path / "history.sqlite3.broken").read_bytes().startswith(b"not a database")
    assert "is corrupt" in caplog.text
    assert "history.sqlite3.broken" in caplog.text


def test_a_database_that_breaks_while_it_is_written_is_moved_aside(
    keep: Callable[[], Kept], tmp_path: Path
) -> None:
    kept = keep().start()
    kept.sink.write(read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    with sqlite3.connect(kept.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with kept.path.open("r+b") as file:  # its head, and the roots of its tables
        file.write(b"\xff" * 16_384)
    (tmp_path / "history.sqlite3-shm").unlink()

    def written() -> int:
        kept.sink.write(read("models/b"))
        return kept.count()

    wait_for(written, "rows in a new file")
    assert (tmp_path / "history.sqlite3.broken").exists()


def test_a_locked_database_loses_nothing(
    keep: Callable[[], Kept], caplog: pytest.LogCaptureFixture
) -> None:
    kept = keep().start()
    kept.sink.write(read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    other = sqlite3.connect(kept.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    kept.sink.write(read("models/b"))
    wait_for(lambda: kept.metric("errors_total") >= 1, "an error")
    other.execute("COMMIT")
    other.close()
    wait_for(lambda: kept.count() == 2, "both rows")
    assert kept.metric("dropped_total") == 0
    assert caplog.text.count("retrying") == 1
    wait_for(lambda: "can be written again" in caplog.text, "that it is well again")


def test_a_full_disk_is_told_and_what_waits_is_bounded(
    keep: Callable[[], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20_000)
    kept = keep()
    kept.path.mkdir()  # nothing can be written there
    kept.start()
    for _ in range(200):
        kept.writer.take(read("models/a"))
    wait_for(lambda: kept.metric("errors_total") >= 1, "an error")
    dropped = kept.metric("dropped_total")
    assert 0 < dropped < 200
    kept.path.rmdir()
    wait_for(lambda: kept.count() == 200 - dropped, "what had waited")


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_deleted_or_replaced_is_made_anew(
    replaced: bool, tmp_path: Path, keep: Callable[[], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HOUSEKEEPING", 0.0)
    kept = keep().start()
    kept.sink.write(read("models/a"))
    wait_for(lambda: kept.count() == 1, "a row")
    if replaced:
        other = tmp_path / "other"
        other.touch()
        other.replace(kept.path)
    else:
        for file in kept.path.parent.glob("history*"):
            file.unlink()

    def again() -> int:
        kept.sink.write(read("models/b"))
        return kept.count()

    wait_for(again, "a row in a new file")


def test_the_end_of_a_session_and_pictures_of_workers_reach_the_board(
    keep: Callable[[], Kept],
) -> None:
    kept = keep().start()
    told = {"worker": 7, "more": False, "started": 0.0, "total": 3, "sent": {}, "sessions": []}
    kept.channel.send(json.dumps({"live": told}).encode().replace(b'"live": ', b'"live":'))
    wait_for(lambda: kept.registry.live([7]).total == 3, "the picture")
    kept.sink.write(line("session_end", at=4e9, user="ana", bytes=500, duration=1.0))
    wait_for(lambda: kept.count() and History(kept.path).throughput("user", 0), "its bytes")
    assert sum(History(kept.path).throughput("user", 0).values()) == 500


def test_more_than_can_be_written_is_dropped_of_the_user_with_most_lines(
    keep: Callable[[], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_WAITING", 20_000)
    kept = keep()
    forged = line("denied", client_version='","user":"ana"', user="ben", path="x" * 300)
    for _ in range(50):
        kept.writer.take(forged * 5)
        if kept.metric("dropped_total") == 0:
            kept.writer.take(read("models/a", user="ana"))
    kept.writer.take(read("models/b", user="ana") + line("session_end", user="ana"))
    kept.start()
    wait_for(lambda: kept.count() > 2, "rows")
    found = [entry.line for entry in History(kept.path).lines(Filter(user="ana"))]
    assert '"session_end"' in found[-1]
    assert "models/b" in found[-2]
    assert found[:-2]
    assert all("models/a" in each for each in found[:-2])
