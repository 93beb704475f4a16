"""An open folder gives its names once each, in order, and closes without waiting."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.errors import InvalidHandle
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.files import Entry, OpenDirectory
from tests.unit.vfs.helpers import DEADLINE, MakeShare, entries, taken

SHOWN = Attributes(1, 2, 3, 4, 5, 6)


class Folder:
    """An OpenDirectory of `path` and what it was asked to do."""

    def __init__(
        self,
        path: Path,
        *,
        first: tuple[Entry, ...] = (),
        show: Callable[[os.DirEntry[str]], Attributes | None] = lambda _: SHOWN,
        hidden: frozenset[bytes] = frozenset(),
    ) -> None:
        self.closed = 0
        self._scan = os.scandir(path)
        self.folder = OpenDirectory(
            first=first, scan=self._scan, show=show, hidden=hidden, close=self._close
        )

    def _close(self) -> None:
        self._scan.close()
        self.closed += 1


def names(folder: OpenDirectory) -> list[bytes]:
    return [entry.name for entry in entries(folder)]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    folder = tmp_path / "three"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).touch()
    return folder


def test_the_first_entries_come_first(three: Path) -> None:
    first = (Entry(b".", SHOWN), Entry(b"..", SHOWN))
    found = names(Folder(three, first=first).folder)
    assert found[:2] == [b".", b".."]
    assert sorted(found[2:]) == [b"a", b"b", b"c"]


def test_hidden_names_are_left_out_of_the_disks_but_not_of_the_first(three: Path) -> None:
    first = (Entry(b"a", SHOWN),)
    assert sorted(names(Folder(three, first=first, hidden=frozenset({b"a", b"b"})).folder)) == [
        b"a",
        b"c",
    ]


def test_an_entry_that_was_refused_is_the_next_one(three: Path) -> None:
    folder = Folder(three).folder
    refused: list[Entry] = []
    folder.take_while(lambda entry: bool(refused.append(entry)))
    folder.take_while(lambda entry: bool(refused.append(entry)))
    rest = entries(folder)
    assert refused == [rest[0], rest[0]]
    assert sorted(entry.name for entry in rest) == [b"a", b"b", b"c"]


def test_the_last_entry_can_be_refused_and_the_end_stays_the_end(three: Path) -> None:
    folder = Folder(three).folder
    first = taken(folder, 2)
    last = taken(folder)
    assert sorted(entry.name for entry in first + last) == [b"a", b"b", b"c"]
    assert [taken(folder) for _ in range(3)] == [[], [], []]
    folder.close()


def test_what_is_left_is_at_hand_once_the_disk_has_told_its_last_name(three: Path) -> None:
    folder = Folder(three, first=(Entry(b".", SHOWN),)).folder
    assert not folder.buffered
    taken(folder, 3)
    assert not folder.buffered
    taken(folder)
    assert folder.buffered
    folder.close()


def test_what_is_not_shown_is_left_out(three: Path) -> None:
    folder = Folder(three, show=lambda entry: None if entry.name == "b" else SHOWN).folder
    assert sorted(names(folder)) == [b"a", b"c"]


def test_an_error_is_passed_on_and_the_listing_can_go_on(three: Path) -> None:
    failed: list[str] = []

    def show(entry: os.DirEntry[str]) -> Attributes:
        if not failed:
            failed.append(entry.name)
            raise OSError(errno.EIO, "broken disk")
        return SHOWN

    folder = Folder(three, show=show).folder
    with pytest.raises(OSError, match="broken disk"):
        taken(folder)
    assert sorted([*names(folder), os.fsencode(failed[0])]) == [b"a", b"b", b"c"]


def test_a_virtual_directory_has_only_its_first_entries() -> None:
    folder = OpenDirectory(first=[Entry(b".", SHOWN), Entry(b"x", SHOWN)])
    assert folder.buffered
    assert names(folder) == [b".", b"x"]


def test_closing_a_folder_twice_lets_go_once(three: Path) -> None:
    made = Folder(three)
    made.folder.close()
    made.folder.close()
    assert made.closed == 1


def test_a_closed_folder_is_an_invalid_handle_whatever_was_left_to_show(three: Path) -> None:
    made = Folder(three, first=(Entry(b".", SHOWN),))
    made.folder.close()
    with pytest.raises(InvalidHandle):
        taken(made.folder)


def test_a_folder_at_its_end_is_let_go_only_by_closing_it(three: Path) -> None:
    made = Folder(three)
    assert len(taken(made.folder)) == 3
    assert made.closed == 0
    made.folder.close()
    assert made.closed == 1


def test_closing_a_folder_never_waits_for_a_listing_that_runs(three: Path) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def show(_: os.DirEntry[str]) -> Attributes:
        looking.set()
        assert go_on.wait(DEADLINE)
        return SHOWN

    made = Folder(three, show=show)
    found: list[Entry] = []
    lister = threading.Thread(target=lambda: found.extend(taken(made.folder, 1)))
    lister.start()
    assert looking.wait(DEADLINE)
    closer = threading.Thread(target=made.folder.close)
    closer.start()
    closer.join(DEADLINE / 6)
    waited = closer.is_alive()
    closed_under_it = made.closed
    go_on.set()
    for thread in (lister, closer):
        thread.join(DEADLINE)
    assert not waited
    assert closed_under_it == 0
    assert made.closed == 1
    assert len(found) == 1
    with pytest.raises(InvalidHandle):
        taken(made.folder)


def test_a_folder_that_is_open_has_few_objects_to_collect(make_share: MakeShare) -> None:
    share = make_share()
    gc.collect()
    before = len(gc.get_objects())
    folders = [share.open_directory(b"", wait=True) for _ in range(100)]
    gc.collect()
    grown = len(gc.get_objects()) - before
    for folder in folders:
        folder.close()
    assert grown <= 100 * 13
