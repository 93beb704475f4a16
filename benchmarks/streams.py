"""SFTP sessions that read big files over `ssh -s sftp` and cost next to nothing themselves.

What arrives is counted and spliced away without being looked at: with many sessions at once, a
client that parsed it would be what is measured.
"""

from __future__ import annotations

import os
import selectors
import struct
import subprocess
import time
from collections.abc import Callable, Sequence

#: draft-ietf-secsh-filexfer-02 §4: length, SSH_FXP_INIT, version 3.
_INIT = bytes((0, 0, 0, 5, 1, 0, 0, 0, 3))
_OPEN, _READ, _HANDLE = 3, 5, 102
_FOR_READING = 1

#: Bytes that stock clients ask for with each READ, and how many READs are in flight: enough for
#: loopback. With the 64 of sftp(1), 64 sessions cost `ssh` 4 times the processor time (it buffers
#: 2 MiB for each), and the clients were what limits the rate.
_READ_BYTES = 32_768
_IN_FLIGHT = 16
#: A DATA response with them: length, type, id, length of the data (§7).
_DATA_BYTES = 4 + 1 + 4 + 4 + _READ_BYTES

#: Seconds without a byte after which a session counts as hung.
_STALLED = 60.0

#: Seconds between two looks of who watches.
_WATCH = 0.05


class Session:
    """One SFTP session of an `ssh` whose input and output are unbuffered pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Nothing is sent yet."""
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both are pipes")
        self._into, self._out_of = process.stdin.fileno(), process.stdout.fileno()
        self._asked = self._received = self._wanted = 0
        self._handle = b""
        self._offset = 0
        self._greeted = False

    @property
    def fileno(self) -> int:
        """What becomes readable when the server has sent something."""
        return self._out_of

    def hello(self) -> None:
        """Say INIT and wait for the server's VERSION.

        Raises RuntimeError and OSError if it does not come.
        """
        if not self._greeted:
            os.write(self._into, _INIT)
            self._packet()
            self._greeted = True

    def open(self, path: str, *, offset: int, length: int) -> None:
        """Open the file whose `length` bytes from `offset` on are to be read."""
        self.hello()
        name = path.encode()
        body = struct.pack(f">BII{len(name)}sII", _OPEN, 0, len(name), name, _FOR_READING, 0)
        os.write(self._into, struct.pack(">I", len(body)) + body)
        answer = self._packet()
        if answer[0] != _HANDLE:
            raise RuntimeError(f"{path} could not be opened: {answer!r}")
        self._handle = answer[9:]
        self._offset, self._wanted = offset, length // _READ_BYTES
        self._asked = self._received = 0

    def ask(self) -> None:
        """Send READs until enough of them are in flight."""
        until = min(self._wanted, self._received // _DATA_BYTES + _IN_FLIGHT)
        handle = self._handle
        reads = b"".join(
            struct.pack(
                f">IBII{len(handle)}sQI", 21 + len(handle), _READ, number, len(handle), handle,
                self._offset + number * _READ_BYTES, _READ_BYTES,
            )
            for number in range(self._asked, until)
        )  # fmt: skip
        self._asked = until
        if reads:
            os.write(self._into, reads)

    def receive(self, sink: int) -> bool:
        """Take what has arrived; whether it was the last of it.

        Only full DATA responses add up to the number of bytes that is waited for.
        """
        moved = os.splice(self._out_of, sink, 1 << 20)
        if moved == 0:
            raise RuntimeError("a session ended while it was read from")
        self._received += moved
        self.ask()
        return self._received >= self._wanted * _DATA_BYTES

    def _packet(self) -> bytes:
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, number: int) -> bytes:
        got = b""
        while len(got) < number:
            if not (more := os.read(self._out_of, number - len(got))):
                raise RuntimeError("a session ended before its answer")
            got += more
        return got


def read_all(sessions: Sequence[Session], watch: Callable[[], None] | None = None) -> None:
    """Read with all sessions at once what they have opened; `watch` is called now and then.

    Raises RuntimeError if one ends or hangs.
    """
    watched = 0.0
    with selectors.DefaultSelector() as ready, open(os.devnull, "wb") as sink:
        for session in sessions:
            ready.register(session.fileno, selectors.EVENT_READ, session)
            session.ask()
        while ready.get_map():
            events = ready.select(_STALLED)
            if not events:
                raise RuntimeError("a session got nothing any more")
            for key, _ in events:
                if key.data.receive(sink.fileno()):
                    ready.unregister(key.fileobj)
            if watch is not None and time.monotonic() - watched > _WATCH:
                watch()
                watched = time.monotonic()
