"""`python -m benchmarks`: reads the command line, runs, prints and writes the results."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType

from benchmarks.peers import DEFAULT_PEERS, PEERS, REPOSITORY
from benchmarks.report import Run, as_json, as_markdown
from benchmarks.runner import Plan, run
from benchmarks.workloads import WORKLOADS

_RESULTS = REPOSITORY / "benchmarks/results/first"


def main() -> int:
    """Run what the command line asks for; the exit status."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, _leave)  # so that servers, mounts and data are cleared away
    plan = Plan(
        peers=[peer for peer in PEERS if peer.name in options.peers],
        workloads=[each for each in WORKLOADS if each.name in (options.only or [each.name])],
        rounds=options.rounds or (2 if options.quick else 5),
        quick=options.quick,
        folder=options.folder,
    )
    done = run(plan, lambda line: print(line, file=sys.stderr, flush=True))
    print(as_markdown(done))
    output = options.output or (None if options.quick or options.only else _RESULTS)
    if output is not None:
        _write(done, output)
    return 0


def _write(done: Run, stem: Path) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(as_json(done), indent=2) + "\n")
    stem.with_suffix(".md").write_text(as_markdown(done))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare the gateway with other SFTP servers on this machine.",
    )
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="WORKLOAD", help=" ".join(names)
    )
    peers = [peer.name for peer in PEERS]
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=peers,
        default=DEFAULT_PEERS,
        metavar="PEER",
        help=f"{' '.join(peers)} (default: {' '.join(DEFAULT_PEERS)})",
    )
    parser.add_argument("--rounds", type=int, help="default: 5, or 2 of --quick")
    parser.add_argument(
        "--quick", action="store_true", help="little data, to see whether it works at all"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data is made, 1.3 GB (default: TMPDIR or /tmp)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="write OUTPUT.json and OUTPUT.md (default: "
        f"{_RESULTS.relative_to(REPOSITORY)}, or nothing with --quick or --only)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
