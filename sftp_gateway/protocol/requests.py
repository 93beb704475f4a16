"""The requests of clients, and their decoding.

One dataclass per message, named as in draft-ietf-secsh-filexfer-02 §6 and OpenSSH's PROTOCOL
file. Fields that a read-only server does not use (attributes to set, bytes to write) are validated
and discarded.

The dataclasses are not frozen, because that doubles the time to create one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final

from sftp_gateway.errors import ProtocolError
from sftp_gateway.protocol.attributes import skip_attributes
from sftp_gateway.protocol.constants import (
    MAX_ALGORITHMS_LENGTH,
    MAX_HANDLE_LENGTH,
    MAX_IDS,
    MessageType,
)
from sftp_gateway.protocol.wire import UINT32, Cursor, string_at


@dataclass(slots=True)
class Request:
    """Base class of requests; the response repeats the client's `request_id`.

    `operation` is the name of the request in the access log and the metrics.
    """

    request_id: int
    operation: ClassVar[str]


@dataclass(slots=True)
class InitRequest:
    """§4: the first packet of a session. The client's extensions are ignored, as §4 permits."""

    version: int


@dataclass(slots=True)
class PathRequest(Request):
    """Base class of requests with one path."""

    path: bytes


@dataclass(slots=True)
class HandleRequest(Request):
    """Base class of requests with one handle."""

    handle: bytes


@dataclass(slots=True)
class OpenRequest(PathRequest):
    """§6.3; `pflags` are bits of OpenFlags."""

    operation: ClassVar[str] = "open"

    pflags: int


@dataclass(slots=True)
class CloseRequest(HandleRequest):
    """§6.3."""

    operation: ClassVar[str] = "close"


@dataclass(slots=True)
class ReadRequest(HandleRequest):
    """§6.4."""

    operation: ClassVar[str] = "read"

    offset: int
    length: int


@dataclass(slots=True)
class LstatRequest(PathRequest):
    """§6.8: attributes, links not followed."""

    operation: ClassVar[str] = "lstat"


@dataclass(slots=True)
class StatRequest(PathRequest):
    """§6.8: attributes, links followed."""

    operation: ClassVar[str] = "stat"


@dataclass(slots=True)
class FstatRequest(HandleRequest):
    """§6.8."""

    operation: ClassVar[str] = "fstat"


@dataclass(slots=True)
class OpendirRequest(PathRequest):
    """§6.7."""

    operation: ClassVar[str] = "opendir"


@dataclass(slots=True)
class ReaddirRequest(HandleRequest):
    """§6.7."""

    operation: ClassVar[str] = "readdir"


@dataclass(slots=True)
class RealpathRequest(PathRequest):
    """§6.11."""

    operation: ClassVar[str] = "realpath"


@dataclass(slots=True)
class ReadlinkRequest(PathRequest):
    """§6.10."""

    operation: ClassVar[str] = "readlink"


@dataclass(slots=True)
class StatvfsRequest(PathRequest):
    """statvfs@openssh.com (PROTOCOL §4.4)."""

    operation: ClassVar[str] = "statvfs"


@dataclass(slots=True)
class FstatvfsRequest(HandleRequest):
    """fstatvfs@openssh.com (PROTOCOL §4.4)."""

    operation: ClassVar[str] = "fstatvfs"


@dataclass(slots=True)
class LimitsRequest(Request):
    """limits@openssh.com (PROTOCOL §4.8)."""

    operation: ClassVar[str] = "limits"


@dataclass(slots=True)
class HomeDirectoryRequest(Request):
    """home-directory (draft-ietf-secsh-filexfer-extensions-00 §5)."""

    operation: ClassVar[str] = "home-directory"

    username: bytes


@dataclass(slots=True)
class ExpandPathRequest(PathRequest):
    """expand-path@openssh.com (PROTOCOL §4.9)."""

    operation: ClassVar[str] = "expand-path"


@dataclass(slots=True)
class CheckFileRequest(Request):
    """Checksums of an open file (`handle`) or of `path`; the other is None.

    draft-ietf-secsh-filexfer-extensions-00 §3. A `length` of 0 means up to the end of the file, a
    `block_size` of 0 one block. `tagged` selects the response of that draft; the later ones
    (filexfer-09 to -13 §9.1.2), which renamed the requests, omit the name of the extension.
    """

    operation: ClassVar[str] = "check-file"

    path: bytes | None
    handle: bytes | None
    algorithms: bytes
    offset: int
    length: int
    block_size: int
    tagged: bool = False


