"""The attacker of a flood, in its own process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support import raw_ssh
from tests.support.floods.kinds import Kind
from tests.support.floods.message import Login, Message, Reached
from tests.support.gateway import REPOSITORY

#: Maximum bytes of a burst, which is built in memory before it is written.
_MAX_BURST_BYTES = 32 * 1024 * 1024

_SIOCOUTQNSD = 0x894B


@dataclass(frozen=True, slots=True)
class Burst:
    """Encrypted packets; `used_up` if the window is exhausted."""

    turns: int
    packets: int
    sealed: bytes
    used_up: bool = False


def burst(reached: Reached, message: Message, *, start: int, count: int, most: int) -> Burst:
    """Encrypt `count` turns from `start`, or fewer once they reach `most` bytes."""
    payloads = message.payloads
    assert payloads is not None
    room = {channel.theirs: channel for channel in reached.client.channels.values()}
    sealed: list[bytes] = []
    size = turns = 0
    while turns < count and size < most:
        for payload in payloads(reached, start + turns):
            if message.within_window and (channel := room.get(int.from_bytes(payload[1:5], "big"))):
                if channel.window < len(payload) - 9:
                    return Burst(turns, len(sealed), b"".join(sealed), used_up=True)
                channel.window -= len(payload) - 9
            sealed.append(reached.client.seal(payload))
            size += len(sealed[-1])
        turns += 1
    return Burst(turns, len(sealed), b"".join(sealed))


@dataclass(frozen=True, slots=True)
class Report:
    """The state of an attack: what was written, and how much the server has not read."""

    begun: bool
    packets: int
    sent: int
    unread: int
    ended: bool


class _Attack:
    """One connection, in the attacker's process."""

    def __init__(self, kind: Kind, login: Login) -> None:
        self._message, self._reads = kind.message, kind.reached_in.reads
        self._reached: Reached = kind.reached_in.reach(login)
        self.socket = self._reached.client.socket
        self._turns = self._exchanges = self._packets = self._sent = 0
        self._unsent = memoryview(b"")
        self._received: list[bytes] = []
        self._begun = self.ended = False
        self._reason = ""
        if self._message.exchange is None:
            self.socket.setblocking(False)

    @property
    def wanted(self) -> int:
        """The events of `selectors` to wait for."""
        if self.ended:
            return 0
        writes = selectors.EVENT_WRITE if self._unsent or self._exchanges else 0
        return writes | (selectors.EVENT_READ if self._reads else 0)

    # Orders

    def burst(self, turns: int) -> bool:
        """Queue packets for writing; returns whether more can follow."""
        self._begun = False
        if self._message.exchange is not None:
            self._exchanges = turns
            return True
        made = burst(
            self._reached, self._message, start=self._turns, count=turns, most=_MAX_BURST_BYTES
        )
        self._turns += made.turns
        self._packets += made.packets
        self._unsent = memoryview(made.sealed)
        return not made.used_up

    def report(self) -> Report:
        unread = len(self._unsent) + self._exchanges
        if not self.ended:
            unread += _outgoing(self.socket) + _incoming(self.socket)
        return Report(self._begun or self.ended, self._packets, self._sent, unread, self.ended)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
        self.ended = True

    def disconnect_reason(self) -> str:
        """The reason of the server's DISCONNECT, if any."""
        if self._message.exchange is not None:
            return self._reason
        last = self._reached.client.last_payload(b"".join(self._received))
        return raw_ssh.disconnect_reason(last) if last[:1] == b"\1" else ""

    # Between orders

    def step(self) -> None:
        """Write, and read replies."""
        if self._exchanges:
            self._exchange()
            return
        with contextlib.suppress(BlockingIOError):
            self._write()
        if self._reads or self.ended:
            with contextlib.suppress(BlockingIOError):
                self._read()

    def _write(self) -> None:
        if self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except ConnectionError:
                self.ended = True
                return
            self._begun = True
            self._sent += sent
            self._unsent = self._unsent[sent:]

    def _read(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        self.ended |= not data
        self._received.append(data)

    def _exchange(self) -> None:
        exchange = self._message.exchange
        assert exchange is not None
        self._begun = True
        self._exchanges -= 1
        self._packets += 3
        try:
            exchange(self._reached.client)
        except (raw_ssh.SshError, OSError) as error:
            self.ended, self._reason = True, str(error)


def _outgoing(connection: socket.socket) -> int:
    """Bytes that were not sent to the peer's kernel (linux/sockios.h).

    SIOCOUTQ has those too that are not acknowledged, which may take 40 ms.
    """
    return int(struct.unpack("i", fcntl.ioctl(connection, _SIOCOUTQNSD, bytes(4)))[0])


def _incoming(connection: socket.socket) -> int:
    """Bytes that the peer's kernel has, and the peer has not read (proc(5))."""
    try:
        ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
    except OSError:  # it is gone
        return 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if int(local[-4:], 16) == theirs and int(remote[-4:], 16) == ours:
            return int(queues.partition(":")[2], 16)
    return 0


def serve(descriptor: int) -> None:
    """Execute orders (a method's name and arguments), attacking in between."""
    orders: Connection[Any, Any] = Connection(descriptor)
    attack: _Attack | None = None
    while True:
        busy = attack is not None and attack.wanted
        with selectors.DefaultSelector() as selector:
            selector.register(orders, selectors.EVENT_READ)
            if attack is not None and busy:
                selector.register(attack.socket, busy)
            ready = {key.fileobj for key, _ in selector.select()}
        if orders not in ready:
            assert attack is not None
            attack.step()
            continue
        try:
            word, *arguments = orders.recv()
        except EOFError:
            return
        if word == "reach":
            try:
                attack = _Attack(*arguments)
            except (raw_ssh.SshError, OSError) as error:
                attack = None
                orders.send(str(error) or type(error).__name__)
            else:
                orders.send(None)
        else:
            orders.send(getattr(attack, word)(*arguments))


class Attacker:
    """The attacker process, from the controlling side."""

    def __init__(self, *, yielding_on: Collection[int] | None = None) -> None:
        """`yielding_on`: the processors to run on at idle priority."""
        self._orders, theirs = Pipe()
        command = f"from tests.support.floods.attacker import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", command],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        if yielding_on:
            os.sched_setaffinity(self._process.pid, yielding_on)
            os.sched_setscheduler(self._process.pid, os.SCHED_IDLE, os.sched_param(0))
        theirs.close()

    def reach(self, kind: Kind, login: Login) -> str | None:
        """Connect and enter the phase of `kind`; returns an error, or None."""
        reason: str | None = self._order("reach", kind, login)
        return reason

    def burst(self, turns: int) -> bool:
        """Send this many turns of the message; returns whether more can follow."""
        return bool(self._order("burst", turns))

    def report(self) -> Report:
        """The state of the attack."""
        report = self._order("report")
        assert isinstance(report, Report)
        return report

    def end_connection(self) -> None:
        """Close the connection."""
        self._order("close")

    def disconnect_reason(self) -> str:
        """The reason of the server's DISCONNECT, if any."""
        return str(self._order("disconnect_reason"))

    def close(self) -> None:
        """End the process."""
        self._orders.close()
        self._process.kill()
        self._process.wait()

    def _order(self, *words: Any) -> Any:
        self._orders.send(words)
        return self._orders.recv()
