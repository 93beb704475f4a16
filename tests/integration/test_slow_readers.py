"""Clients that send requests but do not read cost bounded memory; others are still served."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.bed import Bed
from benchmarks.processes import memory
from benchmarks.raw_sftp import LONGEST_READ, RawSftp, SilentReader, silence
from benchmarks.slow_readers import Sizes, beside_bulk_readers, beside_silent_readers, make_data
from tests.support.gateway import TIMEOUT, Gateway, fill
from tests.support.record_client import Terms, Transcript, channel
from tests.support.sftp_wire import encode_open, encode_read, encode_write

pytestmark = pytest.mark.integration

MIB = 1024 * 1024

_READERS = 50
_HOSTILE = 4

#: Worst-case memory of one session: see "Backpressure" in docs/architecture.md.
_SESSION_BYTES = 4 * MIB

_BIG = os.urandom(16 * MIB)


@pytest.fixture
def served(gateway: Gateway) -> Gateway:
    fill(gateway.folder / "shared", {"models/big": _BIG})
    return gateway


@contextlib.contextmanager
def _silent_readers(gateway: Gateway, length: int) -> Iterator[list[SilentReader]]:
    """Sessions of real `ssh` processes whose output is not read."""
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
def test_clients_that_never_read_cost_bounded_memory_and_slow_nobody(
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
                ["ls", mount / "models"], capture_output=True, timeout=TIMEOUT, check=True
            )
            assert b"big" in listed.stdout.split()
            copied = subprocess.run(
                ["cat", mount / "models/big"], capture_output=True, timeout=TIMEOUT, check=True
            )
            assert copied.stdout == _BIG
        assert not silence(readers), "the readers' output is being read"
    served.wait_event("session_end")


@pytest.mark.parametrize("rekey_limit", [1024**3, MIB], ids=["same keys", "unanswered KEXINIT"])
def test_an_unlimited_window_costs_bounded_memory(
    make_gateway: Callable[..., Gateway], rekey_limit: int
) -> None:
    """The window is no limit then, nor is the socket during a key exchange."""
    gateway = make_gateway(SFTP_GATEWAY_REKEY_LIMIT=str(rekey_limit)).start()
    fill(gateway.folder / "shared", {"models/big": _BIG})
    assert gateway.process is not None
    stack = contextlib.AsyncExitStack()

    async def opened() -> tuple[Transcript, bytes]:
        session = await stack.enter_async_context(channel(gateway, Terms(window=2**31 - 1)))
        stack.callback(session.channel.get_connection().abort)
        return session, await session.handle(encode_open, b"models/big")

    with asyncio.Runner() as runner:
        sessions = [runner.run(opened()) for _ in range(_HOSTILE)]
        before = memory(gateway.process.pid)
        # These clients' event loop is stopped: they no longer respond.
        for session, handle in sessions:
            for number in range(4096):
                session.send(encode_read(number, handle, 0, 256 * 1024))
        after = memory(gateway.process.pid)
        runner.run(stack.aclose())
    assert (after.anonymous - before.anonymous) * 1024 < _HOSTILE * _SESSION_BYTES


async def test_large_queued_requests_cost_bounded_memory(gateway: Gateway) -> None:
    """Queued requests are limited in bytes too: one has up to 256 KiB."""
    fill(gateway.folder / "shared", {"models/big": _BIG})
    assert gateway.process is not None
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(channel(gateway, Terms(window=64 * 1024)))
        stack.callback(session.channel.get_connection().abort)
        handle = await session.handle(encode_open, b"models/big")
        before = memory(gateway.process.pid)
        # The client no longer extends its window: first replies queue up, then requests.
        session.channel.pause_reading()
        session.send(*(encode_read(number, handle, 0, 256 * 1024) for number in range(20)))
        session.send(*(encode_write(1, handle, 0, bytes(250 * 1024)) for _ in range(250)))
        unsent = -1
        while unsent != session.channel.get_write_buffer_size():
            unsent = session.channel.get_write_buffer_size()
            after = await asyncio.to_thread(memory, gateway.process.pid)  # once it is at rest
    assert unsent > 0, "everything was sent"
    assert (after.anonymous - before.anonymous) * 1024 < _SESSION_BYTES


def test_the_effect_on_other_clients_is_measured(tmp_path: Path) -> None:
    sizes = Sizes(big_bytes=16 * MIB, silent_readers=3, bulk_readers=2, rounds=1, samples=20)
    make_data(tmp_path / "data", sizes)
    bed = Bed(folder=tmp_path / "bed", data=tmp_path / "data", options={})
    silent = beside_silent_readers(bed, sizes)
    assert silent.ratio > 0
    assert silent.after.anonymous > silent.before.anonymous
    for latencies in beside_bulk_readers(bed, sizes):
        assert len(latencies.lstat) == len(latencies.open_folder) == sizes.samples
