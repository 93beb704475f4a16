"""What is shown of a file, from what stat(2) says of it."""

from __future__ import annotations

import os
import stat

import pytest

from sftp_gateway.vfs.attributes import Attributes, Presentation


def status(mode: int, *, size: int = 10) -> os.stat_result:
    return os.stat_result((mode, 1, 2, 1, 1001, 1002, size, 111, 222, 333))


@pytest.mark.parametrize(
    ("real", "shown"),
    [
        (0o000, 0o444),
        (0o600, 0o444),
        (0o644, 0o444),
        (0o666, 0o444),
        (0o755, 0o555),
        (0o700, 0o544),
        (0o4755, 0o555),
        (0o2711, 0o555),
        (0o7777, 0o555),
    ],
)
def test_a_file_can_be_read_by_all_and_stays_executable(real: int, shown: int) -> None:
    attributes = Presentation().show(status(stat.S_IFREG | real))
    assert attributes is not None
    assert attributes.mode == stat.S_IFREG | shown


@pytest.mark.parametrize("real", [0o000, 0o700, 0o755, 0o1777, 0o2775])
def test_a_folder_can_be_read_and_entered_by_all(real: int) -> None:
    attributes = Presentation().show(status(stat.S_IFDIR | real))
    assert attributes is not None
    assert attributes.mode == stat.S_IFDIR | 0o555


def test_a_link_has_all_bits_as_every_link_on_linux() -> None:
    attributes = Presentation().show(status(stat.S_IFLNK | 0o777))
    assert attributes is not None
    assert attributes.mode == stat.S_IFLNK | 0o777


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, 0])
def test_whatever_is_no_file_folder_or_link_is_hidden(kind: int) -> None:
    assert Presentation().show(status(kind | 0o666)) is None


def test_owner_group_size_and_times_are_the_real_ones() -> None:
    shown = Presentation().show(status(stat.S_IFREG | 0o644, size=5 << 40))
    assert shown == Attributes(5 << 40, 1001, 1002, stat.S_IFREG | 0o444, 111, 222)


def test_owner_and_group_can_be_replaced_even_by_root() -> None:
    shown = Presentation(uid=0, gid=0).show(status(stat.S_IFREG | 0o644))
    assert shown is not None
    assert (shown.uid, shown.gid) == (0, 0)


def test_owner_and_group_are_replaced_independently() -> None:
    shown = Presentation(gid=7).show(status(stat.S_IFDIR | 0o755))
    assert shown is not None
    assert (shown.uid, shown.gid) == (1001, 7)


def test_times_are_whole_seconds() -> None:
    fields = (stat.S_IFREG | 0o644, 1, 2, 1, 0, 0, 3, 10, 20, 30, 10.9, 20.9, 30.9)
    shown = Presentation().show(os.stat_result(fields))
    assert shown is not None
    assert (shown.atime, shown.mtime) == (10, 20)


def test_a_made_up_folder_is_read_only_and_has_the_given_time() -> None:
    shown = Presentation(uid=5, gid=6).folder(1234)
    assert shown == Attributes(4096, 5, 6, stat.S_IFDIR | 0o555, 1234, 1234)


def test_a_made_up_folder_belongs_to_the_gateway_itself_by_default() -> None:
    shown = Presentation().folder(0)
    assert (shown.uid, shown.gid) == (os.getuid(), os.getgid())
