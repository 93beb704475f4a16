"""Between a connection and its socket: bounded reads, and gathered writes."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

#: Bytes that are read at once before the login.
READ_BEFORE_LOGIN: Final = 8 * 1024

#: Shared by all connections: input is copied out of it before anything else is read.
_buffer: Final = memoryview(bytearray(READ_BEFORE_LOGIN))


class SocketReader(asyncio.BufferedProtocol):
    """Reads at most READ_BEFORE_LOGIN bytes at once, for a client that has not logged in.

    uvloop passes up to 250 KiB at once to a plain asyncio.Protocol, which is faster, but more than
    the gateway should buffer for a stranger.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: asyncio.Protocol) -> None:
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._connection.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the buffer to read to."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on `nbytes` bytes."""
        self._connection.data_received(bytes(_buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        """The socket's buffer is full."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._connection.resume_writing()


class GatheringTransport(asyncio.Transport):
    """Gathers the small writes of one turn of the event loop into one.

    asyncssh writes each SSH packet by itself, and each write would be a system call that wakes the
    peer. `write` gathers; `write_now` sends one big piece at once.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._gathered_size = 0
        self._socket = transport.get_extra_info("socket")
        self._descriptor = self._socket.fileno()

    def write(self, data: Any) -> None:
        """Send `data` at the end of this turn of the event loop."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)
        self._gathered_size += len(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the end of the turn or for the network."""
        return self._gathered_size + self._transport.get_write_buffer_size()

    def write_now(self, data: memoryview) -> bool:
        """Send `data`, which the caller may overwrite afterwards.

        Returns False if some of it has to wait for the network.
        """
        if self._gathered:
            self._flush()
        if self._transport.is_closing():
            return True
        sent = 0
        if not self._transport.get_write_buffer_size():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:  # full or broken; the transport handles both
                sent = 0
        if sent == len(data):
            return True
        self._transport.write(bytes(data[sent:]))
        return False

    def acknowledge(self) -> None:
        """Acknowledge received data at once (tcp(7), TCP_QUICKACK).

        OpenSSH's client disables Nagle's algorithm only after the login. Until then its next packet
        waits for the acknowledgement, which Linux delays by 40 ms, twice in each login.
        """
        with suppress(OSError, ValueError):  # not TCP, or closed
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_size = 0
        if gathered and not self._transport.is_closing():
            self._transport.writelines(gathered)

    def abort(self) -> None:
        """Close at once, without sending what is buffered."""
        self._transport.abort()

    def close(self) -> None:
        """Close when everything is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closed or being closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The inner transport's information."""
        return self._transport.get_extra_info(name, default)
