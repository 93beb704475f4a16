"""Landlock by its system calls: what this process, and all it forks, may reach from now on.

A ruleset forbids the accesses that it handles, but for those that a rule allows beneath a file or
folder. It holds for the calling thread and what it makes later, so it has to be called before
there are others. Files that are open already are not concerned, nor is what opens nothing: a
look at a path, `stat`, `O_PATH`. See landlock(7) and the kernel's userspace-api/landlock.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from enum import IntFlag
from pathlib import Path
from typing import Final, NamedTuple

# asm-generic/unistd.h: the same numbers on every architecture.
_SYS_CREATE_RULESET: Final = 444
_SYS_ADD_RULE: Final = 445
_SYS_RESTRICT_SELF: Final = 446

# linux/landlock.h
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_NET_BIND_TCP: Final = 1
_NET_CONNECT_TCP: Final = 2
_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1
_SCOPE_SIGNAL: Final = 2

#: Versions of the ABI that brought what is used here.
_NETWORK_ABI: Final = 4
_SCOPE_ABI: Final = 6

#: The newest version whose additions were looked at. Those of later ones are not handled.
NEWEST_ABI: Final = 7

#: prctl(2)
_PR_SET_NO_NEW_PRIVS: Final = 38


class Access(IntFlag):
    """LANDLOCK_ACCESS_FS_*: what can be done with files and folders."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13  # ABI 2: renames and links from one folder to another
    TRUNCATE = 1 << 14  # ABI 3
    IOCTL_DEV = 1 << 15  # ABI 5: ioctl(2) of a device


_ALL_OF_ABI_1: Final = Access(Access.REFER - 1)

#: What of a folder's rights a rule for a single file may allow.
_FILE_ACCESSES: Final = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE

READ: Final = Access.READ_FILE | Access.READ_DIR


class Rule(NamedTuple):
    """Beneath `path`, or of `path` itself where it is a file, `access` is allowed."""

    path: Path
    access: Access


def abi() -> int:
    """The version of the kernel's Landlock, at most NEWEST_ABI; 0 where there is none.

    ENOSYS: the kernel was built without, or a seccomp profile hides it (EPERM, too). EOPNOTSUPP:
    it is not enabled at boot.
    """
    try:
        version = _call(_SYS_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0
    return min(version, NEWEST_ABI)


def forbid_new_privileges() -> None:
    """Set-user-id programs and file capabilities give nothing to this process any more."""
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _error()


def all_accesses(version: int) -> Access:
    """All accesses that this version of the ABI can handle."""
    handled = _ALL_OF_ABI_1
    for access, since in ((Access.REFER, 2), (Access.TRUNCATE, 3), (Access.IOCTL_DEV, 5)):
        if version >= since:
            handled |= access
    return handled


def restrict(
    version: int, *, handled: Access, rules: Iterable[Rule] = (), scoped: bool = False
) -> None:
    """Forbid this process what is `handled`, but for `rules`; `version` is that of `abi()`.

    Where the version has it, TCP sockets can neither be bound nor connected, and with `scoped` no
    signals go to processes outside, nor connections to abstract UNIX sockets of theirs. A rule
    whose path does not exist is left out.

    Raises OSError. There is no way back.
    """
    handled &= all_accesses(version)
    attributes = struct.pack(
        "=QQQ",
        handled,
        _NET_BIND_TCP | _NET_CONNECT_TCP if version >= _NETWORK_ABI else 0,
        _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if scoped and version >= _SCOPE_ABI else 0,
    )
    # An older kernel takes a longer structure whose end is zero (landlock_create_ruleset(2)).
    ruleset = _call(_SYS_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for rule in rules:
            with suppress(FileNotFoundError, NotADirectoryError):
                _allow(ruleset, rule, handled)
        forbid_new_privileges()
        _call(_SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, rule: Rule, handled: Access) -> None:
    beneath = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    try:
        access = rule.access & handled
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            access &= _FILE_ACCESSES
        _call(_SYS_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", access, beneath), 0)
    finally:
        os.close(beneath)


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: int | bytes | None) -> int:
    converted = [ctypes.c_long(given) if isinstance(given, int) else given for given in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        raise _error()
    return result


def _error() -> OSError:
    code = ctypes.get_errno() or errno.EINVAL
    return OSError(code, os.strerror(code))
