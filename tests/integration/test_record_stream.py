"""The channel's bytes do not depend on ciphers, windows, packet sizes or rekeying.

RECORD_LAYERS names the gateway's implementations of the packet layer. Every test runs with each of
them, and their results must be identical.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, running
from tests.support.record_client import (
    KeyExchanges,
    Place,
    Proxy,
    Terms,
    channel,
    read_all,
)
from tests.support.sftp_wire import DataReply, StatusReply, encode_lstat, encode_open, encode_read

pytestmark = pytest.mark.integration

KIB, MIB = 1024, 1024 * 1024

#: Options of the gateway, by the packet layer that they select.
RECORD_LAYERS: Mapping[str, Mapping[str, str]] = {
    name: {"SFTP_GATEWAY_RECORD_LAYER": name} for name in ("own", "asyncssh")
}

_CONTENT = random.Random(4253).randbytes(3 * MIB + 17)
_PATH = b"models/content"

_ETM, _PLAIN = "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512"
_CIPHERS = (
    Terms(),
    Terms(cipher="aes256-gcm@openssh.com"),
    Terms(cipher="chacha20-poly1305@openssh.com"),
    Terms(cipher="aes256-ctr", mac=_ETM),
    Terms(cipher="aes128-ctr", mac=_PLAIN),
    Terms(compression="zlib@openssh.com"),
)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """One gateway per packet layer, which rekeys after each MiB."""
    made = []
    for name, options in RECORD_LAYERS.items():
        folder: Path = tmp_path_factory.mktemp(name)
        fill(folder / "shared", {_PATH.decode(): _CONTENT})
        made.append(
            running(
                folder,
                SFTP_GATEWAY_CIPHERS="compatible",
                SFTP_GATEWAY_REKEY_LIMIT=str(MIB),
                **options,
            )
        )
    gateways = [each.__enter__() for each in made]
    yield gateways
    for each in made:
        each.__exit__(None, None, None)


async def _same_from_all(gateways: list[Gateway], terms: Terms, places: list[Place]) -> None:
    """All gateways reply correctly and with identical bytes."""
    streams = set()
    for gateway in gateways:
        answers, stream = await read_all(gateway, terms, _PATH, places)
        for answer, (offset, length) in zip(answers, places, strict=True):
            assert answer == _CONTENT[offset : offset + length], (offset, length)
        streams.add(stream)
    assert len(streams) == 1


def _places(count: int, longest: int) -> list[Place]:
    noise = random.Random(count * longest)
    lengths = [noise.randint(1, longest) for _ in range(count)]
    return [(noise.randrange(len(_CONTENT) - length), length) for length in lengths]


@pytest.mark.parametrize("window", [1, 7, 1000])
@pytest.mark.parametrize("cipher", [_CIPHERS[0], _CIPHERS[2], _CIPHERS[5]], ids=str)
async def test_windows_of_a_few_bytes_give_identical_bytes(
    gateways: list[Gateway], cipher: Terms, window: int
) -> None:
    terms = replace(cipher, window=window)
    await _same_from_all(gateways, terms, _places(8, 16 * window if window > 1 else 40))


@pytest.mark.parametrize("packet", [1, 1000, 1024, 32_767, 32_768, 65_536, 256 * KIB])
@pytest.mark.parametrize("window", [33_000, 512 * KIB, 2 * MIB, 64 * MIB])
async def test_every_window_and_packet_size_gives_identical_bytes(
    gateways: list[Gateway], window: int, packet: int
) -> None:
    longest = 50 if packet == 1 else 256 * KIB
    terms = Terms(window=window, packet=packet)
    await _same_from_all(gateways, terms, _places(16, longest))


@pytest.mark.parametrize("length", [0, 1, 32_768 - 13, 32_768, 32_768 * 2, 256 * KIB])
@pytest.mark.parametrize("cipher", _CIPHERS, ids=str)
async def test_reads_of_every_length_give_identical_bytes(
    gateways: list[Gateway], cipher: Terms, length: int
) -> None:
    await _same_from_all(gateways, cipher, [(number, length) for number in range(20)])


@pytest.mark.parametrize("rekey_bytes", [1, 300, 2000])
@pytest.mark.parametrize("cipher", _CIPHERS, ids=str)
async def test_a_client_rekey_amid_reads_gives_identical_bytes(
    gateways: list[Gateway], cipher: Terms, rekey_bytes: int
) -> None:
    terms = replace(cipher, rekey_bytes=rekey_bytes, apart=True)
    with KeyExchanges().counting() as exchanges:
        await _same_from_all(gateways, terms, _places(80, 32 * KIB))
    assert exchanges.completed >= 2 * len(gateways)


@pytest.mark.parametrize("window", [20_000, 2 * MIB])
@pytest.mark.parametrize("cipher", _CIPHERS, ids=str)
async def test_a_server_rekey_amid_reads_gives_identical_bytes(
    gateways: list[Gateway], cipher: Terms, window: int
) -> None:
    terms = replace(cipher, window=window)
    with KeyExchanges().counting() as exchanges:
        await _same_from_all(gateways, terms, _places(60, 256 * KIB))
    assert exchanges.completed >= 4 * len(gateways)


@pytest.mark.parametrize("cipher", _CIPHERS, ids=str)
async def test_a_simultaneous_rekey_gives_identical_bytes(
    gateways: list[Gateway], cipher: Terms
) -> None:
    terms = replace(cipher, window=8 * MIB, packet=64 * KIB, rekey_bytes=30_000)
    long_names = [random.Random(number).randbytes(300) for number in range(128)]
    for gateway in gateways:
        proxy = Proxy(gateway.port)
        with KeyExchanges().counting() as exchanges:
            async with proxy.listening() as port, channel(gateway, terms, port=port) as session:
                handle = await session.handle(encode_open, _PATH)
                # The server replies and starts rekeying; the proxy holds its messages back.
                proxy.down.hold()
                sent = proxy.up.carried
                reads = range(2000, 2048)
                session.send(*(encode_read(n, handle, n, 64 * KIB) for n in reads))
                await proxy.up.reaches(sent + 1)  # they are one packet
                # The client starts rekeying too; the proxy holds this back as well.
                proxy.up.hold()
                asked, was_asked = exchanges.asked, exchanges.was_asked
                session.send(*(encode_lstat(5000 + n, long_names[n]) for n in range(128)))
                session.send(encode_lstat(6000, b"x"))
                assert exchanges.asked == asked + 1
                # Now both learn of the other's KEXINIT.
                proxy.down.release()
                await exchanges.is_asked(was_asked + 1)
                proxy.up.release()
                replies = await session.take(48 + 129)
        found = {reply.request_id: reply.data for reply in replies if isinstance(reply, DataReply)}
        assert found == {n: _CONTENT[n : n + 64 * KIB] for n in reads}
        refused = {reply.request_id for reply in replies if isinstance(reply, StatusReply)}
        assert refused == {*range(5000, 5128), 6000}
        assert exchanges.completed >= 2
