"""`sftp-gateway logs`: its output and its error messages."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sftp_gateway.commands import main as cli
from sftp_gateway.commands.times import parse_log_time
from sftp_gateway.observability.history.store import Store
from tests.support.gateway import environment
from tests.support.history import NOON, line, read, row

NOW = datetime.fromisoformat("2026-01-31T14:30:00+00:00")
LINES = [
    read("models/a.bin", at=NOON),
    read("models/\u202e\x1b[2Jevil", user="ben", at=NOON + 1, sent=5_000_000),
    line("denied", at=NOON + 2, user="ben", share="models", path="/home/ben/models/x",
         operation="remove", reason="read_only"),
    line("login_refused", at=NOON + 3, user_tried="=cmd|' /C calc'!A0", method="publickey",
         reason="unknown_user"),
]  # fmt: skip

Logs = Callable[..., tuple[int, str, str]]


@pytest.fixture
def logs(unconfigured: Path, capsys: pytest.CaptureFixture[str]) -> Logs:
    (unconfigured / "state").mkdir()
    store = Store(unconfigured / "state/history.sqlite3", max_age=1e9, max_size=1 << 30)
    store.add([row(each) for each in LINES], {})
    store.close()

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(["logs", *arguments])
        message = capsys.readouterr()
        return status, message.out, message.err

    return run


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the machine's time zone."""

    def use(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield use
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30s", timedelta(seconds=30)), ("90m", timedelta(minutes=90)), ("24h", timedelta(hours=24)),
     ("7d", timedelta(days=7)), ("2w", timedelta(weeks=2)),
     ("today", timedelta(hours=14, minutes=30)), ("yesterday", timedelta(hours=38, minutes=30))],
)  # fmt: skip
def test_common_time_formats_are_accepted(
    text: str, ago: timedelta, zone: Callable[[str], None]
) -> None:
    zone("UTC")
    assert parse_log_time(text, NOW) == NOW - ago


def test_a_date_without_a_zone_is_local() -> None:
    assert parse_log_time("2026-01-31T14:30:00Z", NOW) == NOW
    assert parse_log_time("2026-01-31", NOW) == datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize(
    ("name", "now", "today", "yesterday"),
    [
        # The clocks go forward, and back, in the night before, or in the night before that.
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00+01:00",
         "2026-03-28T00:00+01:00"),
        ("Europe/Berlin", "2026-03-30T12:00+02:00", "2026-03-30T00:00+02:00",
         "2026-03-29T00:00+01:00"),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00+02:00",
         "2026-10-24T00:00+02:00"),
        ("Europe/Berlin", "2026-10-26T12:00+01:00", "2026-10-26T00:00+01:00",
         "2026-10-25T00:00+02:00"),
        ("America/New_York", "2026-03-08T12:00-04:00", "2026-03-08T00:00-05:00",
         "2026-03-07T00:00-05:00"),
        ("America/New_York", "2026-11-01T12:00-05:00", "2026-11-01T00:00-04:00",
         "2026-10-31T00:00-04:00"),
        # There was no midnight, or the last hour of the day before came twice.
        ("America/Sao_Paulo", "2018-11-04T12:00-02:00", "2018-11-04T01:00-02:00",
         "2018-11-03T00:00-03:00"),
        ("America/Sao_Paulo", "2018-11-05T12:00-02:00", "2018-11-05T00:00-02:00",
         "2018-11-04T01:00-02:00"),
        ("America/Sao_Paulo", "2019-02-17T12:00-03:00", "2019-02-17T00:00-03:00",
         "2019-02-16T00:00-02:00"),
    ],
)  # fmt: skip
def test_days_begin_at_midnight_when_the_clocks_change(
    name: str, now: str, today: str, yesterday: str, zone: Callable[[str], None]
) -> None:
    zone(name)
    at = datetime.fromisoformat(now).astimezone()
    assert parse_log_time("today", at) == datetime.fromisoformat(today)
    assert parse_log_time("yesterday", at) == datetime.fromisoformat(yesterday)
    assert parse_log_time(today[:10], at) == datetime.fromisoformat(today)
    assert at - parse_log_time("24h", at) == timedelta(hours=24)


