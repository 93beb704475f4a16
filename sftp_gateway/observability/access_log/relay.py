"""Transfers lines of the access log from the workers to the observer, which writes them.

A process with a descriptor of the log file can rewrite all of it: fcntl(2) clears O_APPEND, and
then pwrite(2) and ftruncate(2) reach every line. Therefore a worker, which is exposed to clients,
has no such descriptor and cannot open one. It sends its lines through a socket pair of its own; a
worker could shut down or fill a shared one.

The supervisor keeps the receiving ends open until they are drained, so that a new observer writes
what a crashed one has not. A sender blocks while the socket is full, as it would on a disk.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from sftp_gateway.observability.access_log.log import Output
from sftp_gateway.observability.access_log.sinks import Sink

#: Bytes of the send buffer, which the kernel doubles: enough for the longest line and to keep the
#: writer busy. A larger buffer would only hide slow outputs from the overflow policy.
_BUFFER: Final = 1 << 16

#: Maximum size of a datagram, which must fit into the send buffer; a longer line is sent alone.
_MAX_DATAGRAM: Final = 1 << 15

#: Size of the receive buffer: no datagram is larger than the send buffer.
_MAX_RECEIVED: Final = 2 * _BUFFER

#: A valid datagram: whole lines of the access log.
_LINES: Final = re.compile(rb'(?:\{"time":"[^\n]*\}\n)+')

_log = logging.getLogger(__name__)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """A blocking socket to send lines, and a non-blocking one to receive them."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    receiver.setblocking(False)
    return sender, receiver


def is_drained(receiver: socket.socket) -> bool:
    """Whether the sender is closed and all datagrams have been received."""
    try:
        return not receiver.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False


class RelaySink:
    """A sink that sends lines to the observer."""

    def __init__(self, sender: socket.socket) -> None:
        self._sender = sender

    def __repr__(self) -> str:
        return "the observer"

    def write(self, lines: bytes) -> None:
        """Send all of `lines`; blocks while the socket is full. Raises OSError."""
        for datagram in datagrams(lines):
            self._sender.send(datagram)

    def close(self) -> None:
        """Close the sending end."""
        self._sender.close()


def datagrams(lines: bytes) -> Iterator[bytes]:
    """Split `lines` into datagrams of whole lines; a line that exceeds the limit is sent alone."""
    while len(lines) > _MAX_DATAGRAM:
        # After the last line that fits, or after the first if that is too long.
        end = lines.rfind(b"\n", 0, _MAX_DATAGRAM) + 1 or lines.find(b"\n") + 1 or len(lines)
        yield lines[:end]
        lines = lines[end:]
    if lines:
        yield lines


class LogWriter:
    """Writes the received lines to the sinks, one datagram of each worker at a time."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._outputs = [Output(sink) for sink in sinks]
        # epoll(7) allows adding sockets while another thread waits.
        self._selector = selectors.EpollSelector()
        self._closing = os.eventfd(0)  # readable once the writer is to stop
        self._selector.register(self._closing, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def add(self, receiver: socket.socket) -> None:
        """Receive lines from this socket too, until the sender closes it."""
        self._selector.register(receiver, selectors.EVENT_READ)

    def start(self) -> None:
        """Start the writer thread."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Write what has been received so far, for at most `timeout` seconds, and stop."""
        os.eventfd_write(self._closing, 1)
        self._thread.join(timeout)

    @property
    def write_errors(self) -> int:
        """Number of datagrams that a sink has failed to write so far."""
        return sum(output.errors for output in self._outputs)

    @property
    def lines_lost(self) -> int:
        """Number of lines that a sink has failed to write so far."""
        return sum(output.lost for output in self._outputs)

    def _run(self) -> None:
        closing = False
        while True:
            ready = {key.fileobj for key, _ in self._selector.select(0 if closing else None)}
            if closing and ready == {self._closing}:
                break
            closing = self._closing in ready
            for each in ready:
                if isinstance(each, socket.socket):
                    self._write_next(each)
        for key in tuple(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        os.close(self._closing)
        self._selector.close()
        for output in self._outputs:
            output.sink.close()

    def _write_next(self, receiver: socket.socket) -> None:
        """Write one datagram, then remove it: if this process dies, its successor finds it."""
        datagram = receiver.recv(_MAX_RECEIVED, socket.MSG_PEEK)
        if not datagram:
            self._selector.unregister(receiver)
            receiver.close()
            return
        if _LINES.fullmatch(datagram):
            for output in self._outputs:
                output.write(datagram, datagram.count(b"\n"))
        else:
            _log.error("a worker sent %d bytes that are not lines of the access log", len(datagram))
        receiver.recv(1)  # discards the rest of the datagram
