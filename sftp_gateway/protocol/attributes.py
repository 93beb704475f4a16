"""The ATTRS structure (draft-ietf-secsh-filexfer-02 §5) and the `longname` of a NAME entry (§7)."""

from __future__ import annotations

import stat
import time
from functools import lru_cache
from struct import Struct, error
from typing import Final, TypeAlias

from sftp_gateway.protocol.constants import AttributeFlags
from sftp_gateway.protocol.wire import Cursor

#: The attributes of a file, in the order of §5: size in bytes, uid, gid, st_mode, and atime and
#: mtime in seconds since 1970.
FileAttributes: TypeAlias = tuple[int, int, int, int, int, int]

_ALL: Final = int(
    AttributeFlags.SIZE
    | AttributeFlags.UIDGID
    | AttributeFlags.PERMISSIONS
    | AttributeFlags.ACMODTIME
)
_ALL_FIELDS: Final = Struct(">IQIIIII")
_UINT32_MAX: Final = 0xFFFFFFFF
#: Age in seconds above which `ls` shows the year instead of the time of day.
_RECENT: Final = 365 * 24 * 3600 // 2
_WEEK: Final = 7 * 24 * 3600


def encode_attributes(file: FileAttributes) -> bytes:
    """Encode an ATTRS structure; times are clamped to uint32 (1970 to 2106)."""
    try:
        return _ALL_FIELDS.pack(_ALL, *file)
    except error:
        size, uid, gid, permissions, atime, mtime = file
        owners = uid & _UINT32_MAX, gid & _UINT32_MAX
        return _ALL_FIELDS.pack(_ALL, size, *owners, permissions, _clamped(atime), _clamped(mtime))


def longname(file: FileAttributes, filename: bytes, now: float) -> bytes:
    """The line of `ls -l` for a file, in the format that §7 recommends.

    Times are in the server's time zone, as in OpenSSH. The link count is always 1, and owner and
    group are numeric, to save look-ups. Parts that many files of a directory share are cached.
    """
    size, uid, gid, permissions, _, mtime = file
    if 0 <= now - mtime < _RECENT:
        stamp = _time_of_minute(mtime // 60)
    else:
        offset = _offset_of_week(mtime // _WEEK)
        stamp = _date_of_day((mtime + (_offset(mtime) if offset is None else offset)) // 86400)
    return b"%s %8d %s %s" % (_mode_and_owner(permissions, uid, gid), size, stamp, filename)


@lru_cache(maxsize=1024)
def _mode_and_owner(permissions: int, uid: int, gid: int) -> bytes:
    mode = stat.filemode(permissions).encode()
    return b"%s %3d %-8d %-8d" % (mode, 1, uid & _UINT32_MAX, gid & _UINT32_MAX)


@lru_cache(maxsize=1024)
def _time_of_minute(minute: int) -> bytes:
    return time.strftime("%b %e %H:%M", time.localtime(_clamped(minute * 60))).encode()


@lru_cache(maxsize=1024)
def _date_of_day(day: int) -> bytes:
    """The date of a local day, by its number since 1970."""
    return time.strftime("%b %e  %Y", time.gmtime(_clamped(day * 86400))).encode()


@lru_cache(maxsize=1024)
def _offset_of_week(week: int) -> int | None:
    """The UTC offset in seconds during a week; None if it changes within the week."""
    first, last = _offset(week * _WEEK), _offset((week + 1) * _WEEK)
    return first if first == last else None


def _offset(seconds: int) -> int:
    return time.localtime(_clamped(seconds)).tm_gmtoff


def _clamped(seconds: int) -> int:
    return min(max(seconds, 0), _UINT32_MAX)


def skip_attributes(cursor: Cursor) -> None:
    """Skip an ATTRS structure in a request; it is never applied.

    Raises ProtocolError if it is malformed.
    """
    flags = cursor.uint32()
    if not flags:
        return
    if flags & AttributeFlags.SIZE:
        cursor.uint64()
    if flags & AttributeFlags.UIDGID:
        cursor.uint64()
    if flags & AttributeFlags.PERMISSIONS:
        cursor.uint32()
    if flags & AttributeFlags.ACMODTIME:
        cursor.uint64()
    if flags & AttributeFlags.EXTENDED:
        for _ in range(cursor.uint32()):
            cursor.string()
            cursor.string()
