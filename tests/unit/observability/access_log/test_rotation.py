"""An oversized access log is renamed, and sinks open a new file."""

import os
from pathlib import Path

import pytest

from sftp_gateway.observability.access_log.rotation import delete_older, rotate
from sftp_gateway.observability.access_log.sinks import FileSink


def test_a_file_below_the_limit_is_not_rotated(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(b"x" * 100)
    assert not rotate(log, 100, keep=3)
    assert log.stat().st_size == 100


def test_an_oversized_file_becomes_the_newest_old_file(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    contents = [b"x" * 101, b"y" * 101, b"z" * 101]
    for content in contents:
        log.write_bytes(content)
        assert rotate(log, 100, keep=3)
        assert (log.read_bytes(), log.stat().st_mode & 0o777) == (b"", 0o640)
    old = [tmp_path / f"access.log.{number}" for number in (1, 2, 3)]
    assert [file.read_bytes() for file in old] == contents[::-1]


def test_the_configured_number_of_old_files_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    others = ["access.log-20260101.gz", "access.log.2.gz", "access.log.old", "access.log.", "x.1"]
    for name in others:
        (tmp_path / name).touch()
    for number in range(1, 15):
        (tmp_path / f"access.log.{number}").write_text(f"old {number}")
    log.write_bytes(b"xx")
    assert rotate(log, 1, keep=11)
    names = {"access.log", *others, *(f"access.log.{number}" for number in range(1, 12))}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / "access.log.11").read_text() == "old 10"


def test_old_files_are_deleted_by_age(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    for number, written in ((1, 300), (2, 200), (3, 100)):
        old = tmp_path / f"access.log.{number}"
        old.touch()
        os.utime(old, (written, written))
    log.touch()
    os.utime(log, (1, 1))
    delete_older(log, 200)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "access.log", "access.log.1", "access.log.2",
    ]  # fmt: skip


def test_rotation_loses_no_line(tmp_path: Path) -> None:
    log, before = tmp_path / "access.log", tmp_path / "access.log.1"
    sink = FileSink(log)
    sink.write(b"first\n")
    assert rotate(log, 1, keep=3)
    sink.write(b"second\n")
    sink.close()
    assert (before.read_bytes(), log.read_bytes()) == (b"first\n", b"second\n")


def test_rotating_a_missing_file_is_not_an_error(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "access.log", 1, keep=1)


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "access.log.1").mkdir()
    (tmp_path / "access.log").write_bytes(b"xx")
    with pytest.raises(OSError, match="directory"):
        rotate(tmp_path / "access.log", 1, keep=1)
