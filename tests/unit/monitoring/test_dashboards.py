"""Committed dashboards match the code and use existing metrics."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from monitoring import generate
from tests.support.dashboards import dashboard, questions
from tests.support.gateway import REPOSITORY
from tests.support.prometheus import rules

METRICS = (REPOSITORY / "docs/metrics.md").read_text()

each = pytest.mark.parametrize("name", generate.DASHBOARDS)


@each
def test_committed_dashboards_are_up_to_date(name: str) -> None:
    committed = (generate.FOLDER / f"{name}.json").read_text()
    assert committed == generate.as_json(name), "run python -m monitoring.generate"


def test_no_stale_dashboard_is_committed() -> None:
    assert {path.stem for path in generate.FOLDER.iterdir()} == generate.DASHBOARDS.keys()


@each
def test_panels_have_unique_ids_and_positions(name: str) -> None:
    panels = dashboard(name)["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    for one, other in itertools.combinations(panels, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@each
def test_every_panel_uses_a_listed_data_source(name: str) -> None:
    made = dashboard(name)
    listed = {
        f"${{{variable['name']}}}": variable["query"]
        for variable in made["templating"]["list"]
        if variable["type"] == "datasource"
    }
    for panel in made["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["targets"]
        assert [target["refId"] for target in panel["targets"]] == list(
            "ABCDE"[: len(panel["targets"])]
        )
        for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"])):
            assert listed[source["uid"]] == source["type"]


@each
def test_every_dashboard_variable_is_defined_and_used(name: str) -> None:
    made = dashboard(name)
    there = {f"${variable['name']}" for variable in made["templating"]["list"]}
    text = json.dumps(made["panels"]) + json.dumps(made["templating"])
    used = set(re.findall(r"\$[a-z]\w*", text.replace("${", "$")))
    assert used == there


def test_selecting_a_share_hides_no_refused_login() -> None:
    asked = [
        target["expr"]
        for panel in dashboard("access")["panels"]
        for target in panel.get("targets", [])
        if 'event="login_refused"' in target["expr"]
    ]
    assert len(asked) == 3
    assert not any("$share" in expr for expr in asked)  # those lines have no share


def test_every_metric_in_a_dashboard_exists() -> None:
    asked = [question.expr for question in questions("prometheus")]
    asked += [rule["expr"] for rule in rules()]
    names = {name for expr in asked for name in re.findall(r"\b(?:sftp_gateway|process)_\w+", expr)}
    for name in names:
        assert f"`{name.removesuffix('_bucket')}`" in METRICS, name


def test_every_alert_is_documented_and_tested() -> None:
    explained = (REPOSITORY / "monitoring/README.md").read_text()
    tested = (REPOSITORY / "monitoring/prometheus/rules-test.yml").read_text()
    for rule in rules():
        name = rule["alert"]
        assert f"| `{name}` |" in explained
        # Once without firing, once firing.
        cases = re.split(r"- alertname: ", tested)
        own = [case.split("- name:")[0] for case in cases if case.startswith(f"{name}\n")]
        assert {"exp_alerts" in case for case in own} == {True, False}, name
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )
