"""Attributes shown to clients, computed from stat(2)."""

from __future__ import annotations

import os
import stat

import pytest

from sftp_gateway.vfs import attributes as module
from sftp_gateway.vfs.attributes import OTHERS_READ, AttributePolicy, Attributes, Modes


def status(mode: int, *, size: int = 10, uid: int = 1001, gid: int = 1002) -> os.stat_result:
    return os.stat_result((mode, 1, 2, 1, uid, gid, size, 111, 222, 333))


@pytest.fixture(params=[False, True], ids=["user", "root"])
def privileged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the gateway has root's capabilities; otherwise it is uid 1001, gid 1002."""
    monkeypatch.setattr(module, "_reads_everything", lambda: request.param)
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    monkeypatch.setattr(os, "getegid", lambda: 7)
    monkeypatch.setattr(os, "getgroups", lambda: [8, 1002])
    made: bool = request.param
    return made


def mode(kind: int, real: int, *, uid: int = 1001, gid: int = 1002, **options: Modes) -> int:
    attributes = AttributePolicy(**options).show(status(kind | real, uid=uid, gid=gid))
    assert attributes is not None
    assert stat.S_IFMT(attributes.mode) == kind
    return stat.S_IMODE(attributes.mode)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0o600, 0o644),
        (0o644, 0o644),
        (0o664, 0o664),
        (0o666, 0o666),
        (0o700, 0o744),
        (0o755, 0o755),
        (0o4755, 0o755),
        (0o6751, 0o755),
    ],
)
@pytest.mark.usefixtures("privileged")
def test_a_readable_file_has_its_own_bits_and_is_readable_by_all(real: int, expected: int) -> None:
    assert mode(stat.S_IFREG, real) == expected
    assert mode(stat.S_IFREG, real, modes=Modes.READ_ONLY) == expected & 0o555


@pytest.mark.parametrize(
    ("real", "expected"), [(0o700, 0o755), (0o755, 0o755), (0o1777, 0o777), (0o2775, 0o775)]
)
@pytest.mark.usefixtures("privileged")
def test_a_listable_folder_has_its_own_bits_and_is_listable_by_all(
    real: int, expected: int
) -> None:
    assert mode(stat.S_IFDIR, real) == expected
    assert mode(stat.S_IFDIR, real, modes=Modes.READ_ONLY) == 0o555


@pytest.mark.parametrize(
    ("kind", "real", "uid", "gid"),
    [
        (stat.S_IFREG, 0o277, 1001, 1002),
        (stat.S_IFREG, 0o707, 1, 1002),
        (stat.S_IFREG, 0o770, 1, 1),
        (stat.S_IFDIR, 0o277, 1001, 1),
        (stat.S_IFDIR, 0o727, 1, 7),
        (stat.S_IFDIR, 0o773, 1, 1),
    ],
)
def test_a_file_unreadable_to_the_gateway_is_unreadable_to_all(
    privileged: bool, kind: int, real: int, uid: int, gid: int
) -> None:
    shown = mode(kind, real, uid=uid, gid=gid)
    assert bool(shown & OTHERS_READ) == privileged
    if not privileged:
        assert shown == real & ~OTHERS_READ


def test_a_link_has_all_permission_bits() -> None:
    attributes = AttributePolicy().show(status(stat.S_IFLNK | 0o777))
    assert attributes is not None
    assert attributes.mode == stat.S_IFLNK | 0o777


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, 0])
def test_other_file_types_are_hidden(kind: int) -> None:
    assert AttributePolicy().show(status(kind | 0o666)) is None


def test_owner_group_size_and_times_are_real() -> None:
    shown = AttributePolicy().show(status(stat.S_IFREG | 0o644, size=5 << 40))
    assert shown == Attributes(5 << 40, 1001, 1002, stat.S_IFREG | 0o644, 111, 222)


def test_owner_and_group_can_be_replaced_even_by_root() -> None:
    shown = AttributePolicy(uid=0, gid=0).show(status(stat.S_IFREG | 0o644))
    assert shown is not None
    assert (shown.uid, shown.gid) == (0, 0)


def test_owner_and_group_are_replaced_independently() -> None:
    shown = AttributePolicy(gid=7).show(status(stat.S_IFDIR | 0o755))
    assert shown is not None
    assert (shown.uid, shown.gid) == (1001, 7)


def test_times_are_whole_seconds() -> None:
    fields = (stat.S_IFREG | 0o644, 1, 2, 1, 0, 0, 3, 10, 20, 30, 10.9, 20.9, 30.9)
    shown = AttributePolicy().show(os.stat_result(fields))
    assert shown is not None
    assert (shown.atime, shown.mtime) == (10, 20)


@pytest.mark.parametrize(("modes", "bits"), [(Modes.REAL, 0o755), (Modes.READ_ONLY, 0o555)])
def test_a_virtual_directory_has_the_configured_time(modes: Modes, bits: int) -> None:
    shown = AttributePolicy(uid=5, gid=6, modes=modes).virtual_directory(1234)
    assert shown == Attributes(4096, 5, 6, stat.S_IFDIR | bits, 1234, 1234)


def test_a_virtual_directory_belongs_to_the_gateway_by_default() -> None:
    shown = AttributePolicy().virtual_directory(0)
    assert (shown.uid, shown.gid) == (os.getuid(), os.getgid())
