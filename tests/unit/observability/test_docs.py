"""The two reference pages match the code exactly."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from sftp_gateway.observability import vocabulary
from sftp_gateway.observability.access_log import json_lines
from sftp_gateway.observability.access_log.events import (
    EVENTS,
    Session,
)
from sftp_gateway.observability.access_log.json_lines import encode
from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.history.writer import HistoryCounts
from sftp_gateway.observability.metrics.request_counter import BUCKETS
from sftp_gateway.observability.vocabulary import (
    CONNECTION_REFUSALS,
    OTHER,
    PENALTY_KINDS,
)
from tests.support.event_docs import described_fields
from tests.support.event_examples import EXAMPLES
from tests.support.measured import Measured

DOCS = Path(__file__).parents[3] / "docs"
ACCESS_LOG = (DOCS / "access-log.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()


def section(text, heading):
    """The text below a heading, up to the next of the same or a higher level."""
    level = heading.split()[0]
    pattern = rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)"
    found = re.search(pattern, text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {heading!r}"
    return found[1]


def rows(text):
    """The cells of each row of the tables in `text` whose first cell is code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def first_column(text):
    return [row[0].strip("`") for row in rows(text)]


def test_every_event_has_an_example():
    assert {type(event) for event in EXAMPLES} == set(EVENTS)


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_a_line_has_the_documented_types(event):
    documented = {
        **described_fields(Session),
        **described_fields(type(event)),
        "event": ("string", ""),
        "truncated": ("list of strings", ""),
    }
    types = {
        "string": str, "text": str, "path": str, "time": str, "integer": int, "seconds": float,
        "boolean": bool,
    }  # fmt: skip
    for name, value in json.loads(encode(event)).items():
        assert type(value) is types[documented[name][0]], name


@pytest.mark.parametrize("kind", [Session, *EVENTS], ids=lambda kind: kind.__name__)
def test_every_event_and_field_is_described(kind):
    assert kind.__doc__
    fields = {field.name for field in dataclasses.fields(kind)} - {"time", "session"}
    for name in fields:
        assert described_fields(kind)[name][1], name


def test_the_page_documents_the_length_limits():
    assert f"{json_lines.MAX_TEXT_LENGTH:,} bytes" in ACCESS_LOG
    assert f"{json_lines.MAX_PATH_LENGTH:,} bytes" in ACCESS_LOG
    assert f"{json_lines.MAX_LINE_LENGTH:,} bytes" in ACCESS_LOG


def metrics_in_full():
    """A metrics page on which every series exists."""
    measured = Measured()
    metrics = measured.metrics
    log = AccessLog(sinks=[])
    log.close(60)
    metrics.watch_access_log(log)
    metrics.watch_pools(lambda: {("Bhushanji", "read"): 1})
    metrics.watch_history(lambda: 0)
    HistoryCounts(measured.values).size(0)
    metrics.login("accepted", "publickey", "accepted")
    metrics.request_done("Bhushanji", "read", "ok", 0.001, 1)
    metrics.slow_read("Bhushanji")
    metrics.denied("read_only")
    metrics.command_refused("exec")
    metrics.share_up("Bhushanji", True)
    metrics.disk_error("Bhushanji", "read", "EIO")
    metrics.own_record_layer(True)
    metrics.bandwidth("gvpocr", 1e6)
    metrics.landlock_abi(7)
    page = measured.render()[1].decode()
    measured.close()
    return page


def described():
    """Name -> type and labels of every metric in the real output."""
    page = metrics_in_full()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    labels = {name: set() for name in types}
    for name, text in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        family = name if name in types else re.sub(r"_(bucket|count|sum)$", "", name)
        labels[family] |= set(re.findall(r'(\w+)="', text)) - {"le"}
    return {name: (types[name], labels[name]) for name in types}


def test_the_metrics_page_lists_exactly_the_existing_metrics():
    on_page = {}
    for heading in ("## The gateway", "## The processes"):
        for name, kind, labels, *_meaning in rows(section(METRICS, heading)):
            on_page[name.strip("`")] = (kind, set(re.findall(r"`(\w+)`", labels)))
    assert on_page == described()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("`operation`", vocabulary.OPERATIONS),
        ("`result` of requests", vocabulary.RESULTS),
        ("`result` of logins", vocabulary.LOGIN_RESULTS),
        ("`method`", vocabulary.LOGIN_METHODS),
        ("`reason` of logins", vocabulary.LOGIN_REASONS),
        ("`reason` of denials", vocabulary.DENIAL_REASONS),
        ("`kind` of commands", vocabulary.COMMAND_KINDS),
    ],
)
def test_the_metrics_page_lists_every_label_value(label, words):
    on_page = {row[0]: row[1] for row in rows(section(METRICS, "## Values of labels"))}
    expected = {*words, OTHER}
    assert set(re.findall(r"`([\w-]+)`", on_page[label])) == expected


def test_the_metrics_page_lists_every_connection_refusal():
    on_page = {row[0]: row[1] for row in rows(section(METRICS, "## Values of labels"))}
    assert (
        set(re.findall(r"`(\w+)`", on_page["`reason` of connections"]))
        == CONNECTION_REFUSALS.keys()
    )
    assert set(re.findall(r"`(\w+)`", on_page["`kind` of penalties"])) == PENALTY_KINDS.keys()


def test_queries_on_the_page_use_existing_metrics():
    used = set(re.findall(r"\b(?:sftp_gateway|process)_\w+", METRICS))
    real = set(described()) | {
        f"sftp_gateway_request_duration_seconds_{s}" for s in ("bucket", "count", "sum")
    }
    assert used <= real


def test_the_metrics_page_lists_the_buckets():
    line = next(line for line in METRICS.splitlines() if line.startswith("Buckets"))
    assert [float(number) for number in re.findall(r"[\d.]+(?=[,;])", line)] == list(BUCKETS)
