"""The "Access" dashboard: who read which file from where, and what was denied. Queries Loki."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from monitoring.dashboards.parts import (
    HALF,
    LINES,
    AnyPanel,
    board,
    chart,
    choice,
    choice_of_source,
    figure,
    lines,
    listing,
    logql,
    logql_now,
    text_box,
)

#: The filters of the text boxes, for events with a user: substrings of the fields.
_WHERE: Final = "| client_ip=~`(?i).*$client.*`"
_KEY: Final = "| key_label=~`(?i).*$key.*`"
_WHO: Final = f"| user=~`(?i).*$user.*` {_KEY} {_WHERE}"
_WHAT: Final = f"{_WHO} | path=~`(?i).*$path.*`"

_RANGE: Final = "[$__range]"


def build() -> dashboard.Dashboard:
    """The whole dashboard."""
    made = (
        board("sftp-gateway-access", "sftp-gateway: Access", "Who read what, and what was denied.")
        .with_variable(choice_of_source("lines", "Loki", "loki"))
        .with_variable(
            choice(
                "share",
                "Share",
                LINES,
                {"type": 1, "label": "share", "stream": '{job="sftp-gateway"}', "refId": "shares"},
            )
        )
        .with_variable(text_box("user", "User", "Part of the name, or a regular expression."))
        .with_variable(
            text_box("key", "Key", "Part of the key's comment, or of the certificate's key id.")
        )
        .with_variable(text_box("client", "Address", "Part of the client's address."))
        .with_variable(text_box("path", "Path", "Part of the path, or a regular expression."))
        .with_variable(
            text_box("search", "Full text", "Text or a regular expression, in any field.")
        )
    )
    for panel in _figures():
        made.with_panel(panel)
    made.with_row(dashboard.Row("Files"))
    for part in (*_charts(), *_tables()):
        made.with_panel(part)
    made.with_panel(_reads())
    made.with_row(dashboard.Row("Denials"))
    for part in _denials():
        made.with_panel(part)
    made.with_row(dashboard.Row("All lines"))
    made.with_panel(_search())
    return made


def _of(event: str, *fields: str, of: str = ', share=~"$share"', where: str = _WHAT) -> str:
    """A LogQL selector for an event, with the filters applied and these fields extracted."""
    taken = ", ".join(f'{field}="{field}"' for field in fields)
    return f'{{job="sftp-gateway", event="{event}"{of}}} | json {taken} {where}'


def _closed(*more: str) -> str:
    return _of("file_closed", "user", "key_label", "client_ip", "path", *more)


def _refused(*more: str) -> str:
    where = f"| user_tried=~`(?i).*$user.*` {_WHERE}"
    # A login has no share, so the selection of shares must not hide it.
    return _of("login_refused", "user_tried", "client_ip", *more, of="", where=where)


def _denied(*more: str) -> str:
    return _of("denied", "user", "key_label", "client_ip", "path", *more)


def _figures() -> list[AnyPanel]:
    def now(title: str, expr: str, unit: str = "short", about: str = "") -> AnyPanel:
        return figure(title, logql_now(expr), source=LINES, unit=unit, about=about)

    read = f"{_closed('bytes')} | unwrap bytes"
    aborted = f'{_closed("result")} | result="aborted"'
    return [
        now("Files read", f"sum(count_over_time({_closed()} {_RANGE}))"),
        now("Bytes read", f"sum(sum_over_time({read} {_RANGE}))", "bytes"),
        now(
            "Active workers",
            f"count(sum by (key_label, client_ip) (count_over_time({_closed()} {_RANGE})))",
            about="Distinct keys and addresses; workers that share both are one.",
        ),
        now(
            "Aborted reads",
            f"sum(count_over_time({aborted} {_RANGE}))",
            about="The session ended before the file was closed.",
        ),
        now("Refused logins", f"sum(count_over_time({_refused()} {_RANGE}))"),
        now("Denied requests", f"sum(count_over_time({_denied()} {_RANGE}))"),
    ]  # fmt: skip


def _charts() -> list[AnyPanel]:
    read = f"{_closed('bytes')} | unwrap bytes [$__auto]"
    about = "Bytes are counted when the file is closed."
    return [
        chart(
            "Bytes read by worker",
            logql(
                f"sum by (user, key_label, client_ip) (rate({read}))",
                "{{user}} {{key_label}} {{client_ip}}",
            ),
            source=LINES, unit="Bps", about=about, stacked=True, span=HALF,
        ),
        chart(
            "Bytes read by share",
            logql(f"sum by (share) (rate({read}))", "{{share}}"),
            source=LINES, unit="Bps", about=about, stacked=True, span=HALF,
        ),
    ]  # fmt: skip


def _tables() -> list[AnyPanel]:
    read = f"{_closed('bytes')} | unwrap bytes {_RANGE}"
    return [
        listing(
            "Most-read files",
            logql_now(f"topk(20, sum by (share, path) (count_over_time({_closed()} {_RANGE})))"),
            columns={"share": "Share", "path": "File"}, value="Reads", source=LINES,
        ),
        listing(
            "Workers by bytes read",
            logql_now(
                f"topk(20, sum by (user, key_label, client_ip, share) (sum_over_time({read})))"
            ),
            columns={
                "user": "User", "key_label": "Key", "client_ip": "Address", "share": "Share",
            },
            value="Bytes", unit="bytes", source=LINES,
        ),
    ]  # fmt: skip


def _reads() -> AnyPanel:
    line = (
        "{{.user}} ({{.key_label}}) from {{.client_ip}} read {{.path}}: "
        "{{.bytes}} of {{.size}} bytes in {{.duration}} s, {{.result}}"
    )
    fields = _closed("bytes", "size", "duration", "result", "key")
    return lines(
        "File reads",
        logql(f"{fields} | line_format `{line}`"),
        about="The key's comment is in parentheses. Click a line for all its fields.",
    )


def _denials() -> list[AnyPanel]:
    return [
        chart(
            "Refused logins",
            logql(
                f"sum by (reason) (count_over_time({_refused('reason')} [$__auto]))", "{{reason}}"
            ),
            source=LINES, stacked=True, span=HALF,
        ),
        chart(
            "Denied requests",
            logql(
                f"sum by (reason) (count_over_time({_denied('reason')} [$__auto]))", "{{reason}}"
            ),
            source=LINES, stacked=True, span=HALF,
        ),
        listing(
            "Refused logins by source",
            logql_now(
                "topk(50, sum by (user_tried, key, client_ip, reason) "
                f"(count_over_time({_refused('reason', 'key')} {_RANGE})))"
            ),
            columns={
                "user_tried": "User tried", "key": "Key", "client_ip": "Address",
                "reason": "Reason",
            },
            value="Count", source=LINES,
        ),
        listing(
            "Denied requests by user",
            logql_now(
                "topk(50, sum by (user, key_label, client_ip, operation, path, reason) "
                f"(count_over_time({_denied('reason', 'operation')} {_RANGE})))"
            ),
            columns={
                "user": "User", "key_label": "Key", "client_ip": "Address",
                "operation": "Operation", "path": "Path", "reason": "Reason",
            },
            value="Count", source=LINES,
        ),
        lines(
            "Bans and refused connections",
            logql(
                '{job="sftp-gateway", '
                'event=~"source_banned|source_unbanned|connections_refused"}'
            ),
            height=6,
        ),
    ]  # fmt: skip


def _search() -> AnyPanel:
    return lines(
        "Search",
        logql('{job="sftp-gateway", share=~"$share"} |~ `(?i)$search`'),
        about="All events of the access log (docs/access-log-events.md), by share and full text.",
        height=14,
    )
