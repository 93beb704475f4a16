"""The check-file requests of one session (draft-ietf-secsh-filexfer-extensions-00 §3)."""

from __future__ import annotations

import time
from functools import partial

from sftp_gateway.errors import Unsupported
from sftp_gateway.protocol.requests import CheckFileRequest
from sftp_gateway.protocol.responses import CheckFileResponse
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.sftp.checksums import ALGORITHMS, ChecksumJob, ChecksumResult
from sftp_gateway.server.sftp.context import SessionContext
from sftp_gateway.server.sftp.dispatch import Dispatcher
from sftp_gateway.server.sftp.requests import Requests


class CheckFiles:
    """Answers check-file requests once their checksums are computed; used on the event loop."""

    def __init__(self, context: SessionContext, dispatcher: Dispatcher, requests: Requests) -> None:
        self._context = context
        self._dispatcher = dispatcher
        self._requests = requests
        self._checks: set[ChecksumJob] = set()

    def serve(self, request: CheckFileRequest) -> None:
        """Answer `request` once its checksums are computed."""
        started = time.perf_counter()
        try:
            algorithm = _choose(request.algorithms)
            operation = self._dispatcher.plan(request)
            opened = None if request.handle is None else self._context.handles.file(request.handle)
        except Exception as error:  # whatever happens, the client gets an answer
            self._requests.refuse(request, error, started)
            return
        if opened is not None:
            opened.pending += 1
        self._context.pending += 1
        check = ChecksumJob(
            operation=operation,
            algorithm=algorithm,
            user=self._context.recorder.session.user or "",
            offset=request.offset,
            length=request.length,
            block_size=request.block_size,
        )
        check.done = partial(self._finish, check, request, opened, started)
        self._checks.add(check)
        self._context.checksums.start(check)

    def close(self) -> None:
        """Nobody is there to be answered any more."""
        self._context.pending -= len(self._checks)
        for check in self._checks:
            self._context.checksums.cancel(check)
        self._checks.clear()

    def _finish(
        self,
        check: ChecksumJob,
        request: CheckFileRequest,
        opened: FileHandle | None,
        started: float,
        digest: ChecksumResult | Exception,
    ) -> None:
        self._checks.remove(check)
        self._context.pending -= 1
        if opened is not None:
            opened.pending -= 1
        if isinstance(digest, Exception):
            self._requests.refuse(request, digest, started)
        else:
            if opened is None:
                self._context.recorder.checked(check.opened(digest))
            self._answer(check, request, digest, started)
        self._context.resume(opened)

    def _answer(
        self, check: ChecksumJob, request: CheckFileRequest, digest: ChecksumResult, started: float
    ) -> None:
        algorithm = check.algorithm.encode()
        self._context.send(
            CheckFileResponse(request.request_id, algorithm, digest.value, request.tagged).encode()
        )
        self._context.recorder.request(
            request.operation,
            share=check.operation.share,
            path=check.operation.path,
            started=started,
            result="ok",
        )


def _choose(algorithms: bytes) -> str:
    """The first of a client's algorithms that there is; raises Unsupported."""
    for name in algorithms.split(b","):
        if (algorithm := name.decode("ascii", "replace")) in ALGORITHMS:
            return algorithm
    raise Unsupported("hash algorithms")
