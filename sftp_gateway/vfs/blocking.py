"""The error of a call with `wait=False` that would block."""

from __future__ import annotations

import errno
import os


def would_block() -> BlockingIOError:
    """The error to raise. The caller repeats the call on a thread, with `wait=True`."""
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
