"""Every response as reference bytes; the test codec decodes it four ways."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import pytest

from sftp_gateway.protocol.constants import (
    ANNOUNCED_READ_LENGTH,
    DATA_HEADER_LENGTH,
    MAX_PACKET_LENGTH,
    MAX_READ_LENGTH,
    STATVFS_NOSUID,
    STATVFS_RDONLY,
    StatusCode,
)
from sftp_gateway.protocol.responses import (
    DATA_HEADER,
    AttrsResponse,
    CheckFileResponse,
    HandleResponse,
    LimitsResponse,
    NameResponse,
    StatusResponse,
    StatvfsResponse,
    UsersGroupsByIdResponse,
    VersionResponse,
    name_entry,
)
from sftp_gateway.vfs.attributes import Attributes
from tests.support import sftp_wire as wire

FILE = Attributes(
    size=2**32 + 5, uid=1000, gid=1001, mode=0o100644, atime=0x5F5E1000, mtime=0x5F5E1001
)
FILE_ATTRS = wire.Attrs(2**32 + 5, 1000, 1001, 0o100644, 0x5F5E1000, 0x5F5E1001)
FILE_HEX = "0000000f 0000000100000005 000003e8 000003e9 000081a4 5f5e1000 5f5e1001"


def data_packet(request_id: int, data: bytes) -> SimpleNamespace:
    """A DATA packet as the session sends it: the header, then the data."""
    return SimpleNamespace(
        encode=lambda: DATA_HEADER.pack(len(data) + 9, 103, request_id, len(data)) + data
    )


#: name: (reference bytes, the package's encoding, the test codec's decoding).
#: Each line of bytes starts with length, type and request id; strings follow their length.
GOLDEN = {
    "VERSION without extensions": (
        "00000005 02 00000003",
        VersionResponse(3, ()),
        wire.VersionReply(3, ()),
    ),
    "VERSION of this server": (
        "000000ca 02 00000003"
        "00000013 73746174766673406f70656e7373682e636f6d 00000001 32"
        "00000014 6673746174766673406f70656e7373682e636f6d 00000001 32"
        "00000012 6c696d697473406f70656e7373682e636f6d 00000001 31"
        "00000017 657870616e642d70617468406f70656e7373682e636f6d 00000001 31"
        "0000000e 686f6d652d6469726563746f7279 00000001 31"
        "0000001e 75736572732d67726f7570732d62792d6964406f70656e7373682e636f6d 00000001 31"
        "0000000a 636865636b2d66696c65 00000001 31",
        VersionResponse(),
        wire.VersionReply(
            3,
            (
                (b"statvfs@openssh.com", b"2"),
                (b"fstatvfs@openssh.com", b"2"),
                (b"limits@openssh.com", b"1"),
                (b"expand-path@openssh.com", b"1"),
                (b"home-directory", b"1"),
                (b"users-groups-by-id@openssh.com", b"1"),
                (b"check-file", b"1"),
            ),
        ),
    ),
    "STATUS": (
        "0000001d 65 00000001"
        "00000002"  # SSH_FX_NO_SUCH_FILE
        "0000000c 4e6f20737563682066696c65"  # No such file
        "00000000",  # no language tag
        StatusResponse(1, StatusCode.NO_SUCH_FILE, "No such file"),
        wire.StatusReply(1, wire.Status.NO_SUCH_FILE, "No such file", b""),
    ),
    "HANDLE": (
        "0000000d 66 ffffffff 00000004 00ff0a07",
        HandleResponse(2**32 - 1, b"\x00\xff\n\x07"),
        wire.HandleReply(2**32 - 1, b"\x00\xff\n\x07"),
    ),
    "DATA": (
        "0000000d 67 00000003 00000004 64617461",
        data_packet(3, b"data"),
        wire.DataReply(3, b"data"),
    ),
    "DATA of no bytes": (
        "00000009 67 00000004 00000000",
        data_packet(4, b""),
        wire.DataReply(4, b""),
    ),
    "NAME of two files": (
        "00000060 68 00000005 00000002"
        f"00000001 61 00000004 2d2d2061 {FILE_HEX}"  # a, "-- a"
        f"00000002 ff0a 00000000 {FILE_HEX}",  # not UTF-8; an empty longname
        NameResponse(5, [name_entry(b"a", b"-- a", FILE), name_entry(b"\xff\n", b"", FILE)]),
        wire.NameReply(
            5,
            (wire.Name(b"a", b"-- a", FILE_ATTRS), wire.Name(b"\xff\n", b"", FILE_ATTRS)),
        ),
    ),
    "NAME of a path, with the dummy attributes of §6.11": (
        "0000001f 68 00000006 00000001"
        "00000005 2f686f6d65 00000005 2f686f6d65 00000000",  # /home twice; no attributes
        NameResponse(6, [name_entry(b"/home", b"/home", None)]),
        wire.NameReply(6, (wire.Name(b"/home", b"/home", wire.NO_ATTRS),)),
    ),
    "ATTRS": (
        f"00000025 69 00000007 {FILE_HEX}",
        AttrsResponse(7, FILE),
        wire.AttrsReply(7, FILE_ATTRS),
    ),
    "EXTENDED_REPLY to statvfs@openssh.com": (
        "0000005d c9 00000008"
        "0000000000001000 0000000000000200"  # f_bsize 4,096, f_frsize 512
        "0000000000000003 0000000000000004 0000000000000005"  # blocks: all, free, available
        "0000000000000006 0000000000000007 0000000000000008"  # files: all, free, available
        "ffffffffffffffff 0000000000000001 00000000000000ff",  # f_fsid, read-only, f_namemax
        StatvfsResponse(8, 4096, 512, 3, 4, 5, 6, 7, 8, 2**64 - 1, 1, 255),
        wire.ExtendedReply(
            8,
            bytes.fromhex(
                "0000000000001000 0000000000000200"
                "0000000000000003 0000000000000004 0000000000000005"
                "0000000000000006 0000000000000007 0000000000000008"
                "ffffffffffffffff 0000000000000001 00000000000000ff"
            ),
        ),
    ),
    "EXTENDED_REPLY to limits@openssh.com": (
        "00000025 c9 00000009"
        "0000000000040000 000000000003fc00"  # packets of 262,144 bytes, READs of 261,120
        "0000000000000000 0000000000000400",  # no limit stated for writing; 1,024 handles
        LimitsResponse(9, 1024),
        wire.ExtendedReply(
            9,
            bytes.fromhex("0000000000040000 000000000003fc00 0000000000000000 0000000000000400"),
        ),
    ),
    "EXTENDED_REPLY to users-groups-by-id@openssh.com": (
        "00000020 c9 0000000a"
        "0000000c 00000004 726f6f74 00000000"  # root; an id without a name
        "00000007 00000003 616461",  # ada
        UsersGroupsByIdResponse(10, [b"root", b""], [b"ada"]),
        wire.ExtendedReply(
            10, bytes.fromhex("0000000c 00000004 726f6f74 00000000 00000007 00000003 616461")
        ),
    ),
    "EXTENDED_REPLY to check-file-name": (
        "0000000e c9 0000000b 00000003 6d6435 0102",
        CheckFileResponse(11, b"md5", b"\1\2", tagged=False),
        wire.ExtendedReply(11, bytes.fromhex("00000003 6d6435 0102")),
    ),
    "EXTENDED_REPLY to check-file": (
        "0000001c c9 0000000c 0000000a 636865636b2d66696c65 00000003 6d6435 0102",
        CheckFileResponse(12, b"md5", b"\1\2", tagged=True),
        wire.ExtendedReply(12, bytes.fromhex("0000000a 636865636b2d66696c65 00000003 6d6435 0102")),
    ),
}

every_response = pytest.mark.parametrize(
    ("packet", "response", "reply"),
    [(bytes.fromhex(packet), response, reply) for packet, response, reply in GOLDEN.values()],
    ids=GOLDEN.keys(),
)


@every_response
def test_a_response_encodes_to_the_reference_bytes(packet, response, reply):
    assert response.encode().hex(" ") == packet.hex(" ")


@every_response
def test_the_client_decodes_a_whole_response(packet, response, reply):
    assert wire.decode_reply(packet[4:]) == reply


@every_response
def test_the_client_decodes_a_response_that_arrives_byte_by_byte(packet, response, reply):
    client = wire.RawClient()
    replies = chain.from_iterable(client.receive(bytes([byte])) for byte in packet)
    assert list(replies) == [reply]


@every_response
def test_the_client_finds_where_the_next_response_starts(packet, response, reply):
    client = wire.RawClient()
    assert client.receive(packet + packet[:3]) == [reply]
    assert client.receive(packet[3:] + packet) == [reply, reply]


# The content of EXTENDED_REPLY depends on the request, and is tested separately.
@pytest.mark.parametrize("name", [name for name in GOLDEN if not name.startswith("EXTENDED")])
def test_the_client_rejects_truncated_and_overlong_responses(name):
    frame = bytes.fromhex(GOLDEN[name][0])[4:]
    for wrong in (frame[:-1], frame + b"\x00"):
        with pytest.raises(wire.WireError):
            wire.decode_reply(wrong)


def test_the_fields_of_statvfs_are_in_the_order_of_the_struct():
    reply = wire.decode_reply(bytes.fromhex(GOLDEN["EXTENDED_REPLY to statvfs@openssh.com"][0])[4:])
    assert wire.decode_statvfs(reply) == wire.Statvfs(
        f_bsize=4096,
        f_frsize=512,
        f_blocks=3,
        f_bfree=4,
        f_bavail=5,
        f_files=6,
        f_ffree=7,
        f_favail=8,
        f_fsid=2**64 - 1,
        f_flag=1,
        f_namemax=255,
    )
    with pytest.raises(wire.WireError):
        wire.decode_statvfs(wire.ExtendedReply(8, reply.payload[:-1]))


def test_the_flags_of_statvfs_have_the_values_of_openssh():
    # PROTOCOL §4.4: SSH_FXE_STATVFS_ST_RDONLY and SSH_FXE_STATVFS_ST_NOSUID.
    assert (STATVFS_RDONLY, STATVFS_NOSUID) == (0x1, 0x2)


def test_the_announced_limits_match_the_server():
    reply = wire.decode_reply(LimitsResponse(9, 1024).encode()[4:])
    limits = wire.decode_limits(reply)
    assert limits == wire.Limits(MAX_PACKET_LENGTH, ANNOUNCED_READ_LENGTH, 0, 1024)
    # PROTOCOL §4.8: "Servers SHOULD set this at least to" 34,000 and 32,768.
    assert limits.max_packet_length >= 34000
    assert limits.max_read_length >= 32768
    # A READ of the announced length fits into a packet.
    assert limits.max_read_length + DATA_HEADER_LENGTH <= limits.max_packet_length
    assert limits.max_read_length <= MAX_READ_LENGTH
    with pytest.raises(wire.WireError):
        wire.decode_limits(wire.ExtendedReply(9, reply.payload + b"\x00"))


@pytest.mark.parametrize("code", StatusCode)
def test_every_status_code_has_the_value_of_the_draft(code):
    reply = wire.decode_reply(StatusResponse(1, code, code.name).encode()[4:])
    assert reply == wire.StatusReply(1, wire.Status[code.name], code.name, b"")


def test_a_data_header_has_the_reserved_length():
    assert DATA_HEADER.size == DATA_HEADER_LENGTH


def test_an_empty_name_response_is_well_formed():
    packet = NameResponse(1, []).encode()
    assert packet == bytes.fromhex("00000009 68 00000001 00000000")


@pytest.mark.parametrize(
    "frame",
    [
        "65 00000001 00000009 00000000 00000000",  # a status of a later version
        "65 00000001 00000004 00000001 ff 00000000",  # a message that is not UTF-8
        "69 00000001 00000010",  # an attribute flag of a later version
        "03 00000001 00000000",  # a request
        "",
    ],
)
def test_the_client_rejects_responses_outside_version_3(frame):
    with pytest.raises(wire.WireError):
        wire.decode_reply(bytes.fromhex(frame))


def test_the_client_numbers_its_requests_and_wraps_at_32_bits():
    client = wire.RawClient(first_id=2**32 - 1)
    assert client.request(wire.encode_read, b"h", 0, length=1) == (
        2**32 - 1,
        wire.encode_read(2**32 - 1, b"h", 0, 1),
    )
    assert client.request(wire.encode_limits) == (0, wire.encode_limits(0))
