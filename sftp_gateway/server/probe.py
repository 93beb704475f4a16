"""A look at a running gateway from outside: a real SSH handshake, as a client makes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import asyncssh


async def handshake(host: str, port: int, *, seconds: float) -> str:
    """Exchange keys with the server and return its host key's public line.

    Raises TimeoutError after `seconds`, OSError where nothing listens, and ConnectionError where
    something does that is no SSH server.
    """
    # asyncssh's client asks for the user's name, and a container's user may have none.
    os.environ.setdefault("LOGNAME", "sftp-gateway")
    async with asyncio.timeout(seconds):
        try:
            key = await asyncssh.get_server_host_key(host, port, config=None)
        except asyncssh.Error as error:
            raise ConnectionError(f"no SSH handshake: {error}") from error
    if key is None:
        raise ConnectionError("the server showed no host key")
    return key.export_public_key("openssh").decode("ascii").strip()


def same_key(public_line: str, public_file: Path) -> bool:
    """Whether the key is the one in `public_file`; comments do not count."""
    with contextlib.suppress(OSError):
        text = public_file.read_text(encoding="utf-8", errors="replace")
        return text.split()[:2] == public_line.split()[:2]
    return False
