"""Every request as reference bytes, decoded four ways; the test codec encodes the same."""

from __future__ import annotations

from itertools import chain

import pytest

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.constants import WRITING_FLAGS, OpenFlags
from sftp_gateway.protocol.framing import FrameReader
from sftp_gateway.protocol.requests import (
    AnyRequest,
    CheckFileRequest,
    CloseRequest,
    ExpandPathRequest,
    FstatRequest,
    FstatvfsRequest,
    HomeDirectoryRequest,
    InitRequest,
    LimitsRequest,
    LstatRequest,
    OpendirRequest,
    OpenRequest,
    ReaddirRequest,
    ReadlinkRequest,
    ReadRequest,
    RealpathRequest,
    StatRequest,
    StatvfsRequest,
    UnknownRequest,
    UsersGroupsByIdRequest,
    WritingRequest,
    decode_request,
)
from tests.support import sftp_wire as wire

MODE = wire.Attrs(permissions=0o644)

#: name: (reference bytes, the test codec's encoding, the decoded request).
#: Each line of bytes starts with length, type and request id; strings follow their length.
GOLDEN: dict[str, tuple[str, bytes, AnyRequest]] = {
    "INIT": (
        "00000005 01 00000003",
        wire.encode_init(),
        InitRequest(3),
    ),
    "INIT of a later version with an extension": (
        "0000001b 01 000000060000000d 65406578616d706c652e6f7267 00000001 31",  # e@example.org, "1"
        wire.encode_init(6, ((b"e@example.org", b"1"),)),
        InitRequest(6),
    ),
    "OPEN for reading": (
        "00000016 03 00000001"
        "00000005 2f612f6279"  # /a/by
        "00000001 00000000",  # pflags READ; no attributes
        wire.encode_open(1, b"/a/by"),
        OpenRequest(1, b"/a/by", OpenFlags.READ),
    ),
    "OPEN for writing, with every attribute": (
        "0000004d 03 00000002"
        "00000003 ff0a20"  # not UTF-8, a newline, a space
        "0000001a 8000000f"  # WRITE, CREAT, TRUNC; all attributes follow
        "0000000100000002 000003e8 000003e9"  # size 2**32 + 2, uid 1000, gid 1001
        "000081a4 5f5e1000 5f5e1001"  # permissions 0100644, atime, mtime
        "00000001"  # one extended attribute
        "0000000b 6140622e6578616d706c65"  # a@b.example
        "00000006 76616c756500",  # value and a NUL
        wire.encode_open(
            2,
            b"\xff\n ",
            wire.Open.WRITE | wire.Open.CREAT | wire.Open.TRUNC,
            wire.Attrs(
                size=2**32 + 2,
                uid=1000,
                gid=1001,
                permissions=0o100644,
                atime=0x5F5E1000,
                mtime=0x5F5E1001,
                extended=((b"a@b.example", b"value\0"),),
            ),
        ),
        OpenRequest(2, b"\xff\n ", OpenFlags.WRITE | OpenFlags.CREAT | OpenFlags.TRUNC),
    ),
    "CLOSE": (
        "0000000d 04 00000003 00000004 00000007",  # a handle of four bytes
        wire.encode_close(3, b"\0\0\0\7"),
        CloseRequest(3, b"\0\0\0\7"),
    ),
    "READ": (
        "00000019 05 ffffffff 00000004 00000007"
        "0000000100000000 00008000",  # from 4 GiB on, 32,768 bytes
        wire.encode_read(2**32 - 1, b"\0\0\0\7", 2**32, 32768),
        ReadRequest(2**32 - 1, b"\0\0\0\7", 2**32, 32768),
    ),
    "WRITE": (
        "0000001d 06 00000004 00000004 000000070000000000000010 00000004 64617461",  # at 16: data
        wire.encode_write(4, b"\0\0\0\7", 16, b"data"),
        WritingRequest(4, "write", handle=b"\0\0\0\7"),
    ),
    "LSTAT": (
        "0000000a 07 00000005 00000001 2f",
        wire.encode_lstat(5, b"/"),
        LstatRequest(5, b"/"),
    ),
    "FSTAT": (
        "0000000a 08 00000006 00000001 68",
        wire.encode_fstat(6, b"h"),
        FstatRequest(6, b"h"),
    ),
    "SETSTAT": (
        "00000012 09 00000007 00000001 66 00000004 000001a4",  # permissions only: 0644
        wire.encode_setstat(7, b"f", MODE),
        WritingRequest(7, "setstat", path=b"f"),
    ),
    "FSETSTAT": (
        "00000012 0a 00000008 00000001 68 00000004 000001a4",
        wire.encode_fsetstat(8, b"h", MODE),
        WritingRequest(8, "fsetstat", handle=b"h"),
    ),
    "OPENDIR of the empty path": (
        "00000009 0b 00000009 00000000",
        wire.encode_opendir(9, b""),
        OpendirRequest(9, b""),
    ),
    "READDIR": (
        "0000000a 0c 0000000a 00000001 68",
        wire.encode_readdir(10, b"h"),
        ReaddirRequest(10, b"h"),
    ),
    "REMOVE": (
        "0000000a 0d 0000000b 00000001 66",
        wire.encode_remove(11, b"f"),
        WritingRequest(11, "remove", path=b"f"),
    ),
    "MKDIR": (
        "0000000e 0e 0000000c 00000001 64 00000000",
        wire.encode_mkdir(12, b"d", wire.NO_ATTRS),
        WritingRequest(12, "mkdir", path=b"d"),
    ),
    "RMDIR": (
        "0000000a 0f 0000000d 00000001 64",
        wire.encode_rmdir(13, b"d"),
        WritingRequest(13, "rmdir", path=b"d"),
    ),
    "REALPATH": (
        "0000000a 10 0000000e 00000001 2e",
        wire.encode_realpath(14, b"."),
        RealpathRequest(14, b"."),
    ),
    "STAT": (
        "0000000f 11 0000000f 00000006 e0a495e0a4be",  # two letters of Devanagari
        wire.encode_stat(15, "का".encode()),
        StatRequest(15, "का".encode()),
    ),
    "RENAME": (
        "00000010 12 00000010 00000001 61 00000002 6262",
        wire.encode_rename(16, b"a", b"bb"),
        WritingRequest(16, "rename", path=b"a", target=b"bb"),
    ),
    "READLINK": (
        "0000000a 13 00000011 00000001 6c",
        wire.encode_readlink(17, b"l"),
        ReadlinkRequest(17, b"l"),
    ),
    "SYMLINK, target first as OpenSSH sends it": (
        "00000013 14 00000012 00000006 746172676574 00000000",
        wire.encode_symlink(18, b"target", b""),
        WritingRequest(18, "symlink", path=b"", target=b"target"),
    ),
    "statvfs@openssh.com": (
        "00000021 c8 00000013"
        "00000013 73746174766673406f70656e7373682e636f6d"  # the extension's name
        "00000001 2f",
        wire.encode_statvfs(19, b"/"),
        StatvfsRequest(19, b"/"),
    ),
    "fstatvfs@openssh.com": (
        "00000022 c8 0000001400000014 6673746174766673406f70656e7373682e636f6d00000001 68",
        wire.encode_fstatvfs(20, b"h"),
        FstatvfsRequest(20, b"h"),
    ),
    "limits@openssh.com": (
        "0000001b c8 0000001500000012 6c696d697473406f70656e7373682e636f6d",
        wire.encode_limits(21),
        LimitsRequest(21),
    ),
    "home-directory of the session's user": (
        "0000001b c8 000000160000000e 686f6d652d6469726563746f727900000000",
        wire.encode_home_directory(22, b""),
        HomeDirectoryRequest(22, b""),
    ),
    "expand-path@openssh.com": (
        "00000027 c8 00000017"
        "00000017 657870616e642d70617468406f70656e7373682e636f6d"
        "00000003 7e2f61",  # ~/a
        wire.encode_expand_path(23, b"~/a"),
        ExpandPathRequest(23, b"~/a"),
    ),
    "posix-rename@openssh.com": (
        "0000002b c8 00000018"
        "00000018 706f7369782d72656e616d65406f70656e7373682e636f6d"
        "00000001 61 00000001 62",
        wire.encode_posix_rename(24, b"a", b"b"),
        WritingRequest(24, "posix-rename", path=b"a", target=b"b"),
    ),
    "hardlink@openssh.com": (
        "00000027 c8 00000019"
        "00000014 686172646c696e6b406f70656e7373682e636f6d"
        "00000001 61 00000001 62",
        wire.encode_hardlink(25, b"a", b"b"),
        WritingRequest(25, "hardlink", path=b"a", target=b"b"),
    ),
    "fsync@openssh.com": (
        "0000001f c8 0000001a00000011 6673796e63406f70656e7373682e636f6d00000001 68",
        wire.encode_fsync(26, b"h"),
        WritingRequest(26, "fsync", handle=b"h"),
    ),
    "lsetstat@openssh.com": (
        "0000002a c8 0000001b"
        "00000014 6c73657473746174406f70656e7373682e636f6d"
        "00000001 6c 00000004 000001a4",
        wire.encode_lsetstat(27, b"l", MODE),
        WritingRequest(27, "lsetstat", path=b"l"),
    ),
    "copy-data": (
        "00000034 c8 0000001c"
        "00000009 636f70792d64617461"
        "00000001 72 0000000000000005 0000000000000006"  # from r: offset 5, 6 bytes
        "00000001 77 0000000000000007",  # to w, at 7
        wire.encode_copy_data(28, b"r", b"w", offset=5, length=6, at=7),
        WritingRequest(28, "copy-data", handle=b"r"),
    ),
    "users-groups-by-id@openssh.com": (
        "0000003b c8 0000001d"
        "0000001e 75736572732d67726f7570732d62792d6964406f70656e7373682e636f6d"
        "00000008 00000000 000003e8"  # uids 0 and 1000
        "00000004 00000000",  # gid 0
        wire.encode_users_groups_by_id(29, [0, 1000], [0]),
        UsersGroupsByIdRequest(29, (0, 1000), (0,)),
    ),
    "check-file-name": (
        "0000003b c8 00000021"
        "0000000f 636865636b2d66696c652d6e616d65"
        "00000001 70 00000006 6d64352c7368"  # p; md5,sh
        "0000000000000005 0000000000000006 00000100",
        wire.encode_check_file(33, b"check-file-name", b"p", b"md5,sh", 5, 6, 256),
        CheckFileRequest(33, b"p", None, b"md5,sh", 5, 6, 256),
    ),
    "check-file-handle": (
        "0000003a c8 00000022"
        "00000011 636865636b2d66696c652d68616e646c65"
        "00000001 68 00000003 6d6435"
        "0000000000000000 0000000000000000 00000000",
        wire.encode_check_file(34, b"check-file-handle", b"h", b"md5"),
        CheckFileRequest(34, None, b"h", b"md5", 0, 0, 0),
    ),
    "check-file": (
        "00000033 c8 00000023"
        "0000000a 636865636b2d66696c65"
        "00000001 68 00000003 6d6435"
        "0000000000000000 0000000000000000 00000000",
        wire.encode_check_file(35, b"check-file", b"h", b"md5"),
        CheckFileRequest(35, None, b"h", b"md5", 0, 0, 0, tagged=True),
    ),
}

