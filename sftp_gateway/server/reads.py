"""The READs of one session: from the page cache at once, or on threads, a few at a time.

READ is the hot path. It goes around dispatch and the dataclasses of responses, so that the bytes
of a file are read to their place behind the DATA header and are not copied to be framed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sftp_gateway.protocol.constants import DATA_HEADER_LENGTH, StatusCode
from sftp_gateway.protocol.requests import ReadRequest, Request
from sftp_gateway.protocol.responses import StatusResponse, write_data_header
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.lanes import Lane, Lanes, error_of
from sftp_gateway.server.recorder import Recorder

#: Reads of one session that may be on threads at once, so that a bulk reader of a slow disk
#: leaves threads to the others.
MAX_SLOW_READS: Final = 8


@dataclass(frozen=True, slots=True)
class _Read:
    """One READ; `started` in time.perf_counter()."""

    request: ReadRequest
    opened: FileHandle
    started: float


class Reads:
    """Answers READs; used on the event loop, of which only `_read` leaves it."""

    def __init__(
        self,
        *,
        lanes: Lanes,
        recorder: Recorder,
        send: Callable[[bytes | bytearray], None],
        refuse: Callable[[Request, Exception, float], None],
        done: Callable[[FileHandle], None],
        max_length: int,
    ) -> None:
        """`send` and `refuse` answer; `done` is told of each answer that took a thread.

        A READ of more than `max_length` bytes is answered with so many.
        """
        self._lanes = lanes
        self._recorder = recorder
        self._send = send
        self._refuse = refuse
        self._done = done
        self._max_length = max_length
        self._waiting: deque[_Read] = deque()
        self._on_threads = 0
        self._paused = False
        self._closed = False

    @property
    def pending(self) -> int:
        """READs that are on threads or wait for one."""
        return self._on_threads + len(self._waiting)

    def serve(self, request: ReadRequest, opened: FileHandle) -> None:
        """Answer `request` now, or once a thread has read the bytes."""
        started = time.perf_counter()
        try:
            data, count = self._read(opened, request, wait=False)
        except BlockingIOError:
            self._recorder.slow_read(opened.share)
            opened.pending += 1
            self._waiting.append(_Read(request, opened, started))
            self._start()
        except Exception as error:  # whatever happens, the client gets an answer
            self._refuse(request, error, started)
        else:
            self._answer(_Read(request, opened, started), data, count)

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
        self._waiting.clear()

    def _start(self) -> None:
        while self._waiting and self._on_threads < MAX_SLOW_READS and not self._paused:
            self._on_threads += 1
            self._submit(self._waiting.popleft())

    def _submit(self, read: _Read) -> None:
        self._lanes.submit(
            read.opened.share.name,
            Lane.READ,
            lambda: self._read(read.opened, read.request, wait=True),
            lambda future: self._finish(read, future),
        )

    def _finish(self, read: _Read, future: asyncio.Future[tuple[bytearray, int]]) -> None:
        self._on_threads -= 1
        read.opened.pending -= 1
        error = error_of(future)
        if self._closed:
            return
        if error is not None:
            self._refuse(read.request, error, read.started)
        else:
            self._answer(read, *future.result())
        self._start()
        self._done(read.opened)

    def _answer(self, read: _Read, data: bytearray, count: int) -> None:
        request, opened = read.request, read.opened
        if count or not request.length:  # who asks for nothing gets it, and not the end of file
            self._send(data)
            opened.note_read(request.offset, count)
            result = "ok"
        else:
            # §6.4: "If an error occurs or EOF is encountered before reading any data, the server
            # will respond with SSH_FXP_STATUS."
            end = StatusResponse(request.request_id, StatusCode.EOF, "End of file")
            self._send(end.encode())
            result = "eof"
        self._recorder.request(
            "read",
            share=opened.share,
            path=opened.path,
            started=read.started,
            result=result,
            sent=count,
            offset=request.offset,
            length=request.length,
        )

    def _read(
        self, opened: FileHandle, request: ReadRequest, *, wait: bool
    ) -> tuple[bytearray, int]:
        """The DATA packet for `request`, and how many bytes of the file it holds."""
        length = min(request.length, self._max_length)
        packet = bytearray(DATA_HEADER_LENGTH + length)
        with memoryview(packet) as whole, whole[DATA_HEADER_LENGTH:] as place:
            count = opened.file.read_into(place, request.offset, wait=wait)
        if count < length:
            del packet[DATA_HEADER_LENGTH + count :]
        write_data_header(packet, request.request_id, count)
        return packet, count
