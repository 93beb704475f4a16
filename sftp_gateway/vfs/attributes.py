"""The file attributes that clients see."""

from __future__ import annotations

import ctypes
import os
import stat
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple, TypeAlias


class Attributes(NamedTuple):
    """Attributes as shown to clients: size in bytes, times in seconds since 1970.

    A tuple in the order of the ATTRS structure, because a listing creates one for each name.
    """

    size: int
    uid: int
    gid: int
    mode: int
    atime: int
    mtime: int


class Modes(StrEnum):
    """Which permission bits are shown."""

    #: The real ones, including `w`, although nothing can be written.
    REAL = "real"
    #: The same without `w`.
    READ_ONLY = "read-only"


#: The mode of symbolic links on Linux.
LINK_MODE: Final = stat.S_IFLNK | 0o777
#: Set in the shown mode of all files that this process can read by owner, group and mode.
OTHERS_READ: Final = 0o004

#: The shown uid, gid and mode; None if hidden.
_Shown: TypeAlias = "tuple[int, int, int] | None"
_MAX_CACHED: Final = 1024


def make_readable(attributes: Attributes) -> Attributes:
    """`attributes` with read permission for all, for a file readable through an ACL."""
    bits = 0o555 if stat.S_ISDIR(attributes.mode) else 0o444
    return attributes._replace(mode=attributes.mode | bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributePolicy:
    """Maps real attributes to shown ones. A `uid` or `gid` of None shows the real id."""

    uid: int | None = None
    gid: int | None = None
    modes: Modes = Modes.REAL
    _cache: dict[tuple[int, int, int], _Shown] = field(
        default_factory=dict, init=False, compare=False
    )

    def show(self, status: os.stat_result) -> Attributes | None:
        """The attributes to show for `status`; None, to hide it, for fifos, sockets and devices."""
        mode, _, _, _, uid, gid, size, atime, mtime, _ = status
        try:
            shown = self._cache[mode, uid, gid]
        except KeyError:
            shown = self._decide(mode, uid, gid)
        if shown is None:
            return None
        uid, gid, mode = shown
        # As a tuple, os.stat_result has whole seconds.
        return Attributes(size, uid, gid, mode, atime, mtime)  # type: ignore[arg-type]

    def virtual_directory(self, time: int) -> Attributes:
        """The attributes of a virtual directory, with `time` as its times."""
        return Attributes(
            4096,
            os.getuid() if self.uid is None else self.uid,
            os.getgid() if self.gid is None else self.gid,
            stat.S_IFDIR | self._masked(0o755),
            time,
            time,
        )

    def _decide(self, mode: int, uid: int, gid: int) -> _Shown:
        """Computes and caches the shown uid, gid and mode.

        With `default_permissions`, the worker's kernel enforces these bits. The gateway reads for
        all workers, so files that it can read are shown as readable for all, and others with their
        own bits. Set-user-ID, set-group-ID and sticky bits are removed: they have no meaning on the
        mount, and copies must not get them.
        """
        shown: _Shown
        if stat.S_ISLNK(mode):
            bits = LINK_MODE
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            rights = 0o7 if _reads_everything() else _rights(mode, uid, gid)
            bits = mode & 0o777 | 0o444 if rights & 0o4 else mode & 0o777 & ~OTHERS_READ
            if stat.S_ISDIR(mode) and rights & 0o1:
                bits |= 0o111
            bits = stat.S_IFMT(mode) | self._masked(bits)
        else:
            bits = 0
        shown = (
            (uid if self.uid is None else self.uid, gid if self.gid is None else self.gid, bits)
            if bits
            else None
        )
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[mode, uid, gid] = shown
        return shown

    def _masked(self, bits: int) -> int:
        return bits if self.modes is Modes.REAL else bits & ~0o222


def _rights(mode: int, uid: int, gid: int) -> int:
    """The permission bits of this process by owner, group and mode; an ACL may grant more."""
    if uid == os.geteuid():
        return mode >> 6
    if gid == os.getegid() or gid in os.getgroups():
        return mode >> 3
    return mode


@cache
def _reads_everything() -> bool:
    """Whether this process has CAP_DAC_OVERRIDE or CAP_DAC_READ_SEARCH (capabilities(7))."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # linux/capability.h: version 3; this thread
    data = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capget(header, data) != 0:
        return False
    return bool(data[0] & 0b110)
