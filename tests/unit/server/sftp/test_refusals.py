"""Refused and failed requests get plain messages and do not end the session."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import sftp_wire as wire
from tests.support.session import HOME, GatedShare, Served, served
from tests.unit.server.conftest import CONTENT


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("an internal detail"), "Failure"),
        (OSError(errno.EIO, "an internal detail"), "Input/output error"),
        (OSError(errno.ENOMEM, "an internal detail"), "Failure"),
        (MemoryError("an internal detail"), "Failure"),
    ],
)
async def test_an_unexpected_error_in_an_operation_is_a_failure(
    share: GatedShare, root: Path, failure: Exception, message: str, cold: bool
) -> None:
    (root / "file").write_bytes(CONTENT)
    with served(share, status_shares=["share"]) as at:
        handle = await at.open(b"share/file")
        share.failure, share.cold = failure, {"lstat", "read"} if cold else set()
        share.gate.set()
        for encode, values in [
            (wire.encode_lstat, (HOME + b"share/file",)),
            (wire.encode_read, (handle, 0, 10)),
        ]:
            reply = await at.ask(encode, *values)
            assert (reply.code, reply.message) == (wire.Status.FAILURE, message)
        assert at.failures == [failure, failure]
        share.failure = None
        assert (await at.ask(wire.encode_read, handle, 0, 10)).data == CONTENT[:10]
        results = [line["result"] for line in at.events("request")]
        assert results[-3:] == ["failure", "failure", "ok"]


async def test_an_unexpected_error_in_dispatch_is_a_failure(
    at: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at.tree, "home", None)
    reply = await at.ask(wire.encode_home_directory, b"")
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert [type(error) for error in at.failures] == [AttributeError]
    monkeypatch.undo()
    assert isinstance(await at.ask(wire.encode_home_directory, b""), wire.NameReply)


async def test_an_unexpected_error_in_encoding_is_a_failure(
    at: Served, share: GatedShare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "readlink", lambda path, wait: "text, not bytes")
    reply = await at.ask(wire.encode_readlink, HOME + b"share/file")
    assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert [type(error) for error in at.failures] == [TypeError]
    assert isinstance(await at.ask(wire.encode_stat, b"/"), wire.AttrsReply)


async def test_a_handle_is_closed_if_its_response_cannot_be_encoded(
    at: Served, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()

    def broken(opened: object) -> bytes:
        raise RuntimeError("an internal detail")

    monkeypatch.setattr(at.handles, "add", broken)
    for encode, path in [(wire.encode_open, b"share/file"), (wire.encode_opendir, b"share")]:
        reply = await at.ask(encode, HOME + path)
        assert (reply.code, reply.message) == (wire.Status.FAILURE, "Failure")
    assert descriptors() == before


# Denied requests


@pytest.mark.parametrize(
    ("encode", "values"),
    [
        (wire.encode_open, (HOME + b"share/new", wire.Open.WRITE | wire.Open.CREAT)),
        (wire.encode_remove, (HOME + b"share/file",)),
        (wire.encode_rename, (HOME + b"share/file", HOME + b"share/other")),
        (wire.encode_mkdir, (HOME + b"share/new", wire.Attrs())),
        (wire.encode_write, (b"\0\0\0\0", 0, b"data")),
        (wire.encode_fsync, (b"no such handle",)),
    ],
)
async def test_every_writing_request_is_denied_and_logged(
    at: Served, root: Path, encode: Callable[..., bytes], values: tuple[Any, ...]
) -> None:
    reply = await at.ask(encode, *values)
    assert (reply.code, reply.message) == (wire.Status.PERMISSION_DENIED, "Permission denied")
    (line,) = at.events("denied")
    assert line["reason"] == "read_only"
    assert at.metric("sftp_gateway_denied_total", reason="read_only") == 1
    assert os.listdir(root) == ["file"]
    assert at.failures == []


async def test_a_denied_write_names_its_open_file(at: Served) -> None:
    handle = await at.open(b"share/file")
    await at.ask(wire.encode_write, handle, 0, b"data")
    (line,) = at.events("denied")
    assert (line["share"], line["path"]) == ("share", "/home/worker/share/file")


async def test_a_denied_rename_logs_both_paths(at: Served) -> None:
    await at.ask(wire.encode_rename, HOME + b"share/file", b"/etc/\xff")
    (line,) = at.events("denied")
    assert (line["path"], line["target"]) == ("/home/worker/share/file", "/etc/\\xff")


async def test_an_unknown_request_is_unsupported(at: Served) -> None:
    for encode, values in [
        (wire.encode_extended, (b"unknown@example.org",)),
        (lambda request_id: wire.packet(99, wire.uint32(request_id)), ()),
    ]:
        reply = await at.ask(encode, *values)
        assert (reply.code, reply.message) == (
            wire.Status.OP_UNSUPPORTED,
            "Operation unsupported",
        )
    assert at.events("denied") == []
    assert at.failures == []
