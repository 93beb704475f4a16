"""The same questions as to the history, to lines of an access log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sftp_gateway.observability.history.queries import By, Filter, Sum
from sftp_gateway.observability.history.store import COLUMNS, row_of

#: A line's fields, with those that the history has columns for as it keeps them.
Fields: TypeAlias = Mapping[str, Any]


class Unclosed:
    """Files that have no `file_closed`, because the worker that served them was killed."""

    def __init__(self) -> None:
        self.count = 0
        self._workers: dict[str, object] = {}  # by session: the pid
        self._open: dict[str, Counter[object]] = {}  # by session: paths

    def note(self, values: Fields, *, wanted: bool) -> None:
        """Take up the next line; files whose `file_opened` is not `wanted` do not count."""
        event, session = values["event"], values["session"] or ""
        if event == "connection":
            self._workers[session] = values.get("pid")
        elif event == "file_opened" and wanted:
            self._open.setdefault(session, Counter())[values["path"]] += 1
        elif event == "file_closed" and session in self._open:
            self._open[session] -= Counter([values["path"]])
        elif event == "session_end":
            self._workers.pop(session, None)
            self._open.pop(session, None)
        elif event == "worker_exited":
            for ended in [each for each, pid in self._workers.items() if pid == values.get("pid")]:
                del self._workers[ended]
                self.count += self._open.pop(ended, Counter()).total()


def rows(
    lines: Iterable[bytes], which: Filter, unclosed: Unclosed | None = None
) -> Iterator[Fields]:
    """The lines that the filter has; `unclosed` is told of them and of all others.

    What log shippers and `docker logs` put before a line is left out, and so is what is no line.
    """
    for line in lines:
        found = row_of(line[max(0, line.find(b"{")) :])
        if found is not None:
            values = {**found[1], **dict(zip(COLUMNS, found[0], strict=True))}
            wanted = _has(values, which)
            if unclosed is not None:
                unclosed.note(values, wanted=wanted)
            if wanted:
                yield values


def _has(values: Fields, which: Filter) -> bool:
    words = ("user", "share", "result", "event", "client_ip")
    members = which.key_members
    return (
        all(getattr(which, word) in ("", values[word]) for word in words)
        and (not which.path or which.has_path(values["path"] or ""))
        and (not members or any(member in values["line"] for member in members))
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


def sums(found: Iterable[Fields], by: By, limit: int) -> list[Sum]:
    """As History.sums."""
    totals: dict[tuple[str, str], _Total] = {}
    for values in found:
        name = _name(values, by)
        if name is None:
            continue
        label = str(values.get("key_label", "")) if by == "key" else ""
        total = totals.setdefault((name, label), _Total())
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
            label=label,
            share=total.share,
            bytes=total.bytes,
            accesses=total.accesses,
            files=len(total.files),
            errors=total.errors,
            last=total.last,
        )
        for (name, label), total in totals.items()
    ]
    order = sorted(
        found_sums, key=lambda each: (-each.bytes, -each.accesses, each.name, each.label)
    )
    return order[:limit]


def _name(values: Fields, by: By) -> str | None:
    """What a line is summed up under, as `_GROUPS` of queries.py."""
    name: str | None
    if by == "key":
        name = next((str(values[each]) for each in ("ca", "key", "auth") if each in values), None)
    elif by != "file":
        name = values["client_ip" if by == "ip" else by]
    elif values["event"] == "folder_listed":
        name = None
    else:
        name = values["path"]
        if name is not None and values["share"] is not None:
            name = name.removeprefix(f"/home/{values['user']}/")
    return name
