"""A gateway with the worst possible faults: it opens any path without checks.

    python faulty_gateway.py PYTHON -m sftp_gateway serve

It is run in the place of the program that is named after it. Paths are opened as the kernel finds
them, wherever they lead; and `echo NAME` does in the worker what ATTEMPTS has under that name, as
if a client had brought code of its own in. What is left to stop either is the kernel's confinement.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sftp_gateway.app import gateway
from sftp_gateway.commands.main import main
from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.server.exec import command_line as command
from sftp_gateway.vfs import path_resolution


class UnconfinedResolver:
    """Resolves paths without confinement."""

    descriptors = 1

    def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        """See path_resolution.PathResolver."""
        flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
        return os.open(path or b".", flags, dir_fd=root)


def _open(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags, 0o600))


def _execute(program: str) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(program, [program])  # noqa: S606 - what has to fail
        except OSError as error:
            os._exit(error.errno or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def _use_tcp(call: Callable[[socket.socket], None]) -> None:
    with closing(socket.socket()) as made:
        call(made)


def _connect(made: socket.socket) -> None:
    made.settimeout(5)
    # The metrics' own port: there is one who listens.
    made.connect(("127.0.0.1", int(os.environ["SFTP_GATEWAY_METRICS_PORT"])))


def _ask_for_bans() -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as made:
        made.settimeout(5)
        made.connect("state/control.sock")
        made.send(b'{"bans":0}')
        if not made.recv(1 << 16):
            raise ConnectionResetError(errno.ECONNRESET, "not answered")


def _as_an_orphan(call: Callable[[], None]) -> None:
    """Call in an orphaned grandchild of the worker."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        middle = os.getpid()
        if os.fork() == 0:
            while os.getppid() == middle:
                time.sleep(0.01)
            try:
                call()
                os.write(writer, b"done")
            except OSError as error:
                os.write(writer, str(error.errno).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        code = file.read()
    if code != b"done":
        raise OSError(int(code), "not answered")


#: The access log's file.
LOG = "logs/access.log"

ATTEMPTS: dict[str, Callable[[], None]] = {
    "read-a-share": lambda: _open("shared/models/README.txt"),
    "read-outside": lambda: _open("outside.txt"),
    "read-a-clients-key": lambda: _open("keys/worker_ed25519"),
    "read-the-configuration": lambda: _open("config/sftp-gateway.toml"),
    "read-passwd": lambda: _open("/etc/passwd"),
    "read-another-process": lambda: _open(f"/proc/{os.getppid()}/mem"),
    "list-the-root": lambda: os.listdir("/") and None,
    "write-to-a-share": lambda: _open("shared/models/README.txt", os.O_WRONLY),
    "truncate-in-a-share": lambda: os.truncate("shared/models/README.txt", 0),
    "make-in-a-share": lambda: _open("shared/models/new", os.O_WRONLY | os.O_CREAT),
    "delete-in-a-share": lambda: os.unlink("shared/models/README.txt"),
    "write-outside": lambda: _open("outside.txt", os.O_WRONLY),
    "read-the-log": lambda: _open(LOG),
    "append-to-the-log": lambda: _open(LOG, os.O_WRONLY | os.O_APPEND),
    "truncate-the-log": lambda: os.truncate(LOG, os.stat(LOG).st_size),
    "rename-the-log": lambda: os.rename(LOG, LOG),
    "make-a-file-beside-the-log": lambda: _open("logs/new", os.O_WRONLY | os.O_CREAT),
    "execute": lambda: _execute("/bin/true"),
    "bind": lambda: _use_tcp(lambda made: made.bind(("127.0.0.1", 0))),
    "connect": lambda: _use_tcp(_connect),
    "make-a-fifo": lambda: os.mkfifo(f"fifo{os.getpid()}"),
    "signal-the-supervisor": lambda: os.kill(os.getppid(), 0),
    "ask-for-bans": _ask_for_bans,
    "ask-for-bans-as-an-orphan": lambda: _as_an_orphan(_ask_for_bans),
}

#: What the supervisor itself does not answer, with Landlock and without.
UNANSWERED = ("ask-for-bans", "ask-for-bans-as-an-orphan")

#: What no process may do; the supervisor tries it once all workers serve.
OF_ALL = ("execute", "bind", "connect", "make-a-fifo")
RESULTS = "supervisor.json"


def _announce(_snapshot: ConfigSnapshot, _port: int, *, report: Callable[[str], None]) -> None:
    """Replaces the startup messages."""
    Path(RESULTS).write_text(json.dumps({name: _outcome(name) for name in OF_ALL}))


def _attempt(words: str) -> command.Text:
    return command.Text(f"{_outcome(words.split()[1])}\n")


def _outcome(attempt: str) -> str:
    try:
        ATTEMPTS[attempt]()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


if __name__ == "__main__":
    path_resolution.Openat2Resolver = UnconfinedResolver  # type: ignore[assignment,misc]
    command.parse = _attempt  # type: ignore[assignment]
    gateway._announce = _announce
    sys.exit(main(["serve"]))
