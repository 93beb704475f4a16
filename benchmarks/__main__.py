"""`python -m benchmarks`: reads the command line, runs, prints and writes the results."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from benchmarks import requests
from benchmarks.chart import as_svg
from benchmarks.checkout import checkout
from benchmarks.markdown import as_markdown
from benchmarks.peers import GATEWAY, PEERS, REPOSITORY, gateway_before
from benchmarks.report import Run, as_json, from_json
from benchmarks.runner import Plan, run
from benchmarks.workloads import WORKLOADS

_RESULTS = REPOSITORY / "benchmarks/results/speed"


def main() -> int:
    """Do what the command line asks for. The exit status is 1 if the gateway failed somewhere."""
    signal.signal(signal.SIGTERM, _leave)  # so that servers, mounts and data are cleared away
    if sys.argv[1:2] == ["requests"]:
        return requests.main(sys.argv[2:])
    options = _parser().parse_args()
    if options.render is not None:
        _draw(from_json(json.loads(options.render.read_text())), options.output or options.render)
        return 0
    peers = [peer for peer in PEERS if peer.name in (options.peers or [peer.name])]
    with tempfile.TemporaryDirectory(prefix="sftp-bench-", dir=options.folder) as folder:
        if options.before is not None:
            peers.append(gateway_before(checkout(options.before, Path(folder, "checkout"))))
        plan = Plan(
            peers=peers,
            workloads=[each for each in WORKLOADS if each.name in (options.only or [each.name])],
            rounds=options.rounds or (1 if options.quick else 5),
            quick=options.quick,
            folder=options.folder,
        )
        done = run(plan, lambda line: print(line, file=sys.stderr, flush=True))
    print(as_markdown(done))
    partial = options.quick or options.only or options.peers or options.before
    output = options.output or (None if partial else _RESULTS)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.with_suffix(".json").write_text(json.dumps(as_json(done), indent=2) + "\n")
        _draw(done, output)
    return int(any(failure.peer == GATEWAY for failure in done.failures))


def _draw(done: Run, stem: Path) -> None:
    stem.with_suffix(".md").write_text(as_markdown(done))
    stem.with_suffix(".svg").write_text(as_svg(done))


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare the gateway with other SFTP servers on this machine.",
        epilog="`python -m benchmarks requests --help` shows how to measure single requests.",
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
        metavar="PEER",
        help=f"{' '.join(peers)} (default: all that are installed)",
    )
    parser.add_argument(
        "--before",
        metavar="REV",
        help="measure the gateway of a git revision, or of a folder with a checkout, in the same "
        "rounds, as the peer `before`",
    )
    parser.add_argument("--rounds", type=int, help="default: 5, or 1 of --quick")
    parser.add_argument(
        "--quick", action="store_true", help="little data, to see whether it works at all"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data is made, 2.4 GB (default: TMPDIR or /tmp)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="write OUTPUT.json, OUTPUT.md and OUTPUT.svg (default: "
        f"{_RESULTS.relative_to(REPOSITORY)}, or nothing with --quick, --only or --peers)",
    )
    parser.add_argument(
        "--render",
        type=Path,
        metavar="FILE.json",
        help="measure nothing; rewrite the .md and .svg files of these results",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
