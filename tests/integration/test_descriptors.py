"""Descriptors are shared fairly, and a mount can open as many files as jobs need."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import mmap
import os
import resource
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, fill, wait_for
from tests.support.live import Live, connected, open_live
from tests.support.sftp_wire import (
    HandleReply,
    Reply,
    StatusReply,
    encode_close,
    encode_open,
    encode_opendir,
)

pytestmark = pytest.mark.integration

#: The worker's descriptor limit.
_LIMIT = 1000

#: The maximum number of channels of a connection.
_CHANNELS = 10

_CONFIG = """
workers = 1
max_connections = 50
[shares.models]
path = "models"
[users.gvpocr]
shares = "*"
[users.other]
shares = "*"
"""


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    gateway = make_gateway(_CONFIG)
    fill(gateway.folder / "models", {"file": b"good\n", "folder/below": b"\n"})
    return gateway


def _start(gateway: Gateway, limit: int = _LIMIT) -> Gateway:
    """Start with this descriptor limit; both users share one key."""
    gateway.start(runner=["prlimit", f"--nofile={limit}:{limit}"])
    public = (gateway.folder / "keys/worker_ed25519.pub").read_text().strip()
    gateway.authorize("other", public)
    wait_for(lambda: gateway.sftp("ls models", user="other").returncode == 0, "the other user")
    return gateway


@contextlib.asynccontextmanager
async def _sessions(
    gateway: Gateway, connections: int, channels: int = _CHANNELS, user: str = "gvpocr"
) -> AsyncIterator[list[Live]]:
    async with contextlib.AsyncExitStack() as stack:
        sessions = []
        for _ in range(connections):
            connection = await stack.enter_async_context(connected(gateway, user))
            for _ in range(channels):
                sessions.append(await open_live(connection))
                await sessions[-1].init()
        yield sessions


async def _open_until_refused(
    sessions: Sequence[Live], encode: Callable[..., bytes], path: bytes
) -> list[int]:
    """Open files in turn until all are refused; returns how many each has open."""
    opened = [0] * len(sessions)
    left = set(range(len(sessions)))
    while left:
        for number in tuple(left):
            replies = await sessions[number].ask_all([(encode, path)] * 10)
            opened[number] += sum(isinstance(reply, HandleReply) for reply in replies)
            if any(isinstance(reply, StatusReply) for reply in replies):
                left.discard(number)
    return opened


@pytest.mark.parametrize(
    ("encode", "path"), [(encode_open, b"models/file"), (encode_opendir, b"models/folder")]
)
async def test_two_greedy_connections_leave_descriptors_for_others(
    gateway: Gateway, encode: Callable[..., bytes], path: bytes
) -> None:
    _start(gateway)
    async with _sessions(gateway, 2) as hostile, _sessions(gateway, 1, 1, "other") as [victim]:
        attack = asyncio.create_task(_open_until_refused(hostile, encode, path))
        replies: list[Reply] = []
        while not attack.done():
            for request in ((encode_open, b"models/file"), (encode_opendir, b"models/folder")):
                replies.append(await victim.ask(*request))
                if isinstance(opened := replies[-1], HandleReply):
                    await victim.ask(encode_close, opened.handle)
        assert sum(await attack) > 100
        assert {type(reply) for reply in replies} == {HandleReply}
        for user in ("other", "gvpocr"):
            async with _sessions(gateway, 10, 1, user) as newcomers:
                for newcomer in newcomers:
                    await newcomer.handle(encode_open, b"models/file")
                    await newcomer.handle(encode_opendir, b"models/folder")


async def test_all_channels_of_a_connection_share_max_handles(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(f"max_handles = 100\n{_CONFIG}")
    fill(gateway.folder / "models", {"file": b"good\n"})
    gateway.start()
    async with _sessions(gateway, 1) as sessions:
        assert sum(await _open_until_refused(sessions, encode_open, b"models/file")) == 100
        denied = gateway.wait_event("denied", reason="too_many_handles")
        assert (denied["user"], denied["used"], denied["limit"]) == ("gvpocr", 100, 100)
        sessions[0].channel.close()
        await sessions[0].end()
        assert await sessions[1].handle(encode_open, b"models/file")
    wait_for(lambda: gateway.metric("sftp_gateway_open_handles") == 0, "all handles to be closed")


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise the test process's descriptor limit to the maximum."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_a_mount_reads_5000_files_open_at_once(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    count = 5000
    gateway = make_gateway(_CONFIG)
    fill(gateway.folder / "models", {f"{n}": f"shard {n}".encode() for n in range(count)})
    gateway.start()
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr/models") as mount:
        maps = []
        for number in range(count):
            with open(mount / str(number), "rb") as file:
                maps.append(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        assert gateway.metric("sftp_gateway_open_handles", kind="file") == count
        assert [shard[:] for shard in maps] == [f"shard {n}".encode() for n in range(count)]
        for shard in maps:
            shard.close()
    wait_for(lambda: gateway.metric("sftp_gateway_open_handles") == 0, "all files to be closed")
    assert not gateway.events("denied")


def test_reaching_the_limit_is_explained_in_the_log(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(f"max_handles = 16\n{_CONFIG}")
    fill(gateway.folder / "models", {"file": b"good\n"})
    gateway.start()
    with (
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr/models") as mount,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(16):
            stack.enter_context(open(mount / "file", "rb"))
        with pytest.raises(PermissionError) as refused:
            os.open(mount / "file", os.O_RDONLY)
        assert refused.value.errno == errno.EPERM
        denied = gateway.wait_event("denied", operation="open", reason="too_many_handles")
        assert (denied["user"], denied["used"], denied["limit"]) == ("gvpocr", 16, 16)
        assert gateway.metric("sftp_gateway_denied_total", reason="too_many_handles") == 1
        stack.close()
        wait_for(lambda: (mount / "file").read_bytes() == b"good\n", "room")


def test_a_descriptor_limit_too_low_for_max_connections_is_reported(gateway: Gateway) -> None:
    _start(gateway, 200)
    assert "warning: 200 open files are enough for" in gateway.stderr


def test_the_descriptor_table_is_grown_before_serving(
    gateway: Gateway,
) -> None:
    _start(gateway)
    worker = gateway.events("worker_started")[-1]["pid"]
    status = Path(f"/proc/{worker}/status").read_text().splitlines()
    (room,) = (int(line.split()[1]) for line in status if line.startswith("FDSize:"))
    assert room >= _LIMIT
