"""The status page as a whole: its sections, and what is around them."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftp_gateway.observability import formatting
from sftp_gateway.observability.gateway_state import HEARTBEAT_TIMEOUT, GatewayState, health
from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.observability.history.session_registry import Live, SessionRegistry
from sftp_gateway.observability.web import chart, tables
from sftp_gateway.observability.web.markup import Html, fill, join
from sftp_gateway.observability.web.query import RESULTS, Query

#: Rows of each table.
SESSIONS: Final = 50
ACCESSES: Final = 20
FILES: Final = 8
REFUSED: Final = 6

#: The last refused logins, among which those that are alike are looked for.
REFUSED_LOOKED_AT: Final = 500

_FRAME: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="status.svg" type="image/svg+xml">
<link rel="stylesheet" href="status.css">
{script}
</head>
<body>
{body}
</body>
</html>
"""

_BODY: Final = """<a class="skip" href="#main">Skip to content</a>
<header>
<h1>sftp-gateway</h1>
<p class="state {kind}" data-live="state">{state}</p>
<p class="about"><span data-live="about">{about}</span>
<button type="button" id="pause" hidden aria-pressed="false">Pause</button></p>
</header>
<main id="main">
<div data-live="refused" role="status">{refused}</div>
<dl class="figures" data-live="figures">{figures}</dl>
{notice}
<section aria-labelledby="sent"><div class="head"><h2 id="sent">Throughput</h2>
<nav aria-label="Chart">{choices}</nav></div><div data-live="sent">{chart}</div></section>
<section aria-labelledby="sessions"><h2 id="sessions">Live sessions</h2>
<div data-live="sessions">{sessions}</div></section>
<div class="pair"><div>
<section aria-labelledby="accesses"><h2 id="accesses">Recent accesses</h2>
{form}<div data-live="accesses">{accesses}</div></section>
<section aria-labelledby="logins"><h2 id="logins">Refused logins</h2>
<div data-live="logins">{logins}</div></section>
</div><div>
<section aria-labelledby="bans"><h2 id="bans">Bans</h2>
<div data-live="bans">{bans}</div></section>
<section aria-labelledby="files"><h2 id="files">Top files <small>{hours}</small></h2>
<div data-live="files">{files}</div></section>
<section aria-labelledby="shares"><h2 id="shares">Shares <small>{hours}</small></h2>
<div data-live="shares">{shares}</div></section>
<section aria-labelledby="workers"><h2 id="workers">Processes</h2>
<div data-live="workers">{workers}</div></section>
</div></div>
</main>
<footer><p>{version} · times are {zone} · <a href="metrics">metrics</a> ·
<a href="healthz">healthz</a> · <a href="readyz">readyz</a> ·
<a href="status.json">JSON</a></p></footer>"""

_NO_HISTORY: Final = (
    "The history is switched off (history.enabled), so this page shows the present only."
)
_UNKNOWN: Final = Html('<p class="empty">Not known.</p>')
_REFUSED: Final = (
    "The configuration is refused since {since}: {why}. The gateway serves by the one of {old}; it "
    "would not start with the new one."
)
_TROUBLE: Final = "The history cannot be read at the moment: {why}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the page is made of. `history` is None where none is kept."""

    state: Callable[[], GatewayState | None]
    registry: SessionRegistry
    history: History | None
    version: str
    temporary: bool = False  # the history is in a temporary folder
    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


def frame(title: str, body: Html, *, script: bool = False) -> bytes:
    """A document of it."""
    tag = '<script src="status.js" defer></script>' if script else ""
    return fill(_FRAME, title=title, body=body, script=Html(tag)).encode()


