"""The database stores rows within its bounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sftp_gateway.observability.history.queries import Filter, History
from sftp_gateway.observability.history.store import MIN_SIZE, BrokenError, Store, row_of
from tests.support.history import NOON, line, read, row

DAY = 86_400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path, max_age=DAY, max_size=MIN_SIZE)
    yield made
    made.close()


def lines(path: Path) -> list[str]:
    return [entry.line for entry in History(path).lines(Filter())]


def test_added_rows_are_visible_to_others_and_after_close(path: Path) -> None:
    store = Store(path, max_age=DAY, max_size=MIN_SIZE)
    written = read("models/पत्र.bin")
    store.add([row(written)], {})
    assert lines(path) == [written.decode().rstrip("\n")]
    store.close()
    again = Store(path, max_age=DAY, max_size=MIN_SIZE)
    again.add([row(written)], {})
    assert len(lines(path)) == 2
    again.close()
    assert len(lines(path)) == 2


def test_the_database_is_readable_by_owner_and_group_only(path: Path, store: Store) -> None:
    store.add([row(read("models/a"))], {})
    files = list(path.parent.glob("history*"))
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o640}


def test_old_rows_are_deleted(path: Path, store: Store) -> None:
    old, new = read("models/old", at=NOON - DAY - 1), read("models/new", at=NOON - DAY + 1)
    store.add([row(old), row(new)], {(int(NOON // 60) - 3000, "share", "models"): 1})
    store.delete_older(NOON)
    assert lines(path) == [new.decode().rstrip("\n")]
    assert History(path).throughput("share", 0) == {}


def test_the_size_is_bounded_by_deleting_the_oldest_rows(path: Path, store: Store) -> None:
    rows = [row(read(f"models/{'x' * 200}{number}")) for number in range(500)]
    for _ in range(20):  # several times the capacity
        store.add(rows, {})
        assert store.size <= 1.5 * MIN_SIZE
    assert 500 < len(lines(path)) < 3000
    assert lines(path)[-1].find("x499") > 0


def flooded(path: Path, flood: Callable[[int], bytes]) -> list[str]:
    """The remaining lines of ana and ben after a flood of ben's."""
    made = Store(path, max_age=DAY, max_size=MIN_SIZE)
    mine = [read(f"models/{number}") for number in range(200)]
    mine += [line("login_accepted", user="ana"), line("session_end", user="ana")]
    made.add([row(each) for each in mine[:100]], {})
    for batch in range(20):
        made.add([row(flood(batch * 500 + number)) for number in range(500)], {})
        mine_now = mine[100 + batch * 6 : 106 + batch * 6]
        made.add([row(each) for each in mine_now], {})
    assert made.size <= 1.5 * MIN_SIZE
    made.close()
    kept = lines(path)
    assert [each for each in kept if '"user":"ana"' in each] == [
        each.decode().rstrip() for each in mine
    ]
    return [each for each in kept if '"user":"ana"' not in each]


def test_a_flood_from_one_user_evicts_no_line_of_another(path: Path) -> None:
    kept = flooded(path, lambda number: read(f"models/{'x' * 200}{number}", user="ben"))
    assert "x9999" in kept[-1]


def test_a_flood_of_refusals_evicts_no_line_of_another_user(path: Path) -> None:
    kept = flooded(path, lambda number: line("denied", user="ben", path=f"{'x' * 200}{number}"))
    assert "x9999" in kept[-1]


def test_a_flood_without_logins_evicts_no_line_of_a_user(path: Path) -> None:
    flooded(path, lambda n: line("login_refused", user_tried=f"{n % 97}", method="x" * 200))


def test_refusals_are_evicted_before_file_accesses(path: Path, store: Store) -> None:
    files = [row(read(f"models/{number}", user="ben")) for number in range(300)]
    store.add(files, {})
    for number in range(20):
        text = f"{'x' * 200}{number}"
        store.add([row(line("denied", user="ben", path=text)) for _ in range(500)], {})
    assert sum('"file_closed"' in each for each in lines(path)) == 300


