"""Starting, logging in, mounting, and what sessions weigh."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks import processes
from benchmarks.streams import Session, read_all
from benchmarks.workloads.base import Stage, Workload, command, metric, rate, timed

#: Sessions that are open before one is weighed: what a process needs once, for its first, is not
#: what a session needs. It shows in the sums.
_FIRST: Final = 10


def start(stage: Stage) -> dict[str, float]:
    found = {"start_banner": stage.server.banner_after}
    if stage.server.ready_after is not None:
        found["start_ready"] = stage.server.ready_after
    return found


def memory(stage: Stage) -> dict[str, float]:
    number, server = stage.data.sizes.idle_sessions, stage.server.pid
    idle = processes.memory(server)
    with _greeted(stage, _FIRST):
        before = processes.memory(server)
        with _greeted(stage, number):
            after = processes.memory(server)
    return {
        "memory_idle": idle.pss / 1024,
        "memory_idle_rss": idle.rss / 1024,
        "memory_sessions": after.pss / 1024,
        "memory_session": (after.pss - before.pss) / number,
        "memory_session_anonymous": (after.anonymous - before.anonymous) / number,
    }


@contextmanager
def _greeted(stage: Stage, number: int) -> Iterator[None]:
    """Sessions that got their VERSION and are idle."""
    with stage.clients.sessions(number) as sessions:
        for session in sessions:
            session.hello()
        yield


def memory_busy(stage: Stage) -> dict[str, float]:
    number = stage.data.sizes.busy_sessions
    part = stage.data.sizes.big_bytes // number
    server, samples = stage.server.pid, [0]
    before = processes.memory(server)
    with stage.clients.sessions(number) as sessions:
        for at, session in enumerate(sessions):
            path = stage.server.peer.remote_path("big.bin")
            session.open(path, offset=at * part, length=part)
        read_all(sessions, lambda: samples.append(processes.memory_now(server).anonymous))
    return {"memory_busy": (max(samples) - before.anonymous) / number}


def mount(stage: Stage) -> dict[str, float]:
    with timed() as elapsed, stage.clients.mounted() as at:
        command("ls", at)
        seconds = elapsed()
    return {"mount": seconds}


def logins(stage: Stage) -> dict[str, float]:
    number = stage.data.sizes.logins
    with timed() as elapsed, stage.clients.sessions(number) as sessions:
        # Not every server lets ssh end with status 0: that it said its VERSION is what counts.
        refused = sum(not _let_in(session) for session in sessions)
        seconds = elapsed()
    return {"logins": (number - refused) / seconds, "logins_refused": refused}


def _let_in(session: Session) -> bool:
    try:
        session.hello()
    except (RuntimeError, OSError):
        return False
    return True


WORKLOADS = (
    Workload(
        name="start",
        run=start,
        metrics=(
            metric("start_banner", "start: exec to the SSH banner", "s"),
            metric("start_ready", "start: exec to /readyz 200", "s"),
        ),
    ),
    Workload(
        name="memory",
        run=memory,
        metrics=(
            metric("memory_idle", "memory (PSS) before any session", "MiB"),
            metric("memory_idle_rss", "memory (RSS) before any session", "MiB"),
            metric("memory_sessions", "memory (PSS) with idle sessions", "MiB"),
            metric("memory_session", "memory (PSS) for an idle session", "KiB"),
            metric("memory_session_anonymous", "anonymous memory for an idle session", "KiB"),
        ),
        for_all=True,
    ),
    Workload(
        name="memory_busy",
        run=memory_busy,
        metrics=(metric("memory_busy", "anonymous memory for a busy session, at most", "KiB"),),
    ),
    Workload(
        name="mount",
        run=mount,
        metrics=(metric("mount", "mount: exec of sshfs to ls answered", "s"),),
    ),
    Workload(
        name="logins",
        run=logins,
        metrics=(
            rate("logins", "key logins, all at once", "logins/s"),
            metric("logins_refused", "logins refused", "logins"),
        ),
        for_all=True,
    ),
)