def render(sources: Sources, query: Query) -> bytes:
    """The page."""
    now = sources.now()
    state = sources.state()
    live = sources.registry.live([each.pid for each in state.workers] if state else [])
    kind, summary, details = _summary(state, sources.monotonic())
    past = _past(sources, query, now)
    body = fill(
        _BODY,
        kind=kind,
        state=summary,
        about=f"as of {formatting.clock(now, now)}",
        refused=_refused(state, now),
        figures=_figures(state, live, past["day"]),
        notice=past["notice"],
        choices=_choices(query),
        sessions=tables.sessions(live, now, SESSIONS),
        hours=f"last {query.hours} h" if query.hours > 1 else "last hour",
        bans=tables.bans(state.bans if state else (), state.banned if state else 0),
        shares=tables.shares(details, past["sent"]),
        workers=tables.workers(state, live, sources.monotonic(), HEARTBEAT_TIMEOUT),
        version=f"sftp-gateway {sources.version}",
        zone=formatting.zone(),
        **{name: past[name] for name in ("chart", "form", "accesses", "files", "logins")},
    )
    return frame(f"{summary} · sftp-gateway", body, script=True)


def _summary(state: GatewayState | None, now: float) -> tuple[str, str, Mapping[str, str]]:
    """How it is, as a kind and in words; and each share."""
    try:
        found = health(state, now)
    except TimeoutError:
        shares = state.shares if state else ()
        return "ill", "A process does not answer", dict.fromkeys(shares, "not known")
    if not found.alive:
        return "ill", "No worker serves", found.details
    if state is not None and state.stopping:
        return "odd", "Stopping", found.details
    if not found.ready:
        return "odd", "Serving, but not every share", found.details
    if state is not None and state.reload.mistakes:
        return "odd", "Serving, but by an old configuration", found.details
    return "good", "Serving", found.details


def _refused(state: GatewayState | None, now: float) -> Html:
    """A banner where the newest configuration was refused."""
    if state is None or not state.reload.mistakes:
        return Html("")
    return _notice(
        _REFUSED.format(
            since=formatting.clock(state.reload.since, now),
            old=formatting.clock(state.reload.succeeded, now),
            why=state.reload.mistakes,
        )
    )


def _figures(state: GatewayState | None, live: Live, day: Mapping[str, int] | None) -> Html:
    figures = [
        ("sessions", formatting.number(live.total)),
        ("sent now", formatting.rate(live.rate)),
    ]
    if day is not None:
        figures += [
            ("sent in 24 h", formatting.size(day["bytes"])),
            ("files read in 24 h", formatting.number(day["files"])),
            ("refused in 24 h", formatting.number(day["refused"])),
        ]
    figures.append(("banned now", formatting.number(state.banned if state else 0)))
    return join(
        fill("<div><dt>{name}</dt><dd>{value}</dd></div>", name=name, value=value)
        for name, value in figures
    )


def _choices(query: Query) -> Html:
    """Links to the chart of other hours, and by the other names."""
    hours = [(f"{each} h", query.hours == each, {"hours": each}) for each in chart.COLUMNS]
    by = [(f"by {each}", query.by == each, {"by": each}) for each in ("share", "user")]
    groups = (
        join(
            fill(
                '<a href="{address}"{current}>{name}</a>',
                address=query.address("sent", **changed),
                current=Html(' aria-current="true"') if chosen else Html(""),
                name=name,
            )
            for name, chosen, changed in group
        )
        for group in (hours, by)
    )
    return join(fill('<span class="choice">{links}</span>', links=links) for links in groups)


def _past(sources: Sources, query: Query, now: float) -> dict[str, Any]:
    """All that comes from the history; where it cannot be read, a sentence about it."""
    empty = dict.fromkeys(("chart", "accesses", "files", "logins"), _UNKNOWN)
    nothing: dict[str, Any] = {**empty, "form": Html(""), "day": None, "sent": {}}
    if sources.history is None:
        return {**nothing, "notice": _notice(_NO_HISTORY)}
    try:
        return _read(sources.history, sources, query, now)
    except sqlite3.Error as error:
        return {**nothing, "notice": _notice(_TROUBLE.format(why=error))}


