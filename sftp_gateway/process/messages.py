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
| worker     | `["failed", [mistake, ...]]`       | the configuration is wrong; the worker ends    |
| worker     | `["login", number, user]`          | this connection is logged in                   |
| worker     | `["ended", number, kind or null]`  | it has ended; what it is to be penalised for   |
| worker     | `["taken", number]`                | who may log in by that is let in, nobody else  |
| worker     | `["status", {share: text}]`        | the loop works; these shares cannot be read    |
| worker     | `["stopped"]`                      | everything is closed and written; it ends      |

A worker names connections, never addresses: it can have nobody penalised but its own clients.

The end of the stream is the end of the other process.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

#: No datagram is longer: a socket's send buffer holds less (net.core.wmem_default, 208 KiB).
_LONGEST: Final = 1 << 18

#: Messages taken in one turn: others have theirs in between.
_BATCH: Final = 64


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends, which never block."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def encode(*message: Any) -> bytes:
    """A message as a datagram."""
    return json.dumps(message).encode()


def received(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """The messages that are there, with their descriptors. Raises EOFError at the end.

    Raises ValueError for what is no message.
    """
    for _ in range(_BATCH):
        try:
            data, descriptors, _, _ = socket.recv_fds(end, _LONGEST, 1)
        except BlockingIOError:
            return
        except ConnectionError as error:  # it ended with something of ours unread
            raise EOFError from error
        if not data:
            raise EOFError
        try:
            message = json.loads(data)
        except RecursionError as error:  # brackets in brackets in brackets
            raise ValueError("not a message") from error
        yield message, descriptors


def unheard(end: socket.socket) -> Iterator[tuple[list[Any], list[int]]]:
    """All messages that are left at the end of a process which is gone."""
    end.setblocking(False)  # it may have changed that, for all who have the end open
    with suppress(EOFError):
        while found := list(received(end)):
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
