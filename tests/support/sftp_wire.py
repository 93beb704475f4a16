"""The client's side of SFTP version 3, for tests: encodes requests, decodes responses; no IO.

Written from draft-ietf-secsh-filexfer-02 and section 4 of OpenSSH's PROTOCOL file, apart from
`sftp_gateway.protocol` and never importing it: where both agree, they agree through the documents.
It is strict: a response with a byte too few or too many is a WireError.

    client = RawClient()
    request_id, packet = client.request(encode_read, handle, 0, 32768)
    # send encode_init() once, then `packet`; give what arrives to client.receive()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from itertools import count
from struct import pack, unpack
from typing import Concatenate, ParamSpec

P = ParamSpec("P")
Pairs = tuple[tuple[bytes, bytes], ...]


class WireError(Exception):
    """The server sent something that the documents do not allow."""


class PacketType(IntEnum):
    """Section 3."""

    INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT = range(1, 11)
    OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, REALPATH, STAT = range(11, 18)
    RENAME, READLINK, SYMLINK = range(18, 21)
    STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
    EXTENDED, EXTENDED_REPLY = range(200, 202)


class Status(IntEnum):
    """Section 7."""

    OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
    NO_CONNECTION, CONNECTION_LOST, OP_UNSUPPORTED = range(6, 9)


class Open(IntFlag):
    """Section 6.3."""

    READ, WRITE, APPEND, CREAT, TRUNC, EXCL = (1 << bit for bit in range(6))


@dataclass(frozen=True, slots=True)
class Attrs:
    """Section 5; None is a field that is not present."""

    size: int | None = None
    uid: int | None = None
    gid: int | None = None
    permissions: int | None = None
    atime: int | None = None
    mtime: int | None = None
    extended: Pairs = ()


NO_ATTRS = Attrs()


@dataclass(frozen=True, slots=True)
class Name:
    filename: bytes
    longname: bytes
    attrs: Attrs


@dataclass(frozen=True, slots=True)
class VersionReply:
    version: int
    extensions: Pairs


@dataclass(frozen=True, slots=True)
class StatusReply:
    request_id: int
    code: Status
    message: str
    language: bytes


@dataclass(frozen=True, slots=True)
class HandleReply:
    request_id: int
    handle: bytes


@dataclass(frozen=True, slots=True)
class DataReply:
    request_id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class NameReply:
    request_id: int
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class AttrsReply:
    request_id: int
    attrs: Attrs


@dataclass(frozen=True, slots=True)
class ExtendedReply:
    """The meaning of `payload` depends on the request: see decode_statvfs and decode_limits."""

    request_id: int
    payload: bytes


Reply = (
    VersionReply | StatusReply | HandleReply | DataReply | NameReply | AttrsReply | ExtendedReply
)


@dataclass(frozen=True, slots=True)
class Statvfs:
    """PROTOCOL 4.4."""

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


@dataclass(frozen=True, slots=True)
class Limits:
    """PROTOCOL 4.8; 0 is no stated limit."""

    max_packet_length: int
    max_read_length: int
    max_write_length: int
    max_open_handles: int


# Encoding


def uint32(value: int) -> bytes:
    return pack(">I", value)


def uint64(value: int) -> bytes:
    return pack(">Q", value)


def string(value: bytes) -> bytes:
    return uint32(len(value)) + value


def packet(kind: int, *parts: bytes) -> bytes:
    """A packet of any type and contents, with its length field."""
    return string(bytes([kind]) + b"".join(parts))


def encode_attrs(attrs: Attrs) -> bytes:
    flags, body = 0, b""
    if attrs.size is not None:
        flags, body = flags | 0x1, body + uint64(attrs.size)
    if attrs.uid is not None and attrs.gid is not None:
        flags, body = flags | 0x2, body + uint32(attrs.uid) + uint32(attrs.gid)
    if attrs.permissions is not None:
        flags, body = flags | 0x4, body + uint32(attrs.permissions)
    if attrs.atime is not None and attrs.mtime is not None:
        flags, body = flags | 0x8, body + uint32(attrs.atime) + uint32(attrs.mtime)
    if attrs.extended:
        pairs = uint32(len(attrs.extended)) + _pairs(attrs.extended)
        flags, body = flags | 0x80000000, body + pairs
    return uint32(flags) + body


def _pairs(pairs: Pairs) -> bytes:
    return b"".join(string(name) + string(value) for name, value in pairs)


def encode_init(version: int = 3, extensions: Pairs = ()) -> bytes:
    return packet(PacketType.INIT, uint32(version), _pairs(extensions))


def encode_open(
    request_id: int, path: bytes, flags: int = Open.READ, attrs: Attrs = NO_ATTRS
) -> bytes:
    body = string(path) + uint32(flags) + encode_attrs(attrs)
    return packet(PacketType.OPEN, uint32(request_id), body)


def encode_read(request_id: int, handle: bytes, offset: int, length: int) -> bytes:
    body = string(handle) + uint64(offset) + uint32(length)
    return packet(PacketType.READ, uint32(request_id), body)


def encode_write(request_id: int, handle: bytes, offset: int, data: bytes) -> bytes:
    body = string(handle) + uint64(offset) + string(data)
    return packet(PacketType.WRITE, uint32(request_id), body)


def encode_extended(request_id: int, name: bytes, *body: bytes) -> bytes:
    """Any extension's request."""
    return packet(PacketType.EXTENDED, uint32(request_id), string(name), *body)


