"""Reads a new configuration in a child: what is wrong with it, or slow, stays there."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process.loop import Loop

Plan = TypeVar("Plan")

#: Seconds that reading and looking at everything may take.
PATIENCE: Final = 30.0


class ConfigProbe(Generic[Plan]):
    """One attempt to read the configuration, begun at once.

    `fork` runs a function in a child and gives its pid. `done` is called once: with the plan, or
    with the mistakes in it.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        fork: Callable[[Callable[[], None]], int],
        load: Callable[[], Plan],
        done: Callable[[Plan | list[str]], None],
    ) -> None:
        self._loop = loop
        self._done = done
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._pid = fork(lambda: self._try(load, theirs))
        loop.watch(self._socket, self._receive)
        self._timer = loop.later(PATIENCE, self._too_late)

    def _receive(self) -> None:
        data = b""
        with suppress(BlockingIOError):
            while data := self._socket.recv(1 << 16):
                self._received += data
            self._finish(self._result())

    def _result(self) -> Plan | list[str]:
        try:
            result: Plan | list[str] = pickle.loads(self._received)  # noqa: S301 - our own child
        except (EOFError, pickle.UnpicklingError):
            return ["it could not be read; the reason is in the gateway's own log"]
        return result

    def _too_late(self) -> None:
        self.close()
        self._done([f"it could not be read and looked at within {PATIENCE:.0f} seconds"])

    def _finish(self, result: Plan | list[str]) -> None:
        self._let_go()
        self._done(result)

    def close(self) -> None:
        """End it without a result."""
        self._let_go()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _let_go(self) -> None:
        self._timer.cancel()
        self._loop.unwatch(self._socket)
        self._socket.close()

    def abandon(self) -> None:
        """In another child: close what was the parent's."""
        self._socket.close()

    def _try(self, load: Callable[[], Plan], result: socket.socket) -> None:
        self.abandon()
        found: Plan | list[str]
        try:
            found = load()
        except ConfigurationError as error:
            found = list(error.errors)
        result.sendall(pickle.dumps(found))
