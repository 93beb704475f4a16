"""paramiko as a command: OPERATION PATH [LOCAL]; the login is in the environment."""

from __future__ import annotations

import os
import stat
import sys

import paramiko


def copy(sftp: paramiko.SFTPClient, path: str, local: str) -> None:
    os.mkdir(local)
    for entry in sftp.listdir_attr(path):
        below, target = f"{path}/{entry.filename}", os.path.join(local, entry.filename)
        if stat.S_ISDIR(entry.st_mode or 0):
            copy(sftp, below, target)
        else:
            sftp.get(below, target)


def resume(sftp: paramiko.SFTPClient, path: str, local: str) -> None:
    with sftp.open(path) as remote, open(local, "ab") as file:
        remote.seek(file.tell())
        file.write(remote.read())


def run(sftp: paramiko.SFTPClient, operation: str, path: str, local: str) -> None:
    match operation:
        case "list":
            print("\n".join(sftp.listdir(path)))
        case "read":
            with sftp.open(path) as file:
                sys.stdout.buffer.write(file.read())
        case "resume":
            resume(sftp, path, local)
        case "copy":
            copy(sftp, path, local)
        case "link":
            assert stat.S_ISLNK(sftp.lstat(path).st_mode or 0)
            print(sftp.readlink(path))
        case "write":
            sftp.put(local, path)


with paramiko.SSHClient() as client:
    client.load_host_keys(os.environ["KNOWN_HOSTS"])
    client.connect(
        "127.0.0.1", int(os.environ["PORT"]), "gvpocr", key_filename=os.environ["KEY"],
        look_for_keys=False, allow_agent=False,
    )  # fmt: skip
    with client.open_sftp() as opened:
        try:
            run(opened, *sys.argv[1:])
        except OSError as error:
            sys.exit(f"{type(error).__name__}: {error}")
