"""A transport for a protocol that writes many small pieces at a time."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any


class GatheringTransport(asyncio.Transport):
    """A transport around another one, for a protocol that writes many small pieces at a time.

    asyncssh writes each SSH packet by itself, and each such write would be a system call and a
    wake-up of the peer. With `write` they wait for the end of the turn of the event loop; what is
    one big piece already goes out at once with `write_now`.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._socket = transport.get_extra_info("socket")
        self._descriptor = self._socket.fileno()

    def write(self, data: Any) -> None:
        """Send `data` at the end of this turn."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)

    def write_now(self, data: memoryview) -> bool:
        """Send `data`, which the caller may overwrite afterwards.

        Returns whether the network has taken all of it, or nobody is there to take it.
        """
        if self._gathered:
            self._flush()
        if self._transport.is_closing():
            return True
        sent = 0
        if not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # no room, or broken: the transport finds out and says so
                sent = 0
        if sent == len(data):
            return True
        self._transport.write(bytes(data[sent:]))
        return False

    def acknowledge(self) -> None:
        """Let the peer know at once that what it sent has come (tcp(7), TCP_QUICKACK).

        OpenSSH's client turns Nagle's algorithm off only once it is logged in. Before that, what
        it sends next waits for this, and Linux would take 40 ms over it, twice in each login.
        """
        with suppress(OSError, ValueError):  # no TCP, or gone
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        if gathered and not self._transport.is_closing():
            self._transport.writelines(gathered)

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._transport.abort()

    def close(self) -> None:
        """Close when everything is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closed or being closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the inner transport says."""
        return self._transport.get_extra_info(name, default)
