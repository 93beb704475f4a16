"""The status page: what each section shows, without its HTML (templates/status.html)."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.line import MALFORMED, RESULTS, LogLine
from sftp_gateway.observability.gateway_state import HEARTBEAT_TIMEOUT, GatewayState, health
from sftp_gateway.observability.history.queries import Entry, Filter, History
from sftp_gateway.observability.history.session_registry import Live, SessionRegistry
from sftp_gateway.observability.web import chart
from sftp_gateway.observability.web.query import Query
from sftp_gateway.observability.web.rendering import dotted, render

#: Rows of each table.
SESSIONS: Final = 50
ACCESSES: Final = 20
FILES: Final = 8
REFUSED: Final = 6

#: The refused logins among which similar ones are counted.
REFUSED_EXAMINED: Final = 500

#: What refused logins have in common that are shown as one row.
_SIMILAR: Final = ("user_tried", "client_ip", "reason", "method", "key")

#: How accesses are called, where it is not by their event.
_VERBS: Final[Mapping[str, str]] = {
    "file_closed": "read",
    "folder_listed": "listed",
    "worker_exited": "worker process ended",
    "login_accepted": "logged in",
    "negotiation_failed": "no common algorithm",
    "command_answered": "command",
    "credentials_removed": "credentials removed",
}

_NO_HISTORY: Final = "The history is off (history.enabled); this page shows the present only."
_TEMPORARY: Final = (
    "The history is in a temporary folder, because history.file cannot be written. It may be lost "
    "when the gateway stops."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the page gets its data; `history` is None if none is kept."""

    state: Callable[[], GatewayState | None]
    registry: SessionRegistry
    history: History | None
    version: str
    temporary: bool = False  # the history is in a temporary folder
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time

    def live(self) -> Live:
        """The sessions of the workers that exist."""
        state = self.state()
        return self.registry.live([worker.pid for worker in state.workers] if state else [])

    def as_json(self) -> dict[str, object]:
        """The present, for programs."""
        state, live = self.state(), self.live()
        return {
            "time": self.now(),
            "version": self.version,
            "sessions": [asdict(session) for session in live.sessions],
            "total_sessions": live.total,
            "bytes_per_second": live.rate,
            "configuration": str(state.reload) if state else "not known",
            "served": state.served if state else {},
            "bans": [asdict(ban) for ban in state.bans] if state else [],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRow:
    """A line of the log as a row; `count` lines like it are one row."""

    line: LogLine
    by: str  # key and address
    verb: str
    duration: float | None
    count: int = 1

    @classmethod
    def of(cls, line: LogLine, count: int = 1) -> AccessRow:
        """Raises one of MALFORMED if the gateway did not write the line."""
        verb = _VERBS.get(line.event, formatting.words(line.event))
        if line.event == "denied":
            verb = f"{line.text('operation')} denied"
        if line.is_error and line.outcome:
            verb = f"{verb}: {formatting.words(line.outcome)}"
        duration = line.fields.get("duration")
        return cls(
            line=line,
            by=dotted((line.text("key_label"), line.text("client_ip"))),
            verb=verb,
            duration=None if duration is None else float(duration),
            count=count,
        )


def status_page(sources: Sources, query: Query) -> bytes:
    """The page as HTML."""
    state, live, now = sources.state(), sources.live(), sources.now()
    kind, text, details = _summary(state, sources.monotonic())
    past, notice = _past(sources, query, now)
    sent = past["sent"] if past else {}
    return render(
        "status.html",
        now=now,
        zone=formatting.zone(),
        version=sources.version,
        query=query,
        hours=f"last {query.hours} h" if query.hours > 1 else "last hour",
        state={"kind": kind, "text": text},
        reload=state.reload if state else None,
        figures=_figures(state, live, past["day"] if past else None),
        notice=notice,
        choices=_choices(query),
        sessions=live.sessions[:SESSIONS],
        total_sessions=live.total,
        bans=state.bans if state else (),
        banned=state.banned if state else 0,
        shares=[
            {"name": name, "state": share, "sent": sent.get(name, 0)}
            for name, share in details.items()
        ],
        workers=_workers(state, live, sources.monotonic()),
        past=past,
    )


def _summary(state: GatewayState | None, now: float) -> tuple[str, str, Mapping[str, str]]:
    """The state as a class of the style sheet and as text, and that of each share."""
    try:
        found = health(state, now)
    except TimeoutError:
        return (
            "ill",
            "Process not responding",
            dict.fromkeys(state.shares if state else (), "unknown"),
        )
    if not found.alive:
        return "ill", "No worker is serving", found.details
    if state is not None and state.stopping:
        return "odd", "Stopping", found.details
    if not found.ready:
        return "odd", "Serving; some shares are unavailable", found.details
    if state is not None and state.reload.errors:
        return "odd", "Serving with the previous configuration", found.details
    return "good", "Serving", found.details


def _figures(
    state: GatewayState | None, live: Live, day: Mapping[str, int] | None
) -> list[tuple[str, str]]:
    figures = [
        ("sessions", formatting.number(live.total)),
        ("throughput", formatting.rate(live.rate)),
    ]
    if day is not None:
        figures += [
            ("sent in 24 h", formatting.size(day["bytes"])),
            ("files read in 24 h", formatting.number(day["files"])),
            ("refused in 24 h", formatting.number(day["refused"])),
        ]
    return [*figures, ("banned sources", formatting.number(state.banned if state else 0))]


def _choices(query: Query) -> list[list[dict[str, object]]]:
    """Links to the chart of other periods, and by the other names."""
    hours = [(f"{each} h", query.hours == each, {"hours": each}) for each in chart.COLUMNS]
    by = [(f"by {each}", query.by == each, {"by": each}) for each in ("share", "user")]
    return [
        [
            {"name": name, "current": current, "address": query.address("sent", **changed)}
            for name, current, changed in group
        ]
        for group in (hours, by)
    ]


def _workers(state: GatewayState | None, live: Live, now: float) -> list[dict[str, object]]:
    def state_of(ready: bool, seen: float) -> str:
        if not ready:
            return "not ready"
        return "serving" if now - seen <= HEARTBEAT_TIMEOUT else "not responding"

    return [
        {
            "number": worker.number,
            "pid": worker.pid,
            "state": state_of(worker.ready, worker.seen),
            "sessions": live.by_worker.get(worker.pid, 0),
        }
        for worker in (state.workers if state else ())
    ]


def _past(sources: Sources, query: Query, now: float) -> tuple[dict[str, Any] | None, str]:
    """What comes from the history, None if there is none; and a notice about it."""
    if sources.history is None:
        return None, _NO_HISTORY
    try:
        return _read(sources.history, query, now), _TEMPORARY if sources.temporary else ""
    except sqlite3.Error as error:
        return None, f"The history cannot be read: {error}."


def _read(history: History, query: Query, now: float) -> dict[str, Any]:
    since = now - query.hours * 3600
    first = int(since // 60) - chart.COLUMNS[query.hours]
    by_share = history.throughput("share", first)
    by_name = by_share if query.by == "share" else history.throughput("user", first)
    sent: Counter[str] = Counter()
    for (_, name), count in by_share.items():
        sent[name] += count
    found = history.entries(query.filter, ACCESSES + 1)
    # The row that only shows that there are more is on the far side.
    extra = len(found) > ACCESSES
    shown = found if not extra else found[1:] if query.after is not None else found[:-1]
    refused = history.entries(Filter(event="login_refused"), REFUSED_EXAMINED)
    return {
        "chart": chart.draw(chart.series(by_name, hours=query.hours, now=now)),
        "accesses": _rows((line, 1) for line in _lines(shown)),
        "pages": _pages(shown, query, more=extra),
        "files": history.totals(Filter(event="file_closed", since=since), "file", FILES),
        "logins": _similar(_lines(refused))[:REFUSED],
        "day": history.day(now),
        "sent": sent,
        **_form(history, query),
    }


def _lines(entries: Sequence[Entry]) -> list[LogLine]:
    return [line for entry in entries if (line := LogLine.parse(entry.line))]


def _rows(counted: Iterable[tuple[LogLine, int]]) -> list[AccessRow]:
    """A row for each line, but for those that the gateway did not write."""
    rows = []
    for line, count in counted:
        with suppress(*MALFORMED):
            rows.append(AccessRow.of(line, count))
    return rows


def _similar(lines: Sequence[LogLine]) -> list[AccessRow]:
    """Similar lines as one row, in the order of the first of each."""
    times: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], LogLine] = {}
    for line in lines:
        similar = tuple(line.text(name) for name in _SIMILAR)
        first.setdefault(similar, line)
        times[similar] += 1
    return _rows((line, times[similar]) for similar, line in first.items())


