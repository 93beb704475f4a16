"""Resolves a path below a directory descriptor, and never outside it.

The result is always an `O_PATH` descriptor. It pins the file without opening it, so that resolving
a fifo or a device has no effect, and no race is possible between check and use (openat2(2) and
open(2), "O_PATH").
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import Final, Protocol

from sftp_gateway.vfs.blocking import would_block

# linux/openat2.h
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_XDEV: Final = 0x01
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_CACHED: Final = 0x20

_CONFINED: Final = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
#: Without waiting: only what the dentry cache knows, and only on the share's own file system,
#: because a mount below it may be a network's.
_CONFINED_CACHED: Final = _CONFINED | _RESOLVE_CACHED | _RESOLVE_NO_XDEV

# linux/fcntl.h, linux/stat.h
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_MNT_ID: Final = 0x1000
_WORDS_OF_STATX: Final = 32
_STX_MNT_ID: Final = 18  # the word's place

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

#: openat2(2): EAGAIN means that a rename raced with a `..` in the path; asking again is right.
_RACE_RETRIES: Final = 64

#: As many links as the kernel follows in one path (path_resolution(7)).
_MAX_LINKS: Final = 40

#: Folders above the one where a walk is that it keeps open. A link that climbs further is not
#: followed: a path may have 2,000 folders, and a descriptor for each of them would be too many.
_MAX_TRAIL: Final = 32

#: Bytes of the longest path that the kernel takes, with its NUL byte (linux/limits.h).
PATH_MAX: Final = 4096


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_SIZE_OF_HOW: Final = ctypes.sizeof(_OpenHow)


class PathResolver(Protocol):
    """Resolves a path below a directory; `choose_resolver` picks the implementation."""

    #: How many a look-up holds at most.
    descriptors: int

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """Return a new O_PATH descriptor of `path` below the directory descriptor `root`.

        `path` is relative, without NUL bytes; empty means `root` itself. `follow` says whether
        a link in the last place is followed (those before it always are).

        Raises OSError: EXDEV where the path leads out of `root`, else as open(2) does; and
        BlockingIOError where that would mean to wait and `wait` is false.
        """
        ...


def open_no_symlinks(path: Path) -> int:
    """A new O_PATH descriptor of the directory `path`, which must not contain symbolic links.

    Raises OSError: ELOOP where a link is in the way, else as open(2) does.
    """
    here = os.open(path.anchor or ".", _FOLDER)
    for part in path.parts[1 if path.anchor else 0 :]:
        above = here
        try:
            here = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.lstat(part, dir_fd=above).st_mode):
                raise OSError(errno.ELOOP, "a link has come into its path") from error
            raise
        finally:
            os.close(above)
    return here


def mount_id(descriptor: int) -> int:
    """The number of the mount that the descriptor is of, without asking its file system.

    No other mount has it for as long as the descriptor is open. 0 before Linux 5.8, and without
    the C library's statx(2).
    """
    statx = getattr(ctypes.CDLL(None), "statx", None)
    found = (ctypes.c_uint64 * _WORDS_OF_STATX)()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if statx is None or statx(descriptor, b"", flags, _STATX_MNT_ID, found) != 0:
        return 0
    return found[_STX_MNT_ID]


class Openat2Resolver:
    """Lets the kernel confine: RESOLVE_BENEATH and no magic links (Linux 5.6 and later)."""

    descriptors = 1

    def __init__(self) -> None:
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        # What never waits keeps Python's global lock: another thread would take it meanwhile, and
        # the event loop would have to wait for that.
        self._syscall_cached = ctypes.PyDLL(None, use_errno=True).syscall
        for function in (self._syscall, self._syscall_cached):
            function.restype = ctypes.c_long
            function.argtypes = (
                ctypes.c_long,
                ctypes.c_int,
                ctypes.c_char_p,
                ctypes.c_void_p,
                ctypes.c_size_t,
            )
        # Made once: the kernel only reads them. Keyed by (follow, wait).
        self._how = {
            (follow, wait): _OpenHow(
                flags=os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW),
                resolve=_CONFINED if wait else _CONFINED_CACHED,
            )
            for follow in (False, True)
            for wait in (False, True)
        }

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """See PathResolver."""
        how = ctypes.byref(self._how[follow, wait])
        syscall = self._syscall if wait else self._syscall_cached
        for _ in range(_RACE_RETRIES):
            descriptor: int = syscall(_SYS_OPENAT2, root, path or b".", how, _SIZE_OF_HOW)
            if descriptor >= 0:
                return descriptor
            code = ctypes.get_errno()
            if not wait and code in (errno.EAGAIN, errno.EXDEV, errno.EINVAL):
                # EXDEV may be an escape or only another mount: the waiting call tells them apart.
                # EINVAL: Linux before 5.12 knows no RESOLVE_CACHED.
                raise would_block()
            if code not in (errno.EAGAIN, errno.EINTR):
                raise OSError(code, os.strerror(code))
        raise OSError(errno.EXDEV, "renames kept racing with the path")


class ManualResolver:
    """Walks one component at a time, each below the descriptor of the last.

    For kernels without openat2, and containers whose seccomp profile denies it. It follows links by
    itself; a link that is absolute, or climbs above the root, is an escape.
    """

    descriptors = _MAX_TRAIL + 1

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """See PathResolver. Without openat2 nothing tells whether a look-up would wait."""
        if not wait:
            raise would_block()
        if len(path) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        pending = _components(path)
        # The folders from the root down to where the walk is, so that `..` goes back to the very
        # folder it came from, whatever is renamed meanwhile; without the topmost of very many.
        trail = deque([os.dup(root)])
        links, forgotten = 0, False
        try:
            while pending:
                name = pending.pop()
                if name in (b".", b".."):
                    _require_folder(trail[-1])
                    if name == b"..":
                        if len(trail) == 1:
                            code = errno.ELOOP if forgotten else errno.EXDEV
                            raise OSError(code, "the path climbs too far")
                        os.close(trail.pop())
                    continue
                found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
                if (pending or follow) and stat.S_ISLNK(os.fstat(found).st_mode):
                    links += 1
                    pending += _link_components(found, links)
                    continue
                trail.append(found)
                if len(trail) > _MAX_TRAIL:
                    os.close(trail.popleft())
                    forgotten = True
            return trail.pop()
        finally:
            for descriptor in trail:
                os.close(descriptor)


def _require_folder(descriptor: int) -> None:
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))


def _components(path: bytes) -> list[bytes]:
    """The components of `path`, last first."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.endswith((b"/", b"/.")) and parts:
        parts.append(b".")  # `name/` means a folder
    return parts[::-1]


def _link_components(link: int, links: int) -> list[bytes]:
    """The components that the link's target puts in its place; closes `link`."""
    try:
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(b"", dir_fd=link)
    finally:
        os.close(link)
    if target.startswith(b"/"):
        raise OSError(errno.EXDEV, "the link is absolute")
    return _components(target)


def choose_resolver() -> PathResolver:
    """`Openat2Resolver` where a trial call works, else `ManualResolver`.

    Old Docker engines' seccomp profile answers EPERM, old kernels ENOSYS.
    """
    resolver = Openat2Resolver()
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.close(resolver.resolve(root, b"", follow=True, wait=True))
            return resolver
    finally:
        os.close(root)
    return ManualResolver()


def reopen(pinned: int, flags: int) -> int:
    """Open the file that the O_PATH descriptor `pinned` holds; raises OSError as open(2) does.

    /proc/self/fd leads to the pinned file itself, not to its name: nothing can come between.
    """
    return os.open(b"/proc/self/fd/%d" % pinned, flags | os.O_CLOEXEC | os.O_NOCTTY)
