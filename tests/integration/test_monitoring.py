"""A real Prometheus scrapes a gateway: panels show data, and alerts fire for their causes."""

from __future__ import annotations

import functools
import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from monitoring import picture
from tests.support.busy_gateway import GUESSER, BusyGateway, busy_gateway
from tests.support.dashboards import MONITORING, Question, questions
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.prometheus import Prometheus, rules, running_prometheus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: Alerts provoked here; the others are tested with promtool only.
PROVOKED = {
    "SftpGatewayShareUnreadable",
    "SftpGatewayBruteForce",
    "SftpGatewaySourceBanned",
    "SftpGatewayConnectionsRefused",
    "SftpGatewayErrors",
    "SftpGatewayLogDropped",
    "LogCollectionDown",  # there is no Loki here
}


#: Panels without data for a healthy gateway.
EMPTY_IN_HEALTH = {
    "Failed requests",
    "Disk errors and timeouts",
    "Refused logins",
    "Denied requests and refused commands",
}


@dataclass
class Watched:
    busy: BusyGateway
    prometheus: Prometheus
    began: float
    quiet: dict[str, list[dict[str, str]]]  # the alerts before anything happened

    @property
    def seconds(self) -> int:
        return int(time.time() - self.began) + 1


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A gateway with every fault provoked, and the Prometheus that scraped it."""
    folder = tmp_path_factory.mktemp("monitoring")
    began = time.time()
    with (
        busy_gateway(folder / "busy") as busy,
        running_prometheus(folder, gateway_port=busy.gateway.metrics_port) as prometheus,
    ):
        wait_for(lambda: prometheus.query("sftp_gateway_workers == 2"), "the first scrape")
        busy.read()
        wait_for(lambda: "LogCollectionDown" in prometheus.firing(), "rules to be evaluated")
        quiet = prometheus.firing()
        # Twice with a scrape between: Prometheus needs two samples for an increase.
        for _ in range(2):
            scraped = _scrapes(prometheus)
            busy.read()
            busy.fail_to_read()
            busy.cause_denials()
            busy.abort_transfer()
            busy.guess(8)
            busy.guess(8, source=GUESSER)
            busy.exceed_connection_limit()
            busy.disperse()
            wait_for(lambda seen=scraped: _scrapes(prometheus) > seen + 1, "another scrape")
        busy.guess(8)
        busy.kill_a_worker()
        busy.fill_the_log_disk()
        busy.lose_a_share()
        yield Watched(busy, prometheus, began, quiet)


def _scrapes(prometheus: Prometheus) -> float:
    [sample] = prometheus.query('count_over_time(up{job="sftp-gateway"}[10m])') or [
        {"value": [0, "0"]}
    ]
    return float(sample["value"][1])


def _has_data(watched: Watched, expr: str) -> bool:
    found = watched.prometheus.query_range(expr, watched.seconds)
    return any(not math.isnan(float(value)) for series in found for _, value in series["values"])


@pytest.mark.parametrize("question", questions("prometheus"), ids=str)
def test_every_panel_of_the_service_dashboard_shows_data(
    watched: Watched, question: Question
) -> None:
    expr = question.expr
    wait_for(lambda: _has_data(watched, expr), f"data of {question}")


def test_the_panels_show_what_happened(watched: Watched) -> None:
    def most(expr: str) -> float:
        found = watched.prometheus.query_range(expr, watched.seconds)
        return max(float(value) for series in found for _, value in series["values"])

    for expr in (
        'sum(increase(sftp_gateway_bytes_sent_total{share="letters"}[5m])) > 20000000',
        'sum(rate(sftp_gateway_requests_total{result="failure", share="bad"}[1m])) > 0',
        'sum(rate(sftp_gateway_logins_total{result="refused"}[1m])) > 0',
        'sum(rate(sftp_gateway_denied_total{reason="read_only"}[1m])) > 0',
        'sum(rate(sftp_gateway_denied_total{reason="outside_shares"}[1m])) > 0',
        'sum(rate(sftp_gateway_commands_refused_total{kind="exec"}[1m])) > 0',
        "sum(increase(sftp_gateway_worker_restarts_total[1m])) > 0",
        'sum(rate(sftp_gateway_slow_reads_total{share="bad"}[1m])) > 0',
    ):
        wait_for(lambda asked=expr: watched.prometheus.query_range(asked, watched.seconds), expr)
    hits = next(q.expr for q in questions("prometheus") if "cache hit" in q.panel)
    assert 0 < most(hits) <= 1


def test_the_picture_is_drawn_from_prometheus_results(watched: Watched) -> None:
    span = picture.Span(watched.began, time.time())
    charts = picture.ask(watched.prometheus.url, span)
    assert [chart.title for chart in charts] == list(picture.CHARTS)
    assert all(chart.lines for chart in charts)
    drawn = ElementTree.fromstring(picture.as_svg(charts, span))  # noqa: S314 - our own
    paths = [path for path in drawn.iter() if path.get("class") == "line"]
    assert len(paths) == sum(len(chart.lines) for chart in charts)


def test_no_alert_fires_on_a_healthy_gateway(watched: Watched) -> None:
    assert watched.quiet.keys() == {"LogCollectionDown"}


def _shares_of(watched: Watched, alert: str) -> set[str]:
    return {each["share"] for each in watched.prometheus.firing().get(alert, ())}


def test_alerts_fire_for_provoked_faults(watched: Watched) -> None:
    wait_for(lambda: watched.prometheus.firing().keys() >= PROVOKED, f"all of {PROVOKED}")
    # Reads of the bad disk fail, so its share is not ready for a while.
    unreadable = functools.partial(_shares_of, watched, "SftpGatewayShareUnreadable")
    wait_for(lambda: "away" in unreadable(), "the share that is away")
    assert unreadable() <= {"away", "bad"}
    firing = watched.prometheus.firing()
    assert [alert["share"] for alert in firing["SftpGatewayErrors"]] == ["bad"]
    reasons = {alert["reason"] for alert in firing["SftpGatewayConnectionsRefused"]}
    assert reasons == {"max_connections_per_source"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_every_alert_queries_existing_metrics(watched: Watched, rule: dict[str, str]) -> None:
    watched.prometheus.query(rule["expr"])
    names = set(re.findall(r"\b(?:sftp_gateway|process|loki)_\w+|\bup\b", rule["expr"]))
    assert names
    # Alloy's own: https://grafana.com/docs/alloy, loki.write, "Debug metrics". No Alloy runs here.
    for name in names - {"loki_write_dropped_entries_total"}:
        assert watched.prometheus.query(f'count({name}{{job="sftp-gateway"}})'), name


def test_an_alert_fires_when_the_gateway_is_gone(watched: Watched) -> None:
    assert watched.busy.gateway.stop() == 0  # the last test of this module
    wait_for(lambda: "SftpGatewayDown" in watched.prometheus.firing(), "the alert")


def test_a_healthy_gateway_has_empty_panels_for_faults_only(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway().start()
    fill(gateway.folder / "shared/models", {"file": b"x" * 100_000})
    with running_prometheus(tmp_path / "p", gateway_port=gateway.metrics_port) as prometheus:

        def empty() -> set[str]:
            assert gateway.sftp("get models/file /dev/null").returncode == 0
            panels: dict[str, list[bool]] = {}
            for question in questions("prometheus"):
                found = prometheus.query_range(question.expr, 30)
                real = any(
                    not math.isnan(float(value))
                    for series in found
                    for _, value in series["values"]
                )
                panels.setdefault(question.panel, []).append(real)
            return {panel for panel, found in panels.items() if not any(found)}

        wait_for(lambda: empty() <= EMPTY_IN_HEALTH, "data in the other panels")
        # No READ waited for the disk: the file was just written.
        assert gateway.metric("sftp_gateway_slow_reads_total") == 0
        assert empty() == EMPTY_IN_HEALTH


def test_promtool_accepts_the_configuration_and_rules(tmp_path: Path) -> None:
    here = MONITORING / "prometheus"
    # Paths in the container.
    text = (here / "prometheus.yml").read_text().replace("/etc/prometheus", str(here))
    (tmp_path / "prometheus.yml").write_text(text)
    checked = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


def test_every_alert_fires_at_its_threshold_only() -> None:
    tested = subprocess.run(
        ["promtool", "test", "rules", MONITORING / "prometheus/rules-test.yml"],
        capture_output=True,
        text=True,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