def _read(history: History, sources: Sources, query: Query, now: float) -> dict[str, Any]:
    since = now - query.hours * 3600
    first = int(since // 60) - chart.COLUMNS[query.hours]
    by_share = history.throughput("share", first)
    by_name = by_share if query.by == "share" else history.throughput("user", first)
    sent: Counter[str] = Counter()
    for (_, name), count in by_share.items():
        sent[name] += count
    found = history.entries(query.filter, ACCESSES + 1)
    refused = Filter(event="login_refused")
    note = (
        "The history cannot be kept where history.file says; it may be lost when the gateway stops."
        if sources.temporary
        else ""
    )
    return {
        "notice": _notice(note) if note else Html(""),
        "chart": chart.draw(chart.series(by_name, hours=query.hours, now=now)),
        "form": _form(history, query),
        "accesses": join(
            [
                tables.accesses(_page_of(found, query), now),
                _pages(found, query),
            ]
        ),
        "files": tables.files(
            history.sums(Filter(event="file_closed", since=since), "file", FILES), now
        ),
        "logins": tables.refused_logins(history.entries(refused, REFUSED_LOOKED_AT), now, REFUSED),
        "day": history.day(now),
        "sent": sent,
    }


def _page_of(found: list[Any], query: Query) -> list[Any]:
    """Without the one that only tells that there are more, on the side that was asked for."""
    if len(found) <= ACCESSES:
        return found
    return found[1:] if query.after is not None else found[:-1]


def _pages(found: list[Any], query: Query) -> Html:
    """Links to what is newer and older than the rows that are shown."""
    shown = _page_of(found, query)
    if not shown:
        return Html("")
    more = len(found) > len(shown)
    links = []
    if query.before is not None or (query.after is not None and more):
        links.append(("Newer", {"before": None, "after": shown[0].id}))
        links.insert(0, ("Newest", {"before": None, "after": None}))
    if query.after is not None or more:
        links.append(("Older", {"before": shown[-1].id, "after": None}))
    items = join(
        fill('<a href="{to}">{name}</a>', to=query.address("accesses", **changed), name=name)
        for name, changed in links
    )
    return fill('<nav class="pages" aria-label="Pages of accesses">{items}</nav>', items=items)


def _form(history: History, query: Query) -> Html:
    users = {"": "any user", **{name: name for name in history.names("owner") if name}}
    shares = {"": "any share", **{name: name for name in history.names("share")}}
    kept = join(
        fill('<input type="hidden" name="{name}" value="{value}">', name=name, value=value)
        for name, value in (("hours", query.hours), ("by", query.by))
        if value != getattr(Query(), name)
    )
    clear = fill(
        '<a href="{to}">Clear</a>',
        to=query.address(
            "accesses", user="", share="", key="", path="", result="", before=None, after=None
        ),
    )
    return fill(
        '<form method="get" action="./#accesses" role="search" aria-label="Filter accesses">{kept}'
        '{user}{share}{result}<label><span class="hidden">Key</span><input type="search" '
        'name="key" value="{key}" placeholder="key" maxlength="500"></label>'
        '<label><span class="hidden">Path has</span><input type="search" '
        'name="path" value="{path}" placeholder="path has" maxlength="500"></label>'
        "<button>Filter</button>{clear}</form>",
        kept=kept,
        user=_select("user", "User", users, query.user),
        share=_select("share", "Share", shares, query.share),
        result=_select("result", "Result", RESULTS, query.result),
        key=query.key,
        path=query.path,
        clear=clear if query.filtered else Html(""),
    )


def _select(name: str, label: str, choices: Mapping[str, str], chosen: str) -> Html:
    known = choices if chosen in choices else {**choices, chosen: chosen}
    options = join(
        fill(
            '<option value="{value}"{selected}>{text}</option>',
            value=value,
            selected=Html(" selected") if value == chosen else Html(""),
            text=text,
        )
        for value, text in known.items()
    )
    return fill(
        '<label><span class="hidden">{label}</span>'
        '<select name="{name}">{options}</select></label>',
        label=label,
        name=name,
        options=options,
    )


def _notice(text: str) -> Html:
    return fill('<p class="notice" role="note">{text}</p>', text=text)
