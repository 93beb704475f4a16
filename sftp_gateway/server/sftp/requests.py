"""Serves all requests of one session but READ: at once, or on a thread.

READDIRs of one directory are answered in order, all other requests as soon as they are done.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from sftp_gateway.errors import Denied, FileSystemError, TooManyHandles
from sftp_gateway.protocol.constants import StatusCode
from sftp_gateway.protocol.requests import ReaddirRequest, Request
from sftp_gateway.protocol.responses import StatusResponse
from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.server.io_pools import Job, Pool
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.dispatch import Dispatcher
from sftp_gateway.server.sftp.operations import Operation
from sftp_gateway.server.sftp.status import refusal

_EOF: Final = StatusCode.EOF


class Requests:
    """Answers requests; used on the event loop, of which only `Operation.run` leaves it."""

    def __init__(self, context: SessionContext, dispatcher: Dispatcher) -> None:
        self._context = context
        self._dispatcher = dispatcher

    def serve(self, request: Request) -> None:
        """Answer `request` now, or once a thread has done the work."""
        started = time.perf_counter()
        try:
            operation = self._dispatcher.plan(request)
        except Exception as error:  # whatever happens, the client gets an answer
            self.refuse(request, error, started)
        else:
            self._run(request, operation, started)

    def _run(
        self,
        request: Request,
        operation: Operation,
        started: float,
        directory: DirectoryHandle | None = None,
    ) -> bool:
        """Answer `request` and return True, or submit it to a thread; READDIR gives `directory`."""
        try:
            result = operation.run(wait=False)
        except BlockingIOError:
            self._run_on_thread(request, operation, started, directory)
            return False
        except Exception as error:
            self.refuse(request, error, started, operation)
        else:
            self._answer(request, operation, result, started)
        return True

    def _answer(self, request: Request, operation: Operation, result: Any, started: float) -> None:
        try:
            response = operation.finish(result)
            packet = response.encode()
        except Exception as error:
            operation.discard(result)
            self.refuse(request, error, started, operation)
            return
        self._context.send(packet)
        end = isinstance(response, StatusResponse) and response.code is _EOF
        self._context.recorder.request(
            request.operation,
            share=operation.share,
            path=operation.path,
            started=started,
            result="eof" if end else "ok",
        )

    def refuse(
        self,
        request: Request,
        error: Exception,
        started: float,
        at: Operation | FileHandle | None = None,
    ) -> None:
        """Answer with an error; the access log shows the path of `at`, or else of the request."""
        response = refusal(request.request_id, error)
        self._context.send(response.encode())
        name = request.operation
        if at is None:
            share, path = self._dispatcher.locate(request)
        else:
            share, path = at.share, at.path
        if isinstance(error, Denied | TooManyHandles):
            target = getattr(request, "target", None)
            self._context.recorder.denied(name, error, share=share, path=path, target=target)
        elif not isinstance(error, FileSystemError):
            self._context.report_bug(error)
        self._context.recorder.request(
            name, share=share, path=path, started=started, result=response.code.name.lower()
        )

    # Directories

    def serve_readdir(self, request: ReaddirRequest) -> None:
        """Answer `request` after the earlier ones on the same handle."""
        try:
            opened = self._context.handles.directory(request.handle)
        except FileSystemError as error:
            self.refuse(request, error, time.perf_counter())
            return
        if opened.in_use:  # the earlier one is answered first
            self._context.pending += 1
            opened.queue.append(request)
        else:
            self._list(request, opened)

    def _list(self, request: ReaddirRequest, opened: DirectoryHandle) -> None:
        started = time.perf_counter()
        operation = self._dispatcher.readdir(request, opened)
        opened.in_use = not self._run(request, operation, started, opened)

    def _list_next(self, opened: DirectoryHandle) -> None:
        opened.in_use = False
        while opened.queue and not opened.in_use:
            self._context.pending -= 1
            self._list(opened.queue.popleft(), opened)

    # On threads

    def _run_on_thread(
        self,
        request: Request,
        operation: Operation,
        started: float,
        directory: DirectoryHandle | None,
    ) -> None:
        if operation.share is None:
            raise AssertionError("only a share's disk can make a request wait")
        self._context.pending += 1
        self._context.pools.submit(
            operation.share.name,
            Pool.METADATA,
            partial(operation.run, wait=True),
            partial(self._finish, request, operation, started, directory),
            on_late_result=partial(self._discard_later, operation),
        )

    def _finish(
        self,
        request: Request,
        operation: Operation,
        started: float,
        directory: DirectoryHandle | None,
        job: Job[Any],
    ) -> None:
        self._context.pending -= 1
        error = job.error
        if self._context.closed:
            if error is None:
                operation.discard(job.result())
            return
        if error is not None:
            if isinstance(error, TimeoutError):
                operation.give_up()
            self.refuse(request, error, started, operation)
        else:
            self._answer(request, operation, job.result(), started)
        if directory is not None:
            self._list_next(directory)
        self._context.resume(directory)

    def _discard_later(self, operation: Operation, result: Any) -> None:
        if operation.share is not None:
            self._context.pools.close_later(
                operation.share.name, partial(operation.discard, result)
            )
