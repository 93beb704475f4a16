"""Operations on one share, waiting and non-waiting, and the descriptors they use."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, IsADirectory, NotADirectory, NotALink, NotFound
from sftp_gateway.vfs.attributes import AttributePolicy, Attributes
from sftp_gateway.vfs.files import Entry
from sftp_gateway.vfs.path_resolution import Openat2Resolver, PathResolver
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import (
    MakeShare,
    descriptors,
    entries,
    listing,
    mark_recently_followed,
    read,
    take_entries,
    without_atime,
)

# Attributes


def test_attributes_are_those_of_the_file(any_share: Share, root: Path) -> None:
    os.utime(root / "file", (1000, 2000))
    (root / "file").chmod(0o750)
    real = (root / "file").stat()
    shown = Attributes(7, real.st_uid, real.st_gid, stat.S_IFREG | 0o754, 1000, 2000)
    assert any_share.lstat(b"file", wait=True) == shown
    assert any_share.stat(b"file", wait=True) == shown


def test_the_empty_path_is_the_share_itself(any_share: Share, root: Path) -> None:
    shown = any_share.lstat(b"", wait=True)
    assert shown.mode == stat.S_IFDIR | 0o755
    assert shown.mtime == int(root.stat().st_mtime)
    assert shown == any_share.stat(b"", wait=True)


def test_owner_and_group_are_shown_as_configured(root: Path, resolver: PathResolver) -> None:
    share = Share(
        name="share",
        root=root,
        links=Links.KEEP,
        attribute_policy=AttributePolicy(uid=11, gid=12),
        resolver=resolver,
    )
    try:
        shown = [share.lstat(b"file", wait=True), listing(share)[b"folder"].attributes]
        assert [(each.uid, each.gid) for each in shown] == [(11, 12)] * 2
    finally:
        share.close()


@pytest.mark.parametrize("path", [b"missing", b"missing/x", b"file/x", b"file/", b"folder/x/y"])
def test_a_missing_path_is_not_found(any_share: Share, path: bytes) -> None:
    for operation in (
        any_share.lstat,
        any_share.stat,
        any_share.open_file,
        any_share.open_directory,
    ):
        with pytest.raises(NotFound):
            operation(path, wait=True)
    with pytest.raises(NotFound):
        any_share.readlink(path, wait=True)
    with pytest.raises(NotFound):
        any_share.statvfs(path, wait=True)


# Files


def test_an_open_file_can_be_read_and_has_its_size(any_share: Share) -> None:
    file = any_share.open_file(b"folder/inner", wait=True)
    assert file.size == len(b"inner content")
    file.close()
    assert read(any_share, b"folder/inner") == b"inner content"


def test_a_folder_cannot_be_opened_as_a_file(any_share: Share) -> None:
    for path in (b"", b"folder", b"folder/"):
        with pytest.raises(IsADirectory):
            any_share.open_file(path, wait=True)


def test_an_empty_file_is_served(any_share: Share, root: Path) -> None:
    (root / "empty").touch()
    assert read(any_share, b"empty") == b""


def test_a_file_on_a_local_share_is_read_inline(make_share: MakeShare, tmpfs: Path) -> None:
    (tmpfs / "file").touch()
    file = make_share(tmpfs).open_file(b"file", wait=True)
    assert file.local
    file.close()


def test_a_file_on_a_nested_mount_is_not_read_inline(make_share: MakeShare) -> None:
    file = make_share(Path("/")).open_file(b"proc/version", wait=True)
    assert not file.local
    file.close()


def test_a_name_that_is_not_utf_8_is_served(any_share: Share, root: Path) -> None:
    folder, name = b"\xff\xfe", b"caf\xe9\x01"
    os.mkdir(os.path.join(os.fsencode(root), folder))
    with open(os.path.join(os.fsencode(root), folder, name), "wb") as file:
        file.write(b"old encoding")
    os.symlink(folder + b"/" + name, os.path.join(os.fsencode(root), b"\x80"))
    assert {b"\x80", folder} <= set(listing(any_share))
    assert list(listing(any_share, folder)) == [name]
    assert listing(any_share, folder)[name].attributes == any_share.lstat(
        folder + b"/" + name, wait=True
    )
    assert read(any_share, b"\x80") == b"old encoding"


# Folders


def test_a_listing_has_dot_entries_and_full_attributes(any_share: Share, root: Path) -> None:
    (root / "sub").mkdir()
    found = entries(any_share.open_directory(b"", wait=True))
    assert [entry.name for entry in found[:2]] == [b".", b".."]
    assert [without_atime(entry.attributes) for entry in found[:2]] == [
        without_atime(any_share.lstat(b"", wait=True))
    ] * 2
    assert {entry.name: entry.attributes for entry in found[2:]} == {
        name: any_share.lstat(name, wait=True) for name in (b"file", b"folder", b"sub")
    }


def test_dot_dot_in_a_listing_has_the_folders_own_attributes(share: Share) -> None:
    dots = entries(share.open_directory(b"folder", wait=True))[:2]
    shown = without_atime(share.lstat(b"folder", wait=True))
    assert [without_atime(entry.attributes) for entry in dots] == [shown] * 2


def test_a_folder_of_5_000_entries_is_listed_in_full(any_share: Share, root: Path) -> None:
    names = {b"%04d" % number for number in range(5_000)}
    for name in names:
        (root / "folder" / name.decode()).touch()
    found = [entry.name for entry in entries(any_share.open_directory(b"folder", wait=True))]
    assert len(found) == 5_003
    assert set(found) == names | {b".", b"..", b"inner"}


def test_the_home_folder_and_lstat_agree_about_a_share(share: Share, root: Path) -> None:
    os.utime(root, (1000, 2000))
    assert share.root_attributes() == share.lstat(b"", wait=True)
    os.utime(root, (3000, 4000))
    assert share.root_attributes() == share.lstat(b"", wait=True)


def test_the_home_folder_shows_a_network_share_without_disk_access(
    share: Share, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attributes come from the last check: the file system may hang by now."""
    share._local = False
    os.utime(root, (1000, 2000))
    share.check()
    seen = share.lstat(b"", wait=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", lambda _: pytest.fail("asked the disk"))
        assert share.root_attributes() == seen


def test_extra_entries_come_first_and_hide_files_of_the_same_name(share: Share) -> None:
    shown = Attributes(4096, 0, 0, stat.S_IFDIR | 0o555, 1, 1)
    extra = [Entry(b"file", shown), Entry(b"virtual", shown)]
    found = entries(share.open_directory(b"", extra=iter(extra), wait=True))
    assert found[2:4] == extra
    assert [entry.name for entry in found[4:]] == [b"folder"]


def test_a_file_is_not_a_folder(any_share: Share) -> None:
    with pytest.raises(NotADirectory):
        any_share.open_directory(b"file", wait=True)


def test_a_file_deleted_during_listing_is_omitted(any_share: Share, root: Path) -> None:
    for name in ("a", "b", "c"):
        (root / "folder" / name).touch()
    folder = any_share.open_directory(b"folder", wait=True)
    assert len(take_entries(folder, 2)) == 2  # `.` and `..`; the next entry is already read
    for name in ("a", "b", "c", "inner"):
        (root / "folder" / name).unlink()
    assert len(entries(folder)) == 1


def test_an_open_folder_can_be_listed_after_it_was_moved(any_share: Share, root: Path) -> None:
    folder = any_share.open_directory(b"folder", wait=True)
    (root / "folder").rename(root / "moved")
    assert b"inner" in {entry.name for entry in entries(folder)}


# Non-waiting operations


def local_share(folder: Path) -> Share:
    """A share that can answer from the caches, which requires openat2."""
    return Share(
        name="share",
        root=folder,
        links=Links.KEEP,
        attribute_policy=AttributePolicy(),
        resolver=Openat2Resolver(),
    )


def test_a_non_waiting_call_on_a_local_share_uses_the_caches(tmpfs: Path) -> None:
    (tmpfs / "folder").mkdir()
    (tmpfs / "folder" / "file").write_bytes(b"cached")
    (tmpfs / "link").symlink_to("folder/file")
    mark_recently_followed(tmpfs / "link")
    share = local_share(tmpfs)
    try:
        assert share.lstat(b"folder/file", wait=False) == share.lstat(b"folder/file", wait=True)
        assert share.stat(b"link", wait=False).size == 6
        assert share.readlink(b"link", wait=False) == b"folder/file"
        assert read(share, b"link", wait=False) == b"cached"
        assert len(entries(share.open_directory(b"folder", wait=False))) == 3
        assert share.statvfs(b"", wait=False).f_bsize > 0
    finally:
        share.close()


def test_a_non_waiting_call_never_accesses_a_network_share(make_share: MakeShare) -> None:
    share = make_share(Path("/proc"))
    for operation in (share.lstat, share.stat, share.open_file, share.open_directory):
        with pytest.raises(BlockingIOError):
            operation(b"version", wait=False)
    with pytest.raises(BlockingIOError):
        share.readlink(b"self", wait=False)
    with pytest.raises(BlockingIOError):
        share.statvfs(b"", wait=False)


def test_a_non_waiting_call_does_not_distinguish_escapes_from_mounts(
    any_share: Share, root: Path
) -> None:
    (root / "out").symlink_to("../outside")
    for path in (b"out/secret", b".."):
        with pytest.raises(BlockingIOError):
            any_share.stat(path, wait=False)


def test_a_file_opened_without_waiting_has_blocking_reads(tmpfs: Path) -> None:
    (tmpfs / "file").touch()
    share = local_share(tmpfs)
    file = share.open_file(b"file", wait=False)
    assert os.get_blocking(file._descriptor)
    file.close()
    share.close()


#: Holds a lease on the file argv[1], as Samba does for its clients, until its input ends.
_HOLD_LEASE = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(sys.argv[1], "r+") as file:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_non_waiting_open_does_not_wait_for_a_lease(make_share: MakeShare, tmpfs: Path) -> None:
    """Opening the file blocks until the lease is released, by default up to 45 seconds."""
    (tmpfs / "file").write_bytes(b"leased")
    share = make_share(tmpfs)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD_LEASE, str(tmpfs / "file")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            share.open_file(b"file", wait=False)
    assert read(share, b"file") == b"leased"


# Descriptors


def test_failed_operations_leak_no_descriptors(any_share: Share, root: Path, outside: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "out").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    (root / "dead").symlink_to("missing")
    paths = (b"", b"file", b"folder", b"fifo", b"out", b"out/x", b"loop", b"dead", b"file/x")
    before = descriptors()
    failures = 0
    for path in (*paths, b"missing", b"..", b"folder/../..", b"n" * 300, b"./" * 4000):
        for wait in (True, False):
            for operation in (
                any_share.lstat,
                any_share.stat,
                any_share.readlink,
                any_share.statvfs,
                lambda path, wait: any_share.open_file(path, wait=wait).close(),
                lambda path, wait: any_share.open_directory(path, wait=wait).close(),
            ):
                try:
                    operation(path, wait=wait)
                except (NotFound, Denied, NotALink, IsADirectory, NotADirectory, BlockingIOError):
                    failures += 1
    assert descriptors() == before
    assert failures > 100


def test_running_out_of_descriptors_is_an_error_and_leaks_none(any_share: Share) -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(number) for number in before)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, hard))
    occupied: list[int] = []
    codes: list[int | None] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                occupied.append(os.dup(any_share._root))
        for _ in range(6):  # with room for none, for one more, ...
            for operation in (open_and_close_file, open_and_close_folder):
                try:
                    operation(any_share)
                    codes.append(None)
                except OSError as error:
                    codes.append(error.errno)
            os.close(occupied.pop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in occupied:
            os.close(descriptor)
    assert codes[:2] == [errno.EMFILE] * 2
    assert codes[-2:] == [None] * 2
    assert set(codes) == {errno.EMFILE, None}
    assert descriptors() == before


def open_and_close_file(share: Share) -> None:
    share.open_file(b"folder/inner", wait=True).close()


def open_and_close_folder(share: Share) -> None:
    share.open_directory(b"folder", wait=True).close()


def test_names_gone_before_lstat_are_omitted(any_share: Share, root: Path) -> None:
    gone = root / "crowd"
    gone.mkdir()
    for number in range(50):
        (gone / str(number)).touch()
    folder = any_share.open_directory(b"crowd", wait=True)
    assert len(take_entries(folder, 2)) == 2  # `.` and `..`; the next entry is already read
    for path in gone.iterdir():
        path.unlink()
    assert len(entries(folder)) == 1
