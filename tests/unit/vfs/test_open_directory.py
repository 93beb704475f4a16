"""An open folder returns each name once, in order, and closes without waiting."""

from __future__ import annotations

import ctypes
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
from tests.unit.vfs.helpers import DEADLINE, MakeShare, descriptors, entries, take_entries

SHOWN = Attributes(1, 2, 3, 4, 5, 6)


class TrackedFolder:
    """An OpenDirectory of `path` that counts how often it was closed."""

    def __init__(
        self,
        path: Path,
        *,
        first: tuple[Entry, ...] = (),
        show: Callable[[os.DirEntry[str]], Attributes | None] = lambda _: SHOWN,
        hidden: frozenset[bytes] = frozenset(),
    ) -> None:
        self.closed = 0
        self.folder = OpenDirectory(
            first=first,
            descriptor=os.open(path, os.O_RDONLY | os.O_DIRECTORY),
            show=show,
            hidden=hidden,
            on_close=self._on_close,
        )

    def _on_close(self) -> None:
        self.closed += 1


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def allocated() -> int:
    """Bytes that malloc(3) has given out."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallocInfo
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def names(folder: OpenDirectory) -> list[bytes]:
    return [entry.name for entry in entries(folder)]


@pytest.fixture
def three_files(tmp_path: Path) -> Path:
    folder = tmp_path / "three"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).touch()
    return folder


def test_the_first_entries_come_first(three_files: Path) -> None:
    first = (Entry(b".", SHOWN), Entry(b"..", SHOWN))
    found = names(TrackedFolder(three_files, first=first).folder)
    assert found[:2] == [b".", b".."]
    assert sorted(found[2:]) == [b"a", b"b", b"c"]


def test_hidden_names_apply_to_disk_entries_only(three_files: Path) -> None:
    first = (Entry(b"a", SHOWN),)
    assert sorted(
        names(TrackedFolder(three_files, first=first, hidden=frozenset({b"a", b"b"})).folder)
    ) == [
        b"a",
        b"c",
    ]


def test_a_refused_entry_comes_next(three_files: Path) -> None:
    folder = TrackedFolder(three_files).folder
    refused: list[Entry] = []
    folder.take_while(lambda *entry: bool(refused.append(Entry(*entry))))
    folder.take_while(lambda *entry: bool(refused.append(Entry(*entry))))
    rest = entries(folder)
    assert refused == [rest[0], rest[0]]
    assert sorted(entry.name for entry in rest) == [b"a", b"b", b"c"]


def test_reading_past_the_last_entry_gives_nothing(three_files: Path) -> None:
    folder = TrackedFolder(three_files).folder
    first = take_entries(folder, 2)
    last = take_entries(folder)
    assert sorted(entry.name for entry in first + last) == [b"a", b"b", b"c"]
    assert [take_entries(folder) for _ in range(3)] == [[], [], []]
    folder.close()


def test_a_folder_is_buffered_after_its_last_name_was_read(three_files: Path) -> None:
    folder = TrackedFolder(three_files, first=(Entry(b".", SHOWN),)).folder
    assert not folder.buffered
    take_entries(folder, 3)
    assert not folder.buffered
    take_entries(folder)
    assert folder.buffered
    folder.close()


def test_entries_without_attributes_are_omitted(three_files: Path) -> None:
    folder = TrackedFolder(
        three_files, show=lambda entry: None if entry.name == "b" else SHOWN
    ).folder
    assert sorted(names(folder)) == [b"a", b"c"]


def test_a_listing_can_continue_after_an_error(three_files: Path) -> None:
    failed: list[str] = []

    def show(entry: os.DirEntry[str]) -> Attributes:
        if not failed:
            failed.append(entry.name)
            raise OSError(errno.EIO, "broken disk")
        return SHOWN

    folder = TrackedFolder(three_files, show=show).folder
    with pytest.raises(OSError, match="broken disk"):
        take_entries(folder)
    assert sorted([*names(folder), os.fsencode(failed[0])]) == [b"a", b"b", b"c"]


def test_a_virtual_directory_has_only_its_first_entries() -> None:
    folder = OpenDirectory(first=[Entry(b".", SHOWN), Entry(b"x", SHOWN)])
    assert folder.buffered
    assert names(folder) == [b".", b"x"]


def test_closing_a_folder_twice_releases_it_once(three_files: Path) -> None:
    tracked = TrackedFolder(three_files)
    tracked.folder.close()
    tracked.folder.close()
    assert tracked.closed == 1


def test_a_closed_folder_with_entries_left_is_an_invalid_handle(three_files: Path) -> None:
    tracked = TrackedFolder(three_files, first=(Entry(b".", SHOWN),))
    tracked.folder.close()
    with pytest.raises(InvalidHandle):
        take_entries(tracked.folder)


def test_an_exhausted_folder_stays_open_until_closed(three_files: Path) -> None:
    tracked = TrackedFolder(three_files)
    assert len(take_entries(tracked.folder)) == 3
    assert tracked.closed == 0
    tracked.folder.close()
    assert tracked.closed == 1


def test_closing_a_folder_does_not_wait_for_a_running_listing(three_files: Path) -> None:
    looking, go_on = threading.Event(), threading.Event()

    def show(_: os.DirEntry[str]) -> Attributes:
        looking.set()
        assert go_on.wait(DEADLINE)
        return SHOWN

    tracked = TrackedFolder(three_files, show=show)
    found: list[Entry] = []
    lister = threading.Thread(target=lambda: found.extend(take_entries(tracked.folder, 1)))
    lister.start()
    assert looking.wait(DEADLINE)
    closer = threading.Thread(target=tracked.folder.close)
    closer.start()
    closer.join(DEADLINE / 6)
    waited = closer.is_alive()
    closed_under_it = tracked.closed
    go_on.set()
    for thread in (lister, closer):
        thread.join(DEADLINE)
    assert not waited
    assert closed_under_it == 0
    assert tracked.closed == 1
    assert len(found) == 1
    with pytest.raises(InvalidHandle):
        take_entries(tracked.folder)


def test_a_folder_has_a_second_descriptor_only_while_it_is_listed(three_files: Path) -> None:
    before = descriptors().keys()
    folder = TrackedFolder(three_files).folder
    assert len(descriptors().keys() - before) == 1
    take_entries(folder, 1)
    assert len(descriptors().keys() - before) == 2
    take_entries(folder)
    assert len(descriptors().keys() - before) == 1
    folder.close()
    assert descriptors().keys() == before


def test_closing_a_half_listed_folder_closes_its_descriptors(
    three_files: Path,
) -> None:
    before = descriptors().keys()
    folder = TrackedFolder(three_files).folder
    take_entries(folder, 1)
    folder.close()
    assert descriptors().keys() == before


def test_an_error_of_scandir_is_raised_by_the_first_listing(
    three_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ESTALE, "gone")

    before = descriptors().keys()
    tracked = TrackedFolder(three_files, first=(Entry(b".", SHOWN),))
    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match="gone"):
        take_entries(tracked.folder)
    monkeypatch.undo()
    assert sorted(names(tracked.folder)) == [b".", b"a", b"b", b"c"]
    tracked.folder.close()
    assert tracked.closed == 1
    assert descriptors().keys() == before


def test_open_folders_have_no_buffers_until_they_are_listed(make_share: MakeShare) -> None:
    share = make_share()
    gc.collect()  # so that garbage of earlier tests is not freed meanwhile
    before = allocated()
    folders = [share.open_directory(b"", wait=True) for _ in range(200)]
    unlisted = allocated() - before
    for folder in folders:
        take_entries(folder, 3)  # `.`, `..` and one of the names
    listed = allocated() - before
    for folder in folders:
        folder.close()
    assert unlisted < 200 * 4096
    assert listed > 200 * 32 * 1024


def test_an_open_folder_has_few_objects_for_the_garbage_collector(make_share: MakeShare) -> None:
    share = make_share()
    gc.collect()
    before = len(gc.get_objects())
    folders = [share.open_directory(b"", wait=True) for _ in range(100)]
    gc.collect()
    grown = len(gc.get_objects()) - before
    for folder in folders:
        folder.close()
    assert grown <= 100 * 11