@pytest.mark.parametrize("text", ["", "soon", "5", "5y", "2026-13-01", "-1h"])
def test_an_invalid_time_is_an_error_with_examples(text: str, logs: Logs) -> None:
    with pytest.raises(ValueError, match="90m, 24h, 7d, today, yesterday, 2026-01-31"):
        parse_log_time(text, NOW)
    if text:
        status, _, message = logs(f"--since={text}")
        assert status == 2
        assert f"--since: {text!r} is not a valid time" in message


def test_an_empty_interval_is_an_error(logs: Logs) -> None:
    assert logs("--since", "1h", "--until", "2h")[::2] == (
        2, "error: --until must be later than --since\n",
    )  # fmt: skip
    assert logs("--since", "2h", "--until", "1h")[0] == 0


def test_lines_are_shown_in_escaped_columns_oldest_first(logs: Logs) -> None:
    status, shown, _ = logs()
    assert status == 0
    rows = shown.splitlines()
    assert [text.split()[2] for text in rows[:3]] == ["ana", "ben", "ben"]
    assert "/home/ana/models/a.bin 1 kB" in rows[0]
    assert rows[2].endswith("remove /home/ben/models/x (read_only)")
    assert "\\u202e\\u001b[2Jevil" in rows[1]
    assert "\x1b" not in shown


def test_filters_combine(logs: Logs) -> None:
    assert len(logs("--user", "ben")[1].splitlines()) == 2
    assert len(logs("--user", "ben", "--result", "denied")[1].splitlines()) == 1
    assert len(logs("--path", "a.bin")[1].splitlines()) == 1
    assert len(logs("--event", "login_refused", "--since", "2026-01-01")[1].splitlines()) == 1
    assert len(logs("-n", "2")[1].splitlines()) == 2
    assert "unknown_user" in logs("-n", "1")[1]


def record(unconfigured: Path, *lines: bytes) -> None:
    """Add lines to the history and to an access log."""
    store = Store(unconfigured / "state/history.sqlite3", max_age=1e9, max_size=1 << 30)
    store.add([row(each) for each in lines], {})
    store.close()
    with open(unconfigured / "access.log", "ab") as file:
        file.writelines(lines)


