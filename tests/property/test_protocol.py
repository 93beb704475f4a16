"""The protocol with arbitrary values and bytes: both codecs agree; only ProtocolError is raised."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import chain, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol import requests as ours
from sftp_gateway.protocol.attributes import longname
from sftp_gateway.protocol.constants import (
    MAX_PACKET_LENGTH,
    StatusCode,
)
from sftp_gateway.protocol.framing import FrameReader
from sftp_gateway.protocol.responses import (
    DATA_HEADER,
    AttrsResponse,
    HandleResponse,
    LimitsResponse,
    NameResponse,
    StatusResponse,
    StatvfsResponse,
    VersionResponse,
    name_entry,
)
from sftp_gateway.vfs.attributes import Attributes
from tests.support import sftp_wire as wire

# A busy machine is not a failure.
unhurried = settings(deadline=None)

uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
request_ids = uint32
handles = st.binary(max_size=256)
ids = st.lists(uint32, max_size=5).map(tuple)
paths = st.binary(max_size=300) | st.text(max_size=40).map(str.encode)
pairs = st.lists(st.tuples(paths, paths), max_size=3).map(tuple)
file_attributes = st.builds(Attributes, uint64, uint32, uint32, uint32, uint32, uint32)


@st.composite
def attrs(draw: st.DrawFn) -> wire.Attrs:
    """Any attributes that a client may send, each optional."""
    uid, gid = draw(st.tuples(uint32, uint32) | st.just((None, None)))
    atime, mtime = draw(st.tuples(uint32, uint32) | st.just((None, None)))
    optional = (draw(st.none() | uint64), uid, gid, draw(st.none() | uint32), atime, mtime)
    return wire.Attrs(*optional, extended=draw(pairs))


# From client to server

Case = tuple[bytes, ours.AnyRequest]


def case(
    encode: Callable[..., bytes],
    expected: Callable[..., ours.AnyRequest],
    *arguments: st.SearchStrategy[object],
) -> st.SearchStrategy[Case]:
    """A request encoded by the client's codec, and what the server must decode."""
    return st.tuples(request_ids, *arguments).map(lambda drawn: (encode(*drawn), expected(*drawn)))


def writing(operation: str, *fields: str) -> Callable[..., ours.AnyRequest]:
    """A WritingRequest whose `fields` name the arguments by position; "" is skipped."""

    def expected(request_id: int, *values: object) -> ours.AnyRequest:
        known = {field: value for field, value in zip(fields, values, strict=False) if field}
        return ours.WritingRequest(request_id, operation, **known)

    return expected


def opened(request_id: int, path: bytes, flags: int, _attrs: object) -> ours.AnyRequest:
    return ours.OpenRequest(request_id, path, flags & 0x3F)


def copied(request_id: int, source: bytes, target: bytes, offset: int, length: int) -> bytes:
    return wire.encode_copy_data(request_id, source, target, offset=offset, length=length)


def named(extension: bytes) -> Callable[..., bytes]:
    return lambda request_id, *values: wire.encode_check_file(request_id, extension, *values)


def checked_by_name(request_id: int, path: bytes, *rest: object) -> ours.AnyRequest:
    return ours.CheckFileRequest(request_id, path, None, *rest)


def checked_by_handle(request_id: int, handle: bytes, *rest: object) -> ours.AnyRequest:
    return ours.CheckFileRequest(request_id, None, handle, *rest)


