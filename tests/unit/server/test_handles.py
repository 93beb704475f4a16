"""Handles of a session: their number, limit and served bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sftp_gateway.errors import InvalidHandle
from sftp_gateway.server.handles import MAX_RANGES, DirectoryHandle, FileHandle, HandleTable
from sftp_gateway.vfs.files import OpenDirectory, OpenFile
from tests.support.session import OWNER, GatedShare, make_quotas

Open = Callable[[int], FileHandle]
KB = 1024


@pytest.fixture
def opened(share: GatedShare, root: Path) -> Iterator[Open]:
    """Opens a file of `size` bytes."""
    files: list[OpenFile] = []

    def make(size: int) -> FileHandle:
        with open(root / "file", "wb") as file:
            file.truncate(size)
        files.append(share.open_file(b"file", wait=True))
        return FileHandle(file=files[-1], share=share, path=b"/file", opened=0.0, known_size=size)

    yield make
    for file in files:
        file.close()


def folder() -> DirectoryHandle:
    return DirectoryHandle(directory=OpenDirectory(first=()), share=None, path=b"/", opened=0.0)


def note(handle: FileHandle, pieces: Sequence[tuple[int, int]]) -> FileHandle:
    for offset, length in pieces:
        handle.record_read(offset, length)
    return handle


# Served bytes


@pytest.mark.parametrize(
    "pieces",
    [
        [(0, 100)],
        [(0, 50), (50, 50)],
        [(50, 50), (0, 50)],
        [(75, 25), (50, 25), (25, 25), (0, 25)],
        [(50, 50), (50, 50), (0, 50)],
        [(50, 10), (50, 50), (0, 50)],
        [(50, 50), (50, 10), (0, 50)],
        [(0, 60), (40, 60)],
        [(40, 60), (0, 60)],
        [(60, 40), (30, 60), (0, 40)],
        [(10, 90), (90, 10), (0, 10)],
        [(20, 1), (10, 90), (0, 15)],
        [(0, 1), (2, 98), (1, 1)],
        [(0, 100), (0, 100)],
    ],
)
def test_a_file_is_complete_when_every_byte_was_served(
    opened: Open, pieces: list[tuple[int, int]]
) -> None:
    handle = note(opened(100), pieces)
    assert handle.whole
    assert handle.reads == len(pieces)
    assert handle.served == sum(length for _, length in pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, 99)],
        [(1, 99)],
        [(0, 50), (51, 49)],
        [(51, 49), (0, 50)],
        [(0, 50), (0, 50)],
        [(50, 50), (25, 50)],
    ],
)
def test_a_file_with_a_missing_byte_is_incomplete(
    opened: Open, pieces: list[tuple[int, int]]
) -> None:
    assert not note(opened(100), pieces).whole


def test_an_empty_file_is_complete_without_a_read(opened: Open) -> None:
    assert opened(0).whole


def test_a_grown_file_is_complete_with_its_original_bytes(opened: Open) -> None:
    handle = note(opened(100), [(0, 100)])
    assert handle.whole
    assert note(handle, [(100, 1000)]).whole
    assert note(opened(100), [(50, 1000), (0, 50)]).whole


def test_a_truncated_file_is_incomplete(opened: Open, root: Path) -> None:
    handle = opened(100)
    os.truncate(root / "file", 40)
    assert not note(handle, [(0, 40)]).whole


BLOCKS = 20 * MAX_RANGES  # far more blocks of a file than ranges are stored


@pytest.mark.parametrize(
    "order",
    [
        [each for pair in zip(range(BLOCKS // 2), range(BLOCKS // 2, BLOCKS), strict=True)
         for each in pair],
        [*range(BLOCKS // 2, BLOCKS), *range(BLOCKS // 2)],
        [*reversed(range(BLOCKS))],
        [block ^ 7 for block in range(BLOCKS)],
    ],
    ids=["by two threads", "the second half first", "backwards", "eight requests at a time"],
)  # fmt: skip
def test_a_file_read_in_any_order_is_complete(opened: Open, order: list[int]) -> None:
    *most, last = order
    handle = note(opened(BLOCKS), [(block, 1) for block in most])
    assert not handle.whole
    assert note(handle, [(last, 1)]).whole


def test_ranges_with_gaps_are_stored_up_to_a_bound(opened: Open) -> None:
    apart = [(2 * piece, 1) for piece in range(1, MAX_RANGES + 1)]
    gaps = [(2 * piece + 1, 1) for piece in range(1, MAX_RANGES + 1)]
    handle = note(opened(2 * MAX_RANGES + 2), [*reversed(apart), *gaps])
    assert not handle.whole
    assert note(handle, [(0, 2)]).whole


@pytest.mark.parametrize("step", [1, -1])
def test_a_client_that_reads_every_second_block_costs_no_more_memory(
    opened: Open, step: int
) -> None:
    handle = note(opened(BLOCKS), [(block, 1) for block in range(1, BLOCKS, 2)[::step]])
    assert handle._ahead is not None
    assert len(handle._ahead._starts) == len(handle._ahead._ends) == MAX_RANGES
    # Ranges that did not fit are not counted as read.
    note(handle, [(block, 1) for block in range(0, BLOCKS, 2)])
    assert handle.served == BLOCKS
    assert not handle.whole
    assert note(handle, [(0, BLOCKS)]).whole


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), max_size=60),
)
@example(10, [(5, 5), (0, 7)])
def test_a_file_is_complete_if_its_ranges_cover_it(
    opened: Open, size: int, pieces: list[tuple[int, int]]
) -> None:
    covered = {byte for offset, length in pieces for byte in range(offset, offset + length)}
    assert note(opened(size), pieces).whole == (covered >= set(range(size)))


# The table


def test_a_handle_returns_what_was_added(opened: Open) -> None:
    table = HandleTable(quotas=make_quotas(10), owner=OWNER)
    file, listed = opened(1), folder()
    of_file, of_folder = table.add(file), table.add(listed)
    assert table.file(of_file) is table.get(of_file) is file
    assert table.directory(of_folder) is table.get(of_folder) is listed
    assert len(table) == 2
    with pytest.raises(InvalidHandle):
        table.file(of_folder)
    with pytest.raises(InvalidHandle):
        table.directory(of_file)


@pytest.mark.parametrize("handle", [b"", b"\0", b"\0\0\0\1", b"\0\0\0\0\0", b"\xff" * 256])
def test_an_invalid_handle_is_refused(handle: bytes) -> None:
    table = HandleTable(quotas=make_quotas(10), owner=OWNER)
    table.add(folder())
    for ask in (table.file, table.directory, table.get, table.remove):
        with pytest.raises(InvalidHandle):
            ask(handle)


def test_a_closed_handle_is_not_reused() -> None:
    table = HandleTable(quotas=make_quotas(10), owner=OWNER)
    seen = set()
    for _ in range(1000):
        handle = table.add(folder())
        assert handle not in seen
        seen.add(handle)
        table.remove(handle)
        with pytest.raises(InvalidHandle):
            table.get(handle)


def test_handle_numbers_wrap_and_skip_open_ones() -> None:
    table = HandleTable(quotas=make_quotas(10), owner=OWNER)
    first = table.add(folder())
    table._next = 0xFFFFFFFF
    assert table.add(folder()) == b"\xff\xff\xff\xff"
    third = table.add(folder())
    assert third not in (first, b"\xff\xff\xff\xff")
    assert len(table) == 3


def test_pop_removes_handles_one_by_one() -> None:
    table = HandleTable(quotas=make_quotas(10), owner=OWNER)
    entered = [folder() for _ in range(5)]
    for each in entered:
        table.add(each)
    assert {id(table.pop()) for _ in entered} == {id(each) for each in entered}
    assert len(table) == 0
