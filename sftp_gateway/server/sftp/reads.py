"""The READs of one session: from the page cache at once, or on threads, a few at a time.

READ is the hot path. It goes around dispatch and the dataclasses of responses: what the page cache
holds is read to its place in the SSH packets that are sent.

A READ that fails must not pass for the end of the file. sshfs (3.7) takes an error status for that,
and the loss of its connection too; but after that loss, further reads of the file, and its
close(2), fail. So unless the client is known to report errors, or the share's `read_errors` says
so, the session ends instead of an answer.

READs of a file are answered as their bytes come. OpenSSH's `scp` (9.1 to 9.3), however, cuts a copy
at the first answer that overtook another, and reports success; so the clients of `in_order` files
get their answers in the order of the READs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final

from sftp_gateway.errors import InvalidHandle, Truncated
from sftp_gateway.protocol.constants import DATA_HEADER_LENGTH, StatusCode
from sftp_gateway.protocol.requests import PlainRead, ReadRequest, Request
from sftp_gateway.protocol.responses import StatusResponse, data_header
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.io_pools import IoPools, Pool, error_of
from sftp_gateway.server.packets.outgoing import OutgoingBuffer
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.client_versions import ATTRIBUTES_EXPIRE
from sftp_gateway.server.sftp.pending import Owed

#: Reads of one session that may be on threads at once, so that a bulk reader of a slow disk
#: leaves threads to the others.
MAX_SLOW_READS: Final = 8

#: Seconds from a READ that fails to the end of its session. Behind them, the reader's next read(2)
#: after the one that came back short has the kernel ask for the size again, and fails; before, it
#: reports the end of the file, and only close(2) fails.
END_DELAY: Final = ATTRIBUTES_EXPIRE


@dataclass(slots=True, eq=False)
class _SlowRead:
    """A READ that the page cache could not answer; `started` in time.perf_counter()."""

    read: PlainRead
    opened: FileHandle
    length: int
    started: float
    #: The bytes, once they are there.
    future: asyncio.Future[memoryview] | None = None

    def run(self) -> memoryview:
        """Wait for the bytes."""
        return self.opened.file.read_bytes(self.read[2], self.length)


class Reads:
    """Answers READs; used on the event loop, of which only `_SlowRead.run` leaves it."""

    def __init__(
        self,
        *,
        pools: IoPools,
        recorder: Recorder,
        outgoing: OutgoingBuffer,
        owed: Owed,
        refuse: Callable[[Request, Exception, float], None],
        done: Callable[[FileHandle], None],
        end: Callable[[Exception], None],
        status_shares: Container[str],
        max_length: int,
    ) -> None:
        """Answers go to `outgoing` and `refuse`; `done` is called behind each that took a thread.

        A READ that fails is refused if its share is one of `status_shares`; otherwise `end` is
        called, once, to end the session. One of more than `max_length` bytes is answered with so
        many.
        """
        self._pools = pools
        self._recorder = recorder
        self._outgoing = outgoing
        self._owed = owed
        self._refuse = refuse
        self._done = done
        self._end = end
        self._status_shares = status_shares
        self._max_length = max_length
        self._waiting: deque[_SlowRead] = deque()
        self._on_threads = 0
        #: By file, the READs that are to be answered in this order.
        self._ordered: dict[FileHandle, deque[_SlowRead]] = {}
        self._paused = False
        self._closed = False
        #: Ends the session over a READ that has failed.
        self._ending: asyncio.TimerHandle | None = None

    def serve(self, read: PlainRead, opened: FileHandle) -> None:
        """Answer `read` now, or once a thread has got the bytes."""
        started = time.perf_counter()
        request_id, _, offset, length = read
        length = min(length, self._max_length)
        if opened.pending and opened.in_order:
            self._wait(_SlowRead(read, opened, length, started))
            return
        outgoing = self._outgoing
        start = outgoing.length
        try:
            count = opened.file.read_cached(
                outgoing.iovecs(start + DATA_HEADER_LENGTH, length), offset
            )
        except BlockingIOError:
            self._recorder.slow_read(opened.share)
            self._wait(_SlowRead(read, opened, length, started))
        except Exception as error:
            self._fail(read, opened, error, started)
        else:
            if count < length and opened.lacks(offset + count):
                self._fail(read, opened, Truncated("shorter than it was"), started)
                return
            if count or not length:
                outgoing.write(start, data_header(request_id, count))
                outgoing.length = start + DATA_HEADER_LENGTH + count
            else:
                self._send_end(request_id)
            self._answered(read, opened, count, started)

    def pause(self) -> None:
        """Start no more: each would add its bytes to a channel that is full."""
        self._paused = True

    def resume(self) -> None:
        """Start what waits."""
        self._paused = False
        self._start()

    def close(self) -> None:
        """Nobody is there to be answered any more."""
        self._closed = True
        self._owed.count -= len(self._waiting)
        self._waiting.clear()
        if self._ending is not None:
            self._ending.cancel()

    def _wait(self, slow: _SlowRead) -> None:
        slow.opened.pending += 1
        self._owed.count += 1
        self._waiting.append(slow)
        if slow.opened.in_order:
            self._ordered.setdefault(slow.opened, deque()).append(slow)
        self._start()

    def _start(self) -> None:
        while self._waiting and self._on_threads < MAX_SLOW_READS and not self._paused:
            self._on_threads += 1
            self._submit(self._waiting.popleft())

    def _submit(self, slow: _SlowRead) -> None:
        self._pools.submit(
            slow.opened.share.name,
            Pool.READ,
            slow.run,
            lambda future: self._come(slow, future),
        )

    def _come(self, slow: _SlowRead, future: asyncio.Future[memoryview]) -> None:
        """The bytes are there: answer, if it is this READ's turn, and those behind it."""
        slow.future = future
        if not slow.opened.in_order:
            self._finish(slow, future)
            return
        ordered = self._ordered[slow.opened]
        while ordered and (first := ordered[0].future) is not None:
            self._finish(ordered.popleft(), first)
        if not ordered:
            self._ordered.pop(slow.opened, None)

    def _finish(self, slow: _SlowRead, future: asyncio.Future[memoryview]) -> None:
        self._on_threads -= 1
        self._owed.count -= 1
        slow.opened.pending -= 1
        error = error_of(future)
        if self._closed:
            return
        data = memoryview(b"") if error is not None else future.result()
        if (
            error is None
            and len(data) < slow.length
            and slow.opened.lacks(slow.read[2] + len(data))
        ):
            error = Truncated("shorter than it was")
        if error is not None:
            self._fail(slow.read, slow.opened, error, slow.started)
        else:
            request_id = slow.read[0]
            if data or not slow.length:
                self._outgoing.put(data_header(request_id, len(data)))
                self._outgoing.put(data)
            else:
                self._send_end(request_id)
            self._answered(slow.read, slow.opened, len(data), slow.started)
        self._start()
        self._done(slow.opened)

    def _fail(self, read: PlainRead, opened: FileHandle, error: Exception, started: float) -> None:
        """Refuse a READ, or end the session over it: then it is never answered."""
        _, _, offset, length = read
        if isinstance(error, InvalidHandle):  # the client's own mistake
            self._refuse(ReadRequest(*read), error, started)
            return
        if opened.share.name in self._status_shares:
            self._recorder.read_failed(opened, offset, length, error, effect="status")
            self._refuse(ReadRequest(*read), error, started)
            return
        self._recorder.read_failed(opened, offset, length, error, effect="disconnect")
        self._recorder.request(
            "read",
            share=opened.share,
            path=opened.path,
            started=started,
            result="failure",
            offset=offset,
            length=length,
        )
        self._owed.count += 1  # a session that is drained waits for this
        if self._ending is None:
            delay = max(0.0, started + END_DELAY - time.perf_counter())
            self._ending = asyncio.get_running_loop().call_later(delay, self._end, error)

    def _send_end(self, request_id: int) -> None:
        # §6.4: "If an error occurs or EOF is encountered before reading any data, the server will
        # respond with SSH_FXP_STATUS." Who asks for nothing gets that, and not the end of file.
        self._outgoing.put(StatusResponse(request_id, StatusCode.EOF, "End of file").encode())

    def _answered(self, read: PlainRead, opened: FileHandle, count: int, started: float) -> None:
        _, _, offset, length = read
        if count:
            opened.note_read(offset, count)
        self._recorder.request(
            "read",
            share=opened.share,
            path=opened.path,
            started=started,
            result="ok" if count or not length else "eof",
            sent=count,
            offset=offset,
            length=length,
        )