#: Requests of which only id and name are decoded.
UNKNOWN: dict[str, tuple[str, bytes, AnyRequest]] = {
    "an extension whose name is not ASCII": (
        "0000000b c8 0000001e 00000002 ff0a",
        wire.encode_extended(30, b"\xff\n"),
        UnknownRequest(30, "\\xff\n"),
    ),
    "a type that version 3 does not have": (
        "00000005 15 0000001f",
        wire.packet(21, wire.uint32(31)),
        UnknownRequest(31, "type 21"),
    ),
    "a response's type": (
        "00000009 68 00000020 00000000",
        wire.packet(wire.PacketType.NAME, wire.uint32(32), wire.uint32(0)),
        UnknownRequest(32, "type 104"),
    ),
}

ALL = GOLDEN | UNKNOWN
every_request = pytest.mark.parametrize(
    ("packet", "encoded", "expected"),
    [(bytes.fromhex(packet), encoded, expected) for packet, encoded, expected in ALL.values()],
    ids=ALL.keys(),
)


@every_request
def test_a_request_encodes_to_the_reference_bytes(packet, encoded, expected):
    assert encoded.hex(" ") == packet.hex(" ")


@every_request
def test_a_whole_packet_decodes(packet, encoded, expected):
    assert decode_request(packet[4:]) == expected


