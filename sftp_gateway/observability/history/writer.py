"""Writes the history, on threads of its own: nothing that happens here reaches who serves.

    channel ──▶ thread "channel" ──▶ lines, bounded ──▶ thread "history" ──▶ Store
                  └──▶ the registry of what is served now

| what goes wrong                          | what is done                                          |
|------------------------------------------|-------------------------------------------------------|
| the file is no database, or broken       | moved aside, a warning, and a new one is begun        |
| it is locked, the disk full, or the like | what waits is kept, up to a bound, and tried again    |
| the file or its folder is gone, or there | the same, in the folder that is there now; both are   |
| is another                               | made again                                            |
| more comes than can be written           | dropped, of the user with most lines, and counted     |
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
from sftp_gateway.observability.history.channel import LIVE, HistoryChannel
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

#: Bytes of lines that wait to be written; beyond, they are dropped.
_MOST_WAITING: Final = 16 << 20

#: Seconds in which lines are gathered before they are written: a transaction costs more than a row.
_GATHER: Final = 0.25

#: Rows of one transaction.
_BATCH: Final = 2000

#: Seconds between two looks at the age of rows; and between two attempts after an error.
_HOUSEKEEPING: Final = 60.0
_PAUSE: Final = 2.0

#: Seconds after which the thread that reads looks whether it is to end.
_LOOK: Final = 0.5

_log = logging.getLogger(__name__)


class HistoryCounts:
    """What is counted of it."""

    def __init__(self, values: SharedValues) -> None:
        self.dropped = values.counter("history_dropped", DROPPED_HELP)
        self.rows = values.counter("history_rows", "Lines written to the history.")
        self.errors = values.counter("history_errors", "Failed writes to the history.")
        self._size = values.gauge("history_size_bytes", "Size of the history database.")
        for counter in (self.dropped, self.rows, self.errors):
            counter.inc(by=0)

    def size(self, count: int) -> None:
        """The database has so many bytes."""
        self._size.set(count)


class HistoryWriter:
    """Takes everything from the channel until it is closed."""

    def __init__(
        self,
        *,
        channel: HistoryChannel,
        registry: SessionRegistry,
        open_store: Callable[[], Store] | None,
        values: SharedValues,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Without `open_store` nothing is kept, and only the registry is told.

        `prepare` is called first on each thread that writes; may raise OSError.
        """
        self._channel = channel
        self._registry = registry
        self._open_store = open_store
        self._prepare = prepare
        self._store: Store | None = None
        self._failing = False
        self._waiting: FairQueue[Row] = FairQueue(_MOST_WAITING)
        self._lock = threading.Lock()  # for `_waiting`
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._rows: list[Row] = []
        self._tidied = 0.0
        self._counts = HistoryCounts(values)
        self._reader = threading.Thread(target=self._read, name="channel", daemon=True)
        self._writer: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._reader.start()

    def close(self, patience: float) -> None:
        """Write what has been sent so far, for at most so many seconds, and end."""
        self._closing.set()
        self._reader.join(patience)
        if self._writer is None:
            return
        self._writer.join(patience)
        if not self._writer.is_alive():
            with self._lock:
                lost = len(self._rows) + len(self._waiting.take(sys.maxsize))
            self._counts.dropped.inc(by=lost)

    # Taking

    def _read(self) -> None:
        while True:
            self._keep_writing()
            closing = self._closing.is_set()
            datagram = self._channel.receive(0.0 if closing else _LOOK)
            if datagram is not None:
                self.take(datagram)
            elif closing:
                break
        self._wake.set()

    def _keep_writing(self) -> None:
        """Start a thread that writes if there is none; unlike that, this one is not confined."""
        if self._open_store is not None and (self._writer is None or not self._writer.is_alive()):
            self._writer = threading.Thread(target=self._write, name="history", daemon=True)
            self._writer.start()

    def take(self, datagram: bytes) -> None:
        """What has come; from one thread."""
        if datagram.startswith(LIVE):
            self._registry.take(datagram)
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
        """Write until nothing comes any more, or an attempt has failed.

        Landlock confines a thread to the folder that was there when it began. So the next attempt
        is another thread's, which may write to one that has come to its place.
        """
        while self._reader.is_alive() or self._waiting.size or self._rows:
            if not self._rows:
                self._wake.wait(_HOUSEKEEPING / 12)
                self._wake.clear()
                self._closing.wait(_GATHER)
                self._rows = self._take_rows()
            if not self._add(self._rows):
                self._closing.wait(_PAUSE)
                return
            self._rows = []
            if time.monotonic() - self._tidied > _HOUSEKEEPING:
                self._tidied = time.monotonic()
                if not self._try(lambda store: store.forget(time.time())):
                    return
        self._let_go()

    def _take_rows(self) -> list[Row]:
        with self._lock:
            return self._waiting.take(_BATCH)

    def _add(self, rows: list[Row]) -> bool:
        """Whether all is written that there is to write."""
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
        """Do it with the store, which is opened if need be; whether it worked. Never raises."""
        try:
            if self._store is None and self._open_store is not None:
                self._prepare()
                self._store = self._open_store()
            if self._store is not None:
                work(self._store)
        except (sqlite3.Error, OSError) as error:
            self._counts.errors.inc()
            if not self._failing:
                _log.warning("the history cannot be written: %s; it is tried again", error)
            self._failing = True
            self._let_go()
            return False
        if self._failing:
            self._failing = False
            _log.warning("the history is written again")
        return True

    def _let_go(self) -> None:
        """The next attempt opens the file again, and begins a new one where it is broken."""
        if self._store is not None:
            with suppress(sqlite3.Error):
                self._store.close()
            self._store = None


def is_broken(error: Exception) -> bool:
    """Whether the file itself is at fault, and another attempt would not help."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without what is more precise
    return isinstance(error, BrokenError) or code in (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    )


def move_aside(path: Path) -> None:
    """Make room for a new file. What its write-ahead log holds goes with it."""
    aside = path.with_name(f"{path.name}.broken")
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
    _log.warning("the history %s cannot be read; it was moved to %s", path, aside)


def open_store(path: Path, *, max_age: float, max_size: int) -> Store:
    """The history at `path`, which is begun anew where it is broken.

    Raises sqlite3.Error and OSError.
    """
    try:
        return Store(path, max_age=max_age, max_size=max_size)
    except sqlite3.DatabaseError as error:
        if not is_broken(error):
            raise
        move_aside(path)
        return Store(path, max_age=max_age, max_size=max_size)