@dataclass(slots=True)
class UsersGroupsByIdRequest(Request):
    """users-groups-by-id@openssh.com (PROTOCOL §4.12); at most MAX_IDS + 1 ids of each kind."""

    operation: ClassVar[str] = "users-groups-by-id"

    uids: tuple[int, ...]
    gids: tuple[int, ...]


@dataclass(slots=True)
class WritingRequest(Request):
    """A request to modify something; `operation` is its name in lower case.

    `path` is what it would modify, `target` the second path of a rename or link, and `handle` its
    handle; None if the request has no such field.
    """

    operation: str  # type: ignore[misc]
    path: bytes | None = None
    target: bytes | None = None
    handle: bytes | None = None


@dataclass(slots=True)
class UnknownRequest(Request):
    """An unknown message type or extension; `name` says which."""

    operation: ClassVar[str] = "unknown"

    name: str


AnyRequest = InitRequest | Request

_INIT: Final = int(MessageType.INIT)
_HEAD: Final = Struct(">BI")
_OFFSET_AND_LENGTH: Final = Struct(">QI")
_RANGE_AND_BLOCK: Final = Struct(">QQI")


def decode_request(frame: bytes) -> AnyRequest:
    """Decode one packet (without its length field).

    Raises ProtocolError if a field is truncated or exceeds its limit. As in OpenSSH's server,
    trailing bytes are ignored.
    """
    if len(frame) < _HEAD.size:
        raise ProtocolError(f"packet of {len(frame)} bytes")
    message_type, request_id = _HEAD.unpack_from(frame)
    if message_type == _INIT:
        # §4: INIT has the version in place of the request id; extension pairs may follow.
        return InitRequest(request_id)
    of_path = _OF_PATH.get(message_type)
    if of_path is not None:
        return of_path(request_id, string_at(frame, _HEAD.size))
    of_handle = _OF_HANDLE.get(message_type)
    if of_handle is not None:
        return of_handle(request_id, _checked(string_at(frame, _HEAD.size)))
    decode = _DECODERS.get(message_type)
    if decode is None:
        return UnknownRequest(request_id, f"type {message_type}")
    return decode(request_id, Cursor(frame, _HEAD.size))


#: A READ with a handle of READ_HANDLE_LENGTH bytes, as the server issues: type, request id, handle
#: length, handle, offset, length. server/sftp/reads.py decodes these directly, for speed.
READ: Final = Struct(">BII4sQI")
READ_HANDLE_LENGTH: Final = 4

_Decoder = Callable[[int, Cursor], Request]


def _handle(cursor: Cursor) -> bytes:
    return _checked(cursor.string())


def _checked(handle: bytes) -> bytes:
    if len(handle) > MAX_HANDLE_LENGTH:
        raise ProtocolError(f"handle of {len(handle)} bytes; the limit is {MAX_HANDLE_LENGTH}")
    return handle


def _open(request_id: int, cursor: Cursor) -> Request:
    request = OpenRequest(request_id, cursor.string(), cursor.uint32() & 0x3F)
    skip_attributes(cursor)
    return request


def _read(request_id: int, cursor: Cursor) -> Request:
    return ReadRequest(request_id, _handle(cursor), *cursor.fields(_OFFSET_AND_LENGTH))


def _path(cls: type[PathRequest]) -> _Decoder:
    return lambda request_id, cursor: cls(request_id, cursor.string())


def _of_handle(cls: type[HandleRequest]) -> _Decoder:
    return lambda request_id, cursor: cls(request_id, _handle(cursor))


def _writing_path(operation: str, *, attributes: bool = False) -> _Decoder:
    def decode(request_id: int, cursor: Cursor) -> Request:
        path = cursor.string()
        if attributes:
            skip_attributes(cursor)
        return WritingRequest(request_id, operation, path=path)

    return decode


def _writing_two_paths(operation: str) -> _Decoder:
    return lambda request_id, cursor: WritingRequest(
        request_id, operation, path=cursor.string(), target=cursor.string()
    )


def _symlink(request_id: int, cursor: Cursor) -> Request:
    # PROTOCOL §4.1: OpenSSH sends targetpath before linkpath, unlike the draft, and all clients
    # follow OpenSSH. The modified path is the link's.
    target = cursor.string()
    return WritingRequest(request_id, "symlink", path=cursor.string(), target=target)