OLD, NEW, AUTHORITY = "SHA256:old+", "SHA256:new/", "SHA256:authority"


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_workers_sharing_a_user_are_distinguished_by_key(
    source: list[str], logs: Logs, unconfigured: Path
) -> None:
    (unconfigured / "state/history.sqlite3").unlink()
    one = {"user": "gvpocr", "auth": "publickey", "key": OLD, "key_label": "worker7"}
    record(
        unconfigured,
        read("models/a.bin", **one),
        read("models/b.bin", **{**one, "key": NEW}, sent=2000),
        read("models/a.bin", **{**one, "key": NEW, "key_label": "worker8"}, sent=500),
        read("models/a.bin", **{**one, "key_label": "batch-1", "ca": AUTHORITY}, sent=40),
        read("models/a.bin", user="gvpocr", auth="password", sent=3),
        line("login_refused", user_tried=',"key_label":"worker7"', method="publickey", key=OLD,
             reason="unknown_user"),
    )  # fmt: skip

    def found(*arguments: str) -> list[dict[str, Any]]:
        return [json.loads(each) for each in logs(*source, *arguments, "--json")[1].splitlines()]

    assert [(each["key"], each["key_label"], each["bytes"]) for each in found("--by", "key")] == [
        (NEW, "worker7", 2000),
        (OLD, "worker7", 1000),
        (NEW, "worker8", 500),
        (AUTHORITY, "batch-1", 40),
        ("password", "", 3),
        (OLD, "", 0),
    ]
    assert [each["bytes"] for each in found("--key", "worker7")] == [1000, 2000]
    assert [each["bytes"] for each in found("--key", "worker")] == []
    assert [each["bytes"] for each in found("--key", "batch-1")] == [40]
    assert [each["bytes"] for each in found("--key", "SHA256:new")] == [2000, 500]
    assert [each["bytes"] for each in found("--key", AUTHORITY)] == [40]
    assert [each.get("reason") for each in found("--key", OLD)][-1] == "unknown_user"
    assert [(each["ip"], each["bytes"]) for each in found("--by", "ip")] == [("192.0.2.17", 3543)]
    table = logs(*source, "--by", "key")[1].splitlines()
    assert table[1].endswith(f"worker7 {NEW}")
    head = logs(*source, "--by", "key", "--csv")[1].splitlines()[0]
    assert head == '"key","key_label","bytes","reads","files","errors","last"'
    shown = logs(*source)[1].splitlines()
    assert "worker7" in shown[0]
    assert shown[-1].endswith(f"(unknown_user) {OLD}")


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_errors_are_shown_with_their_own_file_only(
    source: list[str], logs: Logs, unconfigured: Path
) -> None:
    (unconfigured / "state/history.sqlite3").unlink()
    denied = {"operation": "open", "reason": "outside_shares"}
    record(
        unconfigured,
        read("models/big", user="ana"),
        line("denied", user="ben", path="/home/ana/models/big", **denied),
        line("denied", user="ben", path="/home/ben/models/big", **denied),
        line("denied", user="ben", path="/etc/passwd", **denied),
        line("denied", user="ana", share="models", path="/home/ana/models/big", operation="remove",
             reason="read_only"),
    )  # fmt: skip
    rows = [json.loads(each) for each in logs(*source, "--by", "file", "--json")[1].splitlines()]
    assert {each["file"]: each["errors"] for each in rows} == {
        "models/big": 1,
        "/home/ana/models/big": 1,
        "/home/ben/models/big": 1,
        "/etc/passwd": 1,
    }


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_a_path_filter_ignores_case(source: list[str], logs: Logs, unconfigured: Path) -> None:
    record(unconfigured, read("models/Übung-ΣΑΣ.BIN", user="eve"))
    for part in ("übung", "ÜBUNG", "σας.bin", "ςας.bin"):
        assert "eve" in logs(*source, "--path", part)[1]
    assert logs(*source, "--path", "ubung")[1] == ""


def test_omitted_lines_are_reported(logs: Logs, unconfigured: Path) -> None:
    record(unconfigured, *(read(f"models/{number}") for number in range(60)))
    for form in ([], ["--csv"], ["--json"]):
        _, shown, message = logs(*form)
        assert len(shown.splitlines()) == 50 + (form == ["--csv"])
        assert message == "showing the last 50 lines; use -n N or --since WHEN for more\n"
        assert logs("-n", "20", *form)[2] == ""
        assert logs("--since", "2026-01-01", *form)[2] == ""
        for source in ([], ["access.log"]):
            assert "the first 50; use -n N for more" in logs(*source, "--by", "file", *form)[2]
            assert logs(*source, "--by", "file", "-n", "50", *form)[2] == ""
    assert logs("--user", "ben")[2] == ""


def test_a_ban_is_shown_with_reason_and_end(
    logs: Logs, unconfigured: Path, zone: Callable[[str], None]
) -> None:
    zone("Europe/Berlin")
    own = {"session": None, "client_ip": None}
    banned = {"source": "203.0.113.7", "reason": "failed_login", "score": 30.0, "times": 2,
              "until": "2026-01-31T12:01:00.000000Z", "effect": "refused", **own}  # fmt: skip
    record(
        unconfigured,
        line("source_banned", at=NOON, **banned),
        line("source_unbanned", at=NOON + 5, source="203.0.113.7", reason="lifted", **own),
    )
    shown = logs("--ip", "203.0.113.7")[1].splitlines()
    assert shown[0].endswith(
        "203.0.113.7: refused until 2026-01-31 13:01:00 for failed_login, ban 2 in a row"
    )
    assert shown[1].endswith("source=203.0.113.7 reason=lifted")


