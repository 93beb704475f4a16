"""Writes the history, on threads of its own: nothing that happens here affects serving.

    channel ──▶ thread "feed" ──▶ rows, bounded ──▶ thread "history" ──▶ Store
                     └──▶ SessionRegistry

| fault                                    | reaction                                              |
|------------------------------------------|-------------------------------------------------------|
| the file is not a database, or corrupt   | it is moved aside with a warning, and a new one made  |
| it is locked, or the disk is full        | rows are kept, up to a limit, and written later       |
| the file or its folder is missing, or    | the same, in the folder that is there then; both are  |
| replaced                                 | created again                                         |
| more rows arrive than can be written     | those of the user with the most are dropped, counted  |
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from sftp_gateway.observability.access_log.fair_queue import FairQueue
from sftp_gateway.observability.history.channel import LIVE_PREFIX, HistoryChannel
from sftp_gateway.observability.history.session_registry import SessionRegistry
from sftp_gateway.observability.history.store import (
    LINE,
    MINOR,
    OWNER,
    BrokenError,
    Row,
    Store,
    row_of,
)
from sftp_gateway.observability.metrics.process_metrics import DROPPED_HELP
from sftp_gateway.observability.metrics.shared_memory import SharedValues

#: Bytes of lines that wait to be written; further ones are dropped.
_MAX_WAITING: Final = 16 << 20

#: Seconds in which lines are gathered before they are written: a transaction costs more than a row.
_GATHER: Final = 0.25

#: Rows of one transaction.
_BATCH: Final = 2000

#: Seconds between deletions of old rows, and between attempts after an error.
_HOUSEKEEPING: Final = 60.0
_RETRY_INTERVAL: Final = 2.0

#: Seconds after which the reading thread checks whether it should end.
_POLL_INTERVAL: Final = 0.5

_log = logging.getLogger(__name__)


class HistoryCounts:
    """The metrics of the history."""

    def __init__(self, values: SharedValues) -> None:
        self.dropped = values.counter("history_dropped", DROPPED_HELP)
        self.rows = values.counter("history_rows", "Lines written to the history.")
        self.errors = values.counter("history_errors", "Failed writes to the history.")
        self._size = values.gauge("history_size_bytes", "Size of the history database.")
        for counter in (self.dropped, self.rows, self.errors):
            counter.inc(by=0)

    def size(self, count: int) -> None:
        """Set the size of the database in bytes."""
        self._size.set(count)


class HistoryWriter:
    """Writes what arrives through the channel, until it is closed."""

    def __init__(
        self,
        *,
        channel: HistoryChannel,
        registry: SessionRegistry,
        open_store: Callable[[], Store] | None,
        values: SharedValues,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Without `open_store`, only the registry is updated.

        `prepare` is called first on each writing thread; it may raise OSError.
        """
        self._channel = channel
        self._registry = registry
        self._open_store = open_store
        self._prepare = prepare
        self._store: Store | None = None
        self._failing = False
        self._waiting: FairQueue[Row] = FairQueue(_MAX_WAITING)
        self._lock = threading.Lock()  # for `_waiting`
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._all_read = threading.Event()
        self._rows: list[Row] = []
        self._pruned = 0.0
        self._counts = HistoryCounts(values)
        self._reader = threading.Thread(target=self._read, name="channel", daemon=True)
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        """Start the threads."""
        self._reader.start()

    def close(self, timeout: float) -> None:
        """Write what was sent so far, within `timeout` seconds, and end."""
        self._closing.set()
        self._channel.send(b"")  # the reader may be waiting for a datagram
        self._reader.join(timeout)
        if self._writer is None:
            return
        self._writer.join(timeout)
        if not self._writer.is_alive():
            with self._lock:
                lost = len(self._rows) + len(self._waiting.take(sys.maxsize))
            self._counts.dropped.inc(by=lost)

    # Reading

    def _read(self) -> None:
        while True:
            self._keep_writing()
            closing = self._closing.is_set()
            datagram = self._channel.receive(0.0 if closing else _POLL_INTERVAL)
            if datagram is not None:
                self.take(datagram)
            elif closing:
                break
        self._all_read.set()
        self._wake.set()

    def _keep_writing(self) -> None:
        """Start a writing thread if there is none; this thread is not confined as that is."""
        if self._open_store is not None and (self._writer is None or not self._writer.is_alive()):
            self._writer = threading.Thread(target=self._write, name="history", daemon=True)
            self._writer.start()

    def take(self, datagram: bytes) -> None:
        """Process a datagram; for one thread."""
        if datagram.startswith(LIVE_PREFIX):
            self._registry.update(datagram)
            if self._registry.has_throughput:  # totals are not to wait for the next line
                self._wake.set()
            return
        rows = list(self._rows_of(datagram.splitlines()))
        dropped = 0
        with self._lock:
            for row in rows:
                lost = self._waiting.put(
                    row, owner=row[OWNER], minor=bool(row[MINOR]), size=len(row[LINE])
                )
                dropped += len(lost)
        if dropped:
            self._counts.dropped.inc(by=dropped)
        self._wake.set()

    def _rows_of(self, lines: Iterable[bytes]) -> Iterator[Row]:
        for line in lines:
            found = row_of(line)
            if found is None:
                self._counts.dropped.inc()
                continue
            row, parsed = found
            if parsed.event == "session_end":
                self._registry.ended(parsed.fields)
            yield row

    # Writing

    def _write(self) -> None:
        """Write until the reader has ended, or an attempt has failed.

        Landlock confines a thread to the folder that existed when it started. So the next attempt
        is made by another thread, which may write to a folder that replaced it.
        """
        while not self._all_read.is_set() or self._waiting.size or self._rows:
            if not self._rows:
                self._wake.wait(_HOUSEKEEPING / 12)
                self._wake.clear()
                self._closing.wait(_GATHER)
                self._rows = self._take_rows()
            if not self._add(self._rows):
                self._closing.wait(_RETRY_INTERVAL)
                return
            self._rows = []
            if time.monotonic() - self._pruned > _HOUSEKEEPING:
                self._pruned = time.monotonic()
                if not self._try(lambda store: store.delete_older(time.time())):
                    return
        self._close_store()

    def _take_rows(self) -> list[Row]:
        with self._lock:
            return self._waiting.take(_BATCH)

    def _add(self, rows: list[Row]) -> bool:
        """Write rows and throughput; whether that succeeded."""
        sent = self._registry.take_throughput()
        if not rows and not sent:
            return True
        if not self._try(lambda store: store.add(rows, sent)):
            self._registry.give_back(sent)
            return False
        self._counts.rows.inc(by=len(rows))
        self._try(lambda store: self._counts.size(store.size))
        return True

    def _try(self, work: Callable[[Store], None]) -> bool:
        """Call `work` with the store, which is opened first; whether it succeeded. Never raises."""
        try:
            if self._store is None and self._open_store is not None:
                self._prepare()
                self._store = self._open_store()
            if self._store is not None:
                work(self._store)
        except (sqlite3.Error, OSError) as error:
            self._counts.errors.inc()
            if not self._failing:
                _log.warning("the history cannot be written: %s; retrying", error)
            self._failing = True
            self._close_store()
            return False
        if self._failing:
            self._failing = False
            _log.warning("the history can be written again")
        return True

    def _close_store(self) -> None:
        """Close the store; the next attempt opens it again."""
        if self._store is not None:
            with suppress(sqlite3.Error):
                self._store.close()
            self._store = None


def is_broken(error: Exception) -> bool:
    """Whether the file is corrupt, so that another attempt would fail too."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the extended code
    return isinstance(error, BrokenError) or code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def move_aside(path: Path) -> None:
    """Rename the file, with its write-ahead log, to make room for a new one."""
    aside = path.with_name(f"{path.name}.broken")
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    _log.warning("the history %s is corrupt; it was moved to %s", path, aside)


def open_store(path: Path, *, max_age: float, max_size: int) -> Store:
    """The history at `path`; a new one if it is corrupt.

    Raises sqlite3.Error and OSError.
    """
    try:
        return Store(path, max_age=max_age, max_size=max_size)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        move_aside(path)
        return Store(path, max_age=max_age, max_size=max_size)
