"""Writes the dashboards' JSON: `python -m monitoring.generate [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from monitoring.dashboards import access, service

FOLDER: Final = Path(__file__).parent / "grafana/dashboards"

DASHBOARDS: Final[dict[str, Callable[[], dashboard.Dashboard]]] = {
    "access": access.build,
    "service": service.build,
}


def as_json(name: str) -> str:
    """A dashboard in Grafana's JSON; panels are numbered in order."""
    made = DASHBOARDS[name]().build()
    for number, panel in enumerate(made.panels or [], start=1):
        panel.id_val = number
    return JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n"


def main() -> int:
    """Write the dashboards; with --check, report and return 1 if they are out of date."""
    stale = [
        path
        for name in DASHBOARDS
        if not (path := FOLDER / f"{name}.json").exists()
        or path.read_text(encoding="utf-8") != as_json(name)
    ]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is out of date: run python -m monitoring.generate")
        return 1 if stale else 0
    for path in stale:
        path.write_text(as_json(path.stem), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
