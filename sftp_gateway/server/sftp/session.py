"""One SFTP session: takes packets off its channel, serves them, and sends the responses.

Theory of operation. Packets wait in `_backlog` in the order they came. `pump` serves them until the
session has to wait:

    | it waits for                          | until                                   |
    |---------------------------------------|-----------------------------------------|
    | the channel or the socket to take     | they call `resume_writing`              |
    | what was written, or a key exchange   |                                         |
    | a thread, with MAX_PENDING requests   | one of them is answered                 |
    | unanswered                            |                                         |
    | room in the access log                | the log calls `pump`                    |
    | its turn, after a time slice of its   | the event loop has served the others    |
    | connection, or MAX_TURN_BYTES         |                                         |
    | its user's bandwidth limit            | the time has passed                     |

While packets wait, the channel delivers no more than its window holds. A client that sends requests
and reads no responses costs a bounded amount of memory.

A request is tried on the event loop. If it would block on a disk, it is repeated on a thread
(reads.py for READ, requests.py for the others). Responses may therefore overtake each other, as
draft-ietf-secsh-filexfer-02 §6.1 allows; READDIR responses of one handle do not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Any, Final

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import MAX_READ_LENGTH, MessageType
from sftp_gateway.protocol.framing import FrameReader
from sftp_gateway.protocol.requests import (
    CheckFileRequest,
    InitRequest,
    ReaddirRequest,
    Request,
    decode_request,
)
from sftp_gateway.protocol.responses import VersionResponse
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.sftp.check_files import CheckFiles
from sftp_gateway.server.sftp.context import FLUSH_BYTES, BaseSession, SessionContext
from sftp_gateway.server.sftp.dispatch import Dispatcher
from sftp_gateway.server.sftp.reads import Reads
from sftp_gateway.server.sftp.requests import Requests
from sftp_gateway.server.sftp.status import status_of

_READ: Final = int(MessageType.READ)

#: Requests of one session on threads or waiting for one. Clients send up to 64 at once.
MAX_PENDING: Final = 128

#: Packets in the backlog above which reading from the channel pauses, and below which it resumes;
#: and their bytes, because a packet may have 256 KiB.
_BACKLOG_HIGH: Final = 256
_BACKLOG_LOW: Final = 64
_BACKLOG_BYTES: Final = 256 * 1024


class SftpSession(BaseSession):
    """The SFTP subsystem of one channel. Everything runs on the event loop but `Operation.run`."""

    def __init__(
        self,
        context: SessionContext,
        *,
        max_read_length: int = MAX_READ_LENGTH,
        status_shares: Container[str] = (),
    ) -> None:
        """A READ that fails in `status_shares` is answered with a status."""
        super().__init__(context)
        self._frames = FrameReader()
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._initialised = False
        dispatcher = Dispatcher(context)
        self._requests = Requests(context, dispatcher)
        self._reads = Reads(
            context,
            self._requests,
            end=self._end_for_read,
            status_shares=status_shares,
            max_length=max_read_length,
        )
        self._check_files = CheckFiles(context, dispatcher, self._requests)
        #: What serves the requests that are not an Operation.
        self._special: dict[type[Request], Callable[[Any], None]] = {
            ReaddirRequest: self._requests.serve_readdir,
            CheckFileRequest: self._check_files.serve,
        }
        self._reading_paused = False
        self._pumping = False
        self._draining = False
        self._finishing = False

    # Called by the channel and the connection

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._context.closed or self._finishing:
            return
        try:
            frames = self._frames.feed(data)
        except ProtocolError as error:
            self._end(error)
            return
        self._backlog += frames
        self._backlog_bytes += sum(map(len, frames))
        self.pump()

    def pause_writing(self) -> None:
        """The channel or the socket has enough to send."""
        self._writing_paused = True
        self._reads.pause()

    def resume_writing(self) -> None:
        """The channel and the socket have room again."""
        self._writing_paused = False
        self._reads.resume()
        self.pump()

    def connection_lost(self) -> None:
        """The channel is gone: release everything."""
        self._context.closed = True
        self._release_all()

    def _release_all(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0
        self._stop_throttling()
        self._reads.close()
        self._check_files.close()
        self._context.outgoing.clear()
        began = self._time_slice.begin()
        self._release_rest()
        if began:
            self._time_slice.end()

    def _release_rest(self) -> None:
        """Close all handles, in time slices: there may be thousands."""
        context = self._context
        while not self.released:
            if self._time_slice.used_up():
                self._channel.wait_turn()
                return
            opened = context.closing.pop() if context.closing else context.handles.pop()
            context.release(opened, result="aborted")

    @property
    def released(self) -> bool:
        """Whether nothing is open any more."""
        return not self._context.closing and not len(self._context.handles)

    # Stopping

    def drain(self) -> None:
        """Close the channel as soon as the client has nothing open and nothing unanswered."""
        self._draining = True
        self._close_when_answered()

    def finish(self) -> None:
        """Answer the requests so far, take no more, and close the channel."""
        self._finishing = True
        self._close_when_answered()

    def _close_when_answered(self) -> None:
        if self._context.closed or self._context.pending or self._backlog:
            return
        if self._finishing or not len(self._context.handles):
            self._context.closed = True
            self._channel.exit(0)
            self._release_all()

    # Serving

    def pump(self) -> None:
        """Serve the packets that wait, until the session has to wait."""
        if self._pumping or self._context.closed:
            return
        self._pumping = True
        began = self._time_slice.begin()
        try:
            self._serve_backlog()
        except ProtocolError as error:
            self._end(error)
        finally:
            self._pumping = False
            if began:
                self._time_slice.end()
        if self._backlog or self._reading_paused:
            self._balance_reading()
        if self._draining or self._finishing:
            self._close_when_answered()

    def _serve_backlog(self) -> None:
        if self._time_slice.waiting and self._backlog:
            self._channel.wait_turn()
            return
        context = self._context
        while self._backlog and context.pending < MAX_PENDING and not self._blocked():
            frame = self._backlog.popleft()
            self._backlog_bytes -= len(frame)
            self._serve(frame)
            if context.outgoing.length >= FLUSH_BYTES:
                context.flush()
            if not self._backlog and self._frames.more:
                self._backlog += (frames := self._frames.feed())
                self._backlog_bytes += sum(map(len, frames))
            if self._backlog and self._time_slice.used_up():
                self._channel.wait_turn()
                break
        context.flush()

    @property
    def busy(self) -> bool:
        """Whether the client waits for anything."""
        return bool(self._context.pending or self._backlog)

    def open_files(self) -> Iterator[FileHandle]:
        """What the client has open, in the order in which it was opened."""
        return self._context.handles.files()

    def take_turn(self) -> None:
        """A time slice of the connection has begun."""
        self._context.turn_bytes = 0
        if self._context.closed:
            self._release_rest()
        else:
            self.pump()

    def _balance_reading(self) -> None:
        if self._context.closed:
            return
        packets, size = len(self._backlog), self._backlog_bytes
        more = self._frames.more
        if not self._reading_paused and (more or packets > _BACKLOG_HIGH or size > _BACKLOG_BYTES):
            self._reading_paused = True
            self._channel.pause_reading()
        elif (
            self._reading_paused and not more and packets < _BACKLOG_LOW and size <= _BACKLOG_BYTES
        ):
            self._reading_paused = False
            self._channel.resume_reading()

    def _serve(self, frame: bytes) -> None:
        if frame[0] == _READ and self._initialised:
            self._reads.serve(frame)
            return
        request = decode_request(frame)
        if isinstance(request, InitRequest):
            if self._initialised:
                raise ProtocolError("a second INIT")
            self._initialised = True
            self._context.send(VersionResponse().encode())
        elif not self._initialised:
            raise ProtocolError("a request before INIT")
        else:
            self._special.get(type(request), self._requests.serve)(request)

    def _end(self, error: Exception) -> None:
        """Close the channel over something that cannot be answered."""
        self._end_by(lambda: self._channel.exit(0), error)

    def _end_for_read(self, error: Exception) -> None:
        """Close the channel over a READ that failed."""
        _, message = status_of(error)
        self._end_by(lambda: self._channel.close_for_read(message), error)

    def _end_by(self, close: Callable[[], None], error: Exception) -> None:
        self._context.flush()
        self._context.report_bug(error)
        if not self._context.closed:
            self._context.closed = True
            close()
        self._release_all()