every_request = st.one_of(
    st.tuples(uint32, pairs).map(
        lambda drawn: (wire.encode_init(*drawn), ours.InitRequest(drawn[0]))
    ),
    case(wire.encode_open, opened, paths, uint32, attrs()),
    case(wire.encode_close, ours.CloseRequest, handles),
    case(wire.encode_read, ours.ReadRequest, handles, uint64, uint32),
    case(wire.encode_write, writing("write", "handle"), handles, uint64, st.binary()),
    case(wire.encode_lstat, ours.LstatRequest, paths),
    case(wire.encode_fstat, ours.FstatRequest, handles),
    case(wire.encode_setstat, writing("setstat", "path"), paths, attrs()),
    case(wire.encode_fsetstat, writing("fsetstat", "handle"), handles, attrs()),
    case(wire.encode_opendir, ours.OpendirRequest, paths),
    case(wire.encode_readdir, ours.ReaddirRequest, handles),
    case(wire.encode_remove, writing("remove", "path"), paths),
    case(wire.encode_mkdir, writing("mkdir", "path"), paths, attrs()),
    case(wire.encode_rmdir, writing("rmdir", "path"), paths),
    case(wire.encode_realpath, ours.RealpathRequest, paths),
    case(wire.encode_stat, ours.StatRequest, paths),
    case(wire.encode_rename, writing("rename", "path", "target"), paths, paths),
    case(wire.encode_readlink, ours.ReadlinkRequest, paths),
    case(wire.encode_symlink, writing("symlink", "target", "path"), paths, paths),
    case(wire.encode_statvfs, ours.StatvfsRequest, paths),
    case(wire.encode_fstatvfs, ours.FstatvfsRequest, handles),
    case(wire.encode_limits, ours.LimitsRequest),
    case(wire.encode_home_directory, ours.HomeDirectoryRequest, paths),
    case(wire.encode_expand_path, ours.ExpandPathRequest, paths),
    case(wire.encode_posix_rename, writing("posix-rename", "path", "target"), paths, paths),
    case(wire.encode_hardlink, writing("hardlink", "path", "target"), paths, paths),
    case(wire.encode_fsync, writing("fsync", "handle"), handles),
    case(wire.encode_lsetstat, writing("lsetstat", "path"), paths, attrs()),
    case(wire.encode_users_groups_by_id, ours.UsersGroupsByIdRequest, ids, ids),
    case(named(b"check-file-name"), checked_by_name, paths, paths, uint64, uint64, uint32),
    case(named(b"check-file-handle"), checked_by_handle, handles, paths, uint64, uint64, uint32),
    case(copied, writing("copy-data", "handle"), handles, handles, uint64, uint64),
)


@settings(unhurried, max_examples=1000)
@given(every_request)
def test_the_server_sees_what_the_client_meant(request_case):
    packet, expected = request_case
    (frame,) = FrameReader().feed(packet)
    assert ours.decode_request(frame) == expected


@unhurried
@given(st.lists(every_request, max_size=8), st.data())
def test_splitting_the_stream_anywhere_gives_the_same_requests(cases, data):
    stream = b"".join(packet for packet, _ in cases)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    reader = FrameReader()
    pieces = [stream[a:b] for a, b in pairwise([0, *sorted(cuts), len(stream)])]
    frames = chain.from_iterable(map(reader.feed, pieces))
    assert [ours.decode_request(frame) for frame in frames] == [expected for _, expected in cases]


# Arbitrary bytes from the client


def served_or_refused(pieces: list[bytes]) -> None:
    """Feed received bytes to a decoder; only ProtocolError may be raised."""
    reader = FrameReader()
    with suppress(ProtocolError):
        for frame in chain.from_iterable(map(reader.feed, pieces)):
            assert isinstance(ours.decode_request(frame), ours.InitRequest | ours.Request)


@settings(unhurried, max_examples=500)
@given(st.lists(st.binary(max_size=64), max_size=8))
@example([b"SSH-2.0-client\r\n"])
@example([bytes(4)])
def test_arbitrary_bytes_are_requests_or_a_protocol_error(pieces):
    served_or_refused(pieces)


@settings(unhurried, max_examples=1000)
@given(st.sampled_from(wire.PacketType), st.binary(max_size=200))
def test_an_arbitrary_body_of_any_type_is_a_request_or_a_protocol_error(kind, body):
    served_or_refused([wire.packet(kind, body)])


@settings(unhurried, max_examples=1000)
@given(every_request, st.data())
def test_an_altered_request_is_a_request_or_a_protocol_error(request_case, data):
    packet = bytearray(request_case[0])
    changes = st.tuples(st.integers(4, len(packet) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4)):
        packet[place] = value
    served_or_refused([bytes(packet)])


@unhurried
@given(every_request, st.data())
def test_a_truncated_request_is_a_request_or_a_protocol_error(request_case, data):
    frame = request_case[0][4:]
    length = data.draw(st.integers(1, len(frame)))
    served_or_refused([wire.string(frame[:length])])


@unhurried
@given(
    st.just(0) | st.integers(MAX_PACKET_LENGTH + 1, 2**32 - 1), st.binary(max_size=20), st.data()
)
def test_an_out_of_range_length_is_rejected_immediately(length, behind, data):
    stream = wire.uint32(length) + behind
    early = data.draw(st.integers(0, 3))
    reader = FrameReader()
    assert reader.feed(stream[:early]) == []
    with pytest.raises(ProtocolError):
        reader.feed(stream[early : data.draw(st.integers(4, len(stream)))])


