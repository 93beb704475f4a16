"""Many SFTP sessions at once whose clients cost less than the server.

`ssh` spends as much processor time on a GB as a server does, so that on one machine the clients
would limit the rate. These sessions use the tests' own SSH client, and the kernel discards the
answers to their READs (MSG_TRUNC, tcp(7)): they are neither copied nor decrypted.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.data import Data
from benchmarks.peers import Peer
from benchmarks.processes import cpu_clock
from tests.support import sftp_wire as wire
from tests.support.raw_ssh import (
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_WINDOW_ADJUST,
    RawSsh,
    SshError,
)

#: Bytes of a READ, as stock clients have it; how many are in flight; how many are sent together.
_READ, _READS, _TOGETHER = 32_768, 16, 4

#: A DATA response with them, with its length (draft-ietf-secsh-filexfer-02 §7).
_ANSWER = 4 + 1 + 4 + 4 + _READ

#: The least that it takes on the wire: an SSH packet of 32 KiB has 36 bytes more. Smaller packets
#: make what is counted at most 0.2% too high.
_SEALED = _ANSWER + 36

#: LSTATs that are in flight, and how many are sent together.
_LSTATS, _LSTATS_TOGETHER = 16, 8

#: Seconds in which all sessions log in, and end a load.
_PATIENCE = 60.0


class Session(RawSsh):
    """A session that is logged in. Loads run until they are closed, and yield what they did."""

    def __init__(self, peer: Peer, data: Data, *, place: float) -> None:
        """`place`, from 0 to 1, is where it begins in the big file and among the small ones."""
        super().__init__(peer.port)
        self.exchange_keys()
        self.request_service()
        self.log_in(peer.user, peer.keys.client)
        self._channel = self.open_sftp()
        self.socket.settimeout(None)  # with one, Python polls before each call
        self._sink = bytearray((_TOGETHER + 1) * _SEALED)
        self._ask(wire.encode_init())
        self._answer(wire.PacketType.VERSION)
        self._big, self._size = peer.remote_path("big.bin").encode(), data.sizes.big_bytes
        self._start = int(place * self._size) // _READ * _READ
        names = [peer.remote_path(name).encode() for name in data.small_names]
        first = int(place * len(names))
        self._names = itertools.cycle(names[first:] + names[:first])
        self._small_bytes = data.sizes.small_bytes
        self._verify(data.root / "big.bin")

    def lstat(self) -> Iterator[int]:
        """LSTATs of small files; yields requests."""
        self._lstats(_LSTATS)
        while True:
            for _ in range(_LSTATS_TOGETHER):
                self._answer(wire.PacketType.ATTRS)
            self._lstats(_LSTATS_TOGETHER)
            yield _LSTATS_TOGETHER

    def files(self) -> Iterator[int]:
        """OPEN, READ and CLOSE of one small file after the other; yields requests."""
        # `lstat`, which ran before, has left these in flight.
        for _ in range(_LSTATS):
            self._answer(wire.PacketType.ATTRS)
        while True:
            handle = self._open(next(self._names))
            self._ask(wire.encode_read(1, handle, 0, _READ), wire.encode_close(2, handle))
            # Responses may overtake each other (draft-ietf-secsh-filexfer-02 §6.1).
            answers = {self.receive_sftp(self._channel) for _ in range(2)}
            lengths = {answer[0]: len(answer) for answer in answers}
            if lengths.get(wire.PacketType.DATA) != 9 + self._small_bytes:
                raise RuntimeError(f"a small file cannot be read: {answers}")
            yield 3

    def read(self) -> Iterator[int]:
        """READs of the big file from start to end, again and again; yields bytes."""
        handle = self._open(self._big)
        every = itertools.cycle(range(0, self._size, _READ))
        offsets = itertools.islice(every, self._start // _READ, None)

        def ask(number: int) -> None:
            reads = b"".join(
                wire.encode_read(1, handle, offset, _READ)
                for offset in itertools.islice(offsets, number)
            )
            self.send(
                self._to_channel(MSG_CHANNEL_WINDOW_ADJUST, wire.uint32(number * _ANSWER)),
                self._to_channel(MSG_CHANNEL_DATA, wire.string(reads)),
            )

        ask(_READS)
        self._received.clear()
        expected = _TOGETHER * _SEALED
        while True:
            left = expected
            while left > 0:
                discarded = self.socket.recv_into(self._sink, len(self._sink), socket.MSG_TRUNC)
                if not discarded:
                    raise SshError("the server closed the connection")
                left -= discarded
            expected = _TOGETHER * _SEALED + left
            ask(_TOGETHER)
            yield _TOGETHER * _READ

    def _verify(self, big: Path) -> None:
        """Compare one READ with the file."""
        handle = self._open(self._big)
        self._ask(wire.encode_read(1, handle, self._start, _READ))
        with open(big, "rb") as file:
            expected = os.pread(file.fileno(), _READ, self._start)
        if self._answer(wire.PacketType.DATA)[9:] != expected:
            raise RuntimeError("the server sent other bytes than the file has")
        self._ask(wire.encode_close(2, handle))
        self._answer(wire.PacketType.STATUS)

    def _open(self, path: bytes) -> bytes:
        self._ask(wire.encode_open(0, path))
        return self._answer(wire.PacketType.HANDLE)[9:]

    def _lstats(self, number: int) -> None:
        self._ask(*(wire.encode_lstat(1, next(self._names)) for _ in range(number)))

    def _ask(self, *packets: bytes) -> None:
        self.send(self._to_channel(MSG_CHANNEL_DATA, wire.string(b"".join(packets))))

    def _to_channel(self, kind: int, body: bytes) -> bytes:
        return bytes([kind]) + wire.uint32(self._channel.theirs) + body

    def _answer(self, kind: wire.PacketType) -> bytes:
        answer = self.receive_sftp(self._channel)
        if answer[0] != kind:
            raise RuntimeError(f"an answer of type {answer[0]}, and not {kind}")
        return answer


#: What sessions do, in this order: `read` leaves answers behind.
LOADS: Final = (Session.lstat, Session.files, Session.read)


@dataclass(frozen=True, slots=True)
class Seen:
    """What all sessions have done up to a moment, and the processor time of their processes."""

    at: float
    done: int
    cpu: float


class Crowd:
    """Sessions that run the same load at a time, each in a process of its own on `processors`."""

    def __init__(self, peer: Peer, data: Data, *, sessions: int, processors: set[int]) -> None:
        fork = multiprocessing.get_context("fork")
        self._peer, self._data, self._processors = peer, data, processors
        self._running = fork.RawValue(ctypes.c_bool, False)
        self._done = fork.RawArray(ctypes.c_uint64, sessions)
        self._together = fork.Barrier(sessions + 1, timeout=_PATIENCE)
        self._members = [
            fork.Process(target=self._work, args=[number], daemon=True)
            for number in range(sessions)
        ]

    def __enter__(self) -> Crowd:
        """Wait until all are logged in."""
        for member in self._members:
            member.start()
        self._together.wait()
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.kill()
            member.join()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """All run the next of LOADS meanwhile."""
        self._running.value = True
        self._together.wait()
        yield
        self._running.value = False
        self._together.wait()

    def seen(self) -> Seen:
        """The sum over all loads so far."""
        clocks = (cpu_clock(member.pid) for member in self._members if member.pid)
        return Seen(time.monotonic(), sum(self._done), sum(map(time.clock_gettime, clocks)))

    def _work(self, number: int) -> None:
        os.sched_setaffinity(0, self._processors)
        try:
            session = Session(self._peer, self._data, place=number / len(self._members))
            self._together.wait()
            for load in LOADS:
                self._together.wait()
                for done in load(session):
                    self._done[number] += done
                    if not self._running.value:
                        break
                self._together.wait()
        except BaseException:
            self._together.abort()  # the others do not wait for this one
            raise
