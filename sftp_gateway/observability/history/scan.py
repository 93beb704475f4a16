"""The same questions as to the history, to lines of an access log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from sftp_gateway.observability.history.queries import By, Filter, Sum
from sftp_gateway.observability.history.store import COLUMNS, Row, row_of


def rows(lines: Iterable[bytes], which: Filter) -> Iterator[Row]:
    """The lines that the filter has, as the history would keep them.

    What log shippers and `docker logs` put before a line is left out, and so is what is no line.
    """
    for line in lines:
        found = row_of(line[max(0, line.find(b"{")) :])
        if found is not None and _has(found[0], which):
            yield found[0]


def matching(lines: Iterable[bytes], which: Filter) -> Iterator[str]:
    """The same as they stand there, without their line feeds."""
    return (row[-1] for row in rows(lines, which))


def _has(row: Row, which: Filter) -> bool:
    values = dict(zip(COLUMNS, row, strict=True))
    words = ("user", "share", "result", "event", "client_ip")
    return (
        all(getattr(which, word) in ("", values[word]) for word in words)
        and (not which.path or which.path in (values["path"] or ""))
        and (which.since is None or values["time"] >= which.since)
        and (which.until is None or values["time"] < which.until)
    )


@dataclass(slots=True)
class _Total:
    share: str = ""
    bytes: int = 0
    accesses: int = 0
    errors: int = 0
    last: float = 0.0
    files: set[str] = field(default_factory=set)


def sums(found: Iterable[Row], by: By, limit: int) -> list[Sum]:
    """As History.sums."""
    totals: dict[str, _Total] = {}
    for row in found:
        values = dict(zip(COLUMNS, row, strict=True))
        name = values["path" if by == "file" else by]
        if name is None or (by == "file" and values["event"] == "folder_listed"):
            continue
        if by == "file":
            name = name[6:].partition("/")[2]  # without /home/USER/, as the history has it
        total = totals.setdefault(name, _Total())
        total.share = (values["share"] or "") if by == "file" else ""
        total.last = max(total.last, values["time"])
        total.errors += values["result"] in ("denied", "refused", "aborted")
        if values["event"] == "file_closed":
            total.accesses += 1
            total.bytes += values["bytes"] or 0
            total.files.add(values["path"])
    found_sums = [
        Sum(
            name=name,
            share=total.share,
            bytes=total.bytes,
            accesses=total.accesses,
            files=len(total.files),
            errors=total.errors,
            last=total.last,
        )
        for name, total in totals.items()
    ]
    return sorted(found_sums, key=lambda each: (-each.bytes, -each.accesses, each.name))[:limit]
