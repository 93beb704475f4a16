"""The error that a call with `wait=False` raises if it would block."""

from __future__ import annotations

import errno
import os


def would_block() -> BlockingIOError:
    """The error to raise; the caller repeats the call on a thread, with `wait=True`."""
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
