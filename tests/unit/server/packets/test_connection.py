"""Packets that asyncssh handles: how much they inflate to, and how long their slices are."""

from __future__ import annotations

import asyncio
import socket
import zlib
from typing import Any

import asyncssh
import pytest
from asyncssh.constants import MSG_IGNORE

from sftp_gateway.server.limits.scheduler import SHORT_SLICE, SLICE, Scheduler
from sftp_gateway.server.packets.connection import MAX_PACKET, PacketConnection, _Inflater
from tests.unit.server.packets.test_transport import Recording

#: `packet_length`, `padding_length`, an empty MSG_IGNORE, padding.
IGNORE = bytes([0, 0, 0, 12, 6, MSG_IGNORE]) + bytes(10)
COST = SLICE / 50


@pytest.mark.parametrize("length", [32_768, MAX_PACKET - 1, MAX_PACKET, 200_000])
def test_a_packet_inflates_to_35000_bytes_at_most(length: int) -> None:
    deflater = zlib.compressobj()
    deflated = deflater.compress(bytes(length)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    expected = bytes(length) if length < MAX_PACKET else None
    assert _Inflater().decompress(deflated) == expected


def test_packets_inflate_one_after_another() -> None:
    deflater, inflater = zlib.compressobj(), _Inflater()
    for text in (b"a" * 34_000, b"b" * 34_000, b"c"):
        deflated = deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH)
        assert inflater.decompress(deflated) == text


class Flooded(PacketConnection):
    """A connection on which each packet takes COST."""

    now = 0.0
    handled = 0

    def process_packet(self, pkttype: int, pktid: int, packet: Any) -> Any:
        self.now += COST
        self.handled += 1
        return True


async def test_messages_beside_the_requests_have_a_shorter_slice() -> None:
    loop = asyncio.get_running_loop()
    options = asyncssh.SSHServerConnectionOptions(
        server_factory=asyncssh.SSHServer,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        login_timeout=0,
        config=None,
    )
    connection: Any = Flooded(
        loop,
        options,
        scheduler=Scheduler(loop, clock=lambda: connection.now),
        own_packet_layer=True,
    )
    wire = Recording()
    with socket.socket() as wire._extra["socket"]:
        connection.connection_made(wire)
        connection._recv_handler = connection._recv_pkthdr
        connection.data_received(IGNORE * 200)
        assert SHORT_SLICE <= connection.handled * COST <= SHORT_SLICE + 2 * COST
        while connection._inpbuf:
            before = connection.handled
            await asyncio.sleep(0)
            assert connection.handled - before <= SHORT_SLICE / COST + 2
        assert connection.handled == 200
        connection.abort()
        await connection.wait_closed()
