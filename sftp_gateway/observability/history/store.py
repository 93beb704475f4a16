"""The database: its tables, and writing to it. SQLite in WAL mode, so that readers never wait.

| table        | a row is                                                                  |
|--------------|---------------------------------------------------------------------------|
| `events`     | a line of the access log, and the fields of it that are looked for        |
| `throughput` | the bytes of a share's files, or of a user's, that were sent in a minute  |

It is bounded by age and by size, whichever comes first. When it is full, minor events
(rate_limit.py) go first while they fill more than their part: the oldest of the user who has the
most of them. Then the user who has the most of all loses the oldest minor events, then the oldest
others. A user who has no more than an equal part loses nothing to another. Clients that have not
logged in are one user here.

Paths have no index: they are looked for by a part of them, which none would help.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from sftp_gateway.observability.access_log import rate_limit
from sftp_gateway.observability.access_log.line import LogLine

#: The version of the tables (PRAGMA user_version). A file of another is moved aside.
VERSION: Final = 2

#: Seconds that bytes by the minute are kept: what the longest chart shows, and a day to look back.
THROUGHPUT_AGE: Final = 2 * 86_400

#: The least size that it can be bounded to: below, tables and indexes are most of it.
MIN_SIZE: Final = 1 << 20

#: Rows that are taken out at once, so that no transaction is long.
_CHUNK: Final = 250

#: Of the bound, this part may be filled before rows go; the rest is for the next batch.
_FULL: Final = 0.95

#: Of the bound, the lines of minor events may have this part before they are the first to go.
_MINOR: Final = 0.125

#: Bytes that the write-ahead log is cut back to after a checkpoint.
_WAL_SIZE: Final = 4 << 20

SCHEMA: Final = """
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    event TEXT NOT NULL,
    session TEXT,
    client_ip TEXT,
    user TEXT,
    share TEXT,
    path TEXT,
    result TEXT,
    bytes INTEGER,
    owner TEXT NOT NULL,
    minor INTEGER NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX events_by_time ON events (time);
