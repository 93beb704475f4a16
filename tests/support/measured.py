"""Metrics of the test process, rendered as by the observer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from sftp_gateway.observability.gateway_state import GatewayState
from sftp_gateway.observability.history.channel import HistoryChannel
from sftp_gateway.observability.metrics.exposition import Exposition
from sftp_gateway.observability.metrics.process_metrics import Metrics
from sftp_gateway.observability.metrics.shared_memory import Memory, SharedValues


def gateway_state(**changed: Any) -> GatewayState:
    """The state of a gateway that consists of this process."""
    return GatewayState(
        **{
            "time": time.monotonic(),
            "pid": os.getpid(),
            "workers": (),
            "wanted": 0,
            "shares": (),
            "stopping": False,
            "restarts": 0,
            "refused": {},
            "banned": 0,
            "bans": (),
            "connections": 0,
            "penalties": {},
            **changed,
        }
    )


class Measured:
    """`metrics` to count with, and their values."""

    def __init__(self, *, build: Mapping[str, str] | None = None) -> None:
        self._memory = Memory.make()
        self.values = SharedValues(self._memory)
        self.history_channel = HistoryChannel()
        self.metrics = Metrics(self.values)
        self._exposition = Exposition(
            gateway_state, memories=lambda: [self._memory], version="1.2.3", build=build
        )

    def render(self) -> tuple[str, bytes]:
        """Content type and body of the page, up to date."""
        self.metrics.publish()
        return self._exposition.render()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return metric_in(self.render()[1].decode(), name, **labels)

    def close(self) -> None:
        self.values.close()
        self.history_channel.close()
        self._memory.close()


def metric_in(page: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples on a page that have these labels."""
    total = 0.0
    for line in page.splitlines():
        head, _, value = line.rpartition(" ")
        if head.partition("{")[0] == name and all(
            f'{key}="{word}"' in head for key, word in labels.items()
        ):
            total += float(value)
    return total
