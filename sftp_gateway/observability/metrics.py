"""The metrics of one gateway process, in a registry of their own.

`docs/metrics.md` is the reference for readers; a test holds the two together. Methods are named
after what happened, and none of them lets a client's words become a label.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from sftp_gateway.observability.access_log import AccessLog
from sftp_gateway.observability.labels import Vocabulary, known
from sftp_gateway.observability.tally import RequestTally

HandleKind: TypeAlias = Literal["file", "folder"]

#: (share, lane) -> requests that wait or run in it.
LaneDepths: TypeAlias = Mapping[tuple[str, str], int]

_NAMESPACE: Final = "sftp_gateway"


class Metrics:
    """What the gateway counts.

    `build` holds further labels of `build_info`, as the versions of libraries. Share names come
    from the configuration, `labels.NO_SHARE` for what belongs to no share; all other label values
    are words of `vocabulary`, or `other`.
    """

    def __init__(
        self,
        *,
        version: str,
        build: Mapping[str, str] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self._words = vocabulary or Vocabulary()
        self._registry = registry = _Registry()
        self._requests = RequestTally(self._words)
        registry.register(self._requests)
        ProcessCollector(registry=registry)

        def counter(name: str, help_text: str, *labels: str) -> Counter:
            return Counter(name, help_text, labels, namespace=_NAMESPACE, registry=registry)

        def gauge(name: str, help_text: str, *labels: str) -> Gauge:
            return Gauge(name, help_text, labels, namespace=_NAMESPACE, registry=registry)

        self._connections = gauge("connections", "Open connections, logged in or not.")
        self._accepted = counter("connections_accepted", "Connections accepted.")
        self._sessions = gauge("sessions", "Open sessions that are logged in.")
        self._logins = counter(
            "logins", "Attempts to log in, by outcome.", "result", "method", "reason"
        )
        self._handles = gauge("open_handles", "Files and folders that clients have open.", "kind")
        self._denied = counter("denied", "Requests denied, by reason.", "reason")
        self._commands = counter(
            "commands_refused", "Requests for anything but SFTP refused, by kind.", "kind"
        )
        self._slow_reads = counter(
            "slow_reads", "Reads that the page cache could not answer at once.", "share"
        )
        self._share_up = gauge("share_up", "1 while the root of the share is readable.", "share")
        Info("build", "What is running.", namespace=_NAMESPACE, registry=registry).info(
            {**(build or {}), "version": version, "python": platform.python_version()}
        )
        for kind in ("file", "folder"):
            self._handles.labels(kind)

    def connection_opened(self) -> None:
        """A client connected."""
        self._connections.inc()
        self._accepted.inc()

    def connection_closed(self) -> None:
        """A connection, logged in or not, ended."""
        self._connections.dec()

    def session_opened(self) -> None:
        """A client logged in."""
        self._sessions.inc()

    def session_closed(self) -> None:
        """The connection of a client that was logged in ended."""
        self._sessions.dec()

    def login(self, result: str, method: str, reason: str) -> None:
        """One attempt to log in was decided."""
        self._logins.labels(
            known(result, self._words.login_results),
            known(method, self._words.login_methods),
            known(reason, self._words.login_reasons),
        ).inc()

    def request_done(
        self, share: str, operation: str, result: str, seconds: float, bytes_sent: int = 0
    ) -> None:
        """One request was answered; `bytes_sent` are bytes of a file. From any thread."""
        self._requests.add(share, operation, result, seconds, bytes_sent)

    def slow_read(self, share: str) -> None:
        """A read had to go to a thread."""
        self._slow_reads.labels(share).inc()

    def handle_opened(self, kind: HandleKind) -> None:
        """A client opened a file or a folder."""
        self._handles.labels(kind).inc()

    def handle_closed(self, kind: HandleKind) -> None:
        """A file or a folder was closed, by the client or with its session."""
        self._handles.labels(kind).dec()

    def denied(self, reason: str) -> None:
        """A request was denied."""
        self._denied.labels(known(reason, self._words.denial_reasons)).inc()

    def command_refused(self, kind: str) -> None:
        """A command, a shell, a forwarding or the like was refused."""
        self._commands.labels(known(kind, self._words.command_kinds)).inc()

    def share_up(self, share: str, up: bool) -> None:
        """The root of the share was found to be readable, or not."""
        self._share_up.labels(share).set(up)

    def watch_access_log(self, log: AccessLog) -> None:
        """Report the access log's own counts, read whenever metrics are."""
        self._registry.register(_AccessLogCollector(log))

    def watch_lanes(self, depths: Callable[[], LaneDepths]) -> None:
        """Report `depths()`, called on the thread that renders, whenever metrics are read."""
        self._registry.register(_LaneCollector(depths))

    def render(self) -> tuple[str, bytes]:
        """Content type and body of the metrics, in Prometheus' text format 0.0.4."""
        return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)


class _Registry(CollectorRegistry):
    """Leaves out the `_created` series, which double the output and tell only the start time."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            created = metric.name + "_created"
            metric.samples = [sample for sample in metric.samples if sample.name != created]
            yield metric


class _AccessLogCollector(Collector):
    def __init__(self, log: AccessLog) -> None:
        self._log = log

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            f"{_NAMESPACE}_access_log_queue_depth",
            "Events that wait to be written.",
            value=self._log.depth,
        )
        for name, help_text, value in (
            ("dropped", "Events that the queue had no room for.", self._log.dropped),
            (
                "write_errors",
                "Batches of lines that a sink failed to write.",
                self._log.write_errors,
            ),
            ("lines_lost", "Lines that a sink failed to write.", self._log.lines_lost),
        ):
            yield CounterMetricFamily(f"{_NAMESPACE}_access_log_{name}", help_text, value=value)


class _LaneCollector(Collector):
    def __init__(self, depths: Callable[[], LaneDepths]) -> None:
        self._depths = depths

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            f"{_NAMESPACE}_slow_lane_depth",
            "Requests that wait or run on threads.",
            labels=["share", "lane"],
        )
        for (share, lane), depth in self._depths().items():
            family.add_metric([share, lane], depth)
        yield family
