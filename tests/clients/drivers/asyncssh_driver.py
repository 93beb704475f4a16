"""asyncssh as a command: OPERATION PATH [LOCAL]; the login is in the environment."""

from __future__ import annotations

import asyncio
import os
import sys

import asyncssh


async def run(sftp: asyncssh.SFTPClient, operation: str, path: str, local: str) -> None:
    match operation:
        case "list":
            print("\n".join(str(name) for name in await sftp.listdir(path)))
        case "read":
            async with sftp.open(path, "rb") as file:
                sys.stdout.buffer.write(await file.read())
        case "resume":
            async with sftp.open(path, "rb") as remote:
                with open(local, "ab") as kept:
                    kept.write(await remote.read(offset=kept.tell()))
        case "copy":
            await sftp.get(path, local, recurse=True)
        case "link":
            print(await sftp.readlink(path))
        case "write":
            await sftp.put(local, path)


async def main() -> None:
    async with (
        asyncssh.connect(
            "127.0.0.1", int(os.environ["PORT"]), username="gvpocr",
            client_keys=[os.environ["KEY"]], known_hosts=os.environ["KNOWN_HOSTS"], config=None,
            agent_path=None,
        ) as connection,
        connection.start_sftp_client() as sftp,
    ):  # fmt: skip
        try:
            await run(sftp, *sys.argv[1:])
        except asyncssh.SFTPError as error:
            sys.exit(f"{type(error).__name__}: {error}")


asyncio.run(main())