def _pages(shown: Sequence[Entry], query: Query, *, more: bool) -> list[tuple[str, str]]:
    """Links to newer and older rows than those shown."""
    if not shown:
        return []
    links: list[tuple[str, dict[str, object]]] = []
    if query.before is not None or (query.after is not None and more):
        links += [
            ("Newest", {"before": None, "after": None}),
            ("Newer", {"before": None, "after": shown[0].id}),
        ]
    if query.after is not None or more:
        links.append(("Older", {"before": shown[-1].id, "after": None}))
    return [(name, query.address("accesses", **changed)) for name, changed in links]


def _form(history: History, query: Query) -> dict[str, Any]:
    """The choices of the filter, and the fields of the address that it keeps."""

    def choices(label: str, names: Iterable[str], chosen: str) -> list[tuple[str, str]]:
        known = dict.fromkeys(("", *names, chosen))
        return [(name, name or f"any {label}") for name in known]

    default = Query()
    return {
        "users": choices("user", filter(None, history.names("owner")), query.user),
        "shares": choices("share", history.names("share"), query.share),
        "results": choices("result", RESULTS, query.result),
        "hidden": [
            (name, getattr(query, name))
            for name in ("hours", "by")
            if getattr(query, name) != getattr(default, name)
        ],
        "clear_address": query.address(
            "accesses", user="", share="", key="", path="", result="", before=None, after=None
        ),
    }
