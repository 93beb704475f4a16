"""Clients that ask and never read cost bounded memory, and the others go on being served."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bed import Bed
from benchmarks.processes import memory
from benchmarks.raw_sftp import LONGEST_READ, RawSftp, SilentReader, silence
from benchmarks.slow_readers import Sizes, beside_bulk_readers, beside_silent_readers, make_data
from tests.support.gateway import PATIENCE, Gateway, fill

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

_READERS = 50

#: What one session holds at its worst: docs/architecture.md, "Backpressure", has the sum.
_SESSION_BYTES = 3 * MIB

_BIG = os.urandom(16 * MIB)


@pytest.fixture
def served(gateway: Gateway) -> Gateway:
    fill(gateway.folder / "shared", {"models/big": _BIG})
    return gateway


@contextlib.contextmanager
def _silent_readers(gateway: Gateway, length: int) -> Iterator[list[SilentReader]]:
    """Sessions of real `ssh` processes whose output nobody takes."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(_READERS):
            ssh = subprocess.Popen(
                [
                    "ssh", *gateway.ssh_options(), "-p", str(gateway.port), "-s",
                    "gvpocr@127.0.0.1", "sftp",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )  # fmt: skip
            session = RawSftp(ssh)
            stack.callback(session.end)
            readers.append(SilentReader(session, b"models/big", length=length, total=1024 * MIB))
        yield readers


@pytest.mark.parametrize("length", [LONGEST_READ, 32 * 1024])
def test_those_who_never_read_cost_bounded_memory_and_disturb_nobody(
    served: Gateway, tmp_path: Path, length: int
) -> None:
    assert served.process is not None
    with _silent_readers(served, length) as readers:
        before = memory(served.process.pid)
        while silence(readers):
            after = memory(served.process.pid)  # once the server has come to rest
        grown = (after.anonymous - before.anonymous) * 1024
        assert grown < _READERS * _SESSION_BYTES

        with served.mounted(tmp_path / "mnt") as mount:
            listed = subprocess.run(
                ["ls", mount / "models"], capture_output=True, timeout=PATIENCE, check=True
            )
            assert b"big" in listed.stdout.split()
            copied = subprocess.run(
                ["cat", mount / "models/big"], capture_output=True, timeout=PATIENCE, check=True
            )
            assert copied.stdout == _BIG
        assert not silence(readers), "they are being read after all"
    served.wait_event("session_end")


def test_what_the_others_notice_can_be_measured(tmp_path: Path) -> None:
    sizes = Sizes(big_bytes=16 * MIB, silent_readers=3, bulk_readers=2, rounds=1, samples=20)
    make_data(tmp_path / "data", sizes)
    bed = Bed(folder=tmp_path / "bed", data=tmp_path / "data", options={})
    silent = beside_silent_readers(bed, sizes)
    assert silent.ratio > 0
    assert silent.after.anonymous > silent.before.anonymous
    for latencies in beside_bulk_readers(bed, sizes):
        assert len(latencies.lstat) == len(latencies.open_folder) == sizes.samples
