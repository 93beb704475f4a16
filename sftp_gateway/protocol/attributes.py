"""The ATTRS structure (draft-ietf-secsh-filexfer-02 §5) and the `longname` of a NAME entry (§7)."""

from __future__ import annotations

import stat
import time
from functools import lru_cache
from struct import Struct, error
from typing import Final, TypeAlias

from sftp_gateway.protocol.constants import AttributeFlags
from sftp_gateway.protocol.wire import Cursor

#: All attributes of one file, in the order that §5 has them: size in bytes, uid, gid, whole mode
#: word, and the times of the last access and change in seconds since 1970.
FileAttributes: TypeAlias = tuple[int, int, int, int, int, int]

_ALL: Final = int(
    AttributeFlags.SIZE
    | AttributeFlags.UIDGID
    | AttributeFlags.PERMISSIONS
    | AttributeFlags.ACMODTIME
)
_ALL_FIELDS: Final = Struct(">IQIIIII")
_UINT32_MAX: Final = 0xFFFFFFFF
#: `ls` shows the year instead of the time of day for what is older than this, in seconds.
_RECENT: Final = 365 * 24 * 3600 // 2
_WEEK: Final = 7 * 24 * 3600


def encode_attributes(file: FileAttributes) -> bytes:
    """The ATTRS structure; times outside 1970-2106 are clamped, as uint32 cannot hold them."""
    try:
        return _ALL_FIELDS.pack(_ALL, *file)
    except error:
        size, uid, gid, permissions, atime, mtime = file
        owners = uid & _UINT32_MAX, gid & _UINT32_MAX
        return _ALL_FIELDS.pack(_ALL, size, *owners, permissions, _clamped(atime), _clamped(mtime))


def longname(file: FileAttributes, filename: bytes, now: float) -> bytes:
    """The line of `ls -l` for a file, in the format that §7 recommends.

    Times are of the server's zone, as OpenSSH has them. Nothing that the entry does not say already
    is looked up: the link count is 1 and owner and group are numbers. The files of a folder have
    much in common: what they have is made once.
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
    """The date of a day in local time, by its number."""
    return time.strftime("%b %e  %Y", time.gmtime(_clamped(day * 86400))).encode()


@lru_cache(maxsize=1024)
def _offset_of_week(week: int) -> int | None:
    """Seconds that local time is ahead of UTC all that week; None if that changes within it."""
    first, last = _offset(week * _WEEK), _offset((week + 1) * _WEEK)
    return first if first == last else None


def _offset(seconds: int) -> int:
    return time.localtime(_clamped(seconds)).tm_gmtoff


def _clamped(seconds: int) -> int:
    return min(max(seconds, 0), _UINT32_MAX)


def skip_attributes(cursor: Cursor) -> None:
    """Read past an ATTRS structure that a client sent: nothing of it is ever applied.

    Raises ProtocolError where it is not well formed.
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
