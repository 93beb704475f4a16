"""The dashboard "Service": is it up, how fast is it, what does it lack? Asks Prometheus."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.common import BigValueTextMode

from monitoring.dashboards.parts import (
    HALF,
    METRICS,
    THIRD,
    AnyPanel,
    board,
    chart,
    choice,
    choice_of_source,
    figure,
    promql,
    promql_now,
)

_AT: Final = 'instance=~"$instance"'
_OF: Final = f'{_AT}, share=~"$share"'
_SHARE: Final = "{{share}}"


def build() -> dashboard.Dashboard:
    """The whole dashboard."""
    made = (
        board("sftp-gateway-service", "sftp-gateway: Service", "How the gateway is doing.")
        .with_variable(choice_of_source("metrics", "Prometheus", "prometheus"))
        .with_variable(
            choice(
                "instance",
                "Gateway",
                METRICS,
                "label_values(sftp_gateway_workers_wanted, instance)",
            )
        )
        .with_variable(
            choice("share", "Share", METRICS, "label_values(sftp_gateway_share_up, share)")
        )
    )
    for panel in _now():
        made.with_panel(panel)
    for title, panels in (
        ("Traffic", _traffic()),
        ("Latency", _latency()),
        ("Errors", _errors()),
        ("Saturation", _saturation()),
    ):
        made.with_row(dashboard.Row(title))
        for chart_panel in panels:
            made.with_panel(chart_panel)
    return made


def _now() -> list[AnyPanel]:
    def now(
        title: str, expr: str, unit: str = "short", about: str = "", bad_from: float | None = None
    ) -> AnyPanel:
        query = promql_now(expr)
        return figure(
            title, query, source=METRICS, unit=unit, about=about, bad_from=bad_from, span=3
        )

    return [
        now("Sessions", f"sum(sftp_gateway_sessions{{{_AT}}})"),
        now(
            "Throughput",
            f"sum(rate(sftp_gateway_bytes_sent_total{{{_OF}}}[$__rate_interval]))",
            unit="Bps",
        ),
        now(
            "Shares that cannot be read",
            f"count(sftp_gateway_share_up{{{_AT}}} == 0) or vector(0)",
            bad_from=1,
        ),
        now(
            "Processes missing",
            f"sum(sftp_gateway_workers_wanted{{{_AT}}}) - sum(sftp_gateway_workers{{{_AT}}})",
            bad_from=1,
        ),
        now(
            "Configurations refused",
            f"count(sftp_gateway_config_last_reload_successful{{{_AT}}} == 0) or vector(0)",
            about="The gateway serves by the one before; the status page says what is wrong.",
            bad_from=1,
        ),
        now(
            "Alerts",
            'count(ALERTS{alertstate="firing", severity!="info", '
            'alertname=~"SftpGateway.+|LogCollection.+"}) '
            "or vector(0)",
            about="The rules are in monitoring/prometheus/rules.",
            bad_from=1,
        ),
        figure(
            "Version",
            promql_now(f"max by (version) (sftp_gateway_build_info{{{_AT}}})", "{{version}}"),
            source=METRICS,
            text=BigValueTextMode.NAME,
            span=6,
        ),
    ]


def _chart(
    title: str,
    unit: str,
    *queries: tuple[str, str],
    about: str = "",
    stacked: bool = False,
    most: float | None = None,
    span: int = THIRD,
) -> AnyPanel:
    return chart(
        title,
        *(promql(expr, legend) for expr, legend in queries),
        source=METRICS,
        unit=unit,
        about=about,
        stacked=stacked,
        most=most,
        span=span,
    )


def _rate(metric: str, by: str, labels: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def _quantile(part: float, by: str, labels: str) -> str:
    buckets = _rate("sftp_gateway_request_duration_seconds_bucket", f"le, {by}", labels)
    return f"histogram_quantile({part}, {buckets})"


def _traffic() -> list[AnyPanel]:
    return [
        _chart(
            "Throughput by share",
            "Bps",
            (_rate("sftp_gateway_bytes_sent_total", "share", _OF), _SHARE),
            stacked=True,
        ),
        _chart(
            "Requests by operation",
            "reqps",
            (_rate("sftp_gateway_requests_total", "operation", _OF), "{{operation}}"),
            stacked=True,
        ),
        _chart(
            "Sessions, connections, open files",
            "short",
            (f"sum(sftp_gateway_sessions{{{_AT}}})", "sessions"),
            (f"sum(sftp_gateway_connections{{{_AT}}})", "connections"),
            (f"sum by (kind) (sftp_gateway_open_handles{{{_AT}}})", "open: {{kind}}"),
        ),
    ]


def _latency() -> list[AnyPanel]:
    reads = f'operation="read", {_OF}'
    others = f'operation!="read", {_OF}'
    asked = _rate("sftp_gateway_requests_total", "share", reads)
    waited = _rate("sftp_gateway_slow_reads_total", "share", _OF)
    return [
        _chart(
            "Reads: how long they take",
            "s",
            *((_quantile(part, "instance", reads), f"{part:.0%}") for part in (0.5, 0.95, 0.99)),
            about="From a request's arrival to its answer; half, 95 and 99 of 100 are quicker.",
        ),
        _chart(
            "Other requests: 99 of 100 are quicker",
            "s",
            (_quantile(0.99, "operation", others), "{{operation}}"),
        ),
        _chart(
            "Reads that the page cache answered",
            "percentunit",
            # Where none ever waited, there is nothing to divide.
            (f"1 - ({waited} or 0 * {asked}) / ({asked} > 0)", _SHARE),
            about="The others waited for the disk. What is not read has no line.",
            most=1,
        ),
    ]


def _errors() -> list[AnyPanel]:
    failures = f'result="failure", {_OF}'
    refused = f'result="refused", {_AT}'
    return [
        _chart(
            "Requests that failed",
            "reqps",
            (_rate("sftp_gateway_requests_total", "share, operation", failures),
             "{{share}} {{operation}}"),
            about="By a fault of the disk's or the gateway's, not of the client's.",
        ),
        _chart(
            "Logins refused",
            "ops",
            (_rate("sftp_gateway_logins_total", "reason", refused), "{{reason}}"),
        ),
        _chart(
            "Requests and commands denied",
            "ops",
            (_rate("sftp_gateway_denied_total", "reason", _AT), "{{reason}}"),
            (_rate("sftp_gateway_commands_refused_total", "kind", _AT), "command: {{kind}}"),
        ),
        _chart(
            "Connections refused, sources penalised",
            "ops",
            (_rate("sftp_gateway_connections_refused_total", "reason", _AT), "{{reason}}"),
            (_rate("sftp_gateway_penalties_total", "kind", _AT), "penalty: {{kind}}"),
        ),
        _chart(
            "Shares, sources that are banned",
            "short",
            (f"min by (share) (sftp_gateway_share_up{{{_OF}}})", _SHARE),
            (f"sum(sftp_gateway_banned_sources{{{_AT}}})", "banned"),
            about="A share has 1 while every worker process can read it, else 0.",
        ),
        _chart(
            "Requests that a disk failed or did not answer",
            "ops",
            (_rate("sftp_gateway_disk_errors_total", "share, error", _OF), "{{share}} {{error}}"),
        ),
        _chart(
            "Processes that ended by themselves",
            "short",
            (f"increase(sftp_gateway_worker_restarts_total{{{_AT}}}[$__rate_interval])",
             "{{instance}}"),
        ),
    ]  # fmt: skip


def _saturation() -> list[AnyPanel]:
    process = '{job="sftp-gateway", instance=~"$instance"}'
    return [
        _chart(
            "Requests that wait for a disk",
            "short",
            (f"sum by (share, lane) (sftp_gateway_slow_lane_depth{{{_OF}}})",
             "{{share}} {{lane}}"),
        ),
        _chart(
            "Processors in use",
            "short",
            (f"rate(process_cpu_seconds_total{process}[$__rate_interval])", "{{instance}}"),
            (f"sftp_gateway_workers{{{_AT}}}", "serving processes of {{instance}}"),
            about="A serving process uses one processor at most.",
        ),
        _chart(
            "Memory",
            "bytes",
            (f"process_resident_memory_bytes{process}", "{{instance}}"),
        ),
        _chart(
            "Descriptors in use",
            "percentunit",
            (f"process_open_fds{process} / process_max_fds{process}", "{{instance}}"),
            about="Of the process that is nearest to its limit.",
            most=1,
            span=HALF,
        ),
        _chart(
            "Access log",
            "short",
            (f"sftp_gateway_access_log_queue_depth{{{_AT}}}", "waiting"),
            (f"increase(sftp_gateway_access_log_dropped_total{{{_AT}}}[$__rate_interval])",
             "dropped"),
            (f"increase(sftp_gateway_access_log_suppressed_total{{{_AT}}}[$__rate_interval])",
             "summed up"),
            (f"increase(sftp_gateway_access_log_lines_lost_total{{{_AT}}}[$__rate_interval])",
             "not written"),
            span=HALF,
        ),
    ]  # fmt: skip
