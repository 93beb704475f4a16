"""Every request has a plan, a name and a response of the right type."""

from __future__ import annotations

import ast
import os
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import sftp_gateway
from sftp_gateway.auth import Reason
from sftp_gateway.errors import FileSystemError
from sftp_gateway.observability import vocabulary
from sftp_gateway.protocol import requests
from sftp_gateway.protocol.constants import MessageType
from sftp_gateway.server.sftp.dispatch import Dispatcher
from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served

PACKAGE = Path(sftp_gateway.__file__).parent

#: A value for each field of the requests.
VALUES: dict[str, Any] = {
    "request_id": 7,
    "path": b"/",
    "handle": b"none",
    "pflags": 1,
    "offset": 0,
    "length": 1,
    "username": b"",
    "operation": "remove",
    "target": b"/x",
    "name": "type 99",
    "algorithms": b"md5",
    "block_size": 0,
    "tagged": False,
    "uids": (0,),
    "gids": (0,),
}

ATTRS = wire.Attrs()
#: Every writing request, encoded.
WRITING = [
    wire.encode_write(1, b"h", 0, b"data"),
    wire.encode_setstat(1, b"/x", ATTRS),
    wire.encode_fsetstat(1, b"h", ATTRS),
    wire.encode_remove(1, b"/x"),
    wire.encode_mkdir(1, b"/x", ATTRS),
    wire.encode_rmdir(1, b"/x"),
    wire.encode_rename(1, b"/x", b"/y"),
    wire.encode_symlink(1, b"/x", b"/y"),
    wire.encode_posix_rename(1, b"/x", b"/y"),
    wire.encode_hardlink(1, b"/x", b"/y"),
    wire.encode_fsync(1, b"h"),
    wire.encode_lsetstat(1, b"/x", ATTRS),
    wire.encode_copy_data(1, b"h", b"h"),
]


KINDS = {
    each
    for each in vars(requests).values()
    if isinstance(each, type) and issubclass(each, requests.Request)
}
#: The classes that packets are decoded to: those without subclasses.
REQUESTS = sorted(
    (kind for kind in KINDS if not any(issubclass(each, kind) for each in KINDS - {kind})),
    key=lambda kind: kind.__name__,
)


def make_request(kind: type[requests.Request]) -> requests.Request:
    return kind(**{field.name: VALUES[field.name] for field in fields(kind)})


