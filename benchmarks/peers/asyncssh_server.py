"""asyncssh with the SFTP server of its own, as its documentation says to set it up.

python asyncssh_server.py PORT HOST_KEY AUTHORIZED_KEYS FOLDER
"""

from __future__ import annotations

import sys

import asyncssh
import uvloop


async def _serve(port: int, host_key: str, authorized_keys: str, folder: str) -> None:
    def open_sftp(channel: asyncssh.SSHServerChannel[bytes]) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=folder.encode())

    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        sftp_factory=open_sftp,
    )
    await server.wait_closed()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), *sys.argv[2:]))
