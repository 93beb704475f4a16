"""fsspec's sshfs as a command: OPERATION PATH [LOCAL].

The login is in the environment.
"""

from __future__ import annotations

import os
import sys

from sshfs import SSHFileSystem


def run(files: SSHFileSystem, operation: str, path: str, local: str) -> None:
    match operation:
        case "list":
            print("\n".join(os.path.basename(name) for name in files.ls(path, detail=False)))
        case "read":
            sys.stdout.buffer.write(files.cat_file(path))
        case "resume":
            with files.open(path, "rb") as remote, open(local, "ab") as kept:
                remote.seek(kept.tell())
                kept.write(remote.read())
        case "copy":
            files.get(path, local, recursive=True)
        case "link":
            print(files.info(path)["type"])
        case "write":
            files.put_file(local, path)


opened = SSHFileSystem(
    "127.0.0.1", port=int(os.environ["PORT"]), username="gvpocr", client_keys=[os.environ["KEY"]],
    known_hosts=os.environ["KNOWN_HOSTS"], config=None, agent_path=None,
)  # fmt: skip
try:
    run(opened, *sys.argv[1:])
except OSError as error:
    sys.exit(f"{type(error).__name__}: {error}")
