"""The check-file requests of one session (draft-ietf-secsh-filexfer-extensions-00 §3)."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from sftp_gateway.errors import Unsupported
from sftp_gateway.protocol.requests import CheckFileRequest
from sftp_gateway.protocol.responses import CheckFileResponse
from sftp_gateway.server.handles import FileHandle, HandleTable
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.checksums import ALGORITHMS, ChecksumJob, ChecksumResult, Checksums
from sftp_gateway.server.sftp.dispatch import Dispatcher, operation_name
from sftp_gateway.server.sftp.pending import Owed


class CheckFiles:
    """Has checksums computed, and answers with them; used on the event loop."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        handles: HandleTable,
        checksums: Checksums,
        recorder: Recorder,
        owed: Owed,
        send: Callable[[bytes], None],
        refuse: Callable[[CheckFileRequest, Exception, float], None],
        done: Callable[[FileHandle | None], None],
    ) -> None:
        """Answers go to `send` and `refuse`; `done` is told of each, and of its handle's file."""
        self._dispatcher = dispatcher
        self._handles = handles
        self._checksums = checksums
        self._recorder = recorder
        self._owed = owed
        self._send = send
        self._refuse = refuse
        self._done = done
        self._checks: set[ChecksumJob] = set()

    def serve(self, request: CheckFileRequest) -> None:
        """Answer `request` once its checksums are computed."""
        started = time.perf_counter()
        try:
            algorithm = _choose(request.algorithms)
            operation = self._dispatcher.plan(request)
            opened = None if request.handle is None else self._handles.file(request.handle)
        except Exception as error:  # whatever happens, the client gets an answer
            self._refuse(request, error, started)
            return
        if opened is not None:
            opened.pending += 1
        self._owed.count += 1
        check = ChecksumJob(
            operation=operation,
            algorithm=algorithm,
            user=self._recorder.session.user or "",
            offset=request.offset,
            length=request.length,
            block_size=request.block_size,
        )
        check.done = partial(self._finish, check, request, opened, started)
        self._checks.add(check)
        self._checksums.start(check)

    def close(self) -> None:
        """Nobody is there to be answered any more."""
        self._owed.count -= len(self._checks)
        for check in self._checks:
            self._checksums.cancel(check)
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
        self._owed.count -= 1
        if opened is not None:
            opened.pending -= 1
        if isinstance(digest, Exception):
            self._refuse(request, digest, started)
        else:
            if opened is None:
                self._recorder.checked(check.opened(digest))
            self._answer(check, request, digest, started)
        self._done(opened)

    def _answer(
        self, check: ChecksumJob, request: CheckFileRequest, digest: ChecksumResult, started: float
    ) -> None:
        algorithm = check.algorithm.encode()
        self._send(
            CheckFileResponse(request.request_id, algorithm, digest.value, request.tagged).encode()
        )
        self._recorder.request(
            operation_name(request),
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
