"""What is between a connection and its socket: bounded reads, and writes that are joined."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any, Final

#: Bytes that are read at once before the login.
READ_BEFORE_LOGIN: Final = 8 * 1024

#: All connections share it: what was read is copied out before anything else is read.
_buffer: Final = memoryview(bytearray(READ_BEFORE_LOGIN))


class SocketReader(asyncio.BufferedProtocol):
    """Reads little at once from the socket of a client that has not logged in.

    uvloop hands a plain asyncio.Protocol up to 250 KiB at once. That is less work where much comes,
    and more than a stranger may have us keep.
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
        """Where to read to."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read."""
        self._connection.data_received(bytes(_buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        """The client sends no more."""
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        """The socket has enough to send."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._connection.resume_writing()


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
        self._gathered_size = 0
        self._socket = transport.get_extra_info("socket")
        self._descriptor = self._socket.fileno()

    def write(self, data: Any) -> None:
        """Send `data` at the end of this turn."""
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(data)
        self._gathered_size += len(data)

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the end of this turn, or for the network."""
        return self._gathered_size + self._transport.get_write_buffer_size()

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
        self._gathered_size = 0
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
