"""Which part of a file the page cache holds: asked, filled, emptied; and room for more."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

_BLOCK = 1024 * 1024

#: Pages that are just being read or written stay; they are asked to go for so many seconds.
_PATIENCE = 10.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def resident(path: Path) -> float:
    """The part of the file that the page cache holds, from 0 to 1 (mincore(2)); 1 if empty."""
    size = path.stat().st_size
    if size == 0:
        return 1.0
    pages = bytearray(-(-size // mmap.PAGESIZE))
    # A private mapping, because ctypes takes the address of writable memory only.
    with open(path, "rb") as file, mmap.mmap(
        file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
    ) as mapping:  # fmt: skip
        start = ctypes.c_char.from_buffer(mapping)
        states = (ctypes.c_char * len(pages)).from_buffer(pages)
        failed = _libc.mincore(ctypes.addressof(start), size, states)
        del start, states  # the mapping cannot be closed before
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
    return pages.count(1) / len(pages)  # Linux uses no other bit of these bytes


def fill(path: Path) -> None:
    """Read the file until all of it is in the page cache, or more than that does not stay."""
    block = bytearray(_BLOCK)
    before = -1.0
    while before < (now := resident(path)) < 1:
        before = now
        with open(path, "rb", buffering=0) as file:
            while file.readinto(block):
                pass


def touch_free_memory(size: int) -> None:
    """Use `size` bytes of free memory for a moment.

    What a virtual machine has free may be back with its host: whoever is given it next waits for
    the host to find some, which says nothing of any server.
    """
    with mmap.mmap(-1, size) as memory:
        memory[:: mmap.PAGESIZE] = bytes(-(-size // mmap.PAGESIZE))


def evictable(path: Path) -> bool:
    """Whether pages of the file leave memory when told to: those of a tmpfs, for one, do not."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return resident(path) < 1


def drop(path: Path) -> None:
    """Empty the page cache of a file that is not being written, and see that it is empty.

    Needs no privileges (posix_fadvise(2)). Raises RuntimeError if some of it stays.
    """
    deadline = time.monotonic() + _PATIENCE
    with open(path, "rb") as file:
        while True:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            left = resident(path)
            if left == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"{left:.1%} of {path.name} stays in the page cache")
            time.sleep(0.05)
