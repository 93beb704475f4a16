"""A worker process: serves the connections that the supervisor sends it."""

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

from sftp_gateway.config.snapshot import CredentialSnapshot
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process import messages
from sftp_gateway.process.runner import descriptor_limit, release_free_memory, run
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks

_log = logging.getLogger(__name__)

#: Seconds between two reports of a worker: its metrics, and its status.
REPORT_INTERVAL: Final = 0.5

#: Seconds between two returns of free memory to the system.
RELEASE_INTERVAL: Final = 10.0


class Service(Protocol):
    """What serves in a worker (app/worker.py). Made on the event loop that it runs on."""

    #: Connections that there are descriptors for.
    max_connections: int

    async def start(self) -> None:
        """Prepare for connections."""

    async def serve(self, connection: socket.socket, callbacks: ConnectionCallbacks) -> None:
        """Serve a connection; calls `callbacks.ended` once, however it ends."""

    def set_session_fraction(self, user: str, fraction: float) -> None:
        """This worker has this fraction, 0 to 1, of the user's sessions."""

    def reload_credentials(self, credentials: CredentialSnapshot) -> None:
        """Accept only these credentials from now on."""

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - a stage of its own
        """Finish what is being read within `timeout` seconds, and close all connections."""

    def publish(self) -> None:
        """Publish the metrics."""

    def share_problems(self) -> Mapping[str, str]:
        """Why shares cannot be read, by name."""

    def outdated_shares(self) -> Sequence[str]:
        """Shares that only a new worker could read."""

    def close(self) -> None:
        """Close everything; may wait for the access log to be written."""


def work(control: socket.socket, make: Callable[[], Service]) -> None:
    """Run a worker at this end of the supervisor's socket; exits the process."""
    run(lambda: Worker(control).work(make))


class Worker:
    """The worker's side of the supervisor's socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._unsent: deque[bytes] = deque()
        self._serving: set[asyncio.Task[None]] = set()
        self._connections: dict[int, ConnectionCallbacks] = {}
        self._connection_ended = False
        self._drain = asyncio.Event()
        self._drain_timeout = 0.0

    async def work(self, make: Callable[[], Service]) -> None:
        """Serve until the supervisor has the worker drain."""
        try:
            service = make()
        except ConfigurationError as error:
            self._control.setblocking(True)
            self._control.send(messages.encode("failed", error.errors))
            os._exit(1)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control, self._receive, service)
        async with asyncio.TaskGroup() as tasks:
            await service.start()
            self._send("ready")
            background = [
                tasks.create_task(self._report(service)),
                tasks.create_task(self._release_memory()),
            ]
            await self._drain.wait()
            await service.drain(self._drain_timeout)
            for task in background:
                task.cancel()
        await asyncio.to_thread(service.close)
        self._send("stopped")

    async def _release_memory(self) -> None:
        """After connections have ended, at most once per interval."""
        while True:
            await asyncio.sleep(RELEASE_INTERVAL)
            if self._connection_ended:
                self._connection_ended = False
                await asyncio.to_thread(release_free_memory)

    async def _report(self, service: Service) -> None:
        while True:
            service.publish()
            self._send("status", dict(service.share_problems()))
            for share in service.outdated_shares():
                self._send("outdated", share)
            await asyncio.sleep(REPORT_INTERVAL)

    def _receive(self, service: Service) -> None:
        try:
            for message, descriptors in messages.receive_with_descriptors(self._control):
                self._handle(service, message, descriptors)
                messages.close_all(descriptors)
        except EOFError:
            os._exit(1)  # the supervisor has ended

    def _handle(self, service: Service, message: list[Any], descriptors: list[int]) -> None:
        match message:
            case ["connection", number] if descriptors:
                self._serve(service, socket.socket(fileno=descriptors.pop()), number)
            case ["connection", number]:  # no descriptor was free to receive it
                self._send("ended", number, None)
            case ["dismiss", number]:
                if number in self._connections:
                    self._connections[number].disconnect()
            case ["sessions", user, fraction]:
                service.set_session_fraction(user, fraction)
            case ["reload", version] if descriptors:
                # Pickled by the process that forked this one; never sent the other way.
                pickled = messages.read_memfd(descriptors.pop())
                service.reload_credentials(pickle.loads(pickled))  # noqa: S301
                self._send("reloaded", version)
            case ["drain", seconds]:
                self._drain_timeout = seconds
                self._drain.set()

    def _serve(self, service: Service, connection: socket.socket, number: int) -> None:
        if len(self._connections) >= service.max_connections:
            _log.warning(
                "closed a connection: the limit of %s open files leaves room for no more",
                descriptor_limit(),
            )
            connection.close()
            self._send("ended", number, None)
            return

        def ended(kind: str | None) -> None:
            del self._connections[number]
            self._connection_ended = True
            self._send("ended", number, kind)

        callbacks = self._connections[number] = ConnectionCallbacks(
            logged_in=lambda user, credential: self._send("login", number, user, credential),
            ended=ended,
            interrupted=lambda: self._send("interrupted", number),
        )

        async def serve() -> None:
            # An error means that the client is gone already.
            with suppress(OSError):
                await service.serve(connection, callbacks)

        task = asyncio.get_running_loop().create_task(serve())
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def _send(self, *message: object) -> None:
        """Send a message now, or when there is room; never waits, never loses one."""
        if not self._unsent:
            with suppress(BlockingIOError):
                self._control.send(messages.encode(*message))
                return
            asyncio.get_running_loop().add_writer(self._control, self._send_unsent)
        self._unsent.append(messages.encode(*message))

    def _send_unsent(self) -> None:
        with suppress(BlockingIOError):
            while self._unsent:
                self._control.send(self._unsent[0])
                self._unsent.popleft()
            asyncio.get_running_loop().remove_writer(self._control)
