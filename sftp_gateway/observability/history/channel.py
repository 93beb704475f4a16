"""How log lines and session reports of workers reach the observer: datagrams of a socket pair.

The pair is created before the first fork and outlives each observer, so that what is sent while one
is replaced waits in the kernel for the next. Its buffer is the limit. The log's writer thread waits
for a slow observer, which delays no client while the log's queue has room. After SEND_TIMEOUT
without any room it no longer waits until there is some again: what does not fit is dropped and
counted, because the access log itself has it.

A datagram is either whole lines of the access log, each of which begins with `{"time":`, or a
worker's session report, `{"live":...` (server/session_reports.py).
"""

from __future__ import annotations

import re
import select
import socket
from time import monotonic
from typing import Final

from sftp_gateway.observability.access_log.relay import datagrams

#: Of the send buffer; the kernel gives up to net.core.wmem_max, 208 KiB, and doubles it.
_BUFFER: Final = 1 << 20

#: The longest datagram that is received. A line is shorter: text of clients is cut.
_MAX_DATAGRAM: Final = 1 << 18

#: Seconds that the log's thread waits for an observer that reads nothing.
SEND_TIMEOUT: Final = 1.0

#: Events that the history does not keep: `file_closed` and `session_end` contain what
#: `file_opened` and `connection` do, and requests would displace everything else.
EXCLUDED_EVENTS: Final = frozenset({"connection", "file_opened", "request"})
_EXCLUDED_LINES: Final = re.compile(
    rb'^\{"time":"[^"\n]*","event":"(?:%s)"[^\n]*\n' % b"|".join(map(str.encode, EXCLUDED_EVENTS)),
    re.MULTILINE,
)

#: The beginning of a session report.
LIVE_PREFIX: Final = b'{"live":'


class HistoryChannel:
    """Both ends of the socket pair; every process of the gateway inherits them."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._ours.setblocking(False)

    def send(self, datagram: bytes) -> bool:
        """Send a datagram; False if there was no room for it."""
        try:
            self._ours.send(datagram)
        except OSError:
            return False
        return True

    def wait_for_room(self, seconds: float) -> None:
        """Wait until there may be room, or the time is over."""
        poll = select.poll()
        poll.register(self._ours, select.POLLOUT)
        poll.poll(seconds * 1000)

    def receive(self, seconds: float) -> bytes | None:
        """The next datagram; None if none arrives in time. For one thread."""
        self._theirs.settimeout(seconds)
        try:
            return self._theirs.recv(_MAX_DATAGRAM)
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
        """Close both ends in this process."""
        self._ours.close()
        self._theirs.close()


class HistorySink:
    """A sink of the access log that sends its lines to the history."""

    def __init__(self, channel: HistoryChannel) -> None:
        self._channel = channel
        self._responsive = True
        #: Lines dropped so far, for lack of room.
        self.dropped = 0

    def __repr__(self) -> str:
        return "the history"

    def write(self, lines: bytes) -> None:
        """Send the lines that the history keeps, in datagrams of whole lines."""
        for datagram in datagrams(_EXCLUDED_LINES.sub(b"", lines)):
            if not self._send(datagram):
                self.dropped += datagram.count(b"\n")

    def _send(self, datagram: bytes) -> bool:
        sent = self._channel.send(datagram)
        deadline = monotonic() + SEND_TIMEOUT
        # Room for one datagram may go to another process.
        while not sent and self._responsive and (left := deadline - monotonic()) > 0:
            self._channel.wait_for_room(left)
            sent = self._channel.send(datagram)
        self._responsive = sent
        return sent

    def close(self) -> None:
        """Do nothing: the channel belongs to the process."""