@settings(unhurried, max_examples=50)
@given(
    st.lists(st.sampled_from([1, 5, 1000, 40_000, MAX_PACKET_LENGTH]), min_size=1, max_size=4),
    st.integers(500, 300_000),
)
@example([MAX_PACKET_LENGTH], MAX_PACKET_LENGTH + 3)
def test_at_most_one_packet_and_one_chunk_are_buffered(lengths, size):
    stream = b"".join(wire.string(b"\x06" * length) for length in lengths)
    reader = FrameReader()
    given_out = 0
    for start in range(0, len(stream), size):
        piece = stream[start : start + size]
        given_out += sum(4 + len(frame) for frame in reader.feed(piece))
        # It buffers what it has not returned, which is less than the longest packet.
        assert len(reader._buffer) == start + len(piece) - given_out < 4 + MAX_PACKET_LENGTH
    assert given_out == len(stream)


# From server to client


def received(packet: bytes) -> wire.Reply:
    (reply,) = wire.RawClient().receive(packet)
    return reply


def seen(file: Attributes | None) -> wire.Attrs:
    if file is None:
        return wire.NO_ATTRS
    return wire.Attrs(file.size, file.uid, file.gid, file.mode, file.atime, file.mtime)


@unhurried
@given(uint32, pairs)
def test_the_client_sees_the_version_and_extensions(version, extensions):
    packet = VersionResponse(version, extensions).encode()
    assert received(packet) == wire.VersionReply(version, extensions)


@unhurried
@given(request_ids, st.sampled_from(StatusCode), st.text(st.characters(max_codepoint=127)))
def test_the_client_sees_the_status(request_id, code, message):
    packet = StatusResponse(request_id, code, message).encode()
    assert received(packet) == wire.StatusReply(request_id, wire.Status(code), message, b"")


@unhurried
@given(request_ids, handles)
def test_the_client_sees_the_handle(request_id, handle):
    packet = HandleResponse(request_id, handle).encode()
    assert received(packet) == wire.HandleReply(request_id, handle)


@unhurried
@given(request_ids, st.binary(max_size=2000))
def test_the_client_sees_the_data(request_id, data):
    packet = DATA_HEADER.pack(len(data) + 9, 103, request_id, len(data)) + data
    assert received(packet) == wire.DataReply(request_id, data)


@unhurried
@given(request_ids, file_attributes)
def test_the_client_sees_the_attributes(request_id, file):
    packet = AttrsResponse(request_id, file).encode()
    assert received(packet) == wire.AttrsReply(request_id, seen(file))


entries = st.lists(st.tuples(paths, paths, st.none() | file_attributes), max_size=6)


@unhurried
@given(request_ids, entries)
def test_the_client_sees_the_names(request_id, entries):
    names = tuple(wire.Name(name, line, seen(file)) for name, line, file in entries)
    packet = NameResponse(request_id, [name_entry(*entry) for entry in entries]).encode()
    assert received(packet) == wire.NameReply(request_id, names)


@unhurried
@given(request_ids, st.tuples(*[uint64] * 11))
def test_the_client_sees_the_statvfs_figures(request_id, figures):
    reply = received(StatvfsResponse(request_id, *figures).encode())
    assert reply.request_id == request_id
    assert wire.decode_statvfs(reply) == wire.Statvfs(*figures)


@unhurried
@given(request_ids, uint64)
def test_the_client_sees_the_limits(request_id, max_open_handles):
    reply = received(LimitsResponse(request_id, max_open_handles).encode())
    assert reply.request_id == request_id
    assert wire.decode_limits(reply).max_open_handles == max_open_handles


@unhurried
@given(file_attributes, paths, st.integers(0, 2**33))
def test_a_longname_has_its_columns_and_ends_with_the_name(file, filename, now):
    line = longname(file, filename, now)
    assert line.endswith(b" " + filename)
    columns = line[: len(line) - len(filename) - 1]
    permissions, links, uid, gid, size = columns[:-13].split()
    assert len(permissions) == 10
    assert (links, int(uid), int(gid), int(size)) == (b"1", file.uid, file.gid, file.size)
    # draft-ietf-secsh-filexfer-02 §7: the least widths, and a space between two columns.
    assert len(columns) >= 10 + 1 + 3 + 1 + 8 + 1 + 8 + 1 + 8 + 1 + 12