@every_request
def test_a_packet_that_arrives_byte_by_byte_decodes(packet, encoded, expected):
    reader = FrameReader()
    frames = list(chain.from_iterable(reader.feed(bytes([byte])) for byte in packet))
    assert [decode_request(frame) for frame in frames] == [expected]


@every_request
def test_trailing_bytes_are_ignored(packet, encoded, expected):
    assert decode_request(packet[4:] + b"\xff\0junk") == expected


@every_request
def test_decoding_ends_with_the_packet(packet, encoded, expected):
    (frame,) = FrameReader().feed(packet + b"\0\0\0\x09\x07")
    assert decode_request(frame) == expected


@pytest.mark.parametrize("packet", [case[0] for case in GOLDEN.values()], ids=GOLDEN.keys())
def test_a_truncated_packet_is_a_protocol_error(packet):
    frame = bytes.fromhex(packet)[4:]
    # §4: the extensions after INIT's version are optional, and ignored.
    end = 5 if frame[0] == wire.PacketType.INIT else len(frame)
    for length in range(end):
        with pytest.raises(ProtocolError):
            decode_request(frame[:length])


@pytest.mark.parametrize(
    "encode",
    [
        lambda handle: wire.encode_close(1, handle),
        lambda handle: wire.encode_read(1, handle, 0, 1),
        lambda handle: wire.encode_write(1, handle, 0, b""),
        lambda handle: wire.encode_fstat(1, handle),
        lambda handle: wire.encode_fsetstat(1, handle, MODE),
        lambda handle: wire.encode_readdir(1, handle),
        lambda handle: wire.encode_fstatvfs(1, handle),
        lambda handle: wire.encode_fsync(1, handle),
        lambda handle: wire.encode_copy_data(1, handle, b"w"),
        lambda handle: wire.encode_copy_data(1, b"r", handle),
    ],
)
def test_a_handle_has_at_most_256_bytes(encode):
    decode_request(encode(bytes(256))[4:])
    with pytest.raises(ProtocolError, match="257"):
        decode_request(encode(bytes(257))[4:])


