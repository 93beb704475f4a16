"""The control socket: a command lists the running gateway's bans, and lifts them.

A request is one packet of JSON, and so is its answer. The supervisor answers, because only it has
the penalties. The socket is in the history's folder, with mode 0600. It answers root and the
gateway's user, but none of the gateway's own processes: a worker is what clients attack.

    | request         | answer                                                              |
    |-----------------|---------------------------------------------------------------------|
    | {"bans": N}     | {"bans": [...]}: those from number N on, at most PAGE               |
    | {"lift": [...]} | {"lifted": [...]}: the sources whose bans were lifted, at most PAGE |
    | {"lift": null}  | the same, of all that are banned                                    |
    | anything else   | {"error": "..."}                                                    |
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sftp_gateway.observability.gateway_state import Ban
from sftp_gateway.process.loop import Loop
from sftp_gateway.process.supervisor.admission import AdmissionPolicy
from sftp_gateway.settings import Settings
from sftp_gateway.system.dirfd import Folder

_NAME: Final = "control.sock"

#: Bans of an answer, and sources that one answer names: both fit into a socket's buffer.
PAGE: Final = 200

#: Bytes of a request, and of an answer.
_MAX_REQUEST: Final = 1 << 14
_MAX_ANSWER: Final = 1 << 17

#: Commands that may be connected at once, and seconds for which each may be.
_MAX_CLIENTS: Final = 8
_CLIENT_TIMEOUT: Final = 10.0

#: Seconds for which a command waits for an answer.
_TIMEOUT: Final = 5.0

#: prctl(2): orphans among the descendants become children of this process.
_PR_SET_CHILD_SUBREAPER: Final = 36

#: struct ucred (unix(7)): pid, uid and gid of the peer.
_CREDENTIALS: Final = struct.Struct("3i")


def path_of(settings: Settings) -> Path:
    """The path of the socket."""
    return settings.history.file.with_name(_NAME)


def listen(settings: Settings) -> socket.socket:
    """The control socket, listening. Call it with one thread running; raises OSError."""
    path = path_of(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    umask = os.umask(0o177)
    try:
        listener.setblocking(False)
        with _address(path) as (folder, address):
            with suppress(FileNotFoundError):  # of a gateway that was killed
                if stat.S_ISSOCK(os.lstat(_NAME, dir_fd=folder).st_mode):
                    os.unlink(_NAME, dir_fd=folder)
            listener.bind(address)
        listener.listen(_MAX_CLIENTS)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


@contextmanager
def _address(path: Path) -> Iterator[tuple[int, str]]:
    """The folder's descriptor, and an address of the socket that is never too long (unix(7))."""
    with Folder.open(path.parent) as folder:
        yield folder.descriptor, f"/proc/self/fd/{folder.descriptor}/{path.name}"


class Control:
    """The supervisor's side."""

    def __init__(
        self, *, loop: Loop, listener: socket.socket | None, policy: AdmissionPolicy
    ) -> None:
        """Without a `listener`, no command can connect."""
        self._loop = loop
        self._listener = listener
        self._policy = policy
        self._clients: set[socket.socket] = set()
        if listener is not None:
            loop.add_reader(listener, self._accept)

    def _accept(self) -> None:
        if self._listener is None:
            return
        with suppress(OSError):
            client, _ = self._listener.accept()
            if len(self._clients) >= _MAX_CLIENTS or not _may_ask(client):
                client.close()
                return
            client.setblocking(False)
            self._clients.add(client)
            self._loop.add_reader(client, lambda: self._read(client))
            self._loop.call_later(_CLIENT_TIMEOUT, lambda: self._drop(client))

    def _read(self, client: socket.socket) -> None:
        try:
            request = client.recv(_MAX_REQUEST)
            if request:
                client.send(json.dumps(self._answer(request)).encode())
                return
        except OSError:  # it is gone, or does not read
            pass
        self._drop(client)

    def _answer(self, request: bytes) -> dict[str, Any]:
        try:
            match json.loads(request):
                case {"bans": int(first)} if first >= 0:
                    bans = self._policy.bans(first, PAGE)
                    return {"bans": [dataclasses.asdict(ban) for ban in bans]}
                case {"lift": [*sources]}:
                    return {"lifted": self._policy.lift([str(each) for each in sources], PAGE)}
                case {"lift": None}:
                    return {"lifted": self._policy.lift(None, PAGE)}
        except (ValueError, RecursionError) as error:
            return {"error": str(error)}
        return {"error": "not a request"}

    def _drop(self, client: socket.socket) -> None:
        if client in self._clients:
            self._clients.remove(client)
            self._loop.remove_reader(client)
            client.close()


def _may_ask(client: socket.socket) -> bool:
    """Whether the peer is root or our own user, and none of our own processes."""
    pid, uid, _ = _CREDENTIALS.unpack(
        client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return uid in (0, os.geteuid()) and not _descends_from_us(pid)


def _descends_from_us(pid: int) -> bool:
    """Whether `pid` is a descendant of this process, or may be one."""
    try:
        while pid > 1 and pid != os.getpid():
            # proc_pid_stat(5): the parent is the second field after the name.
            pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError):
        return True
    return pid == os.getpid()


class Client:
    """A command's connection, and a context manager. Methods raise OSError and ValueError."""

    def __init__(self, settings: Settings) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(_TIMEOUT)
        try:
            with _address(path_of(settings)) as (_, address):
                self._socket.connect(address)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def bans(self) -> list[Ban]:
        """All banned sources."""
        found: dict[str, Ban] = {}
        first = 0
        while page := self._ask({"bans": first})["bans"]:
            found |= {each["source"]: Ban(**each) for each in page}
            first += len(page)
        return list(found.values())

    def lift(self, sources: Iterable[str] | None) -> list[str]:
        """Lift the bans of these addresses and networks, or all; the sources that had one."""
        request: dict[str, object] = {"lift": None if sources is None else list(sources)}
        lifted: list[str] = []
        while page := self._ask(request)["lifted"]:
            lifted += page
        return lifted

    def _ask(self, request: dict[str, object]) -> dict[str, Any]:
        self._socket.send(json.dumps(request).encode())
        answer = self._socket.recv(_MAX_ANSWER)
        if not answer:
            raise ConnectionResetError("the gateway has closed the connection")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise ValueError(found["error"])
        return found
