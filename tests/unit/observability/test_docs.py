"""The two reference pages say what the code does: neither more nor less."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from sftp_gateway.observability import vocabulary
from sftp_gateway.observability.access_log import json_lines
from sftp_gateway.observability.access_log.events import (
    EVENTS,
    CommandAnswered,
    CommandRefused,
    ConfigurationRefused,
    ConfigurationReloaded,
    Connection,
    ConnectionsRefused,
    CredentialsRemoved,
    Denied,
    EventsSuppressed,
    FileClosed,
    FileOpened,
    FolderListed,
    LogDropped,
    LoginAccepted,
    LoginRefused,
    NegotiationFailed,
    ReadFailed,
    Request,
    ServerStarted,
    ServerStopped,
    ServerStopping,
    Session,
    SessionEnded,
    SourceBanned,
    SourceUnbanned,
    WorkerExited,
    WorkerOutdated,
    WorkerStarted,
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
from tests.support.measured import Measured

DOCS = Path(__file__).parents[3] / "docs"
ACCESS_LOG = (DOCS / "access-log.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()

UNKNOWN = Session(session="9f86d081884c7d65", client_ip="192.0.2.17", client_port=50122)
NEW = dataclasses.replace(
    UNKNOWN,
    client_version="SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7",
    cipher="aes128-gcm@openssh.com",
)
BY_KEY = dataclasses.replace(
    NEW,
    user="gvpocr",
    auth="publickey",
    key="SHA256:5a4jTmLuaBtDXUqNtyDPpRkQXwdgNRJFEIKTZu3Q9rE",
    key_label="worker7",
)
HOME = "/home/gvpocr"
SCAN = f"{HOME}/Bhushanji/भूषण जी/पत्र १९८५.tif".encode()

EXAMPLES = [
    Connection(time=1767225600.104211, session=UNKNOWN, pid=8),
    LoginAccepted(time=1767225600.118934, session=BY_KEY),
    LoginRefused(
        time=1767225600.118934,
        session=NEW,
        user_tried="root",
        method="publickey",
        key="SHA256:pZk5XzgTQq8dWcUu1Yc1o3N9m0bVh2sJr7eLwA6tFiM",
        reason="unknown_user",
    ),
    LoginAccepted(
        time=1767225600.118934,
        session=dataclasses.replace(
            BY_KEY,
            key_label="worker-17",
            ca="SHA256:pZk5XzgTQq8dWcUu1Yc1o3N9m0bVh2sJr7eLwA6tFiM",
            certificate="worker-17",
            serial=42,
        ),
    ),
    NegotiationFailed(
        time=1767229199.0,
        session=dataclasses.replace(UNKNOWN, client_version="SSH-2.0-JSCH-0.1.54"),
        algorithm="cipher",
        their_offer="aes128-cbc,3des-cbc,blowfish-cbc",
        remedy="update the client",
    ),
    CredentialsRemoved(time=1767229200.0, session=BY_KEY, reason="key_not_authorized"),
    FileOpened(time=1767225601.5, session=BY_KEY, share="Bhushanji", path=SCAN, size=1048576),
    FileClosed(
        time=1767225601.523118,
        session=BY_KEY,
        share="Bhushanji",
        path=SCAN,
        size=1048576,
        bytes=1048576,
        reads=32,
        duration=0.0231180001,
        whole=True,
        result="ok",
    ),
    ReadFailed(
        time=1767225601.51,
        session=BY_KEY,
        share="Bhushanji",
        path=SCAN,
        offset=524288,
        length=32768,
        error="EIO",
        effect="disconnect",
    ),
    FolderListed(
        time=1767225601.2,
        session=BY_KEY,
        share="newsletters",
        path=f"{HOME}/newsletters/2019".encode(),
        entries=1000,
        complete=True,
        duration=0.012544,
    ),
    Denied(
        time=1767225602.0,
        session=BY_KEY,
        operation="rename",
        share="models",
        path=f"{HOME}/models/a\\b\nc".encode() + b"\xff",
        target=f"{HOME}/models/z".encode(),
        reason="read_only",
    ),
    CommandAnswered(time=1767225590.0, session=BY_KEY, command="echo 'SSH connection successful'"),
    CommandRefused(time=1767225591.0, session=BY_KEY, kind="exec", command="rm -rf ~"),
    Request(
        time=1767225601.500741,
        session=BY_KEY,
        operation="read",
        share="Bhushanji",
        path=SCAN,
        offset=0,
        length=32768,
        bytes=32768,
        duration=0.000087,
        result="ok",
    ),
    SessionEnded(
        time=1767229200.0,
        session=BY_KEY,
        duration=3599.895789,
        bytes=1048576,
        files=1,
        folders=1,
        requests=41,
        denied=1,
        reason="closed",
    ),
    EventsSuppressed(
        time=1767225630.0,
        session=BY_KEY,
        count=21748,
        since=1767225602.1,
        until=1767225629.5,
        denied=21740,
        command_refused=6,
        command_answered=1,
        login_refused=1,
    ),
    LogDropped(time=1767225700.0, count=312, since=1767225699.25, reason="queue_full"),
    ServerStarted(
        time=1767225500.0,
        version="0.1.0",
        address="0.0.0.0",
        port=2222,
        record_layer="own",
        landlock=7,
    ),
    ServerStopping(time=1767312000.0, signal="SIGTERM"),
    ServerStopped(time=1767312004.5),
    WorkerStarted(time=1767225499.9, worker=0, pid=8),
    WorkerOutdated(time=1767243600.0, worker=0, pid=8, share="models"),
    WorkerExited(
        time=1767247200.0, worker=0, pid=8, signal="SIGKILL", connections=3, expected=False
    ),
    ConnectionsRefused(
        time=1767250805.0,
        reason="max_connections",
        count=41,
        since=1767250800.1,
        client_ip="192.0.2.99",
        open=2000,
        busiest_ip="192.0.2.99",
        busiest_open=1960,
    ),
    SourceBanned(
        time=1767254400.0,
        source="2001:db8:7::/64",
        reason="unknown_user",
        score=30.0,
        until=1767254460.0,
        times=2,
        effect="refused",
    ),
    SourceUnbanned(time=1767254460.2, source="2001:db8:7::/64", reason="expired"),
    ConfigurationReloaded(
        time=1767254400.0,
        workers=2,
        cause="files",
        changed="all",
        removed_users="ana (2 keys, 3 sessions)",
        removed_shares="letters",
        removed_sessions=3,
    ),
    ConfigurationReloaded(time=1767254400.0, workers=2, cause="files", changed="credentials"),
    ConfigurationRefused(
        time=1767254400.0,
        cause="signal",
        mistakes="keys/authorized_keys/ana can be written by others (mode 0666), who could let "
        "themselves in; run: chmod go-w keys/authorized_keys/ana",
    ),
]

TYPES = {
    "string": str,
    "text": str,
    "path": str,
    "time": str,
    "integer": int,
    "seconds": float,
    "boolean": bool,
    "list of strings": list,
}


def section(text, heading):
    """What stands below a heading, up to the next of its level or above."""
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


def own_fields(kind):
    return [f.name for f in dataclasses.fields(kind) if f.name not in ("time", "session")]


def test_there_is_an_example_of_every_event():
    assert {type(event) for event in EXAMPLES} == set(EVENTS)


def test_the_access_log_page_has_a_section_for_every_event_and_for_nothing_else():
    headings = re.findall(r"^### `(\w+)`$", ACCESS_LOG, re.MULTILINE)
    assert sorted(headings) == sorted(kind.name for kind in EVENTS)


@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.name)
def test_the_section_of_an_event_names_its_fields_in_their_order(kind):
    assert first_column(section(ACCESS_LOG, f"### `{kind.name}`")) == own_fields(kind)


def test_the_page_names_the_fields_that_all_events_share_in_their_order():
    context = [field.name for field in dataclasses.fields(Session)]
    assert first_column(section(ACCESS_LOG, "## Every line")) == ["time", "event", "truncated"]
    assert first_column(section(ACCESS_LOG, "## Lines of a connection")) == context


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.name)
def test_the_types_on_the_page_are_those_of_the_example_lines(event):
    documented = {
        row[0].strip("`"): TYPES[row[1]]
        for heading in ("## Every line", "## Lines of a connection", f"### `{event.name}`")
        for row in rows(section(ACCESS_LOG, heading))
    }
    for name, value in json.loads(encode(event)).items():
        assert type(value) is documented[name], name


def test_the_example_lines_on_the_page_are_those_of_the_encoder():
    on_page = re.findall(r'^\{"time".*$', ACCESS_LOG, re.MULTILINE)
    assert sorted(on_page) == sorted(encode(event).decode().rstrip("\n") for event in EXAMPLES)
    for event in EXAMPLES:
        assert encode(event).decode() in section(ACCESS_LOG, f"### `{event.name}`")


def test_the_page_tells_the_caps():
    assert f"{json_lines.MAX_TEXT_LENGTH:,} bytes" in ACCESS_LOG
    assert f"{json_lines.MAX_PATH_LENGTH:,} bytes" in ACCESS_LOG
    assert f"{json_lines.MAX_LINE_LENGTH:,} bytes" in ACCESS_LOG


def test_the_words_of_reasons_are_on_the_page():
    for heading, known in (
        ("### `denied`", vocabulary.DENIAL_REASONS),
        ("### `login_refused`", vocabulary.LOGIN_REASONS - {"accepted"}),
        ("### `command_refused`", vocabulary.COMMAND_KINDS),
        ("### `request`", vocabulary.RESULTS),
        ("### `connections_refused`", CONNECTION_REFUSALS),
        ("### `source_banned`", PENALTY_KINDS),
    ):
        on_page = set(re.findall(r"`([\w-]+)`", section(ACCESS_LOG, heading)))
        assert known <= on_page, heading


def metrics_in_full():
    """A page of metrics in which every series has come into being."""
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
    """Name -> type and labels, of everything that the real output has."""
    page = metrics_in_full()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    labels = {name: set() for name in types}
    for name, text in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", page, re.MULTILINE):
        family = name if name in types else re.sub(r"_(bucket|count|sum)$", "", name)
        labels[family] |= set(re.findall(r'(\w+)="', text)) - {"le"}
    return {name: (types[name], labels[name]) for name in types}


def test_the_metrics_page_names_every_metric_with_its_type_and_labels_and_no_other():
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
def test_the_metrics_page_names_every_word_of_a_label(label, words):
    on_page = {row[0]: row[1] for row in rows(section(METRICS, "## Values of labels"))}
    expected = words | {OTHER}
    assert set(re.findall(r"`([\w-]+)`", on_page[label])) == expected


def test_the_metrics_page_names_why_connections_are_refused():
    on_page = {row[0]: row[1] for row in rows(section(METRICS, "## Values of labels"))}
    assert set(re.findall(r"`(\w+)`", on_page["`reason` of connections"])) == CONNECTION_REFUSALS
    assert set(re.findall(r"`(\w+)`", on_page["`kind` of penalties"])) == PENALTY_KINDS


def test_every_metric_that_a_query_on_the_page_uses_is_there():
    used = set(re.findall(r"\b(?:sftp_gateway|process)_\w+", METRICS))
    real = set(described()) | {
        f"sftp_gateway_request_duration_seconds_{s}" for s in ("bucket", "count", "sum")
    }
    assert used <= real


def test_the_metrics_page_tells_the_buckets():
    line = next(line for line in METRICS.splitlines() if line.startswith("Buckets"))
    assert [float(number) for number in re.findall(r"[\d.]+(?=[,;])", line)] == list(BUCKETS)