def test_a_flood_of_refusals_evicts_no_file_of_the_busiest_user(path: Path, store: Store) -> None:
    store.add([row(read(f"models/{'x' * 200}{number}")) for number in range(650)], {})
    for number in range(20):
        text = f"{'x' * 200}{number}"
        store.add([row(line("denied", user="ben", path=text)) for _ in range(500)], {})
    assert sum('"file_closed"' in each for each in lines(path)) == 650


def test_rows_from_before_a_restart_are_subject_to_the_bound(path: Path) -> None:
    made = Store(path, max_age=DAY, max_size=8 * MIN_SIZE)
    made.add([row(read(f"models/{'x' * 200}{n}", user="ben")) for n in range(4000)], {})
    made.add([row(read("models/a"))], {})
    made.close()
    again = Store(path, max_age=DAY, max_size=MIN_SIZE)
    again.delete_older(NOON)
    again.close()
    kept = lines(path)
    assert len(kept) < 3000
    assert '"user":"ana"' in kept[-1]


def test_a_lower_bound_shrinks_the_file(path: Path) -> None:
    store = Store(path, max_age=DAY, max_size=8 * MIN_SIZE)
    rows = [row(read(f"models/{'x' * 200}{number}")) for number in range(500)]
    for _ in range(12):
        store.add(rows, {})
    assert store.size > 3 * MIN_SIZE
    store.close()
    store = Store(path, max_age=DAY, max_size=MIN_SIZE)
    store.delete_older(NOON)
    assert store.size <= MIN_SIZE
    store.close()
    assert path.stat().st_size <= MIN_SIZE


def test_a_batch_is_added_atomically(path: Path, store: Store) -> None:
    good = row(read("models/a"))
    with pytest.raises(sqlite3.Error):
        store.add([good, (*good[:-1], None)], {})
    assert lines(path) == []
    store.add([good], {})
    assert len(lines(path)) == 1


def test_bytes_per_minute_add_up(path: Path, store: Store) -> None:
    minute = int(NOON // 60)
    for sent in (5, 7):
        store.add([], {(minute, "share", "models"): sent, (minute, "user", "ana"): 1})
    assert History(path).throughput("share", minute) == {(minute, "models"): 12}
    assert History(path).throughput("user", minute) == {(minute, "ana"): 2}
    assert History(path).throughput("share", minute + 1) == {}


def test_a_removed_database_is_noticed(path: Path, store: Store) -> None:
    path.unlink()
    with pytest.raises(FileNotFoundError):
        store.delete_older(NOON)


def test_tables_of_another_version_are_not_used(path: Path, store: Store) -> None:
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(BrokenError, match="version 99"):
        Store(path, max_age=DAY, max_size=MIN_SIZE)


@pytest.mark.parametrize(
    "sent",
    [b"", b"not JSON", b"[]", b"{}", b"null", b'{"time":1,"event":"x"}', b'{"time":"x","event":1}',
     b"[" * 100_000, b'{"time":"2026-01-01T00:00:00Z"}'],
)  # fmt: skip
def test_an_invalid_line_gives_no_row(sent: bytes) -> None:
    assert row_of(sent) is None


def test_a_field_of_a_wrong_type_is_omitted() -> None:
    strange = row(line(user=["ana"], share=7, path=None, bytes="many", result={}))
    assert strange[4:9] == (None, None, None, None, None)


@pytest.mark.parametrize(
    ("event", "fields", "result"),
    [
        ("file_closed", {"result": "ok"}, "ok"),
        ("file_closed", {"result": "aborted"}, "aborted"),
        ("denied", {"reason": "read_only"}, "denied"),
        ("login_refused", {"reason": "unknown_user"}, "refused"),
        ("negotiation_failed", {"algorithm": "cipher"}, "refused"),
        ("login_accepted", {}, "ok"),
        ("server_started", {}, None),
    ],
)
def test_each_row_has_a_result(event: str, fields: dict[str, str], result: str | None) -> None:
    assert row(line(event, **fields))[7] == result
