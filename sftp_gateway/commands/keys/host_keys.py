"""`sftp-gateway keys rotate-host`: replaces the host key, step by step."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from sftp_gateway.auth import generate_ed25519
from sftp_gateway.commands.keys.edit import failure, write_pair
from sftp_gateway.config.bootstrap import HOST_KEY, NEXT, PREVIOUS
from sftp_gateway.console import report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import Settings
from sftp_gateway.system import atomic
from sftp_gateway.system.dirfd import Folder


def rotate(settings: Settings, options: argparse.Namespace) -> None:
    """Take one step of the rotation."""
    try:
        with atomic.locked(settings.keys_dir) as keys:
            STEPS[options.STEP](keys)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {failure(error)}"]) from error


def _prepare(keys: Folder) -> None:
    if keys.lstat(HOST_KEY + PREVIOUS):
        raise ConfigurationError(
            [f"{keys.path / HOST_KEY}{PREVIOUS} still exists; finish that rotation first"]
        )
    pair = generate_ed25519("sftp-gateway host key")
    write_pair(keys, HOST_KEY + NEXT, pair, owner=keys.owner_of(HOST_KEY))
    report(
        f"created {keys.path / HOST_KEY}{NEXT}. Clients with `UpdateHostKeys yes` learn it at "
        "their next login; once all have: sftp-gateway keys rotate-host promote"
    )


def _promote(keys: Folder) -> None:
    if not keys.lstat(HOST_KEY + NEXT):
        raise ConfigurationError(
            [f"there is no {keys.path / HOST_KEY}{NEXT}; run the step prepare first"]
        )
    for old, new in (("", PREVIOUS), (NEXT, "")):
        # The public half first, because the health check compares both halves.
        for half in (".pub", ""):
            if keys.lstat(HOST_KEY + old + half):
                keys.rename(HOST_KEY + old + half, HOST_KEY + new + half)
    report(
        f"{keys.path / HOST_KEY} is the new key now. The old one is still announced, so that this "
        "can be undone; finally: sftp-gateway keys rotate-host finish"
    )


def _finish(keys: Folder) -> None:
    name = HOST_KEY + PREVIOUS
    if not keys.lstat(name):
        raise ConfigurationError([f"there is no {keys.path / name}; nothing to finish"])
    for half in (name, f"{name}.pub"):
        keys.remove(half, missing_ok=True)
    report(f"deleted {keys.path / name}; clients forget it at their next login")


STEPS: Final[dict[str, Callable[[Folder], None]]] = {
    "prepare": _prepare,
    "promote": _promote,
    "finish": _finish,
}
