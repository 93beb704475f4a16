"""A change is reported once, after it settles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sftp_gateway.config.fingerprint import FileWatcher, fingerprint
from sftp_gateway.process.messages import read_memfd, sealed_memfd


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


def test_unchanged_files_are_not_reported(file: Path) -> None:
    watcher = FileWatcher(fingerprint([file, "/missing"]))
    assert [watcher.poll() for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("change", ["content", "replaced", "same time", "mode", "gone", "link"])
def test_a_change_is_reported_once_it_settles(file: Path, change: str) -> None:
    before = file.stat()
    watcher = FileWatcher(fingerprint([file]))
    if change == "content":
        file.write_text("newer")
    elif change == "same time":
        file.write_text("new")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "mode":
        file.chmod(0o600)
    else:
        file.unlink()
        if change == "replaced":
            file.write_text("old")
        elif change == "link":
            file.symlink_to("/etc/hostname")
    assert [watcher.poll() for _ in range(4)] == [False, True, False, False]


def test_a_new_file_is_a_change(file: Path) -> None:
    file.unlink()
    watcher = FileWatcher(fingerprint([file]))
    file.write_text("new")
    assert [watcher.poll() for _ in range(3)] == [False, True, False]


def test_a_file_being_written_is_not_yet_reported(file: Path) -> None:
    watcher = FileWatcher(fingerprint([file]))
    seen = []
    for length in range(1, 5):
        file.write_text("x" * (10 + length))
        seen.append(watcher.poll())
    assert seen == [False] * 4
    assert watcher.poll()


def test_a_reverted_change_is_not_reported(tmp_path: Path) -> None:
    watcher = FileWatcher(fingerprint([tmp_path / "other"]))
    (tmp_path / "other").write_text("x")
    assert not watcher.poll()
    (tmp_path / "other").unlink()
    assert [watcher.poll() for _ in range(3)] == [False] * 3


def test_a_change_before_the_watch_is_reported(file: Path) -> None:
    known = fingerprint([file])
    file.write_text("changed between reading and watching")
    watcher = FileWatcher(known)
    assert [watcher.poll() for _ in range(2)] == [False, True]


def test_a_sealed_file_is_readable_and_immutable() -> None:
    content = os.urandom(1_000_000)
    descriptor = sealed_memfd(content)
    try:
        with pytest.raises(PermissionError):
            os.write(descriptor, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        assert [read_memfd(os.dup(descriptor)) for _ in range(2)] == [content, content]
    finally:
        os.close(descriptor)
