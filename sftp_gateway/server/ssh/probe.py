"""The health check's SSH handshake with a running gateway."""

from __future__ import annotations

import asyncio
import os

import asyncssh


async def handshake(host: str, port: int, *, seconds: float) -> str:
    """Exchange keys with the server, and return the public line of its host key.

    Raises TimeoutError after `seconds`, OSError if nothing listens, and ConnectionError if the
    listener is not an SSH server.
    """
    # asyncssh's client looks up the user's name, and a container's user may have none.
    os.environ.setdefault("LOGNAME", "sftp-gateway")
    async with asyncio.timeout(seconds):
        try:
            key = await asyncssh.get_server_host_key(host, port, config=None)
        except asyncssh.Error as error:
            raise ConnectionError(f"no SSH handshake: {error}") from error
    if key is None:
        raise ConnectionError("the server showed no host key")
    return key.export_public_key("openssh").decode("ascii").strip()
