"""What is measured. A workload is one function: a running server in, numbers by metric out."""

from benchmarks.workloads import crowd, far, reading, sessions
from benchmarks.workloads.base import Metric, Stage, Workload

__all__ = ["WORKLOADS", "Metric", "Stage", "Workload"]

#: All workloads, in the order of the results' rows.
WORKLOADS: tuple[Workload, ...] = (
    *reading.WORKLOADS,
    *crowd.WORKLOADS,
    *sessions.WORKLOADS,
    *far.WORKLOADS,
)
