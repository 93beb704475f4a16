"""The "Service" dashboard: traffic, latency, errors and saturation. Queries Prometheus."""

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
        board(
            "sftp-gateway-service",
            "sftp-gateway: Service",
            "Health, traffic, latency, errors and saturation of the gateway.",
        )
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
            "Unavailable shares",
            f"count(sftp_gateway_share_up{{{_AT}}} == 0) or vector(0)",
            bad_from=1,
        ),
        now(
            "Missing workers",
            f"sum(sftp_gateway_workers_wanted{{{_AT}}}) - sum(sftp_gateway_workers{{{_AT}}})",
            bad_from=1,
        ),
        now(
            "Rejected configurations",
            f"count(sftp_gateway_config_last_reload_successful{{{_AT}}} == 0) or vector(0)",
            about="The gateway keeps the previous configuration; the status page has the errors.",
            bad_from=1,
        ),
        now(
            "Firing alerts",
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
            "Sessions, connections and open files",
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
            "Read latency, p50/p95/p99",
            "s",
            *((_quantile(part, "instance", reads), f"{part:.0%}") for part in (0.5, 0.95, 0.99)),
            about="From the arrival of a READ to its response.",
        ),
        _chart(
            "Latency of other requests, p99",
            "s",
            (_quantile(0.99, "operation", others), "{{operation}}"),
        ),
        _chart(
            "Page cache hit rate of reads",
            "percentunit",
            # Without slow reads, the series does not exist.
            (f"1 - ({waited} or 0 * {asked}) / ({asked} > 0)", _SHARE),
            about="The other reads waited for the disk. Shares that are not read have no line.",
            most=1,
        ),
    ]


def _errors() -> list[AnyPanel]:
    failures = f'result="failure", {_OF}'
    refused = f'result="refused", {_AT}'
    return [
        _chart(
            "Failed requests",
            "reqps",
            (_rate("sftp_gateway_requests_total", "share, operation", failures),
             "{{share}} {{operation}}"),
            about="Failures of the disk or the gateway, not of the client.",
        ),
        _chart(
            "Refused logins",
            "ops",
            (_rate("sftp_gateway_logins_total", "reason", refused), "{{reason}}"),
        ),
        _chart(
            "Denied requests and refused commands",
            "ops",
            (_rate("sftp_gateway_denied_total", "reason", _AT), "{{reason}}"),
            (_rate("sftp_gateway_commands_refused_total", "kind", _AT), "command: {{kind}}"),
        ),
        _chart(
            "Refused connections and penalties",
            "ops",
            (_rate("sftp_gateway_connections_refused_total", "reason", _AT), "{{reason}}"),
            (_rate("sftp_gateway_penalties_total", "kind", _AT), "penalty: {{kind}}"),
        ),
        _chart(
            "Share availability and banned sources",
            "short",
            (f"min by (share) (sftp_gateway_share_up{{{_OF}}})", _SHARE),
            (f"sum(sftp_gateway_banned_sources{{{_AT}}})", "banned"),
            about="A share is 1 while every worker can read it, else 0.",
        ),
        _chart(
            "Disk errors and timeouts",
            "ops",
            (_rate("sftp_gateway_disk_errors_total", "share, error", _OF), "{{share}} {{error}}"),
        ),
        _chart(
            "Unexpected worker exits",
            "short",
            (f"increase(sftp_gateway_worker_restarts_total{{{_AT}}}[$__rate_interval])",
             "{{instance}}"),
        ),
    ]  # fmt: skip


def _saturation() -> list[AnyPanel]:
    process = '{job="sftp-gateway", instance=~"$instance"}'
    return [
        _chart(
            "Requests waiting for a disk",
            "short",
            (f"sum by (share, lane) (sftp_gateway_slow_lane_depth{{{_OF}}})",
             "{{share}} {{lane}}"),
        ),
        _chart(
            "CPU usage",
            "short",
            (f"rate(process_cpu_seconds_total{process}[$__rate_interval])", "{{instance}}"),
            (f"sftp_gateway_workers{{{_AT}}}", "workers of {{instance}}"),
            about="In cores; a worker uses at most one.",
        ),
        _chart(
            "Memory",
            "bytes",
            (f"process_resident_memory_bytes{process}", "{{instance}}"),
        ),
        _chart(
            "File descriptor usage",
            "percentunit",
            (f"process_open_fds{process} / process_max_fds{process}", "{{instance}}"),
            about="Of the process that is closest to its limit.",
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
             "suppressed"),
            (f"increase(sftp_gateway_access_log_lines_lost_total{{{_AT}}}[$__rate_interval])",
             "lost"),
            span=HALF,
        ),
    ]  # fmt: skip
