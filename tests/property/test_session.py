"""For any sequence of requests, a client gets exactly one correct reply to each."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support import sftp_wire as wire
from tests.support.gateway import TIMEOUT
from tests.support.session import HOME, GatedShare, Served
from tests.unit.vfs.helpers import descriptors

NOISE = random.Random(1759)
FILES = {"empty": b"", "small": NOISE.randbytes(100), "big": NOISE.randbytes(600_000)}
#: Enough that a listing takes several replies.
LISTED = {f"{number:03}{'n' * 200}" for number in range(200)}
CAPACITY = 8

Check = Callable[[Any], None]

names = st.sampled_from([*FILES, "folder", "missing", "small/below", ""])
some = st.integers(0, 2**16)
offsets = st.integers(0, 600_100) | st.sampled_from([0, 99, 100, 599_999, 600_000, 2**64 - 1])
lengths = st.sampled_from([0, 1, 100, 4096, 32_768, 262_144, 2**32 - 1])
#: Never four bytes long, like the server's handles.
garbage = st.binary(max_size=3) | st.binary(min_size=5, max_size=256)
USES = (
    (wire.encode_read, 0, 10),
    (wire.encode_readdir,),
    (wire.encode_fstat,),
    (wire.encode_fstatvfs,),
    (wire.encode_close,),
)
colds = st.sets(st.sampled_from(["read", "lstat", "open_file", "open_directory"]))


def is_status(code: wire.Status) -> Check:
    def check(reply: Any) -> None:
        assert isinstance(reply, wire.StatusReply)
        assert reply.code == code

    return check


class Session(RuleBasedStateMachine):
    """A client of one session, whose disk and channel do as they like.

    When answers come is up to threads, so nothing that is drawn depends on what has come.
    """

    def __init__(self, root: Path) -> None:
        """`root` is the share's folder."""
        super().__init__()
        self._root = root
        self._share = GatedShare(root)
        self._share.gate.set()
        self._before = self._descriptors()
        self._runner = asyncio.Runner()
        self._at: Served = self._on_loop(lambda: Served([self._share], capacity=CAPACITY))
        self._unsent = wire.encode_init()
        self._held_back = False
        self._lost = False
        #: The expected reply of each pending request.
        self._owed: dict[int, Check] = {}
        self._taken = 0
        self._opens = 0
        #: The target of each open handle, and of closed ones.
        self._files: dict[bytes, str] = {}
        self._folders: dict[bytes, str] = {}
        self._closed: list[bytes] = []
        self._listings: dict[bytes, deque[int]] = {}
        self._listed: dict[bytes, list[str]] = {}

    def _descriptors(self) -> int:
        return sum(target.startswith(str(self._root)) for target in descriptors().values())

    def _on_loop(self, act: Callable[[], Any]) -> Any:
        """Run something on the event loop, and a few of its iterations."""

        async def run() -> Any:
            result = act()
            for _ in range(5):
                await asyncio.sleep(0)
            return result

        return self._runner.run(run())

    # The client

    def _ask(self, check: Check, encode: Callable[..., bytes], *values: Any) -> int:
        request_id, packet = self._at.prepare(encode, *values)
        self._owed[request_id] = check
        self._unsent += packet
        if not self._held_back:
            self._send(len(self._unsent))
        return request_id

    def _send(self, count: int) -> None:
        piece, self._unsent = self._unsent[:count], self._unsent[count:]
        if not self._lost:
            self._on_loop(lambda: self._at.feed(piece))

    def _path(self, name: str) -> bytes:
        return HOME + f"share/{name}".encode()

    @initialize()
    def open_the_first(self) -> None:
        self.open("big")
        self.open("small")
        self.open_folder("folder")

    @rule()
    def hold_back(self) -> None:
        self._held_back = True

    @rule()
    def send_at_once(self) -> None:
        self._held_back = False
        self._send(len(self._unsent))

    @rule(count=st.integers(0, 200))
    def send_some(self, count: int) -> None:
        """Send part of the held-back bytes, split anywhere."""
        self._send(count)

    @rule()
    def wait_a_little(self) -> None:
        self._on_loop(lambda: None)

    # Requests

    @rule(name=names)
    def open(self, name: str) -> None:
        self._opens += 1

        def check(reply: Any) -> None:
            if isinstance(reply, wire.HandleReply):
                assert name in FILES
                assert reply.handle not in {*self._files, *self._folders, *self._closed}
                self._files[reply.handle] = name
            elif name in FILES:
                assert reply.message == "Too many open handles"
                assert self._opens > CAPACITY
            else:
                assert reply.message in (
                    "Too many open handles" if self._opens > CAPACITY else "",
                    "Is a directory" if name in ("folder", "") else "No such file",
                )

        self._ask(check, wire.encode_open, self._path(name))

    @rule(name=names)
    def open_folder(self, name: str) -> None:
        self._opens += 1

        def check(reply: Any) -> None:
            if isinstance(reply, wire.HandleReply):
                assert name in ("folder", "")
                assert reply.handle not in {*self._files, *self._folders, *self._closed}
                self._folders[reply.handle] = name
                self._listings[reply.handle] = deque()
                self._listed[reply.handle] = []
            else:
                assert name not in ("folder", "") or self._opens > CAPACITY

        self._ask(check, wire.encode_opendir, self._path(name))

    @rule(number=some, offset=offsets, length=lengths, count=st.integers(1, 12))
    def read_ahead(self, number: int, offset: int, length: int, count: int) -> None:
        """Pipelined sequential READs, as from sshfs."""
        if not self._files:
            return
        handle = list(self._files)[number % len(self._files)]
        for _ in range(count):
            self._read(handle, min(offset, 2**64 - 1), length)
            offset += length

    def _read(self, handle: bytes, offset: int, length: int) -> None:
        expected = FILES[self._files[handle]][offset : offset + min(length, 262_144)]

        def check(reply: Any) -> None:
            if expected or not length:
                assert reply.data == expected
            else:
                assert reply.code == wire.Status.EOF

        self._ask(check, wire.encode_read, handle, offset, length)

    @rule(number=some, count=st.integers(1, 6))
    def list_ahead(self, number: int, count: int) -> None:
        """Pipelined READDIRs."""
        if not self._folders:
            return
        handle = list(self._folders)[number % len(self._folders)]
        for _ in range(count):
            self._list(handle, self._folders[handle])

    def _list(self, handle: bytes, name: str) -> None:

        def check(reply: Any) -> None:
            assert self._listings[handle].popleft() == reply.request_id
            listed = self._listed[handle]
            if isinstance(reply, wire.NameReply):
                assert reply.names
                listed += [entry.filename.decode() for entry in reply.names]
                return
            assert reply.code == wire.Status.EOF
            assert len(listed) == len(set(listed))
            inside = LISTED if name == "folder" else {*FILES, "folder"}
            assert set(listed) == inside | {".", ".."}

        self._listings[handle].append(self._ask(check, wire.encode_readdir, handle))

    @rule(number=some)
    def close(self, number: int) -> None:
        handles = [*self._files, *self._folders]
        if not handles:
            return
        handle = handles[number % len(handles)]
        self._files.pop(handle, None)
        self._folders.pop(handle, None)
        self._closed.append(handle)
        self._ask(is_status(wire.Status.OK), wire.encode_close, handle)

    @rule(number=some)
    def stat_open_file(self, number: int) -> None:
        if not self._files:
            return
        handle, name = list(self._files.items())[number % len(self._files)]

        def check(reply: Any) -> None:
            assert reply.attrs.size == len(FILES[name])

        self._ask(check, wire.encode_fstat, handle)

    @rule(name=names, encode=st.sampled_from([wire.encode_lstat, wire.encode_stat]))
    def look(self, name: str, encode: Callable[..., bytes]) -> None:
        def check(reply: Any) -> None:
            if name in FILES:
                assert reply.attrs.size == len(FILES[name])
            elif name in ("folder", ""):
                assert reply.attrs.permissions & 0o170000 == 0o040000
            else:
                assert reply.code == wire.Status.NO_SUCH_FILE

        self._ask(check, encode, self._path(name))

    @rule(use=st.sampled_from(USES), number=some, garbage=garbage)
    def use_what_is_no_handle(
        self, use: tuple[Callable[..., bytes], *tuple[int, ...]], number: int, garbage: bytes
    ) -> None:
        encode, *values = use
        handles = [garbage, *self._closed]
        handle = handles[number % len(handles)]
        self._ask(is_status(wire.Status.FAILURE), encode, handle, *values)

    @rule(name=names)
    def ask_what_is_refused(self, name: str) -> None:
        self._ask(is_status(wire.Status.PERMISSION_DENIED), wire.encode_remove, self._path(name))
        self._ask(is_status(wire.Status.OP_UNSUPPORTED), wire.encode_extended, b"unknown")

    # Events

    @rule(cold=colds)
    def change_the_disk(self, cold: set[str]) -> None:
        self._share.cold = cold

    @rule()
    def hang_the_disk(self) -> None:
        self._share.gate.clear()

    @rule()
    def free_the_disk(self) -> None:
        self._share.gate.set()

    @rule(room=st.none() | st.integers(0, 600_000))
    @precondition(lambda self: not self._lost)
    def change_the_window(self, room: int | None) -> None:
        self._at.channel.room = None if room is None else self._at.channel.written + room
        self._on_loop(self._at.session.resume_writing)

    @rule(congested=st.booleans())
    @precondition(lambda self: not self._lost)
    def change_the_log(self, congested: bool) -> None:
        self._at.congested = congested
        self._on_loop(self._at.session.pump)

    @rule(now=st.integers(0, 9))
    @precondition(lambda self: not self._lost)
    def lose_the_connection(self, now: int) -> None:
        if now == 9:  # seldom: nothing happens to a session behind it
            self._lost = True
            self._on_loop(self._at.session.connection_lost)

    # Invariants

    @invariant()
    def every_answer_is_the_right_one_and_the_only_one(self) -> None:
        replies = self._at.receive()
        for reply in replies[self._taken :]:
            if isinstance(reply, wire.VersionReply):
                assert reply is replies[0]
            else:
                self._owed.pop(reply.request_id)(reply)
        self._taken = len(replies)

    @invariant()
    def no_more_is_open_than_may_be(self) -> None:
        assert len(self._at.handles) <= CAPACITY
        assert self._at.failures == []

    def teardown(self) -> None:
        try:
            self._share.gate.set()
            if not self._lost:
                self._answer_everything()
            self._on_loop(self._at.session.connection_lost)
            self._runner.run(self._at.pools.idle())
            assert self._descriptors() == self._before
            assert self._at.metric("sftp_gateway_open_handles") == 0
            self.no_more_is_open_than_may_be()
        finally:
            self._on_loop(self._at.close)
            self._share.close()
            self._runner.close()

    def _answer_everything(self) -> None:
        self._at.congested = False
        self._at.channel.room = None
        self._on_loop(self._at.session.resume_writing)
        self._send(len(self._unsent))
        self._runner.run(self._nothing_owed())

    async def _nothing_owed(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            while True:
                self.every_answer_is_the_right_one_and_the_only_one()
                if not self._owed:
                    return
                self._at.channel.changed.clear()
                await self._at.channel.changed.wait()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    for name in LISTED:
        (tmp_path / "folder" / name).touch()
    return tmp_path


def test_every_request_gets_one_reply_and_nothing_stays_open(root: Path) -> None:
    run_state_machine_as_test(
        lambda: Session(root),
        settings=settings(deadline=None, max_examples=80, stateful_step_count=40),
    )