def test_a_truncated_compressed_log_is_shown_up_to_its_end(logs: Logs, unconfigured: Path) -> None:
    whole = gzip.compress(b"".join(read(f"models/{os.urandom(20).hex()}") for _ in range(1000)))
    (unconfigured / "access.log.gz").write_bytes(whole[: len(whole) // 2])
    status, shown, message = logs("access.log.gz")
    assert status == 0
    assert len(shown.splitlines()) > 100
    assert message.startswith("warning: access.log.gz: is not whole, and was read up to there")
    assert logs("access.log.gz", "--by", "user")[0] == 0


def test_an_empty_result_is_reported(logs: Logs) -> None:
    status, shown, message = logs("--user", "nobody")
    assert (status, shown) == (0, "")
    assert "no matching lines" in message
    assert "no matching lines" in logs("--by", "user", "--user", "nobody")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--result", "denid"), "'denid' is not one of ok, denied, refused, aborted"),
     (("--event", "denid"), "'denid' is not one of command_answered, "),
     (("--event", "request", "--by", "user"), "the history does not keep 'request'")],
)  # fmt: skip
def test_an_unknown_filter_value_is_an_error(
    arguments: tuple[str, ...], message: str, logs: Logs
) -> None:
    status, shown, stderr = logs(*arguments)
    assert (status, shown) == (2, "")
    assert message in stderr


def test_a_log_file_may_have_lines_missing_from_the_history(logs: Logs, unconfigured: Path) -> None:
    request = line("request", at=NOON, operation="read", result="failure")
    (unconfigured / "access.log").write_bytes(request)
    shown = logs("access.log", "--event", "request", "--result", "failure", "--json")[1]
    assert shown.encode() == request


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_a_line_count_selects_the_last_lines(
    source: list[str], logs: Logs, unconfigured: Path
) -> None:
    (unconfigured / "access.log").write_bytes(b"".join(LINES))
    assert logs(*source, "-n", "2", "--json")[1].encode() == b"".join(LINES[-2:])


def test_json_prints_the_line_unchanged(logs: Logs) -> None:
    assert logs("--json")[1].encode() == b"".join(LINES)


def test_csv_neutralizes_formulas(logs: Logs) -> None:
    rows = list(csv.DictReader(io.StringIO(logs("--csv")[1])))
    assert [each["event"] for each in rows][:2] == ["file_closed", "file_closed"]
    assert rows[0]["path"] == "/home/ana/models/a.bin"
    assert rows[3]["user_tried"] == "'=cmd|' /C calc'!A0"
    assert [each["result"] for each in rows] == ["ok", "ok", "denied", "refused"]


def test_csv_has_the_target_of_a_rename(logs: Logs, unconfigured: Path) -> None:
    moved = line("denied", user="ben", path="/home/ben/models/x", target="/home/ben/models/y",
                 operation="rename", reason="read_only")  # fmt: skip
    record(unconfigured, moved)
    rows = list(csv.DictReader(io.StringIO(logs("--csv", "-n", "1")[1])))
    assert rows[0]["target"] == "/home/ben/models/y"
    assert (
        logs("-n", "1")[1]
        .rstrip()
        .endswith("rename /home/ben/models/x -> /home/ben/models/y (read_only)")
    )


