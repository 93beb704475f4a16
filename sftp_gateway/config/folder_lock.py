"""Keeps a gateway in Docker and one outside from serving from the same folder.

Each would give the folder's files to its own user, and the other could not read them when it
reloads. A running gateway therefore holds a lock (flock(2)) on a file among the keys, which says
which kind it is; a starting one checks it before it changes anything. Gateways of one kind may run
together, so that Docker's `init` can hand over to another user before the container is replaced.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.system.containers import with_docker
from sftp_gateway.system.dirfd import Folder, Held

LOCK: Final = ".lock"

_WITH_DOCKER: Final = b"with Docker\n"
_WITHOUT: Final = b"without Docker\n"

_HOW_TO_STOP: Final = {
    _WITH_DOCKER: "docker-compose stop",
    _WITHOUT: "end scripts/serve, by Ctrl-C or SIGTERM",
}


def _kind() -> bytes:
    return _WITH_DOCKER if with_docker() else _WITHOUT


def check(keys_dir: Path) -> None:
    """Raises ConfigurationError while a gateway of the other kind serves from this folder."""
    with suppress(OSError), Folder.open(keys_dir) as keys:
        lock = keys.entry(LOCK)
        if lock is not None:
            with lock:
                _check(lock)


def acquire(keys_dir: Path) -> Held | None:
    """The lock, held until it is closed or this process ends; None if there can be none.

    Raises ConfigurationError as `check` does.
    """
    with suppress(OSError), Folder.open(keys_dir) as keys:
        lock = keys.entry(LOCK)
        if lock is not None and _is_free(lock) and lock.read() != _kind():
            with lock:
                keys.remove(LOCK)
            lock = None
        if lock is None:
            keys.write_new(LOCK, _kind(), mode=0o644, owner=keys.owner)
            lock = keys.entry(LOCK)
        if lock is not None:
            try:
                _check(lock)
                fcntl.flock(lock.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BaseException:
                os.close(lock.descriptor)
                raise
        return lock
    return None


def _check(lock: Held) -> None:
    if _is_free(lock):
        return
    kind = lock.read()
    if kind != _kind() and kind in _HOW_TO_STOP:
        folder = lock.path.parent
        raise ConfigurationError(
            [
                f"{folder}: a gateway {kind.decode().strip()} serves from this folder, and each "
                f"would take the other's files; stop it first ({_HOW_TO_STOP[kind]}), or use "
                "another clone. Nothing was changed"
            ]
        )


def _is_free(lock: Held) -> bool:
    """Whether nobody else holds it; then this process does, for the moment."""
    try:
        fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
