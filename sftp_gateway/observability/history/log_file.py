"""An access log, queried as the history is.

Lines go through a table in memory, some at a time, so that the history's own SQL selects them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Final

from sftp_gateway.observability.access_log.line import LogLine
from sftp_gateway.observability.history.queries import (
    TOTALS,
    Filter,
    GroupBy,
    Total,
    add_functions,
    parts_of_totals,
    totals_of,
)
from sftp_gateway.observability.history.store import INSERT, SCHEMA, row_of

#: Lines in the table at once.
_BATCH: Final = 1000

_PARTS: Final = """
CREATE TABLE parts (
    name TEXT, label TEXT, path TEXT, share TEXT, sent REAL, accesses INTEGER, errors INTEGER,
    last REAL, PRIMARY KEY (name, label, path)
) WITHOUT ROWID;
"""
_ADD_PARTS: Final = """
INSERT INTO parts SELECT * FROM ({parts}) WHERE name IS NOT NULL
ON CONFLICT DO UPDATE SET share = max(share, excluded.share), sent = sent + excluded.sent,
    accesses = accesses + excluded.accesses, errors = errors + excluded.errors,
    last = max(last, excluded.last)
"""


class LogFile:
    """The lines of an access log; each method reads all of them, once.

    What log shippers and `docker logs` put before a line is ignored, and so is what is not a line.
    """

    def __init__(self, lines: Iterable[bytes], *, follow: bool = False) -> None:
        """With `follow`, each line is given out as soon as it is read."""
        self._lines = iter(lines)
        self._batch = 1 if follow else _BATCH
        self._unclosed = _UnclosedFiles()

    @property
    def unclosed(self) -> int:
        """Files among those selected that were open when their worker was killed."""
        return self._unclosed.count

    def lines(self, wanted: Filter) -> Iterator[str]:
        """The lines that the filter selects."""
        with closing(_table()) as database:
            for _ in self._fill(database, wanted):
                where, values = wanted.condition
                rows = database.execute(f"SELECT line FROM events {where} ORDER BY id", values)  # noqa: S608
                yield from (line for (line,) in rows)

    def totals(self, wanted: Filter, by: GroupBy, limit: int) -> list[Total]:
        """As History.totals."""
        parts, values = parts_of_totals(wanted, by)
        with closing(_table()) as database:
            database.execute(_PARTS)
            for _ in self._fill(database, wanted):
                database.execute(_ADD_PARTS.format(parts=parts), values)
            return totals_of(database.execute(TOTALS.format(parts="parts"), (limit,)))

    def _fill(self, database: sqlite3.Connection, wanted: Filter) -> Iterator[None]:
        """Put the next lines into the table, until there are none."""
        where, values = wanted.condition
        opened = f"{where or 'WHERE true'} AND event = 'file_opened'"
        while batch := list(islice(self._lines, self._batch)):
            found = [each for line in batch if (each := row_of(line[max(0, line.find(b"{")) :]))]
            database.execute("DELETE FROM events")
            database.executemany(INSERT, (row for row, _ in found))
            # The table's ids begin with 1 whenever it is empty.
            ids = database.execute(f"SELECT id FROM events {opened}", values)  # noqa: S608
            selected = {number for (number,) in ids}
            for number, (_, line) in enumerate(found, start=1):
                self._unclosed.note(line, selected=number in selected)
            yield


def _table() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    add_functions(database)
    # No indexes: a table that is emptied for every batch is scanned faster.
    database.execute(SCHEMA.partition(";")[0])
    return database


class _UnclosedFiles:
    """Counts files that have no `file_closed`, because the worker that served them was killed."""

    def __init__(self) -> None:
        self.count = 0
        self._workers: dict[str, object] = {}  # by session: the pid
        self._open: dict[str, Counter[str]] = {}  # by session: paths

    def note(self, line: LogLine, *, selected: bool) -> None:
        """Process the next line; `selected`: it opens a file that the filter selects."""
        event, session = line.event, line.text("session")
        if event == "connection":
            self._workers[session] = line.fields.get("pid")
        elif event == "file_opened" and selected:
            self._open.setdefault(session, Counter())[line.text("path")] += 1
        elif event == "file_closed" and session in self._open:
            self._open[session] -= Counter([line.text("path")])
        elif event == "session_end":
            self._workers.pop(session, None)
            self._open.pop(session, None)
        elif event == "worker_exited":
            pid = line.fields.get("pid")
            for ended in [each for each, worker in self._workers.items() if worker == pid]:
                del self._workers[ended]
                self.count += self._open.pop(ended, Counter()).total()
