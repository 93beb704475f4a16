"""What this machine has for tests with real clients."""

from __future__ import annotations

import os
from pathlib import Path


def lacking() -> str:
    """What it lacks of what they need; nothing if they can run."""
    if os.geteuid() != 0:
        return "root"
    return "" if Path("/dev/fuse").is_char_device() else "/dev/fuse"
