"""Queries of the history: its lines, most recent first, and totals of them. Never writes.

An access log is queried by the same SQL (log_file.py), so both give the same answers.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from sftp_gateway.observability.access_log.json_lines import json_string
from sftp_gateway.observability.access_log.line import ERROR_RESULTS
from sftp_gateway.observability.history.store import SCHEMA

#: A field of a line that there is no column for; NULL too where SQLite cannot read what Python can.
_FIELD: Final = "CASE WHEN json_valid(line) THEN json_extract(line, '$.{}') END"

#: What totals are made of, as an expression; rows for which it is NULL are left out.
GroupBy: TypeAlias = Literal["user", "key", "ip", "file", "share"]
_GROUPS: Final[Mapping[GroupBy, str]] = {
    "user": "user",
    # The authority of a certificate, because the key in it is often valid for an hour only.
    "key": f"coalesce({_FIELD.format('ca')}, {_FIELD.format('key')}, {_FIELD.format('auth')})",
    "ip": "client_ip",
    # Without the home folder, which differs between users: /home/ana/models/x is models/x.
    "file": """
        CASE WHEN event = 'folder_listed' THEN NULL
        WHEN share IS NOT NULL AND substr(path, 1, length(user) + 7) = '/home/' || user || '/'
        THEN substr(path, length(user) + 8) ELSE path END
    """,
    "share": "share",
}
_ERRORS: Final = ", ".join(f"'{result}'" for result in ERROR_RESULTS)

#: Steps of SQLite's virtual machine after which a query is aborted: some seconds.
_MAX_STEPS: Final = 200_000_000
_STEPS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows; an empty field matches all. Times in seconds since 1970.

    `user`, `share`, `result`, `event` and `client_ip` match exactly. `path` is a substring, escaped
    as in the access log, in upper or lower case. `key` is the beginning of a fingerprint
    ("SHA256:...") of a key or an authority, or a whole label (`key_label`). `accesses` selects what
    clients did, without ends of sessions, and workers that ended unexpectedly. `before` and `after`
    are ids of rows.
    """

    user: str = ""
    share: str = ""
    path: str = ""
    result: str = ""
    event: str = ""
    client_ip: str = ""
    key: str = ""
    since: float | None = None
    until: float | None = None
    accesses: bool = False
    before: int | None = None
    after: int | None = None

    @property
    def key_members(self) -> tuple[str, ...]:
        """The JSON members of which a line has one if it is of this key.

        No other field's text can contain one: a quote in a text has a backslash before it.
        """
        if not self.key:
            return ()
        if self.key.startswith("SHA256:"):
            return tuple(f',"{name}":{json_string(self.key)[:-1]}' for name in ("key", "ca"))
        return (f',"key_label":{json_string(self.key)}',)

    @property
    def condition(self) -> tuple[str, tuple[Any, ...]]:
        """A WHERE clause with fixed words only, and the values for its parameters."""
        conditions, values = [], []
        for column in ("user", "share", "result", "event", "client_ip"):
            if wanted := getattr(self, column):
                conditions.append(f"{column} = ?")
                values.append(wanted)
        if self.path:
            conditions.append("path IS NOT NULL AND instr(casefold(path), ?) > 0")
            values.append(self.path.casefold())
        if self.key_members:
            conditions.append(f"({' OR '.join('instr(line, ?) > 0' for _ in self.key_members)})")
            values.extend(self.key_members)
        if self.accesses:
            conditions.append(
                "(session IS NOT NULL AND event != 'session_end' OR event = 'worker_exited'"
                " AND instr(line, ',\"expected\":false') > 0)"
            )
        for comparison, value in (
            ("time >= ?", self.since),
            ("time < ?", self.until),
            ("id < ?", self.before),
            ("id > ?", self.after),
        ):
            if value is not None:
                conditions.append(comparison)
                values.append(value)
        return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), tuple(values)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: its id, and its line of the access log."""

    id: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Totals of the rows of one user, key, address, file or share."""

    name: str
    label: str = ""  # of a key
    share: str  # of a file
    bytes: int
    accesses: int  # times that a file was read
    files: int  # distinct ones
    errors: int  # denied, refused or aborted
    last: float  # seconds since 1970


