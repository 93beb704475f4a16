"""Authenticated attackers: valid, malformed and excessive SFTP requests."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import product

import pytest

from tests.hostile.conftest import CANARY, INSIDE, MAX_HANDLES, Target, in_thread, raw_session
from tests.support.live import Live, connected, live, open_live, status_of
from tests.support.sftp_wire import (
    AttrsReply,
    DataReply,
    HandleReply,
    NameReply,
    PacketType,
    Status,
    StatusReply,
    encode_close,
    encode_expand_path,
    encode_fstat,
    encode_init,
    encode_lstat,
    encode_open,
    encode_opendir,
    encode_read,
    encode_readdir,
    encode_readlink,
    encode_realpath,
    encode_stat,
    encode_statvfs,
    packet,
    string,
    uint32,
)

pytestmark = pytest.mark.integration

SHARE = b"/home/gvpocr/share/"

_SECRETS = (b"others/secret", b"secret", b"etc/passwd", b"proc/self/environ")
_CLIMBS = (
    b"../", b"../../../../../../", b"folder/../../", b"%2e%2e/", b"..%2f", b"%252e%252e/",
    b"\xc0\xae\xc0\xae/", b"\xe0\x80\xae\xe0\x80\xae/", b"..\xc0\xaf", b"\xef\xbc\x8e\xef\xbc\x8e/",
    b"....//", b"..././", b".../", b"..\\", b"..;/", b"..\x00/", b"\x00../", b"small/../../",
    b"root/", b"loop/../../", b"//", b"/../", b"./.././", b"../share/../", b"~/", b"~root/",
    b"file:///", b"/proc/self/cwd/", b"/proc/self/root/", b"/proc/self/fd/5/", b"../" * 5000,
)  # fmt: skip
_FORMS = (
    b"", b"\x00", b"/", b"//", b".", b"..", b"...", b"small.", b"small...", b"small/", b"small/.",
    b"small\x00", b"small\x00.txt", b"small%00", b"SMALL", b"small ", b" small", b"small\n",
    b"share//small", b"100%25", b"100%", b"dots", b"dots...", b"out", b"loop", b"root", b"x" * 256,
    b"x" * 4096, b"x" * 100_000, b"/" * 100_000, b"a/" * 50_000, b"../" * 33_000, b"\xff" * 1000,
    bytes(range(1, 256)), b"*", b"?", b"small;ls", b"$(id)", b"`id`", b"|id",
)  # fmt: skip
_ASKS = (
    encode_open, encode_opendir, encode_stat, encode_lstat, encode_readlink, encode_realpath,
    encode_statvfs, encode_expand_path,
)  # fmt: skip


def _tricks() -> Iterator[bytes]:
    for prefix in (b"", SHARE, b"share/", b"/home/gvpocr/", b"/home/gvpocr/others/"):
        yield from (prefix + form for form in _FORMS)
        yield from (prefix + climb + secret for climb, secret in product(_CLIMBS, _SECRETS))


@contextlib.asynccontextmanager
async def beside_another(attacked: Target) -> AsyncIterator[Live]:
    """A session on a shared connection; the other session must outlive it."""
    async with connected(attacked) as connection:
        other = await open_live(connection)
        await other.init()
        session = await open_live(connection)
        await session.init()
        yield session
        assert isinstance(await other.ask(encode_stat, SHARE + b"small"), AttrsReply)


async def _read_all(session: Live, handle: bytes) -> bytes:
    taken = b""
    while isinstance(
        reply := await session.ask(encode_read, handle, len(taken), 1 << 18), DataReply
    ):
        taken += reply.data
    assert status_of(reply) is Status.EOF
    return taken


async def test_no_path_trick_reads_outside_the_share(
    attacked: Target,
) -> None:
    opened = Counter[bytes]()
    async with live(attacked) as session:
        for path in _tricks():
            handle, folder, *others = await session.ask_all([(ask, path) for ask in _ASKS])
            for reply in others:
                if isinstance(reply, NameReply):  # a path, canonical: nothing need be there
                    assert len(reply.names) == 1
            if isinstance(handle, HandleReply):
                content = await _read_all(session, handle.handle)
                assert content in INSIDE.values(), path
                opened[content] += 1
                await session.ask(encode_close, handle.handle)
            if isinstance(folder, HandleReply):
                names = await session.ask(encode_readdir, folder.handle)
                assert isinstance(names, NameReply), path
                assert not {n.filename for n in names.names} & {b"others", b"secret", b"passwd"}
                await session.ask(encode_close, folder.handle)
        assert not any(CANARY in frame for frame in session.frames)
        assert not any(b"root:x:0:0" in frame for frame in session.frames)
    assert opened[INSIDE["small"]], "the tricks start in the wrong folder"


async def test_another_sessions_handle_cannot_be_guessed(attacked: Target) -> None:
    async with live(attacked) as victim, live(attacked) as thief:
        held = {await victim.handle(encode_open, SHARE + b"big") for _ in range(8)}
        guesses = [number.to_bytes(4, "big") for number in range(5000)] + [
            b"", b"\0", b"\0" * 3, b"\0" * 5, b"\0" * 256, b"\xff" * 4, b"0", *held,
        ]  # fmt: skip
        for start in range(0, len(guesses), 500):
            piece = guesses[start : start + 500]
            for ask in (encode_fstat, encode_readdir, encode_close):
                replies = await thief.ask_all([(ask, guess) for guess in piece])
                assert {status_of(reply) for reply in replies} == {Status.FAILURE}
            reads = await thief.ask_all([(encode_read, guess, 0, 100) for guess in piece])
            assert {status_of(reply) for reply in reads} == {Status.FAILURE}
        for handle in held:
            assert isinstance(await victim.ask(encode_read, handle, 0, 10), DataReply)


@pytest.mark.parametrize(
    "first",
    [
        uint32(0), uint32(1), uint32(2**32 - 1), uint32(2**31), uint32(256 * 1024 * 1024),
        uint32(5) + b"\x05" + uint32(1),  # READ and nothing of it
        packet(PacketType.OPEN, uint32(1), uint32(2**32 - 1)),
        packet(PacketType.OPEN, uint32(1), string(b"share/small")),
        packet(PacketType.OPEN, uint32(1), string(b"share/small"), uint32(1), uint32(0x80000000),
               uint32(2**32 - 1)),  # 2**32 - 1 extended attributes
        packet(PacketType.READ, uint32(1), string(b"\0" * 300), bytes(12)),
        packet(PacketType.EXTENDED, uint32(1), uint32(2**32 - 1)),
        packet(PacketType.VERSION, uint32(3)), packet(PacketType.STATUS, uint32(1), uint32(0)),
        packet(PacketType.DATA, uint32(1), string(b"data")), packet(0), packet(255, uint32(1)),
        encode_init(), b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
async def test_an_invalid_request_is_refused_or_ends_its_own_channel(
    attacked: Target, first: bytes
) -> None:
    async with beside_another(attacked) as session:
        session.send(first, *[first] * 200)
        session.channel.write_eof()
        await session.end()
        assert {type(reply) for reply in session.replies} <= {StatusReply}


@pytest.mark.parametrize("length", [256 * 1024 + 1, 2**31, 2**32 - 1])
async def test_an_overlong_packet_ends_its_channel_early(attacked: Target, length: int) -> None:
    async with beside_another(attacked) as session:
        session.send(uint32(length))
        await session.end()
        assert session.replies == []


async def test_an_incomplete_packet_costs_bounded_memory(
    attacked: Target,
) -> None:
    before = attacked.memory()
    async with connected(attacked) as connection:
        for _ in range(10):
            session = await open_live(connection)
            await session.init()
            session.send(uint32(256 * 1024) + b"\x05" + bytes(200 * 1024))
        await in_thread(attacked)
        assert attacked.memory() - before < 10 * 1024 + 4096


@pytest.mark.timeout(400)
def test_hundreds_of_thousands_of_opens_are_answered_and_cost_no_memory(attacked: Target) -> None:
    count = 600_000
    before = attacked.memory()
    with _raw(attacked) as (ssh, take):
        requests = b"".join(encode_open(number, SHARE + b"small") for number in range(count // 100))

        def ask() -> None:
            with contextlib.suppress(BrokenPipeError):
                for _ in range(100):
                    ssh.stdin.write(requests)
                ssh.stdin.flush()

        asking = threading.Thread(target=ask)
        asking.start()
        kinds = Counter(take() for _ in range(count // 2))
        halfway = attacked.memory_now()
        kinds += Counter(take() for _ in range(count // 2))
        asking.join()
        assert kinds == {PacketType.HANDLE: MAX_HANDLES, PacketType.STATUS: count - MAX_HANDLES}
        assert halfway - before < 16 * 1024


@pytest.mark.timeout(400)
def test_a_flood_of_readdirs_costs_bounded_memory_and_lists_everything(attacked: Target) -> None:
    before = attacked.memory()
    with _raw(attacked) as (ssh, take):
        assert ssh.stdin is not None
        for _ in range(MAX_HANDLES):
            ssh.stdin.write(encode_opendir(1, SHARE + b"many"))
        ssh.stdin.flush()
        for _ in range(MAX_HANDLES):
            assert take() == PacketType.HANDLE
        storm = b"".join(
            encode_readdir(number, uint32(handle))
            for number in range(2000)
            for handle in range(MAX_HANDLES)
        )
        asking = threading.Thread(target=lambda: (ssh.stdin.write(storm), ssh.stdin.flush()))
        asking.start()
        attacked.assert_serves_others()
        assert attacked.memory_now() - before < 16 * 1024
        kinds = Counter(take() for _ in range(2000 * MAX_HANDLES))
        asking.join()
        assert kinds[PacketType.STATUS] + kinds[PacketType.NAME] == 2000 * MAX_HANDLES
        assert kinds[PacketType.NAME] >= MAX_HANDLES


async def test_reads_at_integer_limits_return_nothing(attacked: Target) -> None:
    async with live(attacked) as session:
        handle = await session.handle(encode_open, SHARE + b"big")
        edges = [2**63, 2**63 - 1, 2**64 - 1, 2**63 - 2**18, 2**32, 2**31, 2**40]
        lengths = [1, 2**31 - 1, 2**31, 2**32 - 1, 4096]
        replies = await session.ask_all(
            (encode_read, handle, *place) for place in product(edges, lengths)
        )
        assert {status_of(reply) for reply in replies} == {Status.EOF}


@contextlib.contextmanager
def _raw(gateway: Target) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], int]]]:
    """A session after INIT through `ssh`, and a function that reads one reply's type."""
    ssh = raw_session(gateway)
    assert ssh.stdin is not None
    assert ssh.stdout is not None
    read = ssh.stdout.read

    def take() -> int:
        length, kind = struct.unpack(">IB", read(5))
        read(length - 1)
        return int(kind)

    try:
        ssh.stdin.write(encode_init())
        ssh.stdin.flush()
        assert take() == PacketType.VERSION
        yield ssh, take
    finally:
        ssh.kill()
        ssh.wait()
        with contextlib.suppress(BrokenPipeError):
            ssh.stdin.close()
        ssh.stdout.close()
