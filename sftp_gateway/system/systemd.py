"""Notifies systemd of the gateway's state (sd_notify(3)), if systemd has started it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

READY: Final = b"READY=1"
STOPPING: Final = b"STOPPING=1"


def notify(state: bytes) -> None:
    """Send the state. Never raises, because serving does not depend on it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender,
    ):
        sender.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        sender.send(state)