READERS: list[dict[str, Any]] = [
    {"delimiter": delimiter, **quoting}
    for delimiter in ",;|\t"
    for quoting in ({}, {"quoting": csv.QUOTE_NONE})
]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(";,|\t\r\n=+-@ \"'\uff1dab", max_size=12), min_size=1, max_size=4))
@example(["a;=1+1;"])
@example(['a;"=1+1;b', 'a;""=1+1'])
@example(["a;", "=1+1"])
def test_csv_readers_find_no_formula(logs: Logs, unconfigured: Path, names: list[str]) -> None:
    written = b"".join(
        read(f"models/{name}", user=name, key=[name], key_label=name) for name in names
    )
    (unconfigured / "access.log").write_bytes(written)
    for options in ([], ["--by", "user"], ["--by", "file"]):
        text = logs("access.log", "--csv", *options)[1]
        for reader in READERS:
            cells = [
                cell
                for row in csv.reader(io.StringIO(text, newline=None), **reader)
                for cell in row
            ]
            assert not [cell for cell in cells if re.match(r'[\s"]*[=+\-@\uff1d]', cell)]


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_totals_come_from_the_history_or_a_file(
    source: list[str], logs: Logs, unconfigured: Path
) -> None:
    (unconfigured / "access.log").write_bytes(b"".join(LINES))
    found = [json.loads(each) for each in logs(*source, "--by", "user", "--json")[1].splitlines()]
    assert [(each["user"], each["bytes"], each["errors"]) for each in found[:2]] == [
        ("ben", 5_000_000, 1),
        ("ana", 1000, 0),
    ]
    table = logs(*source, "--by", "file")[1].splitlines()
    assert table[0].split() == ["BYTES", "READS", "FILES", "ERRORS", "LAST", "FILE"]
    assert table[2].split()[0:3] == ["1", "kB", "1"]
    assert table[2].endswith("models/a.bin")
    head, *rows = csv.reader(io.StringIO(logs(*source, "--by", "share", "--csv")[1]))
    assert head == ["share", "bytes", "reads", "files", "errors", "last"]
    assert rows[0][:5] == ["models", "5001000", "2", "2", "1"]


def test_standard_input_may_have_docker_prefixes(unconfigured: Path) -> None:
    given = b"".join(b"sftp-gateway_1  | " + each for each in LINES)
    done = subprocess.run(
        [sys.executable, "-m", "sftp_gateway", "logs", "-", "--user", "ana", "--json"],
        input=given, capture_output=True, env=environment(), cwd=unconfigured,
    )  # fmt: skip
    assert done.stdout == LINES[0]


def test_a_closed_pipe_is_not_an_error(unconfigured: Path) -> None:
    (unconfigured / "access.log").write_bytes(b"".join(LINES) * 5000)
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m sftp_gateway logs access.log | head -1',
         sys.executable],
        capture_output=True, env=environment(), cwd=unconfigured,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


def test_a_missing_history_is_reported_with_alternatives(
    unconfigured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["logs"]) == 2
    message = capsys.readouterr().err
    assert "there is no history state/history.sqlite3" in message
    assert "sftp-gateway logs FILE" in message


def test_a_missing_log_file_is_reported(logs: Logs) -> None:
    status, _, message = logs("nowhere.log")
    assert status == 2
    assert "nowhere.log: cannot be read: No such file" in message


def test_a_corrupt_history_is_reported(logs: Logs, unconfigured: Path) -> None:
    (unconfigured / "state/history.sqlite3").write_bytes(b"broken" * 1000)
    status, _, message = logs()
    assert status == 2
    assert "cannot be read: file is not a database" in message


def test_an_unfollowable_source_is_an_error_with_a_remedy(logs: Logs) -> None:
    status, _, message = logs("access.log", "--follow")
    assert status == 2
    assert "tail -F FILE | sftp-gateway logs -" in message


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), LINES[-2:] + LINES * 2),
        (("-n", "1"), LINES[-1:]),
        (("--since", "2026-01-01"), LINES * 5),
    ],
)
def test_follow_starts_with_existing_lines(
    arguments: tuple[str, ...],
    shown: list[bytes],
    logs: Logs,
    unconfigured: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    store = Store(unconfigured / "state/history.sqlite3", max_age=1e9, max_size=1 << 30)
    store.add([row(each) for each in LINES * 4], {})
    store.close()
    monkeypatch.setattr("time.sleep", interrupted)
    status, out, _ = logs("--follow", "--json", *arguments)
    assert status == 130
    assert out.encode() == b"".join(shown)


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_an_invalid_line_count_is_rejected(logs: Logs, count: str) -> None:
    with pytest.raises(SystemExit):
        logs("-n", count)