def encode_copy_data(
    request_id: int, source: bytes, target: bytes, *, offset: int = 0, length: int = 0, at: int = 0
) -> bytes:
    """`length` bytes (0: all) of `source` from `offset` on, to `at` in `target`."""
    body = string(source) + uint64(offset) + uint64(length) + string(target) + uint64(at)
    return encode_extended(request_id, b"copy-data", body)


def encode_users_groups_by_id(request_id: int, uids: Iterable[int], gids: Iterable[int]) -> bytes:
    ids = (string(b"".join(map(uint32, numbers))) for numbers in (uids, gids))
    return encode_extended(request_id, b"users-groups-by-id@openssh.com", *ids)


def encode_check_file(
    request_id: int,
    extension: bytes,
    target: bytes,
    algorithms: bytes,
    *numbers: int,
) -> bytes:
    """draft-ietf-secsh-filexfer-extensions-00, section 3; `target` is a path or a handle.

    `numbers` are offset, length and block size, 0 where they are left out.
    """
    offset, length, block_size = (*numbers, 0, 0, 0)[:3]
    body = string(target) + string(algorithms) + uint64(offset) + uint64(length)
    return encode_extended(request_id, extension, body + uint32(block_size))


def _encoder(kind: int | bytes) -> Callable[..., bytes]:
    """Of a request that is the id and then strings; `kind` is its type or its extension's name."""
    head, name = (PacketType.EXTENDED, string(kind)) if isinstance(kind, bytes) else (kind, b"")

    def encode(request_id: int, *values: bytes | Attrs) -> bytes:
        body = (encode_attrs(v) if isinstance(v, Attrs) else string(v) for v in values)
        return packet(head, uint32(request_id), name, *body)

    return encode


_OneString = Callable[[int, bytes], bytes]
_TwoStrings = Callable[[int, bytes, bytes], bytes]
_WithAttrs = Callable[[int, bytes, Attrs], bytes]

# (request_id)
encode_limits: Callable[[int], bytes] = _encoder(b"limits@openssh.com")
# (request_id, path)
encode_lstat: _OneString = _encoder(PacketType.LSTAT)
encode_stat: _OneString = _encoder(PacketType.STAT)
encode_opendir: _OneString = _encoder(PacketType.OPENDIR)
encode_remove: _OneString = _encoder(PacketType.REMOVE)
encode_rmdir: _OneString = _encoder(PacketType.RMDIR)
encode_realpath: _OneString = _encoder(PacketType.REALPATH)
encode_readlink: _OneString = _encoder(PacketType.READLINK)
encode_statvfs: _OneString = _encoder(b"statvfs@openssh.com")
encode_expand_path: _OneString = _encoder(b"expand-path@openssh.com")
# (request_id, user name), empty for the session's own user
encode_home_directory: _OneString = _encoder(b"home-directory")
# (request_id, handle)
encode_close: _OneString = _encoder(PacketType.CLOSE)
encode_fstat: _OneString = _encoder(PacketType.FSTAT)
encode_readdir: _OneString = _encoder(PacketType.READDIR)
encode_fstatvfs: _OneString = _encoder(b"fstatvfs@openssh.com")
encode_fsync: _OneString = _encoder(b"fsync@openssh.com")
# (request_id, path or handle, attributes to set)
encode_setstat: _WithAttrs = _encoder(PacketType.SETSTAT)
encode_fsetstat: _WithAttrs = _encoder(PacketType.FSETSTAT)
encode_mkdir: _WithAttrs = _encoder(PacketType.MKDIR)
encode_lsetstat: _WithAttrs = _encoder(b"lsetstat@openssh.com")
# (request_id, old path, new path)
encode_rename: _TwoStrings = _encoder(PacketType.RENAME)
encode_posix_rename: _TwoStrings = _encoder(b"posix-rename@openssh.com")
encode_hardlink: _TwoStrings = _encoder(b"hardlink@openssh.com")
# (request_id, target, link): OpenSSH's order (PROTOCOL 4.1), the reverse of the draft's
encode_symlink: _TwoStrings = _encoder(PacketType.SYMLINK)


