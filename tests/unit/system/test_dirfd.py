"""Files are checked and changed through the same descriptor, without following links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sftp_gateway.system.dirfd import Folder


def test_a_folder_is_created_with_its_parents(tmp_path: Path) -> None:
    with Folder.open(tmp_path / "a/b", make=True) as folder:
        folder.write_new("file", b"content", mode=0o640, owner=None)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o755
    assert (tmp_path / "a/b/file").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a/b/file").stat().st_mode) == 0o640


def test_own_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "relative").symlink_to("a")
    (tmp_path / "a/absolute").symlink_to(tmp_path / "a/b")
    with Folder.open(tmp_path / "relative/absolute/../b") as folder:
        assert os.path.samestat(folder.status, (tmp_path / "a/b").stat())
    (tmp_path / "link").symlink_to("relative/b/file")
    (tmp_path / "a/b/file").touch()
    held, name = Folder.above(tmp_path / "link")
    with held:
        assert (name, held.names()) == ("file", ["file"])


@pytest.mark.parametrize("name", ["loop", "loop/x"])
def test_a_loop_of_links_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        Folder.open(tmp_path / name)
    with pytest.raises(OSError, match="symbolic links"):
        Folder.above(tmp_path / name)


def test_errors_have_the_full_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        Folder.open(tmp_path / "missing")
    assert raised.value.filename == str(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as other:
        Folder.open(tmp_path / "file")
    assert other.value.filename == str(tmp_path / "file")
    with Folder.open(tmp_path) as folder:
        with pytest.raises(FileExistsError) as third:
            folder.write_new("file", b"", mode=0o600, owner=None)
        assert third.value.filename == str(tmp_path / "file")
        assert folder.entry("missing") is None


def test_a_fifo_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Folder.open(tmp_path) as folder, pytest.raises(OSError, match="neither a regular file"):
        folder.entry("fifo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("folder_owner", "link_owner", "mode"), [(0, 7, 0o755), (7, 0, 0o755), (0, 0, 0o777)]
)
def test_a_link_that_others_can_change_is_not_followed(
    tmp_path: Path, folder_owner: int, link_owner: int, mode: int
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    (tmp_path / "target").mkdir()
    (above / "link").symlink_to(tmp_path / "target")
    os.lchown(above / "link", link_owner, 0)
    os.chown(above, folder_owner, 0)
    above.chmod(mode)
    with pytest.raises(OSError, match="name the file or folder that it leads to"):
        Folder.open(above / "link")
    above.chmod(0o1777)
    os.chown(above, 0, 0)
    os.lchown(above / "link", 0, 0)
    with Folder.open(above / "link") as folder:
        assert folder.names() == []
