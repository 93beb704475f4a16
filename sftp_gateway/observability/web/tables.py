"""The tables of the status page, each from what it shows to HTML."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from sftp_gateway.observability import formatting
from sftp_gateway.observability.gateway_state import Ban, GatewayState
from sftp_gateway.observability.history.queries import Entry, Sum
from sftp_gateway.observability.history.session_registry import Live, LiveSession, OpenFile
from sftp_gateway.observability.web.markup import Html, fill, join

_NOTHING: Final = Html("")

#: How each event of a recent access begins.
_VERBS: Final[Mapping[str, str]] = {
    "file_closed": "read",
    "folder_listed": "listed",
    "worker_exited": "worker process ended",
    "login_accepted": "logged in",
    "login_refused": "login refused",
    "negotiation_failed": "no common algorithm",
    "session_end": "left",
    "command_refused": "command refused",
    "command_answered": "command",
    "credentials_removed": "key taken away",
}

#: What refused logins have in common that are shown as one.
_ALIKE: Final = ("user_tried", "client_ip", "reason", "method", "key")

#: Results that are no mishap.
_FINE: Final = frozenset({"ok", ""})


def table(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[Html], empty: str) -> Html:
    """A table of (heading, class of its column); a sentence where it has no rows."""
    body = join(rows)
    if not body:
        return fill('<p class="empty">{text}</p>', text=empty)
    head = join(
        fill('<th scope="col" class="{kind}">{name}</th>', name=n, kind=k) for n, k in heads
    )
    return fill(
        '<table><caption class="hidden">{caption}</caption><thead><tr>{head}</tr></thead>'
        "<tbody>{body}</tbody></table>",
        caption=caption,
        head=head,
        body=body,
    )


def place(path: str, user: str = "") -> Html:
    """A path, without `user`'s home folder: its last name to be seen first, and where that is."""
    below = f"{path}/".removeprefix(f"/home/{user}/")
    folder, _, name = below.rstrip("/").rpartition("/")
    return fill(
        '<bdi class="name">{name}</bdi><bdi class="under">{folder}</bdi>',
        name=name or "/",
        folder=folder or "\N{NO-BREAK SPACE}",
    )


def client(version: str) -> str:
    """What a client calls itself, without what all say."""
    return version.removeprefix("SSH-2.0-").partition(" ")[0]


def when(moment: float, now: float) -> Html:
    """A time of day that machines can read too."""
    return fill(
        '<time datetime="{stamp}">{clock}</time>',
        stamp=formatting.stamp(moment),
        clock=formatting.clock(moment, now),
    )


# Sessions


def sessions(live: Live, now: float, limit: int) -> Html:
    """Who is logged in, the busiest first."""
    rows = [_session(each, now) for each in live.sessions[:limit]]
    heads = [("Who", "who"), ("Reading", "wide"), ("Rate", "number"), ("Sent", "number opt"),
             ("Since", "number opt")]  # fmt: skip
    shown = table("Sessions that are logged in", heads, rows, "Nobody is logged in.")
    more = live.total - len(rows)
    note = fill('<p class="note">and {more} more</p>', more=formatting.number(more))
    return join([shown, note if more > 0 and rows else _NOTHING])


def _session(each: LiveSession, now: float) -> Html:
    reading = join(_file(file, each.user) for file in each.files[:2])
    if each.open > 2 and each.files:
        reading = join([reading, fill('<span class="under">+ {n} open</span>', n=each.open - 2)])
    return fill(
        '<tr><td class="who"><bdi class="name">{user}</bdi><span class="under" title="{version}">'
        "{by} · {client}</span></td>"
        '<td class="wide">{reading}</td><td class="number">{rate}</td>'
        '<td class="number opt">{sent}</td><td class="number opt">{since}</td></tr>',
        user=each.user,
        by=_by(each.key_label, each.client_ip),
        version=each.client_version,
        client=client(each.client_version),
        reading=reading or Html('<span class="quiet">idle</span>'),
        rate=formatting.rate(each.rate) if each.rate >= 1 else "\N{EN DASH}",
        sent=formatting.size(each.sent),
        since=formatting.span(max(0.0, now - each.started)),
    )