def test_a_string_longer_than_its_packet_is_a_protocol_error():
    with pytest.raises(ProtocolError, match="short"):
        decode_request(bytes.fromhex("11 00000001 ffffffff 2f"))


def test_missing_extended_attributes_are_a_protocol_error():
    with pytest.raises(ProtocolError, match="short"):
        decode_request(bytes.fromhex("0e 00000001 00000001 64 80000000 ffffffff"))


@pytest.mark.parametrize("flag", wire.Open)
def test_every_open_flag_has_the_value_of_the_draft(flag):
    request = decode_request(wire.encode_open(1, b"f", flag)[4:])
    assert request == OpenRequest(1, b"f", OpenFlags[flag.name])
    asks_for_more_than_reading = bool(request.pflags & WRITING_FLAGS)
    assert asks_for_more_than_reading == (flag is not wire.Open.READ)


def test_unknown_open_flags_are_dropped():
    request = decode_request(wire.encode_open(1, b"f", 0xFFFFFFC1)[4:])
    assert request == OpenRequest(1, b"f", OpenFlags.READ)


def test_the_name_of_an_unknown_extension_is_truncated():
    request = decode_request(wire.encode_extended(1, b"x" * 100_000)[4:])
    assert request == UnknownRequest(1, "x" * 64)


def test_a_list_of_algorithms_is_truncated():
    packet = wire.encode_check_file(1, b"check-file-name", b"p", b"md5," * 10_000)
    assert decode_request(packet[4:]).algorithms == b"md5," * 256
