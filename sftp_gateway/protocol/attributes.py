"""The ATTRS structure (draft-ietf-secsh-filexfer-02 §5) and the `longname` of a NAME entry (§7)."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass
from struct import Struct
from typing import Final

from sftp_gateway.protocol.constants import AttributeFlags
from sftp_gateway.protocol.wire import Cursor

_ALL: Final = (
    AttributeFlags.SIZE
    | AttributeFlags.UIDGID
    | AttributeFlags.PERMISSIONS
    | AttributeFlags.ACMODTIME
)
_ALL_FIELDS: Final = Struct(">IQIIIII")
_UINT32_MAX: Final = 0xFFFFFFFF
#: `ls` shows the year instead of the time of day for what is older than this, in seconds.
_RECENT: Final = 365 * 24 * 3600 // 2


@dataclass(frozen=True, slots=True)
class FileAttributes:
    """All attributes of one file: size in bytes, times in seconds since 1970, whole mode word."""

    size: int
    uid: int
    gid: int
    permissions: int
    atime: int
    mtime: int

    def encode(self) -> bytes:
        """The ATTRS structure; times outside 1970-2106 are clamped, as uint32 cannot hold them."""
        return _ALL_FIELDS.pack(
            _ALL,
            self.size,
            self.uid & _UINT32_MAX,
            self.gid & _UINT32_MAX,
            self.permissions,
            min(max(self.atime, 0), _UINT32_MAX),
            min(max(self.mtime, 0), _UINT32_MAX),
        )

    def longname(self, filename: bytes, now: float) -> bytes:
        """The line of `ls -l` for this file, in the format that §7 recommends.

        Nothing that the entry does not say already is looked up: the link count is 1 and owner
        and group are numbers.
        """
        when = time.gmtime(min(max(self.mtime, 0), _UINT32_MAX))
        recent = 0 <= now - self.mtime < _RECENT
        stamp = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", when)
        return b"%s %3d %-8d %-8d %8d %s %s" % (
            stat.filemode(self.permissions).encode(),
            1,
            self.uid & _UINT32_MAX,
            self.gid & _UINT32_MAX,
            self.size,
            stamp.encode(),
            filename,
        )


def skip_attributes(cursor: Cursor) -> None:
    """Read past an ATTRS structure that a client sent: nothing of it is ever applied.

    Raises ProtocolError where it is not well formed.
    """
    flags = cursor.uint32()
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
