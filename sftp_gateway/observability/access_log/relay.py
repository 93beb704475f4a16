"""How lines of the access log come to the process that writes them, the observer.

Whoever holds a descriptor of a log can change all of it: O_APPEND is a flag that fcntl(2) clears,
and then pwrite(2) and ftruncate(2) reach every line. So a worker, which is what clients attack,
holds none and can open none. It sends its lines through a socket pair of its own: one that all
shared could be shut down, or kept full, by each of them.

The supervisor keeps a receiving end until nothing is left in it: what an observer did not live to
write, its successor writes. A sender waits for room, as it would for a disk.
"""

from __future__ import annotations

import logging
import re
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from sftp_gateway.observability.access_log.log import Output
from sftp_gateway.observability.access_log.sinks import Sink

#: Bytes of the send buffer, which the kernel doubles: room for the longest line, and for what keeps
#: the writer busy. More would only hide from `overflow` how slow the outputs are.
_BUFFER: Final = 1 << 16

#: A datagram is no longer, unless a single line is: it has to fit in the socket's buffer.
_MAX_DATAGRAM: Final = 1 << 15

#: The longest datagram that is received: as much as the send buffer takes.
_MAX_RECEIVED: Final = 2 * _BUFFER

#: Seconds after which the thread that writes looks whether it is to end.
_POLL_INTERVAL: Final = 0.5

#: What a worker may send: whole lines of the access log.
_LINES: Final = re.compile(rb'(?:\{"time":"[^\n]*\}\n)+')

_log = logging.getLogger(__name__)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """An end to send lines, which blocks, and one to receive them, which does not."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    receiver.setblocking(False)
    return sender, receiver


def is_drained(receiver: socket.socket) -> bool:
    """Whether nothing is left to receive, and nothing can come."""
    try:
        return not receiver.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


class RelaySink:
    """An output of the access log that sends its lines to the observer."""

    def __init__(self, sender: socket.socket) -> None:
        self._sender = sender

    def __repr__(self) -> str:
        return "the observer"

    def write(self, lines: bytes) -> None:
        """Send all of `lines`, waiting as long as it takes. Raises OSError."""
        for datagram in datagrams(lines):
            self._sender.send(datagram)

    def close(self) -> None:
        """Nothing more comes."""
        self._sender.close()


def datagrams(lines: bytes) -> Iterator[bytes]:
    """Whole lines, as many as fit into a datagram, or one that is longer."""
    while len(lines) > _MAX_DATAGRAM:
        # Behind the last line that fits, or behind the first where that is longer.
        end = lines.rfind(b"\n", 0, _MAX_DATAGRAM) + 1 or lines.find(b"\n") + 1 or len(lines)
        yield lines[:end]
        lines = lines[end:]
    if lines:
        yield lines


class LogWriter:
    """Writes what comes through channels, in turn, to the outputs of the access log."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._outputs = [Output(sink) for sink in sinks]
        # While one thread waits, another may add channels: epoll(7) allows that.
        self._selector = selectors.EpollSelector()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def add(self, receiver: socket.socket) -> None:
        """Take lines from this one too, until its other end is closed."""
        self._selector.register(receiver, selectors.EVENT_READ)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Write what has been sent so far, for at most so many seconds, and end."""
        self._closing.set()
        self._thread.join(timeout)

    @property
    def write_errors(self) -> int:
        """Datagrams that an output failed to write, so far, over all outputs."""
        return sum(output.errors for output in self._outputs)

    @property
    def lines_lost(self) -> int:
        """Lines that an output failed to write, so far, over all outputs."""
        return sum(output.lost for output in self._outputs)

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            ready = self._selector.select(0 if closing else _POLL_INTERVAL)
            for key, _ in ready:
                if isinstance(key.fileobj, socket.socket):
                    self._write_next(key.fileobj)
            if closing and not ready:
                break
        for key in tuple(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        for output in self._outputs:
            output.sink.close()

    def _write_next(self, receiver: socket.socket) -> None:
        """Write one datagram, and only then take it off: a successor would find it there."""
        datagram = receiver.recv(_MAX_RECEIVED, socket.MSG_PEEK)
        if not datagram:
            self._selector.unregister(receiver)
            receiver.close()
            return
        if _LINES.fullmatch(datagram):
            for output in self._outputs:
                output.write(datagram, datagram.count(b"\n"))
        else:
            _log.error("a process sent %d bytes that are no lines of the log", len(datagram))
        receiver.recv(1)  # the rest of the datagram goes with it
