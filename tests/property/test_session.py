"""Whatever a client asks in whatever order, it gets one answer to each request, and a right one."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support import sftp_wire as wire
from tests.support.gateway import PATIENCE
from tests.support.session import HOME, GatedShare, Served
from tests.unit.vfs.helpers import descriptors

NOISE = random.Random(1759)
FILES = {"empty": b"", "small": NOISE.randbytes(100), "big": NOISE.randbytes(600_000)}
#: So many that a listing takes several answers.
LISTED = {f"{number:03}{'n' * 200}" for number in range(200)}
CAPACITY = 8

Check = Callable[[Any], None]

names = st.sampled_from([*FILES, "folder", "missing", "small/below", ""])
some = st.integers(0, 2**16)
offsets = st.integers(0, 600_100) | st.sampled_from([0, 99, 100, 599_999, 600_000, 2**64 - 1])
lengths = st.sampled_from([0, 1, 100, 4096, 32_768, 262_144, 2**32 - 1])
colds = st.sets(st.sampled_from(["read", "lstat", "open_file", "open_directory"]))


def is_status(code: wire.Status) -> Check:
    def check(reply: Any) -> None:
        assert isinstance(reply, wire.StatusReply)
        assert reply.code == code

    return check


class Session(RuleBasedStateMachine):
    """A client of one session, whose disk and channel do as they like."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._top = Path(self._folder.name).resolve()
        root = self._top / "share"
        (root / "folder").mkdir(parents=True)
        for name, content in FILES.items():
            (root / name).write_bytes(content)
        for name in LISTED:
            (root / "folder" / name).touch()
        self._share = GatedShare(root)
        self._share.gate.set()
        self._before = self._descriptors()
        self._runner = asyncio.Runner()
        self._at: Served = self._on_loop(lambda: Served([self._share], capacity=CAPACITY))
        self._unsent = wire.encode_init()
        self._lost = False
        #: What each request that has no answer yet is to be answered with.
        self._owed: dict[int, Check] = {}
        self._taken = 0
        self._opens = 0
        #: Of each open handle what it is of, and of those that were closed.
        self._files: dict[bytes, str] = {}
        self._folders: dict[bytes, str] = {}
        self._closed: list[bytes] = []
        self._listings: dict[bytes, deque[int]] = {}
        self._listed: dict[bytes, list[str]] = {}

    def _descriptors(self) -> int:
        return sum(target.startswith(str(self._top)) for target in descriptors().values())

    def _on_loop(self, act: Callable[[], Any]) -> Any:
        """Do something on the event loop, and let it have a few turns."""

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
        return request_id

    def _path(self, name: str) -> bytes:
        return HOME + f"share/{name}".encode()

    @rule(count=st.integers(0, 200))
    @precondition(lambda self: not self._lost)
    def send_some(self, count: int) -> None:
        """A piece of what waits, cut anywhere."""
        piece, self._unsent = self._unsent[:count], self._unsent[count:]
        self._on_loop(lambda: self._at.feed(piece))

    @rule()
    @precondition(lambda self: not self._lost)
    def send_all(self) -> None:
        self.send_some(len(self._unsent))

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

    @rule(number=some, offset=offsets, length=lengths)
    @precondition(lambda self: self._files)
    def read(self, number: int, offset: int, length: int) -> None:
        handle = list(self._files)[number % len(self._files)]
        expected = FILES[self._files[handle]][offset : offset + min(length, 262_144)]

        def check(reply: Any) -> None:
            if expected or not length:
                assert reply.data == expected
            else:
                assert reply.code == wire.Status.EOF

        self._ask(check, wire.encode_read, handle, offset, length)

    @rule(number=some)
    @precondition(lambda self: self._folders)
    def list_folder(self, number: int) -> None:
        handle = list(self._folders)[number % len(self._folders)]
        name = self._folders[handle]

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
    @precondition(lambda self: self._files or self._folders)
    def close(self, number: int) -> None:
        handles = [*self._files, *self._folders]
        handle = handles[number % len(handles)]
        self._files.pop(handle, None)
        self._folders.pop(handle, None)
        self._closed.append(handle)
        self._ask(is_status(wire.Status.OK), wire.encode_close, handle)

    @rule(number=some)
    @precondition(lambda self: self._files)
    def stat_open_file(self, number: int) -> None:
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

    @rule(data=st.data(), garbage=st.binary(max_size=3) | st.binary(min_size=5, max_size=256))
    def use_what_is_no_handle(self, data: st.DataObject, garbage: bytes) -> None:
        handle = data.draw(st.sampled_from([garbage, *self._closed]))
        encode, *values = data.draw(
            st.sampled_from(
                [
                    (wire.encode_read, 0, 10),
                    (wire.encode_readdir,),
                    (wire.encode_fstat,),
                    (wire.encode_fstatvfs,),
                    (wire.encode_close,),
                ]
            )
        )
        self._ask(is_status(wire.Status.FAILURE), encode, handle, *values)

    @rule(name=names)
    def ask_what_is_refused(self, name: str) -> None:
        self._ask(is_status(wire.Status.PERMISSION_DENIED), wire.encode_remove, self._path(name))
        self._ask(is_status(wire.Status.OP_UNSUPPORTED), wire.encode_extended, b"unknown")

    # What happens to it

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

    @rule()
    @precondition(lambda self: not self._lost)
    def lose_the_connection(self) -> None:
        self._lost = True
        self._on_loop(self._at.session.connection_lost)

    # What has to be true

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
            self._runner.run(self._at.lanes.idle())
            assert self._descriptors() == self._before
            assert self._at.metric("sftp_gateway_open_handles") == 0
            self.no_more_is_open_than_may_be()
        finally:
            self._on_loop(self._at.close)
            self._share.close()
            self._runner.close()
            self._folder.cleanup()

    def _answer_everything(self) -> None:
        self._at.congested = False
        self._at.channel.room = None
        self._on_loop(self._at.session.resume_writing)
        self.send_all()
        self._runner.run(self._nothing_owed())

    async def _nothing_owed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                self.every_answer_is_the_right_one_and_the_only_one()
                if not self._owed:
                    return
                self._at.channel.changed.clear()
                await self._at.channel.changed.wait()


TestSession = Session.TestCase
TestSession.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)
