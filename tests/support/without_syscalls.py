"""Runs a program without some system calls, as on an older kernel.

    python without_syscalls.py 437,444 PROGRAM [ARGUMENT...]

A seccomp filter answers ENOSYS for the calls of these numbers, which are the same on every
architecture from 424 on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable

OPENAT2 = 437
LANDLOCK_CREATE_RULESET = 444
LANDLOCK_RESTRICT_SELF = 446

# linux/bpf_common.h, linux/seccomp.h, linux/prctl.h
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _MODE_FILTER, _PR_SET_NO_NEW_PRIVS = 22, 2, 38


def runner(*numbers: int) -> list[str]:
    """The command prefix."""
    return [sys.executable, __file__, ",".join(map(str, numbers))]


def refuse(numbers: Iterable[int]) -> None:
    """Make these calls fail from now on."""
    program = [(_LOAD, 0, 0, 0)]
    for number in numbers:
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    program.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    length_and_pointer = struct.pack("@HP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, length_and_pointer) == 0, ctypes.get_errno()


if __name__ == "__main__":
    refuse(int(number) for number in sys.argv[1].split(","))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - in its own place