def words_of(call: str) -> set[str]:
    """The string literals passed to `call` as first argument in the package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                name = node.func.id if isinstance(node.func, ast.Name) else name
                if name == call:
                    found.add(node.args[0].value)
    return found


@pytest.fixture
def dispatcher(at: Served) -> Dispatcher:
    return Dispatcher(at.session._context)


# Vocabulary


def test_every_request_type_is_covered() -> None:
    assert len(REQUESTS) == 19
    assert {
        requests.OpenRequest,
        requests.ReadRequest,
        requests.WritingRequest,
        requests.UnknownRequest,
    } < set(REQUESTS)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_request_name_is_in_the_metrics_vocabulary(kind: type[requests.Request]) -> None:
    assert make_request(kind).operation in vocabulary.OPERATIONS


@pytest.mark.parametrize(
    "kind",
    [kind for kind in REQUESTS if kind not in (requests.ReadRequest, requests.ReaddirRequest)],
    ids=lambda kind: kind.__name__,
)
def test_every_request_has_a_plan(dispatcher: Dispatcher, kind: type[requests.Request]) -> None:
    with suppress(FileSystemError):  # a refusal is a valid outcome
        assert dispatcher.plan(make_request(kind)).share is None


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_request_has_a_log_entry(
    dispatcher: Dispatcher, kind: type[requests.Request]
) -> None:
    share, path = dispatcher.locate(make_request(kind))
    assert share is None
    assert path in (None, b"/")


def test_every_operation_in_the_metrics_vocabulary_is_a_request() -> None:
    decoded = [requests.decode_request(packet[4:]) for packet in WRITING]
    assert {type(request) for request in decoded} == {requests.WritingRequest}
    names = {make_request(kind).operation for kind in REQUESTS}
    names |= {request.operation for request in decoded if isinstance(request, requests.Request)}
    assert names == vocabulary.OPERATIONS


def test_every_denial_reason_is_in_the_metrics_vocabulary() -> None:
    words = words_of("Denied") | words_of("TooManyHandles") | words_of("Quota")
    assert words == vocabulary.DENIAL_REASONS.keys()


def test_every_login_refusal_is_in_the_metrics_vocabulary() -> None:
    assert {reason.value for reason in Reason} <= vocabulary.LOGIN_REASONS


def test_every_refused_command_kind_is_in_the_metrics_vocabulary() -> None:
    words = words_of("command_refused")
    assert {"forwarding", "subsystem"} <= words <= vocabulary.COMMAND_KINDS.keys()


# Responses


@pytest.mark.parametrize("number", range(256))
async def test_a_message_of_any_type_is_answered_or_ends_the_session(
    at: Served, number: int
) -> None:
    # Enough zeros for the fields of any request: empty strings, no attributes.
    at.feed(wire.packet(number, wire.uint32(77), bytes(64)))
    if number == MessageType.INIT:
        assert at.channel.closed
        return
    reply = await at.answered(77)
    assert reply.request_id == 77
    assert at.failures == []


async def test_every_request_gets_a_response_of_the_right_type(at: Served, root: Path) -> None:
    os.symlink("file", root / "link")
    file, folder = await at.open(b"share/file"), await at.opendir(b"share")
    path, link = HOME + b"share/file", HOME + b"share/link"
    for encode, values, kind in [
        (wire.encode_lstat, (link,), wire.AttrsReply),
        (wire.encode_stat, (link,), wire.AttrsReply),
        (wire.encode_fstat, (file,), wire.AttrsReply),
        (wire.encode_fstat, (folder,), wire.AttrsReply),
        (wire.encode_readlink, (link,), wire.NameReply),
        (wire.encode_realpath, (b".",), wire.NameReply),
        (wire.encode_expand_path, (b"~/x",), wire.NameReply),
        (wire.encode_home_directory, (b"worker",), wire.NameReply),
        (wire.encode_statvfs, (path,), wire.ExtendedReply),
        (wire.encode_statvfs, (b"/",), wire.ExtendedReply),
        (wire.encode_fstatvfs, (file,), wire.ExtendedReply),
        (wire.encode_fstatvfs, (folder,), wire.ExtendedReply),
        (wire.encode_limits, (), wire.ExtendedReply),
        (wire.encode_readdir, (folder,), wire.NameReply),
        (wire.encode_read, (file, 0, 5), wire.DataReply),
        (wire.encode_close, (file,), wire.StatusReply),
        (wire.encode_close, (folder,), wire.StatusReply),
    ]:
        assert type(await at.ask(encode, *values)) is kind
    assert {line["result"] for line in at.events("request")} == {"ok"}


# Names


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        (b"~", b"/home/worker"),
        (b"~/", b"/home/worker"),
        (b"~/a/../b", b"/home/worker/b"),
        (b"~worker/a", b"/home/worker/a"),
        (b"a", b"/home/worker/a"),
        (b"/a/~", b"/a/~"),
        (b"", b"/home/worker"),
        (b"~/../../..", b"/"),
    ],
)
async def test_expand_path_uses_this_users_home(at: Served, path: bytes, expanded: bytes) -> None:
    reply = await at.ask(wire.encode_expand_path, path)
    assert [name.filename for name in reply.names] == [expanded]


@pytest.mark.parametrize("user", [b"root", b"work", b"worker2", b"\xff", b"worker/.."])
async def test_another_users_home_is_not_found(at: Served, user: bytes) -> None:
    for encode, value in [
        (wire.encode_home_directory, user),
        (wire.encode_expand_path, b"~" + user.partition(b"/")[0] + b"x/y"),
    ]:
        assert (await at.ask(encode, value)).code == wire.Status.NO_SUCH_FILE


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"", b"/home/worker"),
        (b".", b"/home/worker"),
        (b"..", b"/home"),
        (b"/no/such", b"/no/such"),
    ],
)
async def test_realpath_is_lexical(at: Served, path: bytes, found: bytes) -> None:
    (name,) = (await at.ask(wire.encode_realpath, path)).names
    assert name.filename == found
    assert name.attrs == wire.Attrs()


async def test_a_path_with_a_nul_byte_is_rejected(at: Served) -> None:
    for encode in (wire.encode_realpath, wire.encode_lstat, wire.encode_open, wire.encode_statvfs):
        reply = await at.ask(encode, HOME + b"share/file\0")
        assert reply.code == wire.Status.NO_SUCH_FILE


# File systems


async def test_statvfs_reports_a_read_only_file_system(at: Served, root: Path) -> None:
    statvfs = wire.decode_statvfs(await at.ask(wire.encode_statvfs, HOME + b"share/file"))
    real = os.statvfs(root)
    assert statvfs.f_flag == 0x1 | 0x2
    assert (statvfs.f_bsize, statvfs.f_frsize, statvfs.f_blocks) == (
        real.f_bsize,
        real.f_frsize,
        real.f_blocks,
    )
    assert statvfs.f_namemax == real.f_namemax


async def test_statvfs_of_the_root_works_before_any_share_was_checked(at: Served) -> None:
    statvfs = wire.decode_statvfs(await at.ask(wire.encode_statvfs, b"/"))
    assert (statvfs.f_blocks, statvfs.f_namemax, statvfs.f_flag) == (0, 255, 3)


async def test_limits_report_the_number_of_handles(at: Served) -> None:
    limits = wire.decode_limits(await at.ask(wire.encode_limits))
    assert limits.max_open_handles == 1024


# Folders


async def test_a_page_of_names_fits_into_an_sshfs_packet(at: Served, root: Path) -> None:
    names = {b"%03d" % number + b"n" * 250 for number in range(300)}
    for name in names:
        (root / os.fsdecode(name)).touch()
    handle = await at.opendir(b"share")
    listed: list[bytes] = []
    before = at.channel.written
    while isinstance(reply := await at.ask(wire.encode_readdir, handle), wire.NameReply):
        assert at.channel.written - before <= 64 * 1024 + 13
        before = at.channel.written
        listed += [name.filename for name in reply.names]
    assert reply.code == wire.Status.EOF
    assert sorted(listed) == sorted(names | {b".", b"..", b"file"})


async def test_a_virtual_directory_is_neither_a_file_nor_a_link(
    at: Served,
) -> None:
    opened = await at.ask(wire.encode_open, b"/home")
    assert (opened.code, opened.message) == (wire.Status.FAILURE, "Is a directory")
    read = await at.ask(wire.encode_readlink, b"/home")
    assert (read.code, read.message) == (wire.Status.FAILURE, "Not a symbolic link")


@pytest.mark.parametrize(
    "flags",
    [
        wire.Open.WRITE,
        wire.Open.READ | wire.Open.WRITE,
        wire.Open.APPEND,
        wire.Open.READ | wire.Open.CREAT,
        wire.Open.READ | wire.Open.TRUNC,
        wire.Open.READ | wire.Open.EXCL,
    ],
)
async def test_an_open_for_writing_is_denied(at: Served, flags: wire.Open) -> None:
    reply = await at.ask(wire.encode_open, HOME + b"share/file", flags)
    assert reply.code == wire.Status.PERMISSION_DENIED
    (line,) = at.events("denied")
    assert (line["operation"], line["reason"], line["share"]) == ("open", "read_only", "share")


@pytest.mark.parametrize("flags", [0, 0x40, 0xFFFFFFC0, 0xFFFFFFC1])
async def test_unknown_open_flags_are_ignored(at: Served, flags: int) -> None:
    assert isinstance(await at.ask(wire.encode_open, HOME + b"share/file", flags), wire.HandleReply)


async def test_fstat_of_a_network_file_runs_on_a_thread(
    at: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "_local", False)
    share.cold = {"lstat"}
    handle = await at.open(b"share/file")
    for _ in range(8):
        at.send(wire.encode_lstat, HOME + b"share/file")
    asked = [at.send(wire.encode_fstat, handle), at.send(wire.encode_fstatvfs, handle)]
    assert at.pools.depths()["share", "metadata"] == 10
    share.gate.set()
    attributes, _ = await at.all_answered(asked)
    assert attributes.attrs.size == 100_000
