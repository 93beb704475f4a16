"""How Alloy processes real lines, and the dashboards' LogQL queries."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import alloy
from tests.support.busy_gateway import GUESSER, busy_gateway
from tests.support.dashboards import MONITORING, Question, dashboard, questions
from tests.support.grammars import analyze

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

#: The only allowed labels: each has few values.
FEW = {"job", "event", "share"}


@dataclass
class Collected:
    """A real line on the way to Loki, and its fields."""

    entry: alloy.Entry
    fields: dict[str, Any]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> list[Collected]:
    """The lines of a run with every event, as Alloy sends them to Loki."""
    folder = tmp_path_factory.mktemp("collected")
    with busy_gateway(folder / "busy") as busy:
        busy.read()
        busy.fail_to_read()
        busy.cause_denials()
        busy.abort_transfer()
        busy.guess(2)
        busy.guess(8, source=GUESSER)
        busy.gateway.wait_event("source_banned")
        busy.exceed_connection_limit()
        busy.gateway.stop()
        lines = (busy.folder / "logs/access.log").read_text().splitlines()
    [target] = _file().only("local.file_match", "access_log").attributes["path_targets"]
    labels = {name: value for name, value in target.items() if not name.startswith("__")}
    stages = _file().only("loki.process", "access_log").blocks
    return [
        Collected(
            # loki.source.file: "The __path__ value is available as the filename label".
            alloy.process(stages, alloy.Entry(line, {**labels, "filename": target["__path__"]})),
            json.loads(line),
        )
        for line in lines
    ]


def _file() -> alloy.Block:
    return alloy.parse((MONITORING / "alloy/config.alloy").read_text())


def test_the_components_of_the_alloy_file_are_connected() -> None:
    file = _file()
    assert file.only("loki.source.file", "access_log").attributes == {
        "targets": "local.file_match.access_log.targets",
        "forward_to": ["loki.process.access_log.receiver"],
    }
    process = file.only("loki.process", "access_log")
    assert process.attributes == {"forward_to": ["loki.write.loki.receiver"]}
    endpoint = file.only("loki.write", "loki").only("endpoint")
    assert endpoint.attributes == {"url": "http://loki:3100/loki/api/v1/push"}


def test_lines_reach_loki_unchanged_with_the_events_time(
    collected: list[Collected],
) -> None:
    assert len(collected) > 100
    for each in collected:
        assert json.loads(each.entry.line) == each.fields
        assert each.entry.timestamp == each.fields["time"]


def test_fields_extracted_by_alloy_exist(collected: list[Collected]) -> None:
    stages = _file().only("loki.process", "access_log").blocks
    [taken] = [stage for stage in stages if stage.name == "stage.json"]
    for name, expression in taken.attributes["expressions"].items():
        assert any((expression or name) in each.fields for each in collected), name


def test_labels_are_few_and_of_low_cardinality(collected: list[Collected]) -> None:
    streams = {tuple(sorted(each.entry.labels.items())) for each in collected}
    names = {name for stream in streams for name, _ in stream}
    assert names == FEW
    shares = {each.entry.labels.get("share") for each in collected}
    assert shares == {None, "letters", "bad"}
    # One per event, and per share for file events.
    kinds = {each.fields["event"] for each in collected}
    assert len(streams) <= len(kinds) * len(shares)
    for each in collected:
        assert each.entry.labels["event"] == each.fields["event"]


@pytest.mark.parametrize("question", questions("loki"), ids=str)
def test_every_expression_is_valid_logql_over_existing_fields(
    collected: list[Collected], question: Question
) -> None:
    [found] = analyze([question.expr])
    assert found["errors"] == []
    assert {matcher["label"] for matcher in found["stream"]} <= FEW
    assert {"label": "job", "op": "=", "value": "sftp-gateway"} in found["stream"]
    chosen = [each for each in collected if _chooses(found["stream"], each.entry.labels)]
    assert chosen, "no line of the run has these labels"
    known = FEW | found["extracted"].keys()
    templates = {name for text in found["formats"] for name in re.findall(r"\.(\w+)", text)}
    used = {*found["filtered"], *found["grouped"], *found["unwrapped"], *templates}
    assert used <= known, f"{used - known} is neither a label nor extracted from the line"
    assert templates <= found["extracted"].keys()
    needed = set(found["extracted"].values())
    whole = [each for each in chosen if needed <= each.fields.keys()]
    assert whole, f"no line has all of {needed}"
    for name in found["unwrapped"]:
        field = found["extracted"][name]
        assert all(isinstance(each.fields[field], int | float) for each in whole)


def test_the_grammar_finds_errors() -> None:
    [whole, broken] = analyze(['sum(rate({a="b"}[1m]))', 'sum(rate({a="b"[1m]))'])
    assert (bool(whole["errors"]), bool(broken["errors"])) == (False, True)


def test_the_share_variable_uses_a_label_set_by_alloy() -> None:
    [share] = [v for v in dashboard("access")["templating"]["list"] if v["name"] == "share"]
    assert share["query"]["label"] in FEW
    assert analyze([share["query"]["stream"]])[0]["errors"] == []


def _chooses(matchers: list[dict[str, str]], labels: dict[str, str]) -> bool:
    """As in Loki, missing labels are empty, and expressions match whole values."""
    tests = {
        "=": lambda wanted, value: value == wanted,
        "=~": lambda wanted, value: bool(re.fullmatch(wanted, value)),
    }
    return all(tests[m["op"]](m["value"], labels.get(m["label"], "")) for m in matchers)
