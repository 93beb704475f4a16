"""A soak as JSON and as tables, and the picture beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.endurance import MIB
from benchmarks.machine import machine, versions
from benchmarks.soak.chart import as_svg
from benchmarks.soak.course import Soak
from benchmarks.soak.samples import Sample, courses

#: Versions of what takes part.
_TAKE_PART = {"sftp-gateway", "sshfs", "OpenSSH client", "Python", "asyncssh", "cryptography"}

#: Columns of the samples' processes in the JSON, behind their names.
COLUMNS = ("rss_kib", "pss_kib", "anonymous_kib", "descriptors", "threads")


def write(soak: Soak, stem: Path) -> None:
    """`stem`.json, .md and .svg."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    # All is made before any of it is written: that changes the checked-out tree, which is named.
    texts = {".json": as_json(soak), ".md": f"{as_markdown(soak)}\n", ".svg": as_svg(soak)}
    for suffix, text in texts.items():
        stem.with_suffix(suffix).write_text(text)


def as_json(soak: Soak) -> str:
    """Everything, with one line for each sample."""
    ledger = soak.ledger
    head = {
        "date": soak.started.isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": _versions(),
        "seconds": round(soak.seconds, 1),
        "restart_every": soak.plan.restart_every,
        "warm_up": soak.plan.warm_up,
        "done": dict(ledger.done),
        "interrupted_by_restarts": dict(ledger.interrupted),
        "restarts": len(ledger.restarts),
        "bytes_verified": ledger.verified,
        "errors": ledger.errors,
        "problems": ledger.problems,
        "events": soak.events,
        "columns": COLUMNS,
        "before": _row(soak.before),
        "after": _row(soak.after),
    }
    rows = ",\n".join(json.dumps(_row(each), separators=(",", ":")) for each in soak.samples)
    return f'{json.dumps(head, indent=1)[:-2]},\n "samples": [\n{rows}\n]\n}}\n'


def _row(sample: Sample | None) -> dict[str, object] | None:
    if sample is None:
        return None
    return {
        "at": round(sample.at, 1),
        "sessions": sample.sessions,
        "handles": sample.handles,
        "errors": sample.errors,
        "restarting": sample.restarting,
        "processes": {
            each.name: (
                each.memory.rss,
                each.memory.pss,
                each.memory.anonymous,
                each.descriptors,
                each.threads,
            )
            for each in sample.processes
        },
    }


def _versions() -> dict[str, str]:
    return {name: version for name, version in versions().items() if name in _TAKE_PART}


def as_markdown(soak: Soak) -> str:
    """Two tables, and a few sentences."""
    ledger = soak.ledger
    restarts = f"{len(ledger.restarts)} restarts of the workers"
    return "\n".join(
        [
            f"# {soak.seconds / 3600:.2f} hours of mixed clients",
            "",
            f"{soak.started:%Y-%m-%d}, {machine()['cpu']}, {machine()['cores']} cores, clients"
            f" included; {_versions()['sftp-gateway']}.",
            f"{ledger.verified / 1024 / MIB:.2f} GiB verified byte for byte; {restarts};"
            f" errors: **{ledger.errors}**.",
            "",
            *_processes(soak),
            "",
            *_at_rest(soak),
            *_operations(soak),
            *(f"- {problem}" for problem in ledger.problems),
        ]
    )


def _processes(soak: Soak) -> Iterator[str]:
    yield (
        "| process | how many | anonymous KiB, first quarter | last quarter | most "
        "| slope, KiB/h | of PSS | descriptors, first | last | most | threads, most |"
    )
    yield f"|---{'|---:' * 10}|"
    for each in courses(soak.samples, warm_up=soak.plan.warm_up) if soak.samples else ():
        yield (
            f"| {each.kind} | {each.processes} | {each.first:,.0f} | {each.last:,.0f} "
            f"| {each.most:,} | {each.slope:+,.0f} | {each.pss_slope:+,.0f} "
            f"| {each.first_descriptors} | {each.last_descriptors} | {each.most_descriptors} "
            f"| {each.most_threads} |"
        )


def _at_rest(soak: Soak) -> Iterator[str]:
    if soak.before is not None and soak.after is not None:
        grown = soak.after.memory().anonymous - soak.before.memory().anonymous
        yield (
            f"Without clients, after it as before it: {soak.after.sessions} sessions, "
            f"{soak.after.handles} handles; {soak.before.descriptors()} descriptors before, "
            f"{soak.after.descriptors()} after; {grown:+,} KiB of anonymous memory."
        )
        yield ""


def _operations(soak: Soak) -> Iterator[str]:
    yield "| what clients did | how often | interrupted by a restart |"
    yield "|---|---:|---:|"
    ledger = soak.ledger
    for kind in sorted(set(ledger.done) | set(ledger.interrupted)):
        yield f"| {kind} | {ledger.done[kind]:,} | {ledger.interrupted[kind]:,} |"
    yield ""
