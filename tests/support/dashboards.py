"""The dashboards' queries, with Grafana's variables substituted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from tests.support.gateway import REPOSITORY

MONITORING = REPOSITORY / "monitoring"

#: Values of the variables with "All" selected and empty text boxes.
_VARIABLES = {
    "$__rate_interval": "1m",
    "$__range": "5m",
    "$__auto": "1m",
    "$instance": ".*",
    "$share": ".*",
    "$user": "",
    "$client": "",
    "$key": "",
    "$path": "",
    "$search": "",
}


@dataclass(frozen=True)
class Question:
    """A query of a panel."""

    dashboard: str
    panel: str
    expr: str

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expr}"


def dashboard(name: str) -> dict[str, Any]:
    path = MONITORING / f"grafana/dashboards/{name}.json"
    made: dict[str, Any] = json.loads(path.read_text())
    return made


def questions(kind: Literal["prometheus", "loki"]) -> list[Question]:
    """All queries of the dashboards for one type of data source."""
    asked = [
        Question(name, panel["title"], filled_in(target["expr"]))
        for name in ("access", "service")
        for panel in dashboard(name)["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == kind
    ]
    assert asked
    return asked


def filled_in(expr: str) -> str:
    """An expression without Grafana's variables."""
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    # Templates of Prometheus and of lines have their dollars in braces only.
    assert "$" not in expr, f"a variable that this test does not know: {expr}"
    return expr
