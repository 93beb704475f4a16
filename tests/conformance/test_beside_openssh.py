"""Identical requests to the gateway and to OpenSSH's internal-sftp, on the same files."""

from __future__ import annotations

import itertools
import os
import random
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from tests.support.gateway import Gateway, fill
from tests.support.live import live
from tests.support.old_server import Both, beside_openssh
from tests.support.sftp_wire import (
    AttrsReply,
    HandleReply,
    NameReply,
    Reply,
    Status,
    StatusReply,
    encode_close,
    encode_lstat,
    encode_open,
    encode_opendir,
    encode_readdir,
    encode_readlink,
    encode_realpath,
    encode_stat,
)

pytestmark = pytest.mark.integration

#: The content of `models`, besides files.
LINKS = {
    "latest": "v2",
    "flink": "file",
    "dangling": "nothing",
    "jump": "deep/a",
    "v2/up": "../file",
    "deep/a/over": "../../v2",
}
NAMES = ("latest", "v2", "file", "flink", "dangling", "jump", "deep", "a", "up", "over", "inner")
PARTS = (*NAMES, "..", "..", ".", "")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A gateway and an sshd that serve the same folders to the same user."""
    top = tmp_path_factory.mktemp("both")
    shares = top / "data"
    fill(shares / "models", {"file": b"file", "v2/inner": b"inner", "deep/a/inner": b"deep"})
    (shares / "Bhushanji").mkdir()
    for name, target in LINKS.items():
        (shares / "models" / name).symlink_to(target)
    for path, when in ((shares / "models", 10**9), (shares / "Bhushanji", 1_234_567_890)):
        os.utime(path, (when, when))
    os.chown(shares / "models", 54100, 1234)
    (shares / "models").chmod(0o755)
    with beside_openssh(top, links="keep") as both:
        yield both


def answer(reply: Reply) -> object:
    """A reply's type and what it contains about the file."""
    match reply:
        case AttrsReply(attrs=attrs):
            return stat.S_IFMT(attrs.permissions or 0), attrs.size, attrs.mtime
        case NameReply(names=[name]):
            return name.filename
        case HandleReply():
            return "opened"
        case StatusReply(code=code):
            return code
    raise AssertionError(reply)


async def ask(server: Gateway, requests: Sequence[tuple[Any, ...]]) -> list[object]:
    """The replies to all requests; opened handles are closed."""
    answers: list[object] = []
    async with live(server) as session:
        for batch in _batched(requests, 50):
            replies = await session.ask_all(batch)
            answers += map(answer, replies)
            opened = [r.handle for r in replies if isinstance(r, HandleReply)]
            await session.ask_all([(encode_close, handle) for handle in opened])
    return answers


def _batched(requests: Sequence[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    for start in range(0, len(requests), size):
        yield list(requests[start : start + size])


def spellings() -> list[bytes]:
    """Paths below `models` that do not leave it lexically."""
    chosen = random.Random(31)
    found = {parts for size in (1, 2) for parts in itertools.product(PARTS, repeat=size)}
    found |= {tuple(chosen.choices(PARTS, k=size)) for size in (3, 4, 5) for _ in range(400)}

    def stays(parts: tuple[str, ...]) -> bool:
        depths = itertools.accumulate(
            -1 if part == ".." else 0 if part in ("", ".") else 1 for part in parts
        )
        return min(depths) >= 0

    return sorted(("models/" + "/".join(parts)).encode() for parts in found if stays(parts))


#: Deliberate differences, with reasons.
DIFFERENT: dict[Callable[..., bytes], dict[tuple[object, object], str]] = {
    encode_open: {(Status.FAILURE, "opened"): "a folder is refused at OPEN, not at its first READ"},
    encode_readlink: {
        (Status.FAILURE, Status.BAD_MESSAGE): "not a link: BAD_MESSAGE says no more",
        (Status.PERMISSION_DENIED, b"../../v2"): "behind a link, its text leads out of the share",
    },
}


@pytest.mark.parametrize(
    "encode",
    [encode_stat, encode_lstat, encode_opendir, encode_open, encode_readlink],
    ids=["stat", "lstat", "opendir", "open", "readlink"],
)
async def test_every_spelling_of_a_path_resolves_as_in_openssh(
    both: Both, encode: Callable[..., bytes]
) -> None:
    paths = spellings()
    requests = [(encode, path) for path in paths]
    ours, theirs = [await ask(server, requests) for server in both]
    allowed = DIFFERENT.get(encode, {})
    different = {
        path: pair
        for path, *pair in zip(paths, ours, theirs, strict=True)
        if pair[0] != pair[1] and tuple(pair) not in allowed
    }
    assert different == {}
    assert len({*map(str, theirs)}) > 1


async def test_realpath_resolves_links_as_in_openssh(both: Both) -> None:
    paths = spellings()
    ours, theirs = [await ask(server, [(encode_realpath, p) for p in paths]) for server in both]
    there = await ask(both.openssh, [(encode_stat, path) for path in paths])
    for path, mine, his, found in zip(paths, ours, theirs, there, strict=True):
        if isinstance(found, tuple):
            assert mine == his, path
        else:  # nothing is there: the text, where OpenSSH may know no answer
            assert isinstance(mine, bytes), path
            assert mine.startswith(b"/home/gvpocr/models"), path


async def names(server: Gateway, path: bytes) -> dict[bytes, tuple[object, ...]]:
    """Kind, permissions, owner and time of each entry of a folder."""
    async with live(server) as session:
        handle = await session.handle(encode_opendir, path)
        reply = await session.ask(encode_readdir, handle)
    assert isinstance(reply, NameReply)
    return {name.filename: _shown(name.attrs) for name in reply.names}


def _shown(attrs: Any) -> tuple[object, ...]:
    return attrs.permissions, attrs.uid, attrs.gid, attrs.mtime, attrs.size


async def test_the_home_folder_lists_shares_like_lstat_and_openssh(both: Both) -> None:
    listed, theirs = await names(both.gateway, b"."), await names(both.openssh, b".")
    for share in (b"models", b"Bhushanji", b"newsletters"):
        for encode in (encode_lstat, encode_stat):
            async with live(both.gateway) as session:
                reply = await session.ask(encode, share)
            assert isinstance(reply, AttrsReply)
            assert listed[share] == _shown(reply.attrs)
        assert listed[share] == theirs[share]
    assert listed[b"models"][1:3] == (54100, 1234)
    assert listed[b"models"][3] == 10**9
