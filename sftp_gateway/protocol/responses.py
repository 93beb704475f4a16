"""The responses of the server, and their encoding (draft-ietf-secsh-filexfer-02 §7).

`encode()` returns the whole packet with its length field. DATA has no class: its header
(`DATA_HEADER`) is packed in front of the buffer into which the file's bytes are read, to avoid a
copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from sftp_gateway.protocol.attributes import FileAttributes, encode_attributes
from sftp_gateway.protocol.constants import (
    ANNOUNCED_READ_LENGTH,
    MAX_PACKET_LENGTH,
    SFTP_VERSION,
    MessageType,
    StatusCode,
)
from sftp_gateway.protocol.wire import UINT32, string

_HEADER: Final = Struct(">IBI")
#: The header of a DATA packet: length, type, request id, length of the data that follows.
DATA_HEADER: Final = Struct(">IBII")
_STATVFS_FIELDS: Final = Struct(">11Q")
_LIMITS: Final = Struct(">4Q")
# Python 3.11 looks an enumeration's members up by a function.
_ATTRS: Final = int(MessageType.ATTRS)
_EXTENDED_REPLY: Final = int(MessageType.EXTENDED_REPLY)
_HANDLE: Final = int(MessageType.HANDLE)
_NAME: Final = int(MessageType.NAME)
_STATUS: Final = int(MessageType.STATUS)
_VERSION: Final = int(MessageType.VERSION)
_NO_ATTRIBUTES: Final = UINT32.pack(0)

#: The extensions announced in VERSION, with their versions.
EXTENSIONS: Final = (
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
    (b"home-directory", b"1"),
    (b"users-groups-by-id@openssh.com", b"1"),
    (b"check-file", b"1"),
)


def _packet(message_type: int, request_id: int, payload: bytes) -> bytes:
    return _HEADER.pack(5 + len(payload), message_type, request_id) + payload


@dataclass(slots=True)
class VersionResponse:
    """§4: the response to INIT."""

    version: int = SFTP_VERSION
    extensions: Sequence[tuple[bytes, bytes]] = EXTENSIONS

    def encode(self) -> bytes:
        """The whole packet; VERSION has no request id."""
        body = b"".join(string(name) + string(value) for name, value in self.extensions)
        header = bytes([_VERSION]) + UINT32.pack(self.version)
        return UINT32.pack(len(header) + len(body)) + header + body


@dataclass(slots=True)
class StatusResponse:
    """§7: the outcome of a request that returns nothing else. `message` is ASCII."""

    request_id: int
    code: StatusCode
    message: str

    def encode(self) -> bytes:
        """The whole packet; the language tag is empty."""
        return _packet(_STATUS, self.request_id, _status(self.code, self.message))


# The server has few different messages.
@lru_cache(maxsize=64)
def _status(code: StatusCode, message: str) -> bytes:
    return UINT32.pack(code) + string(message.encode("ascii")) + string(b"")


@dataclass(slots=True)
class HandleResponse:
    """§7: the response to OPEN and OPENDIR."""

    request_id: int
    handle: bytes

    def encode(self) -> bytes:
        """The whole packet."""
        return _packet(_HANDLE, self.request_id, string(self.handle))


def name_entry(filename: bytes, longname: bytes, attributes: FileAttributes | None) -> bytes:
    """Encode one file of a NAME response.

    `attributes` are None for REALPATH and READLINK, which send a dummy ATTRS value (§6.11).
    """
    attrs = _NO_ATTRIBUTES if attributes is None else encode_attributes(attributes)
    pack = UINT32.pack
    return pack(len(filename)) + filename + pack(len(longname)) + longname + attrs


@dataclass(slots=True)
class NameResponse:
    """§7: the response to READDIR, REALPATH and READLINK; `entries` are made by `name_entry`.

    They are already encoded, because a thread encodes the many entries of a directory.
    """

    request_id: int
    entries: Sequence[bytes]

    def encode(self) -> bytes:
        """The whole packet."""
        payload = UINT32.pack(len(self.entries)) + b"".join(self.entries)
        return _packet(_NAME, self.request_id, payload)


@dataclass(slots=True)
class AttrsResponse:
    """§7: the response to STAT, LSTAT and FSTAT."""

    request_id: int
    attributes: FileAttributes

    def encode(self) -> bytes:
        """The whole packet."""
        payload = encode_attributes(self.attributes)
        return _HEADER.pack(5 + len(payload), _ATTRS, self.request_id) + payload


@dataclass(slots=True)
class StatvfsResponse:
    """PROTOCOL §4.4: the fields of struct statvfs, sizes in units of f_frsize bytes."""

    request_id: int
    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_fsid: int
    f_flag: int
    f_namemax: int

    def encode(self) -> bytes:
        """The whole packet."""
        payload = _STATVFS_FIELDS.pack(
            self.f_bsize,
            self.f_frsize,
            self.f_blocks,
            self.f_bfree,
            self.f_bavail,
            self.f_files,
            self.f_ffree,
            self.f_favail,
            self.f_fsid,
            self.f_flag,
            self.f_namemax,
        )
        return _packet(_EXTENDED_REPLY, self.request_id, payload)


@dataclass(slots=True)
class LimitsResponse:
    """PROTOCOL §4.8; the max-write-length of 0 means no stated limit."""

    request_id: int
    max_open_handles: int

    def encode(self) -> bytes:
        """The whole packet."""
        payload = _LIMITS.pack(MAX_PACKET_LENGTH, ANNOUNCED_READ_LENGTH, 0, self.max_open_handles)
        return _packet(_EXTENDED_REPLY, self.request_id, payload)


@dataclass(slots=True)
class CheckFileResponse:
    """The response to CheckFileRequest: the concatenated checksums of all blocks."""

    request_id: int
    algorithm: bytes
    checksums: bytes
    tagged: bool

    def encode(self) -> bytes:
        """The whole packet."""
        tag = string(b"check-file") if self.tagged else b""
        payload = tag + string(self.algorithm) + self.checksums
        return _packet(_EXTENDED_REPLY, self.request_id, payload)


@dataclass(slots=True)
class UsersGroupsByIdResponse:
    """PROTOCOL §4.12: names in the order of the ids; empty for an unknown id."""

    request_id: int
    users: Sequence[bytes]
    groups: Sequence[bytes]

    def encode(self) -> bytes:
        """The whole packet."""
        payload = b"".join(string(b"".join(map(string, s))) for s in (self.users, self.groups))
        return _packet(_EXTENDED_REPLY, self.request_id, payload)


Response = (
    VersionResponse
    | StatusResponse
    | HandleResponse
    | NameResponse
    | AttrsResponse
    | StatvfsResponse
    | LimitsResponse
    | CheckFileResponse
    | UsersGroupsByIdResponse
)
