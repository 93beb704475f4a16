"""Asking the history: what happened, most recent first, and sums of it. Never writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from sftp_gateway.observability.access_log.json_lines import quoted

#: A field of a line that there is no column for; NULL too where SQLite cannot read what Python can.
_FIELD: Final = "CASE WHEN json_valid(line) THEN json_extract(line, '$.{}') END"

#: What sums are made of, as an expression; rows where it is NULL are left out.
By: TypeAlias = Literal["user", "key", "ip", "file", "share"]
_GROUPS: Final[Mapping[By, str]] = {
    "user": "user",
    # Who signed a certificate, because its own key is often good for an hour only.
    "key": f"coalesce({_FIELD.format('ca')}, {_FIELD.format('key')}, {_FIELD.format('auth')})",
    "ip": "client_ip",
    # A file of a share without the home folder, which is another for each user: /home/ana/models/x
    # is models/x. What is in none of the user's shares is no file of anybody.
    "file": """
        CASE WHEN event = 'folder_listed' THEN NULL
        WHEN share IS NOT NULL AND substr(path, 1, length(user) + 7) = '/home/' || user || '/'
        THEN substr(path, length(user) + 8) ELSE path END
    """,
    "share": "share",
}

#: Steps of SQLite's machine after which a question to it is given up: some seconds.
_MOST_STEPS: Final = 200_000_000
_STEPS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows; a field that is empty asks for nothing. Times in seconds since 1970.

    `user`, `share`, `result` and `event` are whole words, `path` a part of one, escaped as in the
    access log, in upper or lower case. `key` is the beginning of a fingerprint ("SHA256:..."), of a
    key or of the authority of a certificate, or a whole label (`key_label`). `accesses` leaves out
    what no client did, and ends of sessions, but not workers that were not told to end. `after` and
    `before` are the ids of rows that are seen already.
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
        """Of what a line has one, where it is of this key.

        No other field's text can be mistaken for it: a quote in a text has a backslash before it.
        """
        if not self.key:
            return ()
        if self.key.startswith("SHA256:"):
            return tuple(f',"{name}":{quoted(self.key)[:-1]}' for name in ("key", "ca"))
        return (f',"key_label":{quoted(self.key)}',)

    def has_path(self, path: str) -> bool:
        """Whether the path has the part that is asked for."""
        return self.path.casefold() in path.casefold()


@dataclass(frozen=True, slots=True)
class Entry:
    """A row: its id, and its line of the access log."""

    id: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What the rows of one user, key, address, file or share come to."""

    name: str
    label: str = ""  # of a key
    share: str  # of a file
    bytes: int
    accesses: int  # times that a file was read
    files: int  # different ones
    errors: int  # denied, refused or aborted
    last: float  # seconds since 1970


