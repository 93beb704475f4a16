"""A worker process: serves the connections that the supervisor passes on."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process import messages
from sftp_gateway.process.runner import descriptor_limit, release_free_memory, run
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks

_log = logging.getLogger(__name__)

#: Seconds between two reports of a worker: its metrics, and that it is alive.
REPORT_INTERVAL: Final = 0.5

#: Seconds between two times that free memory is given back.
RELEASE_INTERVAL: Final = 10.0


class Serving(Protocol):
    """What serves in a worker. Made on the event loop that it runs on."""

    #: How many connections there are descriptors for.
    max_connections: int

    async def start(self) -> None:
        """Get ready for connections."""

    async def adopt(self, connection: socket.socket, callbacks: ConnectionCallbacks) -> None:
        """Serve a connection; tell `callbacks` once when it has ended, however that is."""

    def has_part(self, user: str, part: float) -> None:
        """So much of the user's sessions, 0 to 1, is in this worker."""

    def take(self, access: Any) -> None:
        """Let in who may come in by `access`, which was found good, from now on."""

    async def drain(self, seconds: float) -> None:
        """Finish what is being read within so many seconds, and close all connections."""

    def publish(self) -> None:
        """Hand on the metrics."""

    def problems(self) -> Mapping[str, str]:
        """What is wrong with the shares that cannot be read, by name."""

    def outdated(self) -> Sequence[str]:
        """Shares that only a process which is started now could read."""

    def close(self) -> None:
        """Let go of everything; may wait for the access log to be written."""


def work(control: socket.socket, make: Callable[[], Serving]) -> None:
    """Be a worker at this end of the supervisor's socket; ends the process."""
    run(lambda: Worker(control).work(make))


class Worker:
    """The worker's side of the supervisor's socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unsent: deque[bytes] = deque()
        self._adopting: set[asyncio.Task[None]] = set()
        self._connections: dict[int, ConnectionCallbacks] = {}
        self._some_ended = False
        self._drain = asyncio.Event()
        self._drain_seconds = 0.0

    async def work(self, make: Callable[[], Serving]) -> None:
        """Serve until the supervisor says that it is enough."""
        try:
            serving = make()
        except ConfigurationError as error:
            self._control.setblocking(True)
            self._control.send(messages.encode("failed", error.errors))
            os._exit(1)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control, self._receive, serving)
        async with asyncio.TaskGroup() as tasks:
            await serving.start()
            self._tell("ready")
            background = [
                tasks.create_task(self._report(serving)),
                tasks.create_task(self._release_memory()),
            ]
            await self._drain.wait()
            await serving.drain(self._drain_seconds)
            for task in background:
                task.cancel()
        await asyncio.to_thread(serving.close)
        self._tell("stopped")

    async def _release_memory(self) -> None:
        """Behind connections that have ended, at most once in an interval."""
        while True:
            await asyncio.sleep(RELEASE_INTERVAL)
            if self._some_ended:
                self._some_ended = False
                await asyncio.to_thread(release_free_memory)

    async def _report(self, serving: Serving) -> None:
        while True:
            serving.publish()
            self._tell("status", dict(serving.problems()))
            for share in serving.outdated():
                self._tell("outdated", share)
            await asyncio.sleep(REPORT_INTERVAL)

    def _receive(self, serving: Serving) -> None:
        try:
            for message, descriptors in messages.received_with_descriptors(self._control):
                self._heed(serving, message, descriptors)
                messages.close_all(descriptors)
        except EOFError:
            os._exit(1)  # the supervisor is gone

    def _heed(self, serving: Serving, message: list[Any], descriptors: list[int]) -> None:
        match message:
            case ["connection", number] if descriptors:
                self._adopt(serving, socket.socket(fileno=descriptors.pop()), number)
            case ["connection", number]:  # there was no descriptor free to take it
                self._tell("ended", number, None)
            case ["dismiss", number]:
                if number in self._connections:
                    self._connections[number].disconnect()
            case ["sessions", user, part]:
                serving.has_part(user, part)
            case ["access", number] if descriptors:
                # From the process that forked this one, and only ever in this direction.
                serving.take(pickle.loads(messages.read_sealed(descriptors.pop())))  # noqa: S301
                self._tell("taken", number)
            case ["drain", seconds]:
                self._drain_seconds = seconds
                self._drain.set()

    def _adopt(self, serving: Serving, connection: socket.socket, number: int) -> None:
        if len(self._connections) >= serving.max_connections:
            _log.warning(
                "a connection was closed: %s descriptors are too few for more", descriptor_limit()
            )
            connection.close()
            self._tell("ended", number, None)
            return

        def ended(kind: str | None) -> None:
            del self._connections[number]
            self._some_ended = True
            self._tell("ended", number, kind)

        callbacks = self._connections[number] = ConnectionCallbacks(
            logged_in=lambda user, credential: self._tell("login", number, user, credential),
            ended=ended,
            interrupted=lambda: self._tell("interrupted", number),
        )

        async def adopt() -> None:
            # An error means a client that is gone again already.
            with suppress(OSError):
                await serving.adopt(connection, callbacks)

        task = asyncio.get_running_loop().create_task(adopt())
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def _tell(self, *message: object) -> None:
        """Send, if need be later: nothing is lost, and nobody waits."""
        if not self._unsent:
            with suppress(BlockingIOError):
                self._control.send(messages.encode(*message))
                return
            asyncio.get_running_loop().add_writer(self._control, self._send_rest)
        self._unsent.append(messages.encode(*message))

    def _send_rest(self) -> None:
        with suppress(BlockingIOError):
            while self._unsent:
                self._control.send(self._unsent[0])
                self._unsent.popleft()
            asyncio.get_running_loop().remove_writer(self._control)
