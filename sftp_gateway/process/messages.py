"""What the supervisor and a worker say to each other: datagrams of JSON, some with a descriptor.

JSON, because a worker is what clients attack: what comes from it must not be able to run code in
the supervisor. (Between the supervisor and the observer, which clients never reach, events are
pickled.)

| from       | message                            | meaning                                        |
|------------|------------------------------------|------------------------------------------------|
| supervisor | `["connection", number]`           | serve this one; its descriptor comes along     |
| supervisor | `["dismiss", number]`              | close it: its user has too many sessions       |
| supervisor | `["sessions", user, part]`         | so much of a user's sessions (0 to 1) is here  |
| supervisor | `["access", number]`               | take over what is in the file that comes along |
| supervisor | `["drain", seconds]`               | take no more, finish in this time, end         |
| worker     | `["ready"]`                        | connections may come                           |
| worker     | `["failed", [message, ...]]`       | the configuration is wrong; the worker ends    |
| worker     | `["login", number, user, by]`      | it is logged in, by this key or authority      |
| worker     | `["interrupted", number]`          | it ends while its client has files open        |
| worker     | `["ended", number, kind or null]`  | it has ended; what it is to be penalised for   |
| worker     | `["taken", number]`                | who may log in by that is let in, nobody else  |
| worker     | `["status", {share: text}]`        | the loop works; these shares cannot be read    |
| worker     | `["stopped"]`                      | everything is closed and written; it ends      |

A worker names connections, never addresses: it can have nobody penalised but its own clients. It
sends no descriptors: the kernel closes those of a message whose reader expects none.

The end of the stream is the end of the other process.
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

#: No datagram is longer: a socket's send buffer holds less (net.core.wmem_default, 208 KiB).
_LONGEST: Final = 1 << 18

#: Messages taken in one turn: others have theirs in between.
_BATCH: Final = 64

_DESCRIPTOR_SIZE: Final = array.array("i").itemsize


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, which never block."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def encode(*message: Any) -> bytes:
    """A message as a datagram."""
    return json.dumps(message).encode()


def received(end: socket.socket) -> Iterator[list[Any]]:
    """The messages that are there, from a sender of no descriptors. Raises EOFError at the end.

    Raises ValueError for anything else.
    """
    for data, _, flags in _datagrams(end, 0):
        if flags & socket.MSG_CTRUNC:
            raise ValueError("a message with descriptors")
        yield _decode(data)


def received_with_descriptors(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """The same, each with the descriptor that came along, if any: the caller has to close it."""
    for data, descriptors, _ in _datagrams(end, 1):
        try:
            message = _decode(data)
        except ValueError:
            close_all(descriptors)
            raise
        yield message, descriptors


def _datagrams(end: socket.socket, most: int) -> Iterator[tuple[bytes, list[int], int]]:
    """The datagrams that are there, each with at most so many descriptors.

    The kernel closes further ones, and sets MSG_CTRUNC (unix(7)).
    """
    space = socket.CMSG_LEN(most * _DESCRIPTOR_SIZE) if most else 0
    for _ in range(_BATCH):
        try:
            data, ancillary, flags, _ = end.recvmsg(_LONGEST, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except ConnectionError as error:  # it ended with something of ours unread
            raise EOFError from error
        descriptors = array.array("i")
        for _, _, content in ancillary:  # none but SCM_RIGHTS is ever asked for
            descriptors.frombytes(content)
        if not data:
            close_all(descriptors)
            raise EOFError
        yield data, list(descriptors), flags


def _decode(data: bytes) -> list[Any]:
    try:
        message: list[Any] = json.loads(data)
    except RecursionError as error:  # brackets in brackets in brackets
        raise ValueError("not a message") from error
    return message


def close_all(descriptors: Iterable[int]) -> None:
    """Close them."""
    for descriptor in descriptors:
        os.close(descriptor)


def unheard(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """All messages that are left at the end of a process which is gone."""
    end.setblocking(False)  # it may have changed that, for all who have the end open
    with suppress(EOFError):
        while found := list(received_with_descriptors(end)):
            yield from found


def sealed(content: bytes) -> int:
    """The descriptor of a file in memory that has this content, and can never have another.

    For what is longer than a datagram. Its reader is to use `read_sealed`: all who are sent the
    descriptor share one position in the file.
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


def read_sealed(descriptor: int) -> bytes:
    """The content of such a file, which is closed."""
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
