"""The metrics of all processes as one page.

Read by the observer. The metrics of workers are in their memory (shared_memory.py); those of the
processes come from the supervisor and the kernel.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from sftp_gateway.observability.gateway_state import GatewayState
from sftp_gateway.observability.metrics.shared_memory import NAMESPACE, Memory, SharedCollector
from sftp_gateway.observability.vocabulary import CONNECTION_REFUSALS, PENALTY_KINDS

#: Memory that several processes share is counted once, in parts.
_PROPORTIONAL: Final = "Pss:"


class Exposition:
    """Renders the metrics in `memories`; both callables are called for every page.

    `build` holds further labels of `build_info`, as the versions of libraries.
    """

    def __init__(
        self,
        state: Callable[[], GatewayState | None],
        *,
        memories: Callable[[], Iterable[Memory]],
        version: str,
        build: Mapping[str, str] | None = None,
    ) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(SharedCollector(memories))
        registry.register(_StateCollector(state))
        registry.register(_ProcessesCollector(state))
        Info(
            "build",
            "Versions of the gateway and its libraries.",
            namespace=NAMESPACE,
            registry=registry,
        ).info({**(build or {}), "version": version, "python": platform.python_version()})

    def render(self) -> tuple[str, bytes]:
        """Content type and body of the metrics, in Prometheus' text format 0.0.4."""
        return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)


class _StateCollector(Collector):
    def __init__(self, state: Callable[[], GatewayState | None]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        if state is None:
            return
        yield GaugeMetricFamily(
            f"{NAMESPACE}_workers",
            "Worker processes that are serving.",
            value=sum(worker.ready for worker in state.workers),
        )
        yield GaugeMetricFamily(
            f"{NAMESPACE}_workers_wanted",
            "Configured number of worker processes.",
            value=state.wanted,
        )
        yield CounterMetricFamily(
            f"{NAMESPACE}_worker_restarts",
            "Workers that ended unexpectedly and were replaced.",
            value=state.restarts,
        )
        yield GaugeMetricFamily(
            f"{NAMESPACE}_config_last_reload_successful",
            "1 if the last reload of the configuration succeeded, 0 if it was rejected.",
            value=not state.reload.errors,
        )
        yield GaugeMetricFamily(
            f"{NAMESPACE}_config_last_reload_success_timestamp_seconds",
            "Time of the last successful reload of the configuration.",
            value=state.reload.succeeded,
        )
        refused = CounterMetricFamily(
            f"{NAMESPACE}_connections_refused",
            "Refused connections.",
            labels=["reason"],
        )
        for reason in sorted(CONNECTION_REFUSALS):
            refused.add_metric([reason], state.refused.get(reason, 0))
        yield refused
        yield GaugeMetricFamily(
            f"{NAMESPACE}_banned_sources",
            "Sources that are banned or throttled.",
            value=state.banned,
        )
        penalties = CounterMetricFamily(
            f"{NAMESPACE}_penalties",
            "Penalized connections.",
            labels=["kind"],
        )
        for kind in sorted(PENALTY_KINDS):
            penalties.add_metric([kind], state.penalties.get(kind, 0))
        yield penalties


class _ProcessesCollector(Collector):
    """The `process_` metrics, of all processes together."""

    def __init__(self, state: Callable[[], GatewayState | None]) -> None:
        self._state = state
        self._cpu_seconds = 0.0

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        if state is None:
            return
        # The supervisor last: a worker that ends meanwhile is counted with it (cutime, cstime).
        pids = ["self", *(str(worker.pid) for worker in state.workers), str(state.pid)]
        seen = [found for pid in pids if (found := _measured(pid))]
        # A process that ended meanwhile may be counted twice: a counter must not decrease.
        spent = sum(each["cpu_seconds_total"] for each in seen) + _cpu_of_ended(state.pid)
        self._cpu_seconds = max(self._cpu_seconds, spent)
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "CPU time of all processes, including those that ended.",
            self._cpu_seconds,
        )
        yield GaugeMetricFamily(
            "process_resident_memory_bytes",
            "Memory of all processes; shared memory is counted once.",
            sum(each["resident_memory_bytes"] for each in seen),
        )
        yield GaugeMetricFamily(
            "process_virtual_memory_bytes",
            "Address space of all processes.",
            sum(each["virtual_memory_bytes"] for each in seen),
        )
        fullest = max(seen, key=lambda each: each["open_fds"] / each["max_fds"])
        for name, help_text in (
            ("open_fds", "Open file descriptors of the process closest to its limit."),
            ("max_fds", "File descriptor limit of that process."),
        ):
            yield GaugeMetricFamily(f"process_{name}", help_text, fullest[name])
        yield GaugeMetricFamily(
            "process_start_time_seconds",
            "Start time of the gateway.",
            seen[-1]["start_time_seconds"],
        )


def _measured(pid: str) -> dict[str, float]:
    """The process's metrics by their names without `process_`; empty where it is gone."""
    found = {
        sample.name.removeprefix("process_"): sample.value
        for family in ProcessCollector(pid=lambda: pid, registry=None).collect()
        for sample in family.samples
    }
    if not {"cpu_seconds_total", "open_fds"} <= found.keys():
        return {}
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(_PROPORTIONAL):
                found["resident_memory_bytes"] = 1024.0 * int(line.split()[1])
    return found


def _cpu_of_ended(pid: int) -> float:
    """CPU seconds of the children that `pid` has waited for; proc(5): cutime and cstime."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return 0.0
