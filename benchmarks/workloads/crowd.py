"""Many clients at once, and what each GB costs the server then."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import processes
from benchmarks.streams import read_all
from benchmarks.workloads.base import Stage, Workload, at_once, metric, rate, read_whole, timed

#: How many clients `growth` has one after another; a run may do fewer of these.
_GROWTH = (1, 4, 16, 64)

_CONNECTIONS = 4


def mounts_8(stage: Stage) -> dict[str, float]:
    sizes = stage.data.sizes
    with ExitStack() as mounts:
        files = [
            mounts.enter_context(stage.clients.mounted()) / name for name in stage.data.part_names
        ]
        before = processes.cpu_seconds(stage.server.pid)
        with timed() as elapsed:
            at_once([read_whole(file) for file in files])
            seconds = elapsed()
        spent = processes.cpu_seconds(stage.server.pid) - before
    size = sizes.parts * sizes.part_bytes
    return {"mounts_8": size / 1e6 / seconds, "mounts_8_cpu": spent / (size / 1e9)}


def max_conns(stage: Stage) -> dict[str, float]:
    names = stage.data.part_names[:_CONNECTIONS]
    with stage.clients.mounted(f"max_conns={_CONNECTIONS}") as at, timed() as elapsed:
        at_once([read_whole(at / name) for name in names])
        seconds = elapsed()
    return {"max_conns": len(names) * stage.data.sizes.part_bytes / 1e6 / seconds}


def growth(stage: Stage) -> dict[str, float]:
    found: dict[str, float] = {}
    size = stage.data.sizes.growth_bytes
    path = stage.server.peer.remote_path("big.bin")
    for number in stage.data.sizes.growth_clients:
        share = size // number
        with stage.clients.sessions(number) as sessions:
            for at, session in enumerate(sessions):
                session.open(path, offset=at * share, length=share)
            before = processes.cpu_seconds(stage.server.pid)
            with timed() as elapsed:
                read_all(sessions)
                seconds = elapsed()
            spent = processes.cpu_seconds(stage.server.pid) - before
        found[f"growth_{number}"] = size / 1e6 / seconds
        found[f"growth_{number}_cpu"] = spent / (size / 1e9)
    return found


WORKLOADS = (
    Workload(
        name="mounts_8",
        run=mounts_8,
        metrics=(
            rate("mounts_8", "8 mounts at once, sshfs", "MB/s"),
            metric("mounts_8_cpu", "server CPU of 8 mounts", "s/GB"),
        ),
        for_all=True,
    ),
    Workload(
        name="max_conns",
        run=max_conns,
        metrics=(rate("max_conns", "4 readers, sshfs with max_conns=4", "MB/s"),),
    ),
    Workload(
        name="growth",
        run=growth,
        metrics=tuple(
            each
            for number in _GROWTH
            for each in (
                rate(f"growth_{number}", f"{number} sessions at once, ssh -s sftp", "MB/s"),
                metric(f"growth_{number}_cpu", f"server CPU of {number} sessions", "s/GB"),
            )
        ),
    ),
)
