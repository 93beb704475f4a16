"""The access log's file is renamed when it is too large, and begun anew by the sinks."""

from pathlib import Path

import pytest

from sftp_gateway.observability import FileSink
from sftp_gateway.observability.rotation import rotate


def test_a_file_that_is_not_too_large_stays(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_bytes(b"x" * 100)
    assert not rotate(log, 100)
    assert log.stat().st_size == 100


def test_a_file_that_is_too_large_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    log, before = tmp_path / "access.log", tmp_path / "access.log.1"
    before.write_bytes(b"older")
    log.write_bytes(b"x" * 101)
    assert rotate(log, 100)
    assert before.read_bytes() == b"x" * 101
    assert (log.read_bytes(), log.stat().st_mode & 0o777) == (b"", 0o640)


def test_a_sink_goes_on_in_a_new_file_and_loses_no_line(tmp_path: Path) -> None:
    log, before = tmp_path / "access.log", tmp_path / "access.log.1"
    sink = FileSink(log)
    sink.write(b"first\n")
    assert rotate(log, 1)
    sink.write(b"second\n")
    sink.close()
    assert (before.read_bytes(), log.read_bytes()) == (b"first\n", b"second\n")


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "access.log", 1)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "access.log.1").mkdir()
    (tmp_path / "access.log").write_bytes(b"xx")
    with pytest.raises(OSError, match="directory"):
        rotate(tmp_path / "access.log", 1)
