"""Resolves paths beneath a directory descriptor, never outside it.

The result is an `O_PATH` descriptor (open(2)). It pins the file without opening it, so resolving a
fifo or a device has no side effect, and there is no race between check and use.
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
#: Without blocking: only from the dentry cache, and only on the share's own file system, because a
#: mount beneath it may be a network file system.
_CONFINED_CACHED: Final = _CONFINED | _RESOLVE_CACHED | _RESOLVE_NO_XDEV

# linux/fcntl.h, linux/stat.h
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_MNT_ID: Final = 0x1000
_WORDS_OF_STATX: Final = 32
_STX_MNT_ID: Final = 18  # the index of the word

_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

#: openat2(2): EAGAIN means that a rename raced with `..` in the path; the call must be retried.
_RACE_RETRIES: Final = 64

#: Maximum number of links in one path, as in the kernel (path_resolution(7)).
_MAX_LINKS: Final = 40

#: Maximum number of parent directories that ManualResolver keeps open. It does not follow a link
#: that climbs further; a path may have 2,000 components, too many for a descriptor each.
_MAX_TRAIL: Final = 32

#: Maximum length of a path in bytes, including its NUL byte (linux/limits.h).
PATH_MAX: Final = 4096


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_SIZE_OF_HOW: Final = ctypes.sizeof(_OpenHow)


class PathResolver(Protocol):
    """Resolves paths beneath a directory; see `choose_resolver`."""

    #: Maximum number of descriptors that a look-up uses.
    descriptors: int

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """Return a new O_PATH descriptor of `path` beneath the directory descriptor `root`.

        `path` is relative, without NUL bytes; empty means `root` itself. `follow` says whether to
        follow a link in the last component (earlier ones are always followed).

        Raises OSError: EXDEV if the path leads out of `root`, otherwise as open(2) does;
        BlockingIOError if it would block and `wait` is false.
        """
        ...


def open_no_symlinks(path: Path) -> int:
    """A new O_PATH descriptor of the directory `path`, which must not contain symbolic links.

    Raises OSError: ELOOP for a link, otherwise as open(2) does.
    """
    here = os.open(path.anchor or ".", _FOLDER)
    for part in path.parts[1 if path.anchor else 0 :]:
        above = here
        try:
            here = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except NotADirectoryError as error:
            if stat.S_ISLNK(os.lstat(part, dir_fd=above).st_mode):
                raise OSError(errno.ELOOP, "its path now contains a symbolic link") from error
            raise
        finally:
            os.close(above)
    return here


def mount_id(descriptor: int) -> int:
    """The id of the mount that the descriptor is on, without access to the file system.

    It is unique as long as the descriptor is open. 0 before Linux 5.8, or if the C library lacks
    statx(2).
    """
    statx = getattr(ctypes.CDLL(None), "statx", None)
    found = (ctypes.c_uint64 * _WORDS_OF_STATX)()
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    if statx is None or statx(descriptor, b"", flags, _STATX_MNT_ID, found) != 0:
        return 0
    return found[_STX_MNT_ID]


class Openat2Resolver:
    """Resolves with openat2(2), RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS (Linux 5.6)."""

    descriptors = 1

    def __init__(self) -> None:
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        # PyDLL keeps the GIL during the call: it never blocks, and the event loop does not have to
        # compete for the GIL afterwards.
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
        # Shared by all calls, because the kernel only reads them. Keyed by (follow, wait).
        self._how = {
            (follow, wait): ctypes.byref(
                _OpenHow(
                    flags=os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW),
                    resolve=_CONFINED if wait else _CONFINED_CACHED,
                )
            )
            for follow in (False, True)
            for wait in (False, True)
        }

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """See PathResolver."""
        how = self._how[follow, wait]
        syscall = self._syscall if wait else self._syscall_cached
        for _ in range(_RACE_RETRIES):
            descriptor: int = syscall(_SYS_OPENAT2, root, path or b".", how, _SIZE_OF_HOW)
            if descriptor >= 0:
                return descriptor
            code = ctypes.get_errno()
            if not wait and code in (errno.EAGAIN, errno.EXDEV, errno.EINVAL):
                # EXDEV: an escape or another mount, which only the blocking call distinguishes.
                # EINVAL: Linux before 5.12 has no RESOLVE_CACHED.
                raise would_block()
            if code not in (errno.EAGAIN, errno.EINTR):
                raise OSError(code, os.strerror(code))
        raise OSError(errno.EXDEV, "renames kept racing with the path")


class ManualResolver:
    """Opens one component at a time, each relative to the descriptor of the last.

    For kernels without openat2(2), and containers whose seccomp profile denies it. It follows links
    itself; a link that is absolute or climbs above the root is an escape.
    """

    descriptors = _MAX_TRAIL + 1

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """See PathResolver. Without openat2 there is no way to know whether a look-up blocks."""
        if not wait:
            raise would_block()
        if len(path) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        pending = _components(path)
        # The directories from the root to the current one, so that `..` returns to the directory
        # it came from, despite concurrent renames. Of many, the topmost are closed.
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
    """The components of `path`, in reverse order."""
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if path.endswith((b"/", b"/.")) and parts:
        parts.append(b".")  # `name/` means a folder
    return parts[::-1]


def _link_components(link: int, links: int) -> list[bytes]:
    """The components of the link's target; closes `link`."""
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
    """`Openat2Resolver` if openat2(2) works, otherwise `ManualResolver`.

    It fails with EPERM under the seccomp profile of old Docker engines, and with ENOSYS on old
    kernels.
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
    """Open the file of the O_PATH descriptor `pinned`; raises OSError as open(2) does.

    /proc/self/fd refers to the pinned file, not to its name, so there is no race.
    """
    return os.open(b"/proc/self/fd/%d" % pinned, flags | os.O_CLOEXEC | os.O_NOCTTY)
