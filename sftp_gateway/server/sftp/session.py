"""One SFTP session: takes packets off its channel, serves them, and sends the responses.

Theory of operation. Packets wait in `_backlog` in the order they came. `_pump` serves them for
as long as the session may go on:

    | it waits for                      | until                                  |
    |-----------------------------------|----------------------------------------|
    | the channel or the socket to take | they call `resume_writing`             |
    | what was already written, or for  |                                        |
    | a key exchange to end             |                                        |
    | a thread, with MAX_PENDING        | one of them is answered                |
    | requests unanswered               |                                        |
    | the access log to find room       | the log says so                        |
    | its turn, after a time slice of   | the event loop has served the others   |
    | its connection, or MAX_TURN_BYTES     |                                        |
    | its user's bandwidth, if limited  | as much time has gone by               |

While packets wait, no more is read from the channel than its window holds, so a client that asks
and never reads costs a bounded amount of memory and then waits.

A request is tried on the event loop; when that would mean to wait for a disk, it is repeated on a
thread (reads.py; operations.py for all but READs). Responses may therefore overtake each other, as
draft-ietf-secsh-filexfer-02 §6.1 allows; READDIR responses of one handle do not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Any, Final, Protocol

from sftp_gateway.errors import FileSystemError, ProtocolError
from sftp_gateway.protocol import requests as rq
from sftp_gateway.protocol import responses as rs
from sftp_gateway.protocol.constants import MAX_READ_LENGTH
from sftp_gateway.protocol.framing import FrameReader
from sftp_gateway.server import base_session as session
from sftp_gateway.server.base_session import FLUSH_BYTES, BaseSession
from sftp_gateway.server.handles import DirectoryHandle, FileHandle, HandleTable
from sftp_gateway.server.io_pools import IoPools
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.check_files import CheckFiles
from sftp_gateway.server.sftp.checksums import Checksums
from sftp_gateway.server.sftp.dispatch import Dispatcher
from sftp_gateway.server.sftp.pending import Owed
from sftp_gateway.server.sftp.reads import Reads
from sftp_gateway.server.sftp.requests import Operations
from sftp_gateway.server.sftp.status import status_of

#: Requests of one session that may be with the threads or wait for them. Clients have up to 64
#: under way at once.
MAX_PENDING: Final = 128

#: Packets in the backlog over which nothing more is taken off the channel, and under which it is
#: taken again; and bytes of them, because a packet of a client may have 256 KiB.
_BACKLOG_HIGH: Final = 256
_BACKLOG_LOW: Final = 64
_BACKLOG_BYTES: Final = 256 * 1024


class Channel(session.Channel, Protocol):
    """What an SFTP session needs of its SSH channel."""

    def pause_reading(self) -> None:
        """Deliver no more data until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Deliver data again."""
        ...

    def close(self) -> None:
        """Close the channel when everything written is sent."""
        ...

    def close_for_read(self, message: str) -> None:
        """The same, over a READ that failed with `message`."""
        ...


class SftpSession(BaseSession):
    """The SFTP subsystem of one channel. Everything runs on the event loop but `Operation.run`."""

    _channel: Channel

    def __init__(
        self,
        *,
        channel: Channel,
        handles: HandleTable,
        make_dispatcher: Callable[..., Dispatcher],
        pools: IoPools,
        checksums: Checksums,
        recorder: Recorder,
        log_congested: Callable[[], bool],
        failed: Callable[[Exception], None],
        max_read_length: int = MAX_READ_LENGTH,
        status_shares: Container[str] = (),
        bandwidth: BandwidthLimiter | None = None,
    ) -> None:
        """`make_dispatcher` takes `opened` and `closed`; `failed` is told of our own bugs.

        The client gets a status for READs that fail in `status_shares`.
        """
        super().__init__(
            channel=channel,
            pools=pools,
            recorder=recorder,
            log_congested=log_congested,
            bandwidth=bandwidth,
        )
        self._handles = handles
        self._failed = failed
        self._frames = FrameReader()
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._initialised = False
        self._owed = Owed()
        dispatcher = make_dispatcher(opened=recorder.opened, closed=self._close_handle)
        self._operations = Operations(
            dispatcher=dispatcher,
            handles=handles,
            pools=pools,
            recorder=recorder,
            owed=self._owed,
            send=self._send,
            done=self._after_thread,
            listing_done=self._release_if_done,
            failed=failed,
        )
        self._reads = Reads(
            pools=pools,
            recorder=recorder,
            outgoing=channel.outgoing,
            owed=self._owed,
            refuse=self._operations.refuse,
            done=self._slow_read_done,
            end=self._end_for_read,
            status_shares=status_shares,
            max_length=max_read_length,
        )
        self._check_files = CheckFiles(
            dispatcher=dispatcher,
            handles=handles,
            checksums=checksums,
            recorder=recorder,
            owed=self._owed,
            send=self._send,
            refuse=self._operations.refuse,
            done=self._check_done,
        )
        # Looked up once, not for each request.
        self._serve_operation = self._operations.serve
        #: What serves the requests that are no Operation.
        self._serve_other: dict[type[rq.Request], Callable[[Any], None]] = {
            rq.ReadRequest: self._serve_long_read,
            rq.ReaddirRequest: self._operations.serve_readdir,
            rq.CheckFileRequest: self._check_files.serve,
        }
        #: Closed by the client while something that it asked for before is still owed.
        self._closing: set[FileHandle | DirectoryHandle] = set()
        self._reading_paused = False
        self._pumping = False
        self._draining = False
        self._finishing = False

    # What the channel and the connection tell us

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._closed or self._finishing:
            return
        try:
            frames = self._frames.feed(data)
        except ProtocolError as error:
            self._end(error)
            return
        self._backlog.extend(frames)
        self._backlog_bytes += sum(map(len, frames))
        self.pump()

    def pause_writing(self) -> None:
        """The channel or the socket has as much to send as it should hold."""
        self._writing_paused = True
        self._reads.pause()

    def resume_writing(self) -> None:
        """They have room again."""
        self._writing_paused = False
        self._reads.resume()
        self.pump()

    def connection_lost(self) -> None:
        """The channel is gone: let go of everything."""
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        self._backlog.clear()
        self._backlog_bytes = 0
        if self._throttle_timer is not None:
            self._throttle_timer.cancel()
        self._operations.close()
        self._reads.close()
        self._check_files.close()
        self._outgoing.clear()
        began = self._time_slice.begin()
        self._release_rest()
        if began:
            self._time_slice.end()

    def _release_rest(self) -> None:
        """Release what is open. There may be thousands of handles: in time slices, as all else."""
        while not self.released:
            if self._time_slice.used_up():
                self._channel.wait_turn()
                return
            opened = self._closing.pop() if self._closing else self._handles.pop()
            self._release(opened, result="aborted")

    @property
    def released(self) -> bool:
        """Whether nothing is open any more."""
        return not self._closing and not len(self._handles)

    # Stopping

    def drain(self) -> None:
        """Close the channel as soon as the client has nothing open and nothing unanswered."""
        self._draining = True
        self._close_when_answered()

    def finish(self) -> None:
        """Answer what was asked so far, take no more, and close the channel."""
        self._finishing = True
        self._close_when_answered()

    def _close_when_answered(self) -> None:
        if (
            not (self._finishing or self._draining)
            or self._closed
            or self._owed.count
            or self._backlog
        ):
            return
        if self._finishing or not len(self._handles):
            self._closed = True
            self._channel.close()
            self._let_go()

    # Serving

    def pump(self) -> None:
        """Serve waiting packets for as long as the session may go on."""
        if self._pumping or self._closed:
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
        self._balance_reading()
        self._close_when_answered()

    def _serve_backlog(self) -> None:
        if self._time_slice.waiting and self._backlog:
            self._channel.wait_turn()
            return
        while self._backlog and self._owed.count < MAX_PENDING and not self._blocked():
            frame = self._backlog.popleft()
            self._backlog_bytes -= len(frame)
            self._serve(frame)
            if self._outgoing.length >= FLUSH_BYTES:
                self._flush()
            if self._backlog and self._time_slice.used_up():
                self._channel.wait_turn()
                break
        self._flush()

    @property
    def busy(self) -> bool:
        """Whether the client waits for anything."""
        return bool(self._owed.count or self._backlog)

    def open_files(self) -> Iterator[FileHandle]:
        """What the client has open, in the order in which it was opened."""
        return self._handles.files()

    def take_turn(self) -> None:
        """A time slice of the connection has begun."""
        self._turn_bytes = 0
        if self._closed:
            self._release_rest()
        else:
            self.pump()

    def _balance_reading(self) -> None:
        if self._closed or not (self._backlog or self._reading_paused):
            return
        packets, size = len(self._backlog), self._backlog_bytes
        if not self._reading_paused and (packets > _BACKLOG_HIGH or size > _BACKLOG_BYTES):
            self._reading_paused = True
            self._channel.pause_reading()
        elif self._reading_paused and packets < _BACKLOG_LOW and size <= _BACKLOG_BYTES:
            self._reading_paused = False
            self._channel.resume_reading()

    def _serve(self, frame: bytes) -> None:
        read = rq.decode_plain_read(frame)
        if read is not None and self._initialised:
            self._serve_read(read)
            return
        request = rq.decode_request(frame)
        if isinstance(request, rq.InitRequest):
            if self._initialised:
                raise ProtocolError("a second INIT")
            self._initialised = True
            self._send(rs.VersionResponse().encode())
        elif not self._initialised:
            raise ProtocolError("a request before INIT")
        else:
            self._serve_other.get(type(request), self._serve_operation)(request)

    def _serve_long_read(self, read: rq.ReadRequest) -> None:
        """A READ whose handle is none of ours."""
        self._serve_read((read.request_id, read.handle, read.offset, read.length))

    def _serve_read(self, read: rq.PlainRead) -> None:
        try:
            opened = self._handles.file(read[1])
        except FileSystemError as error:
            self._operations.refuse(rq.ReadRequest(*read), error, time.perf_counter())
        else:
            self._reads.serve(read, opened)

    def _slow_read_done(self, opened: FileHandle) -> None:
        self._release_if_done(opened)
        self._after_thread()

    def _check_done(self, opened: FileHandle | None) -> None:
        if opened is not None:
            self._release_if_done(opened)
        self._after_thread()

    def _after_thread(self) -> None:
        self._flush()
        self.pump()

    # Handles

    def _close_handle(self, opened: FileHandle | DirectoryHandle) -> None:
        """CLOSE took `opened` out of the table; what was asked of it before is still owed."""
        self._closing.add(opened)
        self._release_if_done(opened)

    def _release_if_done(self, opened: FileHandle | DirectoryHandle) -> None:
        if opened in self._closing and not opened.owed:
            self._closing.remove(opened)
            self._release(opened, result="ok")

    def _end(self, error: Exception) -> None:
        """Close the channel over something that cannot be answered."""
        self._end_by(self._channel.close, error)

    def _end_for_read(self, error: Exception) -> None:
        """Close the channel over a READ that failed."""
        _, message = status_of(error)
        self._end_by(lambda: self._channel.close_for_read(message), error)

    def _end_by(self, close: Callable[[], None], error: Exception) -> None:
        self._flush()
        self._failed(error)
        if not self._closed:
            self._closed = True
            close()
        self._let_go()
