"""When each key was last used, from lines of access logs."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

#: What a line has that is worth reading.
_MARK = b'"event":"login_accepted"'


def last_used(lines: Iterable[bytes]) -> dict[tuple[str, str], str]:
    """The time of the last login by user and fingerprint, as the log has it.

    Lines that are no JSON, such as one that a full disk has cut, are passed over.
    """
    found: dict[tuple[str, str], str] = {}
    for line in lines:
        if _MARK not in line:
            continue
        # `docker logs` and log shippers may put something before the line.
        try:
            event = json.loads(line[line.index(b"{") :])
            login, time = (event["user"], event["key"]), event["time"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(time, str):
            found[login] = max(time, found.get(login, ""))
    return found


def with_rotated_files(log: Path) -> list[Path]:
    """The log, and what logrotate has made of it: `access.log-20260101.gz`, `access.log.1`."""
    rotated = log.parent.glob(f"{log.name}[-.]*")
    return [path for path in (log, *sorted(rotated)) if path.is_file()]


def read_lines(paths: Iterable[Path], *, report: Callable[[str], None]) -> Iterator[bytes]:
    """The lines of these files, which may be compressed. Raises OSError.

    Of one that is cut off or damaged, the lines before that; `report` is given a warning.
    """
    for path in paths:
        if path.suffix == ".gz":
            try:
                with gzip.open(path, "rb") as compressed:
                    yield from compressed
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                report(f"warning: {path}: is not whole, and was read up to there: {error}")
        else:
            with path.open("rb") as plain:
                yield from plain
