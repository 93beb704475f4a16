"""The same queries give the same results on the history and on an access log."""

from __future__ import annotations

from pathlib import Path

import pytest

from sftp_gateway.observability.history.log_file import LogFile
from sftp_gateway.observability.history.queries import Filter, History, Total
from sftp_gateway.observability.history.store import Store
from tests.support.history import NOON, line, read, row

LINES = [
    read("models/a.bin", at=NOON),
    read("models/a.bin", user="ben", at=NOON + 1, sent=500),
    read("scans/100%_ü.tif", user="ben", at=NOON + 2, sent=300, result="aborted"),
    line("folder_listed", at=NOON + 3, user="ana", share="scans", path="/home/ana/scans"),
    line("denied", at=NOON + 4, user="ana", share="models", path="/home/ana/models/a.bin",
         reason="read_only", operation="remove"),
    line("login_refused", at=NOON + 5, user_tried="root", reason="unknown_user"),
    line("session_end", at=NOON + 6, user="ana", bytes=1000),
]  # fmt: skip


@pytest.fixture
def history(tmp_path: Path) -> History:
    path = tmp_path / "history.sqlite3"
    store = Store(path, max_age=1e9, max_size=1 << 30)
    store.add([row(each) for each in LINES], {})
    store.close()
    return History(path)


@pytest.mark.parametrize(
    ("which", "found"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5, 6]),
        (Filter(user="ben"), [1, 2]),
        (Filter(user="root"), [5]),
        (Filter(user="be"), []),
        (Filter(share="models"), [0, 1, 4]),
        (Filter(path="a.bin"), [0, 1, 4]),
        (Filter(path="100%_ü"), [2]),
        (Filter(path="A.BIN"), [0, 1, 4]),
        (Filter(path="100%_Ü.TIF"), [2]),
        (Filter(path="1_0"), []),
        (Filter(path="' OR 1=1 --"), []),
        (Filter(result="denied"), [4]),
        (Filter(result="refused"), [5]),
        (Filter(result="aborted"), [2]),
        (Filter(event="folder_listed"), [3]),
        (Filter(client_ip="192.0.2.17", user="ben"), [1, 2]),
        (Filter(client_ip="192.0.2.18"), []),
        (Filter(since=NOON + 5), [5, 6]),
        (Filter(until=NOON + 1), [0]),
        (Filter(since=NOON + 1, until=NOON + 3, user="ben"), [1, 2]),
    ],
)
def test_a_filter_finds_the_same_in_history_and_log(
    history: History, which: Filter, found: list[int]
) -> None:
    expected = [LINES[each].decode().rstrip("\n") for each in found]
    assert [entry.line for entry in history.lines(which)] == expected
    assert [entry.line for entry in history.entries(which, 100)] == expected[::-1]
    assert list(LogFile(LINES).lines(which)) == expected


def test_a_new_history_is_empty(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite3").touch()
    history = History(tmp_path / "history.sqlite3")
    assert history.entries(Filter(), 10) == []
    assert history.totals(Filter(), "user", 10) == []


def test_accesses_include_client_events_only(history: History) -> None:
    assert len(history.entries(Filter(accesses=True), 100)) == 6


def test_paging_in_both_directions_skips_nothing(history: History) -> None:
    first = history.entries(Filter(), 3)
    second = history.entries(Filter(before=first[-1].id), 3)
    assert [each.id for each in first + second] == [7, 6, 5, 4, 3, 2]
    assert history.entries(Filter(after=second[0].id), 3) == first
    assert history.entries(Filter(after=first[0].id), 3) == []
    assert history.newest() == 7


def expected(name: str, *numbers: int, share: str = "", last: float) -> Total:
    sent, accesses, files, errors = numbers
    return Total(name=name, share=share, bytes=sent, accesses=accesses, files=files, errors=errors,
               last=NOON + last)  # fmt: skip


@pytest.mark.parametrize(
    ("by", "found"),
    [
        ("user", [expected("ana", 1000, 1, 1, 1, last=6), expected("ben", 800, 2, 2, 1, last=2),
                  expected("root", 0, 0, 0, 1, last=5)]),
        ("share", [expected("models", 1500, 2, 2, 1, last=4), expected("scans", 300, 1, 1, 1,
                                                                       last=3)]),
        # A listed folder is not a file.
        ("file", [expected("models/a.bin", 1500, 2, 2, 1, share="models", last=4),
                  expected("scans/100%_ü.tif", 300, 1, 1, 1, share="scans", last=2)]),
    ],
)  # fmt: skip
def test_totals_are_the_same_in_history_and_log(
    history: History, by: str, found: list[Total]
) -> None:
    assert history.totals(Filter(), by, 10) == found  # type: ignore[arg-type]
    assert LogFile(LINES).totals(Filter(), by, 10) == found  # type: ignore[arg-type]
    assert history.totals(Filter(), by, 1) == found[:1]  # type: ignore[arg-type]


def test_totals_per_file_add_up_all_readers(history: History) -> None:
    only = Filter(event="file_closed")
    found = history.totals(only, "file", 10)
    assert [(each.name, each.share, each.bytes, each.accesses) for each in found] == [
        ("models/a.bin", "models", 1500, 2),
        ("scans/100%_ü.tif", "scans", 300, 1),
    ]
    assert [each.name for each in LogFile(LINES).totals(only, "file", 10)] == [
        "models/a.bin",
        "scans/100%_ü.tif",
    ]


def test_names_lists_the_distinct_values_of_a_column(history: History) -> None:
    assert history.names("owner") == ["", "ana", "ben"]
    assert history.names("share") == ["models", "scans"]


def test_the_last_day_is_summarized(history: History) -> None:
    assert history.day(NOON + 10) == {"bytes": 0, "files": 3, "refused": 2}
    assert history.day(NOON + 86_405) == {"bytes": 0, "files": 0, "refused": 1}


def test_the_prefix_of_docker_compose_is_ignored() -> None:
    given = b"sftp-gateway_1  | " + LINES[0]
    found = LogFile([given, b"no line\n", b"\n"]).lines(Filter())
    assert list(found) == [LINES[0].decode().rstrip("\n")]


def test_unclosed_files_are_those_of_killed_workers() -> None:
    def opened(path: str, session: str, event: str = "file_opened") -> bytes:
        return line(event, session=session, user="ana", share="models", path=path)

    lines = [
        line("connection", session="a", pid=8),
        line("connection", session="b", pid=8),
        line("connection", session="c", pid=9),
        opened("/home/ana/models/x", "a"),
        opened("/home/ana/models/x", "a"),
        opened("/home/ana/models/x", "a", "file_closed"),
        opened("/home/ana/models/y", "a"),
        opened("/home/ana/models/y", "b"),
        opened("/home/ana/models/x", "c"),
        line("session_end", session="b", user="ana"),
        line("worker_exited", session=None, worker=0, pid=8, signal="SIGKILL", connections=1),
        line("connection", session="d", pid=8),  # another process, later
    ]
    for which, count in ((Filter(), 2), (Filter(path="/y"), 1), (Filter(user="ben"), 0)):
        log = LogFile(lines)
        assert len(list(log.lines(which))) >= count
        assert log.unclosed == count
