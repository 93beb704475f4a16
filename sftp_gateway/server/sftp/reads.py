"""Serves the READs of one session: from the page cache at once, or on threads, a few at a time.

READ is the hot path. It bypasses dispatch.py and the response classes: `preadv` copies file bytes
from the page cache to their place in the SSH packets.

A failed READ must not look like the end of the file. sshfs 3.7 takes an error status for the end of
the file, and a lost connection too; but after a lost connection, further reads of the file and its
close(2) fail. So the session ends without an answer, unless the client is known to report errors or
the share has `read_errors = "status"`.

READs of a file are answered as their bytes arrive. OpenSSH's `scp` 9.1 to 9.3 truncates a copy at
the first answer that overtakes another, and reports success; clients of `in_order` files therefore
get their answers in the order of the READs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

from sftp_gateway.errors import InvalidHandle, Truncated
from sftp_gateway.protocol.constants import DATA_HEADER_LENGTH, MessageType, StatusCode
from sftp_gateway.protocol.requests import (
    READ,
    READ_HANDLE_LENGTH,
    ReadRequest,
    decode_request,
)
from sftp_gateway.protocol.responses import DATA_HEADER, StatusResponse
from sftp_gateway.protocol.wire import UINT32
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.io_pools import Job, Pool
from sftp_gateway.server.sftp.client_versions import ATTRIBUTES_EXPIRE
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.requests import Requests

#: READs of one session on threads at once; a bulk reader of a slow disk leaves threads to others.
MAX_SLOW_READS: Final = 8

#: Seconds from a failed READ to the end of its session. By then the client's kernel has forgotten
#: the size of the file, so that its next read(2) fails; earlier, it would report the end of file.
END_DELAY: Final = ATTRIBUTES_EXPIRE

_data_header: Final = DATA_HEADER.pack
_HEADER_AFTER_LENGTH: Final = DATA_HEADER_LENGTH - UINT32.size
_HANDLE_LENGTH: Final = UINT32.pack(READ_HANDLE_LENGTH)
_DATA: Final = int(MessageType.DATA)


@dataclass(slots=True, eq=False)
class _Read:
    """A READ that is not answered at once; `started` by time.perf_counter()."""

    opened: FileHandle
    request_id: int
    offset: int
    #: Bytes that the client asked for, and that are read at most.
    wanted: int
    length: int
    started: float
    #: The bytes, once they are there.
    job: Job[memoryview] | None = None

    def run(self) -> memoryview:
        """Wait for the bytes."""
        return self.opened.file.read_bytes(self.offset, self.length)


class Reads:
    """Answers READs; used on the event loop, of which only `_Read.run` leaves it."""

    def __init__(
        self,
        context: SessionContext,
        requests: Requests,
        *,
        end: Callable[[Exception], None],
        status_shares: Container[str],
        max_length: int,
    ) -> None:
        """`max_length` bytes of a file are in one answer at most.

        A READ that fails is answered with a status if its share is in `status_shares`; otherwise
        `end` is called, once, to end the session.
        """
        self._context = context
        self._requests = requests
        self._end = end
        self._status_shares = status_shares
        self._max_length = max_length
        self._outgoing = context.outgoing
        self._waiting: deque[_Read] = deque()
        self._on_threads = 0
        #: By file, the READs that are answered in this order.
        self._ordered: dict[FileHandle, deque[_Read]] = {}
        self._paused = False
        #: Ends the session because a READ has failed.
        self._end_timer: asyncio.TimerHandle | None = None

    def serve(self, frame: bytes) -> None:
        """Answer the READ in `frame` now, or once a thread has read the bytes.

        Raises ProtocolError as `decode_request` does.
        """
        started = time.perf_counter()
        if len(frame) == READ.size and frame[5:9] == _HANDLE_LENGTH:
            _, request_id, _, handle, offset, wanted = READ.unpack(frame)
        else:
            request = cast(ReadRequest, decode_request(frame))
            request_id, handle = request.request_id, request.handle
            offset, wanted = request.offset, request.length
        try:
            opened = self._context.handles.file(handle)
        except InvalidHandle as error:
            self._requests.refuse(ReadRequest(request_id, handle, offset, wanted), error, started)
            return
        length = min(wanted, self._max_length)
        if opened.pending and opened.in_order:
            self._wait(_Read(opened, request_id, offset, wanted, length, started))
            return
        outgoing = self._outgoing
        start = outgoing.length
        try:
            count = opened.file.read_cached(
                outgoing.iovecs(start + DATA_HEADER_LENGTH, length), offset
            )
        except BlockingIOError:
            self._context.recorder.slow_read(opened.share)
            self._wait(_Read(opened, request_id, offset, wanted, length, started))
        except Exception as error:
            self._fail(_Read(opened, request_id, offset, wanted, length, started), error)
        else:
            if count < length and opened.is_truncated_at(offset + count):
                read = _Read(opened, request_id, offset, wanted, length, started)
                self._fail(read, Truncated("shorter than it was"))
                return
            if count or not length:
                outgoing.write(
                    start, _data_header(count + _HEADER_AFTER_LENGTH, _DATA, request_id, count)
                )
                outgoing.length = start + DATA_HEADER_LENGTH + count
            else:
                self._send_eof(request_id)
            self._record(opened, offset, wanted, count, started)

    def pause(self) -> None:
        """Start no more READs: each would add its bytes to a full channel."""
        self._paused = True

    def resume(self) -> None:
        """Start what waits."""
        self._paused = False
        self._start()

    def close(self) -> None:
        """Drop what waits: the channel is closed."""
        self._context.pending -= len(self._waiting)
        self._waiting.clear()
        if self._end_timer is not None:
            self._end_timer.cancel()

    def _wait(self, read: _Read) -> None:
        read.opened.pending += 1
        self._context.pending += 1
        self._waiting.append(read)
        if read.opened.in_order:
            self._ordered.setdefault(read.opened, deque()).append(read)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._on_threads < MAX_SLOW_READS and not self._paused:
            self._on_threads += 1
            self._submit(self._waiting.popleft())

    def _submit(self, read: _Read) -> None:
        self._context.pools.submit(
            read.opened.share.name,
            Pool.READ,
            read.run,
            partial(self._done, read),
        )

    def _done(self, read: _Read, job: Job[memoryview]) -> None:
        """Answer, if it is this READ's turn, and those that wait for it."""
        read.job = job
        if not read.opened.in_order:
            self._finish(read, job)
            return
        ordered = self._ordered[read.opened]
        while ordered and (first := ordered[0].job) is not None:
            self._finish(ordered.popleft(), first)
        if not ordered:
            self._ordered.pop(read.opened, None)

    def _finish(self, read: _Read, job: Job[memoryview]) -> None:
        context, opened = self._context, read.opened
        self._on_threads -= 1
        context.pending -= 1
        opened.pending -= 1
        error = job.error
        if context.closed:
            return
        data = memoryview(b"") if error is not None else job.result()
        count = len(data)
        if error is None and count < read.length and opened.is_truncated_at(read.offset + count):
            error = Truncated("shorter than it was")
        if error is not None:
            self._fail(read, error)
        else:
            if count or not read.length:
                self._outgoing.put(
                    _data_header(count + _HEADER_AFTER_LENGTH, _DATA, read.request_id, count)
                )
                self._outgoing.put(data)
            else:
                self._send_eof(read.request_id)
            self._record(opened, read.offset, read.wanted, count, read.started)
        self._start()
        context.resume(opened)

    def _fail(self, read: _Read, error: Exception) -> None:
        """Answer with an error, or end the session without an answer."""
        recorder, opened = self._context.recorder, read.opened
        offset, wanted = read.offset, read.wanted
        answered = opened.share.name in self._status_shares
        if not isinstance(error, InvalidHandle):  # that is a mistake of the client
            effect = "status" if answered else "disconnect"
            recorder.read_failed(opened, offset, wanted, error, effect=effect)
        if answered or isinstance(error, InvalidHandle):
            request = ReadRequest(read.request_id, b"", offset, wanted)
            self._requests.refuse(request, error, read.started, opened)
            return
        recorder.request(
            "read",
            share=opened.share,
            path=opened.path,
            started=read.started,
            result="failure",
            offset=offset,
            length=wanted,
        )
        self._context.pending += 1  # a session that is drained waits for this
        if self._end_timer is None:
            delay = max(0.0, read.started + END_DELAY - time.perf_counter())
            self._end_timer = asyncio.get_running_loop().call_later(delay, self._end, error)

    def _send_eof(self, request_id: int) -> None:
        # §6.4: "If an error occurs or EOF is encountered before reading any data, the server will
        # respond with SSH_FXP_STATUS." A READ of no bytes gets no bytes, and not the end of file.
        self._outgoing.put(StatusResponse(request_id, StatusCode.EOF, "End of file").encode())

    def _record(
        self, opened: FileHandle, offset: int, wanted: int, count: int, started: float
    ) -> None:
        if count:
            opened.record_read(offset, count)
        self._context.recorder.request(
            "read",
            share=opened.share,
            path=opened.path,
            started=started,
            result="ok" if count or not wanted else "eof",
            sent=count,
            offset=offset,
            length=wanted,
        )
