"""The dashboard "Access": who read which file from where, who was denied. Asks Loki."""

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

#: What the boxes say, of events that know a user: the words are anywhere in the field.
_WHERE: Final = "| client_ip=~`(?i).*$client.*`"
_KEY: Final = "| key_label=~`(?i).*$key.*`"
_WHO: Final = f"| user=~`(?i).*$user.*` {_KEY} {_WHERE}"
_WHAT: Final = f"{_WHO} | path=~`(?i).*$path.*`"

_RANGE: Final = "[$__range]"


def build() -> dashboard.Dashboard:
    """The whole dashboard."""
    made = (
        board("sftp-gateway-access", "sftp-gateway: Access", "Who read what, and who was denied.")
        .with_variable(choice_of_source("lines", "Loki", "loki"))
        .with_variable(
            choice(
                "share",
                "Share",
                LINES,
                {"type": 1, "label": "share", "stream": '{job="sftp-gateway"}', "refId": "shares"},
            )
        )
        .with_variable(text_box("user", "User", "A part of the name, or a regular expression."))
        .with_variable(
            text_box("key", "Key", "A part of its comment, or of a certificate's key id.")
        )
        .with_variable(text_box("client", "Address", "A part of the worker's address."))
        .with_variable(text_box("path", "Path", "A part of it, or a regular expression."))
        .with_variable(text_box("search", "In any line", "Text, or a regular expression."))
    )
    for panel in _figures():
        made.with_panel(panel)
    made.with_row(dashboard.Row("Files"))
    for part in (*_charts(), *_tables()):
        made.with_panel(part)
    made.with_panel(_reads())
    made.with_row(dashboard.Row("Denied"))
    for part in _denials():
        made.with_panel(part)
    made.with_row(dashboard.Row("All lines"))
    made.with_panel(_search())
    return made


def _of(event: str, *fields: str, of: str = ', share=~"$share"', where: str = _WHAT) -> str:
    """Lines of a kind of event, with fields of theirs taken out, as the boxes say."""
    taken = ", ".join(f'{field}="{field}"' for field in fields)
    return f'{{job="sftp-gateway", event="{event}"{of}}} | json {taken} {where}'


def _closed(*more: str) -> str:
    return _of("file_closed", "user", "key_label", "client_ip", "path", *more)


def _refused(*more: str) -> str:
    where = f"| user_tried=~`(?i).*$user.*` {_WHERE}"
    # A login is to no share: who chooses one still wants to see who knocks.
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
            "Workers that read",
            f"count(sum by (key_label, client_ip) (count_over_time({_closed()} {_RANGE})))",
            about="Keys and addresses; workers with one key behind one NAT are one.",
        ),
        now(
            "Reads cut short",
            f"sum(count_over_time({aborted} {_RANGE}))",
            about="The session ended before the file was closed.",
        ),
        now("Logins refused", f"sum(count_over_time({_refused()} {_RANGE}))"),
        now("Requests denied", f"sum(count_over_time({_denied()} {_RANGE}))"),
    ]  # fmt: skip


def _charts() -> list[AnyPanel]:
    read = f"{_closed('bytes')} | unwrap bytes [$__auto]"
    about = "A file counts when it is closed."
    return [
        chart(
            "Bytes by worker",
            logql(
                f"sum by (user, key_label, client_ip) (rate({read}))",
                "{{user}} {{key_label}} {{client_ip}}",
            ),
            source=LINES, unit="Bps", about=about, stacked=True, span=HALF,
        ),
        chart(
            "Bytes by share",
            logql(f"sum by (share) (rate({read}))", "{{share}}"),
            source=LINES, unit="Bps", about=about, stacked=True, span=HALF,
        ),
    ]  # fmt: skip


def _tables() -> list[AnyPanel]:
    read = f"{_closed('bytes')} | unwrap bytes {_RANGE}"
    return [
        listing(
            "Top files",
            logql_now(f"topk(20, sum by (share, path) (count_over_time({_closed()} {_RANGE})))"),
            columns={"share": "Share", "path": "File"}, value="Times read", source=LINES,
        ),
        listing(
            "Top workers",
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
        "Who read which file from where",
        logql(f"{fields} | line_format `{line}`"),
        about="In brackets: the key's comment. A click on a line shows all that is known of it.",
    )


def _denials() -> list[AnyPanel]:
    return [
        chart(
            "Logins refused",
            logql(
                f"sum by (reason) (count_over_time({_refused('reason')} [$__auto]))", "{{reason}}"
            ),
            source=LINES, stacked=True, span=HALF,
        ),
        chart(
            "Requests denied",
            logql(
                f"sum by (reason) (count_over_time({_denied('reason')} [$__auto]))", "{{reason}}"
            ),
            source=LINES, stacked=True, span=HALF,
        ),
        listing(
            "Logins refused, by whom",
            logql_now(
                "topk(50, sum by (user_tried, key, client_ip, reason) "
                f"(count_over_time({_refused('reason', 'key')} {_RANGE})))"
            ),
            columns={
                "user_tried": "Name tried", "key": "Key", "client_ip": "From", "reason": "Why",
            },
            value="Times", source=LINES,
        ),
        listing(
            "Requests denied, to whom",
            logql_now(
                "topk(50, sum by (user, key_label, client_ip, operation, path, reason) "
                f"(count_over_time({_denied('reason', 'operation')} {_RANGE})))"
            ),
            columns={
                "user": "User", "key_label": "Key", "client_ip": "Address",
                "operation": "Asked for", "path": "Path", "reason": "Why",
            },
            value="Times", source=LINES,
        ),
        lines(
            "Bans, and connections refused",
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
        about="Every line of the access log, as docs/access-log.md tells; the boxes above the "
        "dashboard for share and text count.",
        height=14,
    )