def _by(label: object, address: object) -> str:
    """By which key, and from where: many log in as the same user."""
    return " · ".join(str(each) for each in (label, address) if each)


def _file(file: OpenFile, user: str) -> Html:
    part = min(1.0, file.served / file.size) if file.size else 1.0
    return fill(
        '<span class="file{moving}">{place}<svg class="progress" viewBox="0 0 100 4" '
        'preserveAspectRatio="none" role="img" aria-label="{percent} % of {size}">'
        '<rect class="all" width="100" height="4"/><rect class="done" width="{width}" height="4"/>'
        "</svg></span>",
        moving=" moving" if file.moving else "",
        place=place(file.path, user),
        percent=f"{part * 100:.0f}",
        size=formatting.size(file.size),
        width=f"{part * 100:.1f}",
    )


# Accesses


def accesses(entries: Sequence[Entry], now: float) -> Html:
    """What happened, one line of the log a row."""
    heads = [("Time", "time"), ("Who", "who"), ("What", "wide"), ("Sent", "number"),
             ("Took", "number opt")]  # fmt: skip
    rows = _rows(entries, lambda line: _access(line, now))
    return table("Accesses, the most recent first", heads, rows, "Nothing like this was logged.")


def _rows(entries: Iterable[Entry], row: Callable[[dict[str, Any]], Html]) -> list[Html]:
    """A row for each line, but for those that no process of ours has written."""
    rows = []
    for entry in entries:
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            rows.append(row(json.loads(entry.line)))
    return rows


def _access(line: Mapping[str, Any], now: float) -> Html:
    result = outcome(line)
    user = line.get("user") or line.get("user_tried") or ""
    path = line.get("path")
    what: Html = place(str(path), str(user)) if path else _NOTHING
    bad = result not in _FINE
    return fill(
        '<tr class="{kind}"><td class="time">{time}</td>'
        '<td class="who"><bdi class="name">{user}</bdi><span class="under">{by}</span></td>'
        '<td class="wide"><span class="verb">{verb}</span>{what}</td>'
        '<td class="number">{sent}</td><td class="number opt">{took}</td></tr>',
        kind="bad" if bad else "",
        time=when(moment(line), now),
        user=user or "\N{EN DASH}",
        by=_by(line.get("key_label"), line.get("client_ip")),
        verb=_verb(line, result, bad=bad),
        what=what,
        sent=formatting.size(line["bytes"]) if isinstance(line.get("bytes"), int) else "",
        took=formatting.duration(float(line["duration"])) if "duration" in line else "",
    )


def _verb(line: Mapping[str, Any], result: str, *, bad: bool) -> str:
    event = str(line["event"])
    verb = _VERBS.get(event, formatting.reason(event))
    if event == "denied":
        verb = f"{line.get('operation', '')} denied"
    return f"{verb}: {formatting.reason(result)}" if bad else verb


def outcome(line: Mapping[str, Any]) -> str:
    """How it went, as a word: the result, or why not."""
    event = line.get("event")
    if event in ("denied", "login_refused"):
        return str(line.get("reason", ""))
    if event == "worker_exited":
        how = line.get("signal") or f"status {line.get('status')}"
        return f"{how}, broken connections: {line.get('connections')}"
    if event == "negotiation_failed":
        return str(line.get("algorithm", ""))
    if event == "command_refused":
        return str(line.get("kind", ""))
    if event in ("session_end", "credentials_removed"):
        reason = str(line.get("reason", ""))
        return "" if reason == "closed" else reason
    return str(line.get("result", ""))


def moment(line: Mapping[str, Any]) -> float:
    """A line's time, in seconds since 1970."""
    return datetime.fromisoformat(line["time"]).timestamp()


def files(sums: Sequence[Sum], now: float) -> Html:
    """The files of most bytes."""
    most = max((each.bytes for each in sums), default=0)
    rows = [
        fill(
            '<tr><td class="wide">{place}<svg class="progress" viewBox="0 0 100 4" '
            'preserveAspectRatio="none" aria-hidden="true"><rect class="done" width="{width}" '
            'height="4"/></svg></td><td class="number">{count}</td>'
            '<td class="number">{sent}</td><td class="number opt">{last}</td></tr>',
            place=place(each.name),
            width=f"{each.bytes / most * 100 if most else 0:.1f}",
            count=formatting.number(each.accesses),
            sent=formatting.size(each.bytes),
            last=when(each.last, now),
        )
        for each in sums
    ]
    heads = [("File", "wide"), ("Reads", "number"), ("Sent", "number"), ("Last", "number opt")]
    return table("The files of most bytes", heads, rows, "No file was read in this time.")