# Decoding


class _Fields:
    """Takes fields from `data`, front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._position

    def take(self, length: int) -> bytes:
        if length > self.left:
            raise WireError(f"{length} bytes needed, {self.left} left")
        self._position += length
        return self._data[self._position - length : self._position]

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def pairs_to_end(self) -> Pairs:
        pairs = []
        while self.left:
            pairs.append((self.string(), self.string()))
        return tuple(pairs)

    def attrs(self) -> Attrs:
        flags = self.uint32()
        if flags & ~0x8000000F:
            raise WireError(f"attribute flags {flags:#x} are not all known")
        size = int.from_bytes(self.take(8), "big") if flags & 0x1 else None
        uid, gid = (self.uint32(), self.uint32()) if flags & 0x2 else (None, None)
        permissions = self.uint32() if flags & 0x4 else None
        atime, mtime = (self.uint32(), self.uint32()) if flags & 0x8 else (None, None)
        pairs = range(self.uint32()) if flags & 0x80000000 else ()
        extended = tuple((self.string(), self.string()) for _ in pairs)
        return Attrs(size, uid, gid, permissions, atime, mtime, extended)

    def name(self) -> Name:
        return Name(self.string(), self.string(), self.attrs())

    def reply(self) -> Reply:
        kind = self.take(1)[0]
        if kind == PacketType.VERSION:
            return VersionReply(self.uint32(), self.pairs_to_end())
        request_id = self.uint32()
        match kind:
            case PacketType.STATUS:
                code = Status(self.uint32())
                return StatusReply(request_id, code, self.string().decode(), self.string())
            case PacketType.HANDLE:
                return HandleReply(request_id, self.string())
            case PacketType.DATA:
                return DataReply(request_id, self.string())
            case PacketType.NAME:
                return NameReply(request_id, tuple(self.name() for _ in range(self.uint32())))
            case PacketType.ATTRS:
                return AttrsReply(request_id, self.attrs())
            case PacketType.EXTENDED_REPLY:
                return ExtendedReply(request_id, self.take(self.left))
        raise WireError(f"type {kind} is not a response")


def decode_reply(frame: bytes) -> Reply:
    """Decode one packet without its length field."""
    source = _Fields(frame)
    try:
        reply = source.reply()
    except ValueError as error:  # an unknown status, a message that is not UTF-8
        raise WireError(str(error)) from error
    if source.left:
        raise WireError(f"{source.left} bytes behind {reply}")
    return reply


def decode_statvfs(reply: ExtendedReply) -> Statvfs:
    return Statvfs(*_uint64s(reply.payload, 11))


def decode_limits(reply: ExtendedReply) -> Limits:
    return Limits(*_uint64s(reply.payload, 4))


def decode_users_groups_by_id(reply: ExtendedReply) -> tuple[list[bytes], list[bytes]]:
    """Names of users and of groups."""
    both = _Fields(reply.payload)
    names = []
    for packed in (both.string(), both.string()):
        source, found = _Fields(packed), []
        while source.left:
            found.append(source.string())
        names.append(found)
    if both.left:
        raise WireError(f"{both.left} bytes behind the names")
    return names[0], names[1]


def _uint64s(payload: bytes, number: int) -> tuple[int, ...]:
    if len(payload) != 8 * number:
        raise WireError(f"{len(payload)} bytes are not {number} uint64 fields")
    return unpack(f">{number}Q", payload)


class RawClient:
    """Numbers requests and collects responses; the caller sends and receives the bytes."""

    def __init__(self, first_id: int = 1) -> None:
        self._ids = count(first_id)
        self._received = b""

    def request(
        self, encode: Callable[Concatenate[int, P], bytes], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[int, bytes]:
        """The next request id, and what `encode` makes of it and the other arguments."""
        request_id = next(self._ids) % 2**32
        return request_id, encode(request_id, *args, **kwargs)

    def receive(self, data: bytes) -> list[Reply]:
        """Feed received bytes, split anywhere; return the responses that are complete."""
        received, start, replies = self._received + data, 0, []
        while len(received) >= start + 4:
            end = start + 4 + int.from_bytes(received[start : start + 4], "big")
            if end > len(received):
                break
            replies.append(decode_reply(received[start + 4 : end]))
            start = end
        self._received = received[start:]
        return replies