CREATE INDEX events_by_event ON events (event);
CREATE INDEX events_by_user ON events (user);
CREATE INDEX events_by_share ON events (share);
CREATE INDEX events_by_result ON events (result);
CREATE INDEX events_by_owner ON events (owner, minor);
CREATE TABLE throughput (
    minute INTEGER NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (minute, kind, name)
) WITHOUT ROWID;
"""

INSERT: Final = "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

#: Places in a row of what the writer needs.
OWNER, MINOR, LINE = -3, -2, -1

_ADD: Final = """
INSERT INTO throughput VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes
"""

#: (minute since 1970, "share" or "user", its name) -> bytes.
Throughput: TypeAlias = Mapping[tuple[int, str, str], int]

Row: TypeAlias = tuple[Any, ...]


class BrokenError(sqlite3.DatabaseError):
    """The file cannot be used as it is."""


class Store:
    """The database, open for writing; for one thread.

    All methods raise sqlite3.Error, the constructor OSError too.
    """

    def __init__(self, path: Path, *, max_age: float, max_size: int) -> None:
        """`max_age` in seconds, `max_size` in bytes."""
        self.path = path
        self._max_age = max_age
        self._max_size = max(MIN_SIZE, max_size)
        if not path.exists() or path.stat().st_size == 0:
            _make(path)
        self._file = path.stat()
        if not stat.S_ISREG(self._file.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        self._database = sqlite3.connect(path, timeout=0.5, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run(f"PRAGMA journal_size_limit = {_WAL_SIZE}")
        run("PRAGMA temp_store = MEMORY")
        (version,) = run("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise BrokenError(f"its tables are of version {version}, not {VERSION}")
        (found,) = run("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise BrokenError(str(found))
        self._page_size = int(run("PRAGMA page_size").fetchone()[0])
        #: The length of all lines by owner, and whether they are minor.
        self._sizes: Counter[tuple[str, int]] = Counter()
        for owner, minor, size in run(
            "SELECT owner, minor, sum(length(line)) FROM events GROUP BY owner, minor"
        ):
            self._sizes[owner, minor] = size

    def add(self, rows: Iterable[Row], throughput: Throughput) -> None:
        """Add rows, all or none, and make room where there is none left.

        Raises FileNotFoundError where the file was taken away or another is in its place: nobody
        would see what is written.
        """
        self._check_file()
        rows = list(rows)
        with self._transaction():
            self._database.executemany(INSERT, rows)
            self._database.executemany(_ADD, ((*key, sent) for key, sent in throughput.items()))
        for row in rows:
            self._sizes[row[OWNER], row[MINOR]] += len(row[LINE])
        self._shrink()

    def delete_older(self, now: float) -> None:
        """Take out what is too old; to be called now and then. Raises as `add` does."""
        self._check_file()
        while self._delete("WHERE time < ?", now - self._max_age):
            pass
        oldest = int((now - min(self._max_age, THROUGHPUT_AGE)) // 60)
        self._database.execute("DELETE FROM throughput WHERE minute < ?", (oldest,))
        self._shrink()

    def _check_file(self) -> None:
        if not os.path.samestat(self.path.stat(), self._file):
            raise FileNotFoundError(errno.ENOENT, "another file is in its place", str(self.path))

    @property
    def size(self) -> int:
        """Bytes of the file, without its write-ahead log."""
        (pages,) = self._database.execute("PRAGMA page_count").fetchone()
        return int(pages) * self._page_size

    def close(self) -> None:
        """Write everything into the one file, and close it."""
        self._database.close()

    def _shrink(self) -> None:
        """Take rows out while there is too much; give back what the file has too much."""
        while self._sizes and self._used > _FULL * self._max_size:
            loser = self._loser()
            if not self._delete("WHERE owner = ? AND minor = ? ORDER BY id", *loser):
                del self._sizes[loser]
        if self.size > self._max_size:
            # `execute` would take one step of it, which is one page.
            self._database.executescript("PRAGMA incremental_vacuum")

    @property
    def _used(self) -> int:
        (free,) = self._database.execute("PRAGMA freelist_count").fetchone()
        return self.size - int(free) * self._page_size

    def _loser(self) -> tuple[str, int]:
        """Whose rows make room, and whether the minor ones."""
        minor = {owner: size for (owner, minor), size in self._sizes.items() if minor}
        if sum(minor.values()) > _MINOR * self._max_size:
            return max(minor, key=minor.__getitem__), 1
        sizes: Counter[str] = Counter()
        for (owner, _), size in self._sizes.items():
            sizes[owner] += size
        owner = max(sizes, key=sizes.__getitem__)
        return owner, int(owner in minor)

    def _delete(self, which: str, *values: object) -> int:
        """Take out some of these rows; how many."""
        # The condition is one of this class's own.
        statement = (
            f"DELETE FROM events WHERE id IN (SELECT id FROM events {which} LIMIT {_CHUNK})"  # noqa: S608
            " RETURNING owner, minor, length(line)"
        )
        gone = self._database.execute(statement, values).fetchall()
        for owner, minor, size in gone:
            self._sizes[owner, minor] -= size
            if not self._sizes[owner, minor]:
                del self._sizes[owner, minor]
        return len(gone)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, which sqlite3 with isolation_level None leaves to us."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk may have ended it
                self._database.execute("ROLLBACK")
            raise


def _make(path: Path) -> None:
    """Make the database, under another name at first: nobody sees it without its tables."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    # Before SQLite does it: who read what is nobody's business. Its other files copy the mode.
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640))
    with closing(sqlite3.connect(new, isolation_level=None)) as database:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
    # What a database left that was deleted without them would be taken for this one's.
    for rest in ("-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)
    new.rename(path)


def row_of(line: bytes) -> tuple[Row, LogLine] | None:
    """The row of a line of the access log, and the line read; None if it is not such a line."""
    parsed = LogLine.parse(line)
    if parsed is None:
        return None
    row = (
        parsed.time,
        parsed.event,
        parsed.text("session") or None,
        parsed.text("client_ip") or parsed.text("source") or None,
        parsed.user or None,
        parsed.text("share") or None,
        parsed.text("path") or None,
        parsed.result or None,
        parsed.bytes,
        parsed.text("user"),
        int(parsed.event in rate_limit.MINOR_EVENT_NAMES),
        line.decode("utf-8", "replace").rstrip("\n"),
    )
    return row, parsed
