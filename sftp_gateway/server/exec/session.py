"""Runs one command on its channel, as a coroutine within its connection's time slices.

The coroutine awaits only the steps of this module (`turn`, `reply`, `open_file` and so on). `_run`
resumes it until it has to wait:

    | for                                 | until                                   |
    |-------------------------------------|-----------------------------------------|
    | a thread that waits for a disk      | it is done, or has timed out            |
    | a reply of the client               | it has arrived                          |
    | the channel, the socket, the access | as in sftp/session.py                   |
    | log, its turn, its user's bandwidth |                                         |

The Dispatcher opens files and folders as it does for SFTP requests, with the same confinement,
quotas, log and metrics.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from sftp_gateway.errors import Denied, FileSystemError, GatewayError, TooManyHandles
from sftp_gateway.protocol.constants import MAX_READ_LENGTH, OpenFlags
from sftp_gateway.protocol.requests import (
    CheckFileRequest,
    FstatRequest,
    OpendirRequest,
    OpenRequest,
    Request,
    StatRequest,
)
from sftp_gateway.protocol.responses import (
    AttrsResponse,
    HandleResponse,
    Response,
)
from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.server.io_pools import Job, Pool
from sftp_gateway.server.sftp.checksums import ChecksumJob, ChecksumResult
from sftp_gateway.server.sftp.context import FLUSH_BYTES, BaseSession, SessionContext
from sftp_gateway.server.sftp.dispatch import Dispatcher
from sftp_gateway.server.sftp.operations import Operation
from sftp_gateway.server.sftp.status import status_of
from sftp_gateway.vfs.attributes import Attributes
from sftp_gateway.vfs.files import Entry, OpenDirectory
from sftp_gateway.vfs.share import Share

T = TypeVar("T")

#: Entries of a folder that are read at once.
_PAGE: Final = 256

#: Bytes of a client's reply, as in OpenSSH's scp.
_MAX_REPLY: Final = 2048

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")


class Disconnected(GatewayError):
    """The client has closed its side while a reply was awaited."""


class Step(Generic[T]):
    """What a program awaits. `start` gets a function to be called once, with the outcome."""

    #: Returns the result, or raises the error.
    outcome: Callable[[], T]

    def __init__(self, start: Callable[[Callable[[Callable[[], T]], None]], None]) -> None:
        self.start = start

    def __await__(self) -> Generator[Step[T], None, T]:
        yield self
        return self.outcome()


#: Returns the exit status.
Program: TypeAlias = Coroutine[Step[Any], None, int]


class CommandSession(BaseSession):
    """The command of one channel. Used on the event loop."""

    def __init__(self, context: SessionContext) -> None:
        super().__init__(context)
        self.home = context.tree.home
        self._handles = context.handles
        self._recorder = context.recorder
        self._outgoing = context.outgoing
        self._dispatcher = Dispatcher(context)
        self._program: Program | None = None
        #: Whether the program waits for nothing but its turn.
        self._ready = False
        self._check: ChecksumJob | None = None
        self._open_handles: dict[FileHandle | DirectoryHandle, bytes] = {}
        self._input = b""
        self._input_ended = False
        self._on_input: Callable[[], None] | None = None
        self._running = False

    def start(self, program: Program) -> None:
        """Run `program`."""
        self._program = program
        self._ready = True
        self.pump()

    # Called by the channel

    def data_received(self, data: bytes) -> None:
        """The client sent bytes. Those beyond the longest reply are dropped."""
        if len(self._input) <= _MAX_REPLY:
            self._input += data
        if self._on_input is not None:
            self._on_input()

    def eof_received(self) -> None:
        """The client sends no more; the command continues."""
        self._input_ended = True
        if self._on_input is not None:
            self._on_input()

    def pause_writing(self) -> None:
        """The buffer of channel or socket is full."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """The buffers have room again."""
        self._writing_paused = False
        self.pump()

    def connection_lost(self) -> None:
        """The channel is closed: stop the program."""
        self._context.closed = True
        self._stop()

    def take_turn(self) -> None:
        """A time slice of the connection has begun."""
        self._context.turn_bytes = 0
        self.pump()

    def drain(self) -> None:
        """Let the command finish: it is a single request."""

    def finish(self) -> None:
        """End the command with an error."""
        if not self._context.closed:
            self.write_error(b"sftp-gateway: the server is stopping\n")
            self._end(1)
            self._stop()

    @property
    def busy(self) -> bool:
        """Whether the client waits for output."""
        return not self._context.closed and self._on_input is None

    @property
    def released(self) -> bool:
        """Whether all files are closed."""
        return self._program is None

    def open_files(self) -> Iterator[FileHandle]:
        """The open files, in the order in which they were opened."""
        return self._handles.files()

    # Running

    def pump(self) -> None:
        """Run the program until it has to wait."""
        if self._running or self._context.closed or not self._ready:
            return
        self._running = True
        began = self._time_slice.begin()
        try:
            self._run()
        finally:
            self._running = False
            if began:
                self._time_slice.end()
        if self._context.closed:
            self._stop()

    def _run(self) -> None:
        if self._time_slice.waiting:
            self._channel.wait_turn()
            return
        while self._ready and not self._context.closed and not self._blocked():
            self._resume()
            if self._ready and self._time_slice.used_up():
                self._channel.wait_turn()
                break
        self._context.flush()

    def _resume(self) -> None:
        if self._program is None:
            raise AssertionError("nothing to run")
        self._ready = False
        try:
            step = self._program.send(None)
        except StopIteration as end:
            self._end(end.value)
        except Disconnected:
            self._end(1)
        except Exception as error:  # a bug of ours
            self._context.report_bug(error)
            self._end(1)
        else:
            step.start(partial(self._step_done, step))

    def _step_done(self, step: Step[T], outcome: Callable[[], T]) -> None:
        step.outcome = outcome
        self._ready = True
        self.pump()

    def _end(self, status: int) -> None:
        self._context.flush()
        if not self._context.closed:
            self._context.closed = True
            self._channel.exit(status)

    def _stop(self) -> None:
        """Stop the program; its `with` statements close its files."""
        if self._running or self._program is None:
            return
        program, self._program = self._program, None
        program.close()
        self._on_input = None
        if self._check is not None:
            self._context.checksums.cancel(self._check)
        self._stop_throttling()
        self._outgoing.clear()

    # For programs

    def turn(self) -> Step[None]:
        """Wait until more may be sent or done."""
        return Step(lambda resume: resume(lambda: None))

    def write(self, data: bytes) -> None:
        """Send `data`, at most 64 KiB, on standard output."""
        self._context.send(data)

    def write_error(self, data: bytes) -> None:
        """Send `data` on standard error, after the standard output so far."""
        self._context.flush()
        self._channel.write_error(data)

    def reply(self) -> Step[int]:
        """Wait for a reply of the scp protocol; return its code. A message is dropped.

        Raises Disconnected if none can come.
        """
        return Step(self._await_reply)

    def _await_reply(self, resume: Callable[[Callable[[], int]], None]) -> None:
        def look() -> None:
            length = 1 if self._input[:1] == b"\0" else self._input.find(b"\n") + 1
            if length:
                code, self._input = self._input[0], self._input[length:]
                outcome = partial(int, code)
            elif self._input_ended or len(self._input) > _MAX_REPLY:
                outcome = partial(_raise, Disconnected("no reply"))
            else:
                self._on_input = look
                return
            self._on_input = None
            resume(outcome)

        look()

    def end_of_input(self) -> Step[bool]:
        """Wait until the client sends something or ends its input; return whether it was empty."""

        def start(resume: Callable[[Callable[[], bool]], None]) -> None:
            def look() -> None:
                if self._input or self._input_ended:
                    self._on_input = None
                    resume(partial(bool, not self._input))

            self._on_input = look
            look()

        return Step(start)

    async def open_file(self, path: bytes) -> FileHandle:
        """Open a file, to be used with `closing`.

        This and the methods below raise FileSystemError or OSError.
        """
        return self._handles.file(await self._open(OpenRequest(0, path, OpenFlags.READ)))

    async def open_folder(self, path: bytes) -> DirectoryHandle:
        """Open a folder, to be used with `closing`."""
        return self._handles.directory(await self._open(OpendirRequest(0, path)))

    async def _open(self, request: Request) -> bytes:
        response = cast(HandleResponse, await self._ask(request, self._perform))
        self._open_handles[self._handles.get(response.handle)] = response.handle
        return response.handle

    @contextmanager
    def closing(self, opened: FileHandle | DirectoryHandle) -> Iterator[None]:
        """A context that closes a file or folder at its end."""
        try:
            yield
        except BaseException:
            self._close(opened, result="aborted")
            raise
        self._close(opened, result="ok")

    def _close(self, opened: FileHandle | DirectoryHandle, *, result: str) -> None:
        self._handles.remove(self._open_handles.pop(opened))
        self._context.release(opened, result=result)

    async def attributes(self, path: bytes) -> Attributes:
        """The attributes of `path`, following links."""
        return await self._attributes(StatRequest(0, path))

    async def attributes_of(self, opened: FileHandle) -> Attributes:
        """The attributes of an open file."""
        return await self._attributes(FstatRequest(0, self._open_handles[opened]))

    async def _attributes(self, request: Request) -> Attributes:
        response = cast(AttrsResponse, await self._ask(request, self._perform))
        return Attributes(*response.attributes)

    async def refuse_writing(self, path: bytes) -> None:
        """Log the attempt to write `path`, and raise Denied."""
        await self._ask(OpenRequest(0, path, OpenFlags.WRITE), self._perform)

    async def checksum(self, path: bytes, algorithm: str) -> bytes:
        """The checksum of a file."""
        request = CheckFileRequest(0, path, None, algorithm.encode(), 0, 0, 0)
        check, digest = await self._ask(request, partial(self._compute, algorithm))
        self._recorder.checked(check.opened(digest))
        return digest.value

    async def entries(
        self, opened: DirectoryHandle, *, wanted: Callable[[bytes], bool] = lambda name: True
    ) -> list[Entry] | None:
        """The next entries of an open folder, with `.` and `..`; None at its end.

        `wanted` selects entries by name; it is called on a thread.
        """
        await self.turn()
        started = time.perf_counter()
        page = partial(_page, opened.directory, wanted)
        try:
            if opened.share is None or opened.directory.buffered:
                read, entries = page()
            else:
                read, entries = await self._on_thread(opened.share.name, Pool.METADATA, page)
        except (FileSystemError, OSError) as error:
            self._record("readdir", opened.share, opened.path, started, error)
            raise
        opened.complete = not read
        opened.entries += sum(name not in (b".", b"..") for name in read)
        self._record("readdir", opened.share, opened.path, started)
        return entries if read else None

    async def send_file(self, opened: FileHandle, offset: int, length: int) -> int:
        """Send bytes of an open file; return how many. 0 means the end of the file."""
        await self.turn()
        self._context.flush()
        started = time.perf_counter()
        length = min(length, MAX_READ_LENGTH)
        try:
            try:
                count = opened.file.read_cached(self._outgoing.iovecs(0, length), offset)
                self._outgoing.length = count
            except BlockingIOError:
                self._recorder.slow_read(opened.share)
                data = await self._on_thread(
                    opened.share.name, Pool.READ, partial(opened.file.read_bytes, offset, length)
                )
                count = len(data)
                self._outgoing.put(data)
        except (FileSystemError, OSError) as error:
            self._record("read", opened.share, opened.path, started, error)
            raise
        if self._outgoing.length >= FLUSH_BYTES:
            self._context.flush()
        if count:
            opened.record_read(offset, count)
        self._record("read", opened.share, opened.path, started, sent=count)
        return count

    # Files

    async def _ask(
        self, request: Request, perform: Callable[[Operation], Coroutine[Step[Any], None, T]]
    ) -> T:
        """Have `perform` execute `request`, and log it as in an SFTP session."""
        await self.turn()
        started = time.perf_counter()
        share, path = self._dispatcher.locate(request)
        name = request.operation
        try:
            result = await perform(self._dispatcher.plan(request))
        except (FileSystemError, OSError) as error:
            if isinstance(error, Denied | TooManyHandles):
                self._recorder.denied(name, error, share=share, path=path, target=None)
            self._record(name, share, path, started, error)
            raise
        self._record(name, share, path, started)
        return result

    async def _perform(self, operation: Operation) -> Response:
        try:
            result = operation.run(wait=False)
        except BlockingIOError:
            if operation.share is None:
                raise AssertionError("only a share's disk can make it wait") from None
            result = await self._on_thread(
                operation.share.name,
                Pool.METADATA,
                partial(operation.run, wait=True),
                discard=operation.discard,
            )
        try:
            return operation.finish(result)
        except BaseException:
            operation.discard(result)
            raise

    async def _compute(
        self, algorithm: str, operation: Operation
    ) -> tuple[ChecksumJob, ChecksumResult]:
        self._check = check = ChecksumJob(
            operation=operation, algorithm=algorithm, user=self._recorder.session.user or ""
        )

        def start(resume: Callable[[Callable[[], ChecksumResult]], None]) -> None:
            check.done = lambda digest: resume(partial(_outcome, digest))
            self._context.checksums.start(check)

        return check, await Step(start)

    def _on_thread(
        self,
        share: str,
        pool: Pool,
        work: Callable[[], T],
        *,
        discard: Callable[[T], None] = lambda result: None,
    ) -> Step[T]:
        def late(result: T) -> None:
            self._context.pools.close_later(share, partial(discard, result))

        def start(resume: Callable[[Callable[[], T]], None]) -> None:
            def done(job: Job[T]) -> None:
                error = job.error
                if error is None and self._context.closed:
                    late(job.result())
                elif error is None:
                    resume(job.result)
                else:
                    resume(partial(_raise, error))

            self._context.pools.submit(share, pool, work, done, on_late_result=late)

        return Step(start)

    def _record(
        self,
        name: str,
        share: Share | None,
        path: bytes | None,
        started: float,
        error: Exception | None = None,
        *,
        sent: int = 0,
    ) -> None:
        result = "ok" if error is None else status_of(error)[0].name.lower()
        self._recorder.request(
            name, share=share, path=path, started=started, result=result, sent=sent
        )


def message_of(error: Exception) -> str:
    """The message for a client, in the words of strerror(3) where it has any."""
    message = status_of(error)[1]
    return "No such file or directory" if message == "No such file" else message


def sanitize(path: bytes) -> bytes:
    """Replace the control characters in `path`, which a terminal might interpret."""
    return _CONTROL.sub(b"?", path)


def _raise(error: Exception) -> Any:
    raise error


def _outcome(result: T | Exception) -> T:
    if isinstance(result, Exception):
        raise result
    return result


def _page(
    directory: OpenDirectory, wanted: Callable[[bytes], bool]
) -> tuple[list[bytes], list[Entry]]:
    """The names that were read, and the entries of the wanted ones."""
    read: list[bytes] = []
    page: list[Entry] = []

    def take(name: bytes, attributes: Attributes) -> bool:
        if len(read) == _PAGE:
            return False
        read.append(name)
        if wanted(name):
            page.append(Entry(name, attributes))
        return True

    directory.take_while(take)
    return read, page
