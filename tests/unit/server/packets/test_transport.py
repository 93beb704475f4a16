"""Writes of one event loop turn are sent together, and none is lost."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from sftp_gateway.server.packets.transport import GatheringTransport


class Recording(asyncio.Transport):
    """Records what is written."""

    def __init__(self) -> None:
        nothing = SimpleNamespace(fileno=lambda: -1)
        super().__init__({"peername": ("192.0.2.1", 22), "socket": nothing})
        self.batches: list[list[Any]] = []
        self.closed = False

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.batches.append(list(list_of_data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


async def test_writes_of_one_turn_are_gathered() -> None:
    inner = Recording()
    gathering = GatheringTransport(inner)
    gathering.write(b"a")
    gathering.write(b"b")
    assert inner.batches == []
    await asyncio.sleep(0)
    gathering.write(b"c")
    await asyncio.sleep(0)
    assert inner.batches == [[b"a", b"b"], [b"c"]]


async def test_gathered_data_is_sent_before_a_scheduled_abort() -> None:
    inner = Recording()
    gathering = GatheringTransport(inner)
    gathering.write(b"disconnect")
    asyncio.get_running_loop().call_soon(gathering.abort)
    await asyncio.sleep(0)
    assert inner.batches == [[b"disconnect"]]
    assert gathering.is_closing()


async def test_a_closed_transport_gets_no_data() -> None:
    inner = Recording()
    gathering = GatheringTransport(inner)
    gathering.write(b"late")
    gathering.abort()
    await asyncio.sleep(0)
    assert inner.batches == []


async def test_closing_sends_gathered_data() -> None:
    inner = Recording()
    gathering = GatheringTransport(inner)
    gathering.write(b"last")
    gathering.close()
    assert inner.batches == [[b"last"]]
    assert inner.closed


async def test_it_passes_on_the_inner_transports_information() -> None:
    assert GatheringTransport(Recording()).get_extra_info("peername") == ("192.0.2.1", 22)


async def test_a_real_socket_gets_every_byte_in_order() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    loop = asyncio.get_running_loop()
    inner, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    gathering = GatheringTransport(inner)
    sent = [bytes([number % 256]) * (number * 37) for number in range(300)]
    for number, piece in enumerate(sent):
        gathering.write(piece)
        if number % 7 == 0:
            await asyncio.sleep(0)
    gathering.close()
    assert await reader.read() == b"".join(sent)
    writer.close()
    await writer.wait_closed()


async def test_received_data_is_acknowledged_at_once() -> None:
    """Linux delays acknowledgements to combine them with responses."""
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    inner, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    gathering = GatheringTransport(inner)

    def at_once() -> int:
        return ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)

    for _ in range(4):
        theirs.sendall(b"question")
        await asyncio.sleep(0.01)
        gathering.write_now(memoryview(b"answer"))
        theirs.recv(6)
    assert not at_once()
    gathering.acknowledge()
    assert at_once()
    gathering.close()
    theirs.close()
