"""Gathers what is written to a socket in one turn of the event loop into one write."""

from __future__ import annotations

import asyncio
from typing import Any


class GatheringTransport(asyncio.Transport):
    """A transport around another one, for a protocol that writes many small pieces at a time.

    asyncssh writes each SSH packet by itself, and each such write would be a system call and a
    wake-up of the peer. Here they wait for the end of the turn, in which a session makes a bounded
    amount of responses.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []

    def write(self, data: Any) -> None:
        """Send `data` at the end of this turn."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        if not self._transport.is_closing():
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