class History:
    """The database at `path`. Methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, wanted: Filter, limit: int, *, oldest_first: bool = False) -> list[Entry]:
        """At most `limit` rows; the newest, or those next to `after`."""
        where, values = wanted.condition
        order = "ASC" if wanted.after is not None else "DESC"
        query = f"SELECT id, line FROM events {where} ORDER BY id {order} LIMIT ?"  # noqa: S608
        with self._query(query, (*values, limit)) as rows:
            found = [Entry(*row) for row in rows]
        return found if oldest_first == (order == "ASC") else found[::-1]

    def lines(self, wanted: Filter) -> Iterator[Entry]:
        """All such rows, oldest first, without holding them all in memory."""
        where, values = wanted.condition
        with self._query(f"SELECT id, line FROM events {where} ORDER BY id", values) as rows:  # noqa: S608
            for row in rows:
                yield Entry(*row)

    def totals(self, wanted: Filter, by: GroupBy, limit: int) -> list[Total]:
        """Totals by user, key, address, file or share; those of most bytes first."""
        parts, values = parts_of_totals(wanted, by)
        with self._query(TOTALS.format(parts=f"({parts})"), (*values, limit)) as rows:
            return totals_of(rows)

    def newest(self) -> int:
        """The id of the last row; 0 where there is none."""
        with self._query("SELECT ifnull(max(id), 0) FROM events", ()) as rows:
            return int(rows.fetchone()[0])

    def throughput(self, kind: Literal["share", "user"], since: int) -> dict[tuple[int, str], int]:
        """Bytes by minute since 1970 and name, from the minute `since` on."""
        query = "SELECT minute, name, bytes FROM throughput WHERE minute >= ? AND kind = ?"
        with self._query(query, (since, kind)) as rows:
            return {(row[0], row[1]): row[2] for row in rows}

    def day(self, now: float) -> dict[str, int]:
        """Of the last 24 hours: bytes sent, files read, and refusals of any kind."""
        since = now - 86_400
        sent = "SELECT total(bytes) FROM throughput WHERE kind = 'share' AND minute >= ?"
        count = "SELECT count(*) FROM events WHERE time >= ? AND"
        with self._query(
            f"SELECT ({sent}), ({count} event = 'file_closed'),"
            f" ({count} result IN ('denied', 'refused'))",
            (since // 60, since, since),
        ) as rows:
            found = rows.fetchone()
        return dict(zip(("bytes", "files", "refused"), map(int, found), strict=True))

    def names(self, column: Literal["owner", "share", "result", "event"]) -> list[str]:
        """The different words there, at most 200; found by jumping from each to the next."""
        query = f"""
            WITH RECURSIVE found(name) AS (
                SELECT min({column}) FROM events
                UNION ALL
                SELECT (SELECT min({column}) FROM events WHERE {column} > name)
                FROM found WHERE name IS NOT NULL
            )
            SELECT name FROM found WHERE name IS NOT NULL LIMIT 200
        """  # noqa: S608 - the column is one of four words
        with self._query(query, ()) as rows:
            return [row[0] for row in rows]

    @contextmanager
    def _query(self, query: str, values: tuple[Any, ...]) -> Iterator[sqlite3.Cursor]:
        with closing(connect(self.path)) as database:
            yield database.execute(query, values)


def connect(path: Path) -> sqlite3.Connection:
    """The database for reading. Raises sqlite3.OperationalError where there is none."""
    if not path.is_file():  # opening a fifo would wait for someone who writes to it
        raise sqlite3.OperationalError(f"{path} is not a file")
    if path.stat().st_size == 0:  # the gateway has created it, and not written to it yet
        empty = sqlite3.connect(":memory:")
        empty.executescript(SCHEMA)
        add_functions(empty)
        return empty
    uri = path.absolute().as_uri() + "?mode=ro"
    if not path.with_name(f"{path.name}-wal").exists():
        # Nobody has it open to write, and who reads need not be able to make the files of WAL.
        uri += "&immutable=1"
    database = sqlite3.connect(uri, uri=True, timeout=2.0)
    steps = 0

    def enough() -> int:
        nonlocal steps
        steps += _STEPS
        return steps > _MAX_STEPS

    database.set_progress_handler(enough, _STEPS)
    add_functions(database)
    return database


def add_functions(database: sqlite3.Connection) -> None:
    """What conditions call: SQLite's own lower() knows the letters of ASCII only."""
    database.create_function("casefold", 1, str.casefold, deterministic=True)


#: Totals by name and label, of `parts` that have one row for each path among these.
TOTALS: Final = """
    SELECT name, label, max(share), sum(sent), sum(accesses),
        count(CASE WHEN accesses THEN 1 END), sum(errors), max(last)
    FROM {parts} WHERE name IS NOT NULL
    GROUP BY name, label ORDER BY sum(sent) DESC, sum(accesses) DESC, name, label LIMIT ?
"""


def parts_of_totals(wanted: Filter, by: GroupBy) -> tuple[str, tuple[Any, ...]]:
    """The query for the rows that TOTALS adds up, and its values."""
    where, values = wanted.condition
    share = "ifnull(max(share), '')" if by == "file" else "''"
    label = f"ifnull({_FIELD.format('key_label')}, '')" if by == "key" else "''"
    query = f"""
        SELECT {_GROUPS[by]} AS name, {label} AS label, ifnull(path, '') AS path, {share} AS share,
            total(CASE WHEN event = 'file_closed' THEN bytes END) AS sent,
            sum(event = 'file_closed') AS accesses,
            count(CASE WHEN result IN ({_ERRORS}) THEN 1 END) AS errors,
            max(time) AS last
        FROM events {where} GROUP BY 1, 2, 3
    """  # noqa: S608 - fixed words
    return query, values


def totals_of(rows: Iterable[tuple[Any, ...]]) -> list[Total]:
    """What TOTALS returned."""
    return [
        Total(
            name=row[0],
            label=row[1],
            share=row[2],
            bytes=int(row[3]),
            accesses=row[4],
            files=row[5],
            errors=row[6],
            last=row[7],
        )
        for row in rows
    ]