# Refusals


def refused_logins(entries: Sequence[Entry], now: float, limit: int) -> Html:
    """The last logins that were refused; those that are alike are one row, with their number."""
    last: dict[tuple[str, ...], Mapping[str, Any]] = {}
    times: Counter[tuple[str, ...]] = Counter()

    def gather(line: dict[str, Any]) -> Html:
        alike = tuple(str(line.get(name, "")) for name in _ALIKE)
        moment(line)  # a line without a time is none
        last.setdefault(alike, line)
        times[alike] += 1
        return _NOTHING

    _rows(entries, gather)
    rows = [
        fill(
            '<tr><td class="time">{time}</td><td class="who"><bdi class="name">{user}</bdi>'
            '<span class="under">{by}</span></td><td>{reason}'
            '<span class="under key">{method}</span></td></tr>',
            time=when(moment(line), now),
            user=line.get("user_tried", ""),
            by=_by(line.get("key_label"), line.get("client_ip")),
            reason=formatting.reason(str(line.get("reason", "")))
            + (f", {formatting.number(times[alike])} times" if times[alike] > 1 else ""),
            method=line.get("key") or line.get("method", ""),
        )
        for alike, line in list(last.items())[:limit]
    ]
    heads = [("Time", "time"), ("Who", "who"), ("Why", "")]
    return table("Logins that were refused, the last first", heads, rows, "No login was refused.")


def bans(banned: Sequence[Ban], total: int) -> Html:
    """The sources that are refused or throttled now."""
    rows = [
        fill(
            '<tr><td class="who"><bdi class="name">{source}</bdi>'
            '<span class="under">{reason}</span></td><td>{effect}</td>'
            '<td class="number">{left}</td></tr>',
            source=each.source,
            reason=formatting.reason(each.reason)
            + (f", {each.times} times" if each.times > 1 else ""),
            effect=each.effect,
            left=formatting.span(each.seconds),
        )
        for each in banned
    ]
    heads = [("Source", "who"), ("Now", ""), ("For", "number")]
    shown = table("Sources that are banned", heads, rows, "No source is banned.")
    more = total - len(rows)
    note = fill('<p class="note">and {more} more</p>', more=formatting.number(more))
    return join([shown, note if more > 0 and rows else _NOTHING])


# Health


def shares(details: Mapping[str, str], sent: Mapping[str, int]) -> Html:
    """Each share, whether it can be read, and what was read of it."""
    rows = [
        fill(
            '<tr><td class="wide"><bdi class="name">{name}</bdi></td>'
            '<td><span class="state {kind}">{state}</span></td>'
            '<td class="number">{sent}</td></tr>',
            name=name,
            kind="good" if state == "ok" else "ill",
            state="readable" if state == "ok" else state,
            sent=formatting.size(sent.get(name, 0)),
        )
        for name, state in details.items()
    ]
    heads = [("Share", "wide"), ("State", ""), ("Sent", "number")]
    return table("Shares", heads, rows, "Nothing is known of the shares yet.")


def workers(state: GatewayState | None, live: Live, now: float, patience: float) -> Html:
    """Each worker process; `now` by the clock that never goes back."""
    rows = []
    for each in state.workers if state else ():
        stuck = each.ready and now - each.seen > patience
        status = "stuck" if stuck else "serves" if each.ready else "not ready"
        rows.append(
            fill(
                '<tr><td>{number}<span class="under">pid {pid}</span></td>'
                '<td><span class="state {kind}">{state}</span></td>'
                '<td class="number">{sessions}</td></tr>',
                number=f"worker {each.number}",
                pid=each.pid,
                kind="good" if status == "serves" else "ill",
                state=status,
                sessions=formatting.number(live.by_worker.get(each.pid, 0)),
            )
        )
    heads = [("Process", ""), ("State", ""), ("Sessions", "number")]
    return table("Worker processes", heads, rows, "No worker is running.")
