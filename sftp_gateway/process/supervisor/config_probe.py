"""Reads a new configuration in a child: an error or a disk that hangs stays there."""

from __future__ import annotations

import os
import pickle
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.process.loop import Loop
from sftp_gateway.system.children import fork

#: Seconds in which the child has to answer.
TIMEOUT: Final = 30.0


class ConfigProbe:
    """One attempt to read the configuration, started at once.

    `done` is called once: with the snapshot, or with the errors.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        load: Callable[[], ConfigSnapshot],
        done: Callable[[ConfigSnapshot | list[str]], None],
    ) -> None:
        """Raises OSError if no child can be forked."""
        self._loop = loop
        self._done = done
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        with theirs:
            self._pid = fork(lambda: _answer(load, theirs), keep=[theirs.fileno()])
        loop.add_reader(self._socket, self._receive)
        self._timer = loop.call_later(TIMEOUT, self._time_out)

    def _receive(self) -> None:
        data = b""
        with suppress(BlockingIOError):
            while data := self._socket.recv(1 << 16):
                self._received += data
            self._release()
            self._done(self._result())

    def _result(self) -> ConfigSnapshot | list[str]:
        try:
            result: ConfigSnapshot | list[str] = pickle.loads(self._received)  # noqa: S301 - our own child
        except (EOFError, pickle.UnpicklingError):
            return ["the configuration could not be read; standard error has the reason"]
        return result

    def _time_out(self) -> None:
        self.close()
        self._done([f"the configuration could not be read within {TIMEOUT:.0f} seconds"])

    def close(self) -> None:
        """Kill the child; `done` is not called."""
        self._release()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)

    def _release(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()


def _answer(load: Callable[[], ConfigSnapshot], result: socket.socket) -> None:
    """In the child."""
    found: ConfigSnapshot | list[str]
    try:
        found = load()
    except ConfigurationError as error:
        found = list(error.errors)
    result.sendall(pickle.dumps(found))