class History:
    """The database at `path`, read by whoever may. Methods raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self, which: Filter, limit: int, *, oldest_first: bool = False) -> list[Entry]:
        """At most `limit` rows; the newest, in this order or the other."""
        where, values = _condition(which)
        order = "ASC" if which.after is not None else "DESC"
        # A condition has fixed words only; what is asked for goes separately.
        query = f"SELECT id, line FROM events {where} ORDER BY id {order} LIMIT ?"  # noqa: S608
        with self._asked(query, (*values, limit)) as rows:
            found = [Entry(*row) for row in rows]
        return found if oldest_first == (order == "ASC") else found[::-1]

    def lines(self, which: Filter) -> Iterator[Entry]:
        """All such rows, oldest first, without holding them all."""
        where, values = _condition(which)
        with self._asked(f"SELECT id, line FROM events {where} ORDER BY id", values) as rows:  # noqa: S608
            for row in rows:
                yield Entry(*row)

    def sums(self, which: Filter, by: By, limit: int) -> list[Sum]:
        """Sums by user, key, address, file or share; those of most bytes first."""
        where, values = _condition(which)
        share = "max(share)" if by == "file" else "''"
        label = f"ifnull({_FIELD.format('key_label')}, '')" if by == "key" else "''"
        query = f"""
            SELECT name, label, ifnull({share}, ''), total(sent),
                sum(event = 'file_closed'),
                count(DISTINCT CASE WHEN event = 'file_closed' THEN path END),
                sum(result IN ('denied', 'refused', 'aborted')), max(time)
            FROM (SELECT *, {_GROUPS[by]} AS name, {label} AS label,
                  CASE WHEN event = 'file_closed' THEN bytes END AS sent
                  FROM events {where})
            WHERE name IS NOT NULL
            GROUP BY name, label ORDER BY total(sent) DESC, 5 DESC, 1, 2 LIMIT ?
        """  # noqa: S608
        with self._asked(query, (*values, limit)) as rows:
            return [
                Sum(
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

    def newest(self) -> int:
        """The id of the last row; 0 where there is none."""
        with self._asked("SELECT ifnull(max(id), 0) FROM events", ()) as rows:
            return int(rows.fetchone()[0])

    def throughput(self, kind: Literal["share", "user"], since: int) -> dict[tuple[int, str], int]:
        """Bytes by minute since 1970 and name, from the minute `since` on."""
        query = "SELECT minute, name, bytes FROM throughput WHERE minute >= ? AND kind = ?"
        with self._asked(query, (since, kind)) as rows:
            return {(row[0], row[1]): row[2] for row in rows}

    def day(self, now: float) -> dict[str, int]:
        """Of the last 24 hours: bytes sent, files read, and refusals of any kind."""
        since = now - 86_400
        sent = "SELECT total(bytes) FROM throughput WHERE kind = 'share' AND minute >= ?"
        count = "SELECT count(*) FROM events WHERE time >= ? AND"
        with self._asked(
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
        with self._asked(query, ()) as rows:
            return [row[0] for row in rows]

    @contextmanager
    def _asked(self, query: str, values: tuple[Any, ...]) -> Iterator[sqlite3.Cursor]:
        with closing(connect(self.path)) as database:
            yield database.execute(query, values)


def connect(path: Path) -> sqlite3.Connection:
    """The database for reading. Raises sqlite3.OperationalError where there is none."""
    if not path.is_file():  # opening a fifo would wait for someone who writes to it
        raise sqlite3.OperationalError(f"{path} is not a file")
    uri = path.absolute().as_uri() + "?mode=ro"
    if not path.with_name(f"{path.name}-wal").exists():
        # Nobody has it open to write, and who reads need not be able to make the files of WAL.
        uri += "&immutable=1"
    database = sqlite3.connect(uri, uri=True, timeout=2.0)
    steps = 0

    def enough() -> int:
        nonlocal steps
        steps += _STEPS
        return steps > _MOST_STEPS

    database.set_progress_handler(enough, _STEPS)
    # SQLite's own lower() knows the letters of ASCII only.
    database.create_function("casefold", 1, str.casefold, deterministic=True)
    return database


def _condition(which: Filter) -> tuple[str, tuple[Any, ...]]:
    conditions, values = [], []
    for column in ("user", "share", "result", "event", "client_ip"):
        if wanted := getattr(which, column):
            conditions.append(f"{column} = ?")
            values.append(wanted)
    if which.path:
        conditions.append("path IS NOT NULL AND instr(casefold(path), ?) > 0")
        values.append(which.path.casefold())
    if which.key_members:
        conditions.append(f"({' OR '.join('instr(line, ?) > 0' for _ in which.key_members)})")
        values.extend(which.key_members)
    if which.accesses:
        conditions.append(
            "(session IS NOT NULL AND event != 'session_end' OR event = 'worker_exited'"
            " AND instr(line, ',\"expected\":false') > 0)"
        )
    for comparison, value in (
        ("time >= ?", which.since),
        ("time < ?", which.until),
        ("id < ?", which.before),
        ("id > ?", which.after),
    ):
        if value is not None:
            conditions.append(comparison)
            values.append(value)
    return (f"WHERE {' AND '.join(conditions)}" if conditions else ""), tuple(values)
