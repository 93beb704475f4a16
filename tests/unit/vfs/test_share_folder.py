"""The share's own folder: checked, replaced, gone and back again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotFound
from sftp_gateway.vfs.path_resolution import mount_id, open_no_symlinks
from sftp_gateway.vfs.share import Share
from tests.unit.vfs.helpers import MakeShare, descriptors, entries, listing, read


def test_a_healthy_share_tells_its_file_system(either: Share, root: Path) -> None:
    assert either.check().f_blocks == os.statvfs(root).f_blocks
    assert either.statvfs(b"folder/inner", wait=True).f_blocks == os.statvfs(root).f_blocks
    assert read(either, b"file") == b"content"


def test_a_folder_that_was_replaced_is_taken_over_by_the_check(either: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    root.mkdir()
    (root / "new").write_bytes(b"new content")
    assert read(either, b"file") == b"content"
    before = descriptors().keys()
    either.check()
    assert descriptors().keys() == before
    assert set(listing(either)) == {b"new"}
    assert read(either, b"new") == b"new content"
    with pytest.raises(NotFound):
        either.lstat(b"file", wait=True)


def test_what_is_open_stays_open_when_the_folder_is_replaced(either: Share, root: Path) -> None:
    file = either.open_file(b"file", wait=True)
    folder = either.open_directory(b"folder", wait=True)
    root.rename(root.parent / "old")
    root.mkdir()
    either.check()
    buffer = bytearray(7)
    assert file.read([memoryview(buffer)], 0) == 7
    assert buffer == b"content"
    assert [entry.name for entry in entries(folder)][2:] == [b"inner"]
    file.close()


def test_a_folder_taken_over_is_confined_like_the_first(either: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    root.mkdir()
    (root / "out").symlink_to("../outside")
    either.check()
    for path in (b"..", b"out/secret"):
        with pytest.raises(Denied):
            either.stat(path, wait=True)


def test_whether_it_is_local_is_seen_again_when_the_folder_is_replaced(
    make_share: MakeShare, memory: Path
) -> None:
    (memory / "version").touch()
    share = make_share(memory)
    assert share._local
    share.path = Path("/proc")  # as if that were mounted there now
    share.check()
    assert b"Linux" in read(share, b"version")
    with pytest.raises(BlockingIOError):
        share.lstat(b"version", wait=False)


def test_files_are_read_inline_from_the_file_system_that_was_taken_over(
    either: Share, memory: Path
) -> None:
    (memory / "file").touch()
    either.path = memory  # as if it were mounted there now
    either.check()
    file = either.open_file(b"file", wait=True)
    assert file.local
    file.close()


def test_a_folder_that_is_gone_fails_the_check(either: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        either.check()
    root.write_bytes(b"a file instead")
    with pytest.raises(NotADirectoryError):
        either.check()
    assert descriptors() == before


@pytest.mark.parametrize("above", [False, True], ids=["the folder", "one above"])
def test_a_link_in_the_folders_place_is_never_followed(
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
    with pytest.raises(OSError, match="a link has come into its path"):
        share.check()
    assert descriptors() == before
    assert read(share, b"file") == b"way"
    swapped.unlink()
    (tmp_path / "aside").rename(swapped)
    share.check()


def test_a_folder_that_comes_back_passes_the_check_again(either: Share, root: Path) -> None:
    root.rename(root.parent / "old")
    with pytest.raises(FileNotFoundError):
        either.check()
    (root.parent / "old").rename(root)
    either.check()
    assert read(either, b"file") == b"content"


def test_a_share_without_a_folder_fails_until_there_is_one(
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


def test_the_number_of_a_mount_is_told_without_its_file_system(tmp_path: Path) -> None:
    numbers = []
    for folder in (tmp_path, tmp_path, Path("/dev/shm")):
        descriptor = open_no_symlinks(folder)
        numbers.append(mount_id(descriptor))
        os.close(descriptor)
    assert numbers[0] == numbers[1] != numbers[2]
    assert 0 not in numbers
