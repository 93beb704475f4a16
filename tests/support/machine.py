"""Requirements of the tests with real clients."""

from __future__ import annotations

import os
from pathlib import Path


def lacking() -> str:
    """The missing requirements; empty if the tests can run."""
    if os.geteuid() != 0:
        return "root"
    return "" if Path("/dev/fuse").is_char_device() else "/dev/fuse"
