"""The protocol between the supervisor and a worker: datagrams of JSON, some with a descriptor.

A worker is what clients attack, and JSON from it cannot run code in the supervisor. (Between the
supervisor and the observer, which clients do not reach, messages are pickled.)

| from       | message                            | meaning                                        |
|------------|------------------------------------|------------------------------------------------|
| supervisor | `["connection", number]` + socket  | serve this connection                          |
| supervisor | `["dismiss", number]`              | close it: its user has too many sessions       |
| supervisor | `["sessions", user, fraction]`     | the worker has this fraction of the sessions   |
| supervisor | `["reload", version]` + memfd      | use the credentials in the memfd (pickled)     |
| supervisor | `["drain", seconds]`               | take no more, finish in this time, exit        |
| worker     | `["ready"]`                        | connections can be served                      |
| worker     | `["failed", [error, ...]]`         | the configuration is wrong; the worker exits   |
| worker     | `["login", number, user, by]`      | logged in, by this key or authority            |
| worker     | `["interrupted", number]`          | it ends while its client has files open        |
| worker     | `["ended", number, kind or null]`  | it has ended; kind is an offence to penalise   |
| worker     | `["reloaded", version]`            | only these credentials are accepted            |
| worker     | `["status", {share: text}]`        | the loop works; these shares cannot be read    |
| worker     | `["outdated", share]`              | only a new worker can read this share          |
| worker     | `["stopped"]`                      | everything is closed and written; it exits     |

A worker names connections, never addresses, so it can have only its own clients penalised. It
sends no descriptors: the kernel closes those of a message whose reader expects none.

End of file means that the other process has ended.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

#: Bytes; a socket's send buffer holds less (net.core.wmem_default, 208 KiB).
_MAX_DATAGRAM: Final = 1 << 18

#: Messages received in one turn of the event loop.
_BATCH: Final = 64

_DESCRIPTOR_SIZE: Final = array.array("i").itemsize


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, non-blocking ends."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def encode(*message: Any) -> bytes:
    """A message as a datagram."""
    return json.dumps(message).encode()


def receive(end: socket.socket) -> Iterator[list[Any]]:
    """The messages that have arrived, from a sender that may send no descriptors.

    Raises EOFError at the end, and ValueError for an invalid message.
    """
    for data, _, flags in _datagrams(end, 0):
        if flags & socket.MSG_CTRUNC:
            raise ValueError("a message with descriptors")
        yield _decode(data)


def receive_with_descriptors(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """The same, each with its descriptor, if any, which the caller has to close."""
    for data, descriptors, _ in _datagrams(end, 1):
        try:
            message = _decode(data)
        except ValueError:
            close_all(descriptors)
            raise
        yield message, descriptors


def _datagrams(end: socket.socket, limit: int) -> Iterator[tuple[bytes, list[int], int]]:
    """The datagrams that have arrived, each with at most `limit` descriptors.

    The kernel closes further ones, and sets MSG_CTRUNC (unix(7)).
    """
    space = socket.CMSG_LEN(limit * _DESCRIPTOR_SIZE) if limit else 0
    for _ in range(_BATCH):
        try:
            data, ancillary, flags, _ = end.recvmsg(_MAX_DATAGRAM, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionError as error:  # it ended without reading all
            raise EOFError from error
        descriptors = array.array("i")
        for _, _, content in ancillary:  # only SCM_RIGHTS is ever requested
            descriptors.frombytes(content)
        if not data:
            close_all(descriptors)
            raise EOFError
        yield data, list(descriptors), flags


def _decode(data: bytes) -> list[Any]:
    try:
        message: list[Any] = json.loads(data)
    except RecursionError as error:  # nested too deeply
        raise ValueError("not a message") from error
    return message


def close_all(descriptors: Iterable[int]) -> None:
    """Close all of them."""
    for descriptor in descriptors:
        os.close(descriptor)


def drain_unread(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """The messages that an ended process left unread."""
    end.setblocking(False)  # the ended process may have changed that
    with suppress(EOFError):
        while found := list(receive_with_descriptors(end)):
            yield from found


def sealed_memfd(content: bytes) -> int:
    """The descriptor of a sealed file in memory (memfd_create(2)), for more than a datagram holds.

    Read it by `read_memfd`: all receivers of the descriptor share one file position.
    """
    descriptor = os.memfd_create("sftp-gateway", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(
            descriptor,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
        )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_memfd(descriptor: int) -> bytes:
    """The content of the file; closes it."""
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
