"""`sftp-gateway logs`: what it shows, and what it says of what it cannot."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sftp_gateway import cli
from sftp_gateway.log_commands import moment
from sftp_gateway.observability.history.store import Store
from tests.support.gateway import environment
from tests.support.history import NOON, line, read, row

NOW = datetime.fromisoformat("2026-01-31T14:30:00+05:30")
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
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.mark.parametrize(
    ("text", "ago"),
    [("30s", timedelta(seconds=30)), ("90m", timedelta(minutes=90)), ("24h", timedelta(hours=24)),
     ("7d", timedelta(days=7)), ("2w", timedelta(weeks=2)),
     ("today", timedelta(hours=14, minutes=30)), ("yesterday", timedelta(hours=38, minutes=30))],
)  # fmt: skip
def test_times_are_understood_as_people_write_them(text: str, ago: timedelta) -> None:
    assert moment(text, NOW) == NOW - ago


def test_a_date_may_have_a_zone_and_has_this_machines_without() -> None:
    assert moment("2026-01-31T09:00:00Z", NOW) == NOW
    assert moment("2026-01-31", NOW) == datetime(2026, 1, 31).astimezone()


@pytest.mark.parametrize("text", ["", "soon", "5", "5y", "2026-13-01", "-1h"])
def test_a_time_that_is_none_is_told_what_would_be(text: str, logs: Logs) -> None:
    with pytest.raises(ValueError, match="90m, 24h, 7d, today, yesterday, 2026-01-31"):
        moment(text, NOW)
    if text:
        status, _, said = logs(f"--since={text}")
        assert status == 2
        assert f"--since: {text!r} is no time" in said


def test_times_that_have_nothing_between_them_are_told(logs: Logs) -> None:
    assert logs("--since", "1h", "--until", "2h")[::2] == (
        2, "error: --until is not later than --since: there is no time between\n",
    )  # fmt: skip
    assert logs("--since", "2h", "--until", "1h")[0] == 0


def test_lines_are_shown_in_columns_the_oldest_first_and_harm_no_terminal(logs: Logs) -> None:
    status, shown, _ = logs()
    assert status == 0
    rows = shown.splitlines()
    assert [text.split()[2] for text in rows[:3]] == ["ana", "ben", "ben"]
    assert "/home/ana/models/a.bin 1 kB" in rows[0]
    assert rows[2].endswith("/home/ben/models/x (remove read_only)")
    assert "\\u202e\\u001b[2Jevil" in rows[1]
    assert "\x1b" not in shown


def test_filters_go_together(logs: Logs) -> None:
    assert len(logs("--user", "ben")[1].splitlines()) == 2
    assert len(logs("--user", "ben", "--result", "denied")[1].splitlines()) == 1
    assert len(logs("--path", "a.bin")[1].splitlines()) == 1
    assert len(logs("--event", "login_refused", "--since", "2026-01-01")[1].splitlines()) == 1
    assert len(logs("-n", "2")[1].splitlines()) == 2
    assert "unknown_user" in logs("-n", "1")[1]


def test_nothing_found_is_said(logs: Logs) -> None:
    status, shown, said = logs("--user", "nobody")
    assert (status, shown) == (0, "")
    assert "nothing like this was logged" in said
    assert "nothing like this was logged" in logs("--by", "user", "--user", "nobody")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--result", "denid"), "'denid' is none of ok, denied, refused, aborted"),
     (("--event", "denid"), "'denid' is none of command_answered, "),
     (("--event", "request", "--by", "user"), "the history does not keep 'request'")],
)  # fmt: skip
def test_a_word_that_no_line_has_is_not_taken_for_nothing_logged(
    arguments: tuple[str, ...], said: str, logs: Logs
) -> None:
    status, shown, told = logs(*arguments)
    assert (status, shown) == (2, "")
    assert said in told


def test_a_file_may_have_lines_that_the_history_has_not(logs: Logs, unconfigured: Path) -> None:
    request = line("request", at=NOON, operation="read", result="failure")
    (unconfigured / "access.log").write_bytes(request)
    shown = logs("access.log", "--event", "request", "--result", "failure", "--json")[1]
    assert shown.encode() == request


@pytest.mark.parametrize("source", [[], ["access.log"]])
def test_a_number_of_lines_is_of_the_last(
    source: list[str], logs: Logs, unconfigured: Path
) -> None:
    (unconfigured / "access.log").write_bytes(b"".join(LINES))
    assert logs(*source, "-n", "2", "--json")[1].encode() == b"".join(LINES[-2:])


def test_json_is_the_very_line(logs: Logs) -> None:
    assert logs("--json")[1].encode() == b"".join(LINES)


def test_csv_is_for_a_sheet_and_runs_nothing_in_it(logs: Logs) -> None:
    rows = list(csv.DictReader(io.StringIO(logs("--csv")[1])))
    assert [each["event"] for each in rows][:2] == ["file_closed", "file_closed"]
    assert rows[0]["path"] == "/home/ana/models/a.bin"
    assert rows[3]["user_tried"] == "'=cmd|' /C calc'!A0"


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
def test_no_reader_of_csv_finds_a_formula(logs: Logs, unconfigured: Path, names: list[str]) -> None:
    written = b"".join(read(f"models/{name}", user=name, key=[name]) for name in names)
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
def test_sums_are_of_the_history_or_of_a_file(
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
    assert head == ["share", "bytes", "accesses", "files", "errors", "last"]
    assert rows[0][:5] == ["models", "5001000", "2", "2", "1"]


def test_standard_input_is_read_as_docker_gives_it(unconfigured: Path) -> None:
    given = b"".join(b"sftp-gateway_1  | " + each for each in LINES)
    done = subprocess.run(
        [sys.executable, "-m", "sftp_gateway", "logs", "-", "--user", "ana", "--json"],
        input=given, capture_output=True, env=environment(), cwd=unconfigured,
    )  # fmt: skip
    assert done.stdout == LINES[0]


def test_a_reader_that_has_enough_is_no_error(unconfigured: Path) -> None:
    (unconfigured / "access.log").write_bytes(b"".join(LINES) * 5000)
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -m sftp_gateway logs access.log | head -1',
         sys.executable],
        capture_output=True, env=environment(), cwd=unconfigured,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1


def test_without_a_history_it_is_said_what_there_is(
    unconfigured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["logs"]) == 2
    said = capsys.readouterr().err
    assert "there is no history state/history.sqlite3" in said
    assert "sftp-gateway logs FILE" in said


def test_a_file_that_is_not_there_is_said(logs: Logs) -> None:
    status, _, said = logs("nowhere.log")
    assert status == 2
    assert "nowhere.log: cannot be read: No such file" in said


def test_a_history_that_is_broken_is_said(logs: Logs, unconfigured: Path) -> None:
    (unconfigured / "state/history.sqlite3").write_bytes(b"broken" * 1000)
    status, _, said = logs()
    assert status == 2
    assert "cannot be read: file is not a database" in said


def test_what_cannot_be_followed_is_told_how_it_can(logs: Logs) -> None:
    status, _, said = logs("access.log", "--follow")
    assert status == 2
    assert "tail -F FILE | sftp-gateway logs -" in said


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), LINES[-2:] + LINES * 2),
        (("-n", "1"), LINES[-1:]),
        (("--since", "2026-01-01"), LINES * 5),
    ],
)
def test_following_begins_with_what_is_there(
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
def test_a_number_of_lines_is_one(logs: Logs, count: str) -> None:
    with pytest.raises(SystemExit):
        logs("-n", count)
