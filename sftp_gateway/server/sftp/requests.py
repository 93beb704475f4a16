"""The requests of one session but its READs: answered at once, or by way of a thread.

READDIRs of one folder are answered in the order they came; all else, as soon as it is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sftp_gateway.errors import Denied, FileSystemError, TooManyHandles
from sftp_gateway.protocol import requests as rq
from sftp_gateway.protocol import responses as rs
from sftp_gateway.protocol.constants import StatusCode
from sftp_gateway.server.handles import DirectoryHandle, HandleTable
from sftp_gateway.server.io_pools import IoPools, Pool, error_of
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.dispatch import Dispatcher, Operation, operation_name
from sftp_gateway.server.sftp.pending import Owed
from sftp_gateway.server.sftp.status import refusal


class Operations:
    """Answers requests; used on the event loop, of which only `Operation.run` leaves it."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        handles: HandleTable,
        pools: IoPools,
        recorder: Recorder,
        owed: Owed,
        send: Callable[[bytes], None],
        done: Callable[[], None],
        listing_done: Callable[[DirectoryHandle], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`send` takes answers; `done` is called behind one that took a thread, and
        `listing_done` before that, where it was a folder's; `failed` is told of our own bugs.
        """
        self._dispatcher = dispatcher
        self._handles = handles
        self._pools = pools
        self._recorder = recorder
        self._owed = owed
        self._send = send
        self._done = done
        self._listing_done = listing_done
        self._failed = failed
        self._closed = False

    def serve(self, request: rq.Request) -> None:
        """Answer `request` now, or once a thread has done what it asks for."""
        started = time.perf_counter()
        try:
            operation = self._dispatcher.plan(request)
        except Exception as error:  # whatever happens, the client gets an answer
            self.refuse(request, error, started)
        else:
            self._run(request, operation, started)

    def _run(
        self,
        request: rq.Request,
        operation: Operation,
        started: float,
        *,
        then: Callable[[], None] = lambda: None,
    ) -> bool:
        """Answer `request` and give True; or have a thread do it, and call `then` behind that."""
        try:
            result = operation.run(wait=False)
        except BlockingIOError:
            self._run_on_thread(request, operation, started, then)
            return False
        except Exception as error:
            self.refuse(request, error, started, operation)
        else:
            self._answer(request, operation, result, started)
        return True

    def _answer(
        self, request: rq.Request, operation: Operation, result: Any, started: float
    ) -> None:
        try:
            response = operation.finish(result)
            packet = response.encode()
        except Exception as error:
            operation.discard(result)
            self.refuse(request, error, started, operation)
            return
        self._send(packet)
        end = isinstance(response, rs.StatusResponse) and response.code is StatusCode.EOF
        self._recorder.request(
            operation_name(request),
            share=operation.share,
            path=operation.path,
            started=started,
            result="eof" if end else "ok",
        )

    def refuse(
        self,
        request: rq.Request,
        error: Exception,
        started: float,
        operation: Operation | None = None,
    ) -> None:
        """Answer with an error. What is asked for and not there is common: `operation`, if it was
        planned, knows the place, which then need not be found again for the log."""
        response = refusal(request.request_id, error)
        self._send(response.encode())
        name = operation_name(request)
        if operation is None:
            share, path = self._dispatcher.place_of(request)
        else:
            share, path = operation.share, operation.path
        if isinstance(error, Denied | TooManyHandles):
            target = getattr(request, "target", None)
            self._recorder.denied(name, error, share=share, path=path, target=target)
        elif not isinstance(error, FileSystemError):
            self._failed(error)
        self._recorder.request(
            name, share=share, path=path, started=started, result=response.code.name.lower()
        )

    def close(self) -> None:
        """Nobody is there to be answered any more."""
        self._closed = True

    # Folders

    def serve_readdir(self, request: rq.ReaddirRequest) -> None:
        """Answer `request` behind those before it for the same folder."""
        try:
            opened = self._handles.folder(request.handle)
        except FileSystemError as error:
            self.refuse(request, error, time.perf_counter())
            return
        if opened.busy:  # the answer of the one before has to go out first
            self._owed.count += 1
            opened.queue.append(request)
        else:
            self._list(request, opened)

    def _list(self, request: rq.ReaddirRequest, opened: DirectoryHandle) -> None:
        started = time.perf_counter()
        operation = self._dispatcher.readdir(request, opened)
        answered = self._run(request, operation, started, then=lambda: self._listed(opened))
        opened.busy = not answered

    def _listed(self, opened: DirectoryHandle) -> None:
        opened.busy = False
        while opened.queue and not opened.busy:
            self._owed.count -= 1
            self._list(opened.queue.popleft(), opened)
        self._listing_done(opened)

    # On threads

    def _run_on_thread(
        self,
        request: rq.Request,
        operation: Operation,
        started: float,
        then: Callable[[], None],
    ) -> None:
        if operation.share is None:
            raise AssertionError("only a share's disk can make a request wait")
        self._owed.count += 1
        self._pools.submit(
            operation.share.name,
            Pool.METADATA,
            lambda: operation.run(wait=True),
            lambda future: self._ran(request, operation, started, then, future),
            on_late_result=partial(self._discard_later, operation),
        )

    def _ran(
        self,
        request: rq.Request,
        operation: Operation,
        started: float,
        then: Callable[[], None],
        future: asyncio.Future[Any],
    ) -> None:
        self._owed.count -= 1
        error = error_of(future)
        if self._closed:
            if error is None:
                operation.discard(future.result())
            return
        if error is not None:
            if isinstance(error, TimeoutError):
                operation.give_up()
            self.refuse(request, error, started, operation)
        else:
            self._answer(request, operation, future.result(), started)
        then()
        self._done()

    def _discard_later(self, operation: Operation, result: Any) -> None:
        if operation.share is not None:
            self._pools.close_later(operation.share.name, partial(operation.discard, result))
