"""`python -m benchmarks.soak [--hours N]`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.endurance import leave
from benchmarks.soak.course import Plan, make_data, soak
from benchmarks.soak.report import as_markdown, write


def main() -> int:
    """Soak, print what it shows, write it; 1 after a wrong byte or an error nobody expects."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, leave)  # so that servers, mounts and data are cleared away
    seconds = options.minutes * 60 if options.minutes else options.hours * 3600
    plan = Plan(
        seconds=seconds, restart_every=min(options.restart_minutes * 60, max(5.0, seconds / 3))
    )
    with tempfile.TemporaryDirectory(prefix="sftp-soak-", dir=options.folder) as name:
        folder = Path(name)
        result = soak(plan, data=make_data(folder / "data"), folder=folder / "soak")
    write(result, options.output)
    print(as_markdown(result))
    return 0 if result.held else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Hours of mixed clients against one gateway: memory, descriptors, errors.",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=0.5, help="how long (default: 0.5)")
    length.add_argument("--minutes", type=float, help="the same in minutes")
    parser.add_argument(
        "--restart-minutes",
        type=float,
        default=5.0,
        help="between two restarts of the workers (default: 5; three times at the least)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parents[1] / "results/soak",
        help="where to write, without .json, .md, .svg (default: %(default)s)",
    )
    parser.add_argument("--folder", type=Path, help="where the data is made (default: TMPDIR)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