def _writing_handle(operation: str, skip_rest: Callable[[Cursor], None] | None = None) -> _Decoder:
    def decode(request_id: int, cursor: Cursor) -> Request:
        handle = _handle(cursor)
        if skip_rest is not None:
            skip_rest(cursor)
        return WritingRequest(request_id, operation, handle=handle)

    return decode


def _skip_write(cursor: Cursor) -> None:
    cursor.uint64()
    cursor.string()


def _skip_copy_data(cursor: Cursor) -> None:
    cursor.uint64()
    cursor.uint64()
    _handle(cursor)
    cursor.uint64()


def _limits(request_id: int, _cursor: Cursor) -> Request:
    return LimitsRequest(request_id)


def _home_directory(request_id: int, cursor: Cursor) -> Request:
    return HomeDirectoryRequest(request_id, cursor.string())


def _check_file(*, by_name: bool, tagged: bool = False) -> _Decoder:
    def decode(request_id: int, cursor: Cursor) -> Request:
        path = cursor.string() if by_name else None
        handle = None if by_name else _handle(cursor)
        # Truncated, because up to 128 requests may be pending.
        algorithms = cursor.string()[:MAX_ALGORITHMS_LENGTH]
        offset, length, block_size = cursor.fields(_RANGE_AND_BLOCK)
        return CheckFileRequest(
            request_id, path, handle, algorithms, offset, length, block_size, tagged
        )

    return decode


def _users_groups_by_id(request_id: int, cursor: Cursor) -> Request:
    return UsersGroupsByIdRequest(request_id, _ids(cursor.string()), _ids(cursor.string()))


def _ids(packed: bytes) -> tuple[int, ...]:
    if len(packed) % UINT32.size:
        raise ProtocolError("truncated id")
    few = packed[: (MAX_IDS + 1) * UINT32.size]  # a packet may have 65,000, which take milliseconds
    return tuple(number for (number,) in UINT32.iter_unpack(few))


def _extended(request_id: int, cursor: Cursor) -> Request:
    name = cursor.string()
    decode = _EXTENSIONS.get(name)
    if decode is None:
        return UnknownRequest(request_id, name[:64].decode("ascii", "backslashreplace"))
    return decode(request_id, cursor)


_EXTENSIONS: Final[dict[bytes, _Decoder]] = {
    b"statvfs@openssh.com": _path(StatvfsRequest),
    b"fstatvfs@openssh.com": _of_handle(FstatvfsRequest),
    b"limits@openssh.com": _limits,
    b"home-directory": _home_directory,
    b"expand-path@openssh.com": _path(ExpandPathRequest),
    b"check-file-name": _check_file(by_name=True),
    b"check-file-handle": _check_file(by_name=False),
    b"check-file": _check_file(by_name=False, tagged=True),
    b"users-groups-by-id@openssh.com": _users_groups_by_id,
    b"posix-rename@openssh.com": _writing_two_paths("posix-rename"),
    b"hardlink@openssh.com": _writing_two_paths("hardlink"),
    b"fsync@openssh.com": _writing_handle("fsync"),
    b"lsetstat@openssh.com": _writing_path("lsetstat", attributes=True),
    b"copy-data": _writing_handle("copy-data", _skip_copy_data),
}

#: The requests that have a path alone, and a handle alone.
_OF_PATH: Final[dict[int, type[PathRequest]]] = {
    MessageType.LSTAT: LstatRequest,
    MessageType.OPENDIR: OpendirRequest,
    MessageType.REALPATH: RealpathRequest,
    MessageType.STAT: StatRequest,
    MessageType.READLINK: ReadlinkRequest,
}
_OF_HANDLE: Final[dict[int, type[HandleRequest]]] = {
    MessageType.CLOSE: CloseRequest,
    MessageType.FSTAT: FstatRequest,
    MessageType.READDIR: ReaddirRequest,
}

#: All others.
_DECODERS: Final[dict[int, _Decoder]] = {
    MessageType.OPEN: _open,
    MessageType.READ: _read,
    MessageType.WRITE: _writing_handle("write", _skip_write),
    MessageType.SETSTAT: _writing_path("setstat", attributes=True),
    MessageType.FSETSTAT: _writing_handle("fsetstat", skip_attributes),
    MessageType.REMOVE: _writing_path("remove"),
    MessageType.MKDIR: _writing_path("mkdir", attributes=True),
    MessageType.RMDIR: _writing_path("rmdir"),
    MessageType.RENAME: _writing_two_paths("rename"),
    MessageType.SYMLINK: _symlink,
    MessageType.EXTENDED: _extended,
}
