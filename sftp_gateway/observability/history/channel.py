"""How what workers log and serve comes to the observer: datagrams of a Unix socket pair.

The pair is made before the first fork and outlives each observer, so what is sent while one is
being replaced waits in the kernel for the next. Its buffer is the bound. A log's writer thread
waits for an observer that is slow, which keeps no client waiting while the log's queue has room.
After PATIENCE without any room it waits no more until there is some again: what does not fit is
dropped and counted, for the access log itself has it.

A datagram is either whole lines of the access log, each of which begins with `{"time":`, or what a
worker serves now, `{"live":...` (server/session_reports.py).
"""

from __future__ import annotations

import re
import select
import socket
from time import monotonic
from typing import Final

from sftp_gateway.observability.access_log.relay import pieces

#: Of the send buffer; the kernel gives up to net.core.wmem_max, 208 KiB, and doubles it.
_BUFFER: Final = 1 << 20

#: The longest datagram that is received. A line is shorter: text of clients is cut.
_LONGEST: Final = 1 << 18

#: Seconds that the log's thread waits for an observer that takes nothing.
PATIENCE: Final = 1.0

#: Events that the history is not made of. Of a file `file_closed` says all that `file_opened` does,
#: of a connection `session_end`, and requests would drive out everything else.
EXCLUDED_EVENTS: Final = frozenset({"connection", "file_opened", "request"})
_EXCLUDED_LINES: Final = re.compile(
    rb'^\{"time":"[^"\n]*","event":"(?:%s)"[^\n]*\n' % b"|".join(map(str.encode, EXCLUDED_EVENTS)),
    re.MULTILINE,
)

#: What a datagram begins with that tells what a worker serves.
LIVE: Final = b'{"live":'


class HistoryChannel:
    """Both ends, which every process of the gateway inherits."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._ours.setblocking(False)

    def send(self, datagram: bytes) -> bool:
        """Hand over a datagram; whether there was room for it."""
        try:
            self._ours.send(datagram)
        except OSError:
            return False
        return True

    def wait_for_room(self, seconds: float) -> None:
        """Wait until there may be room, for at most so long."""
        poll = select.poll()
        poll.register(self._ours, select.POLLOUT)
        poll.poll(seconds * 1000)

    def receive(self, seconds: float) -> bytes | None:
        """The next datagram; None where none comes in this time. For one thread."""
        self._theirs.settimeout(seconds)
        try:
            return self._theirs.recv(_LONGEST)
        except (TimeoutError, BlockingIOError):
            return None

    @property
    def sender(self) -> int:
        """The descriptor of the end that sends."""
        return self._ours.fileno()

    @property
    def receiver(self) -> int:
        """The descriptor of the end that receives."""
        return self._theirs.fileno()

    def close(self) -> None:
        """Close both ends, in this process."""
        self._ours.close()
        self._theirs.close()


class HistorySink:
    """An output of the access log that hands its lines to the observer."""

    def __init__(self, channel: HistoryChannel) -> None:
        self._channel = channel
        self._responsive = True
        #: Lines that there was no room for, so far.
        self.dropped = 0

    def __repr__(self) -> str:
        return "the history"

    def write(self, lines: bytes) -> None:
        """Send what the history is made of, in pieces of whole lines."""
        for piece in pieces(_EXCLUDED_LINES.sub(b"", lines)):
            if not self._send(piece):
                self.dropped += piece.count(b"\n")

    def _send(self, piece: bytes) -> bool:
        sent = self._channel.send(piece)
        deadline = monotonic() + PATIENCE
        # Room for one datagram may go to another process.
        while not sent and self._responsive and (left := deadline - monotonic()) > 0:
            self._channel.wait_for_room(left)
            sent = self._channel.send(piece)
        self._responsive = sent
        return sent

    def close(self) -> None:
        """Nothing is this sink's own."""
