"""The check of a share's own folder: replaced, missing and restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotFound
from sftp_gateway.vfs.path_resolution import mount_id, open_no_symlinks
from sftp_gateway.vfs.share import Share
from tests.unit.vfs.helpers import MakeShare, descriptors, entries, listing, read


def test_a_healthy_share_reports_its_file_system(any_share: Share, root: Path) -> None:
    assert any_share.check().f_blocks == os.statvfs(root).f_blocks
    assert any_share.statvfs(b"folder/inner", wait=True).f_blocks == os.statvfs(root).f_blocks
    assert read(any_share, b"file") == b"content"


def test_the_check_switches_to_a_replaced_folder(any_share: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    root.mkdir()
    (root / "new").write_bytes(b"new content")
    assert read(any_share, b"file") == b"content"
    before = descriptors().keys()
    any_share.check()
    assert descriptors().keys() == before
    assert set(listing(any_share)) == {b"new"}
    assert read(any_share, b"new") == b"new content"
    with pytest.raises(NotFound):
        any_share.lstat(b"file", wait=True)


def test_open_handles_survive_the_replacement_of_the_folder(any_share: Share, root: Path) -> None:
    file = any_share.open_file(b"file", wait=True)
    folder = any_share.open_directory(b"folder", wait=True)
    root.rename(root.parent / "old")
    root.mkdir()
    any_share.check()
    buffer = bytearray(7)
    assert file.read([memoryview(buffer)], 0) == 7
    assert buffer == b"content"
    assert [entry.name for entry in entries(folder)][2:] == [b"inner"]
    file.close()


def test_a_replaced_folder_is_confined_too(any_share: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    root.mkdir()
    (root / "out").symlink_to("../outside")
    any_share.check()
    for path in (b"..", b"out/secret"):
        with pytest.raises(Denied):
            any_share.stat(path, wait=True)


def test_the_check_detects_whether_a_replaced_folder_is_local(
    make_share: MakeShare, tmpfs: Path
) -> None:
    (tmpfs / "version").touch()
    share = make_share(tmpfs)
    assert share._local
    share.path = Path("/proc")  # as if that were mounted there now
    share.check()
    assert b"Linux" in read(share, b"version")
    with pytest.raises(BlockingIOError):
        share.lstat(b"version", wait=False)


def test_a_replaced_local_folder_is_read_inline(any_share: Share, tmpfs: Path) -> None:
    (tmpfs / "file").touch()
    any_share.path = tmpfs  # as if it were mounted there now
    any_share.check()
    file = any_share.open_file(b"file", wait=True)
    assert file.local
    file.close()


def test_a_missing_folder_fails_the_check(any_share: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        any_share.check()
    root.write_bytes(b"a file instead")
    with pytest.raises(NotADirectoryError):
        any_share.check()
    assert descriptors() == before


@pytest.mark.parametrize("above", [False, True], ids=["the folder", "one above"])
def test_a_folder_replaced_by_a_link_is_never_followed(
    make_share: MakeShare, tmp_path: Path, above: bool
) -> None:
    for name in ("way", "other"):
        (tmp_path / name / "share").mkdir(parents=True)
        (tmp_path / name / "share/file").write_text(name)
    share = make_share(tmp_path / "way/share")
    swapped = tmp_path / ("way" if above else "way/share")
    swapped.rename(tmp_path / "aside")
    swapped.symlink_to(tmp_path / ("other" if above else "other/share"))
    before = descriptors()
    with pytest.raises(OSError, match="its path now contains a symbolic link"):
        share.check()
    assert descriptors() == before
    assert read(share, b"file") == b"way"
    swapped.unlink()
    (tmp_path / "aside").rename(swapped)
    share.check()


def test_a_restored_folder_passes_the_check(any_share: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    with pytest.raises(FileNotFoundError):
        any_share.check()
    (root.parent / "old").rename(root)
    any_share.check()
    assert read(any_share, b"file") == b"content"


def test_a_share_without_a_folder_fails_until_it_exists(
    make_share: MakeShare, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    before = descriptors()
    share = make_share(folder)
    for path in (b"", b"file"):
        with pytest.raises(BlockingIOError):
            share.stat(path, wait=False)
        with pytest.raises(OSError, match="Bad file descriptor"):
            share.stat(path, wait=True)
    with pytest.raises(FileNotFoundError):
        share.check()
    assert descriptors() == before
    folder.mkdir()
    (folder / "file").touch()
    share.check()
    assert share.device == folder.stat().st_dev
    assert share.stat(b"file", wait=True).size == 0


def test_a_mount_id_is_read_without_accessing_the_file_system(tmp_path: Path) -> None:
    numbers = []
    for folder in (tmp_path, tmp_path, Path("/dev/shm")):
        descriptor = open_no_symlinks(folder)
        numbers.append(mount_id(descriptor))
        os.close(descriptor)
    assert numbers[0] == numbers[1] != numbers[2]
    assert 0 not in numbers
