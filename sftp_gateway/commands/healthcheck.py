"""`sftp-gateway healthcheck`: an SSH handshake with the running gateway."""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import Final

from sftp_gateway.commands.gateway_client import describe
from sftp_gateway.console import add_config, load, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.server.ssh.probe import handshake
from sftp_gateway.settings import Settings, settings_without_file
from sftp_gateway.worker_kit.host_keys import find_host_keys

#: Seconds that the handshake may take.
_HANDSHAKE_TIMEOUT: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    add_config(parser)


def _run(options: argparse.Namespace) -> int:
    rejected: tuple[str, ...] = ()
    try:
        settings = load(options)
    except ConfigurationError as error:
        # A running gateway may have rejected this file and serve the configuration before. Where
        # it listens is in the environment, or the default: always so in a container.
        settings, rejected = settings_without_file(os.environ), error.errors
    failure = handshake_failure(settings)
    if failure and rejected:
        raise ConfigurationError(rejected)
    report(f"error: {failure}" if failure else "ok")
    for each in rejected:
        report(f"warning: rejected: {each}")
    return 1 if failure else 0


def handshake_failure(settings: Settings) -> str | None:
    """Why the running gateway makes no handshake with its own host key; None if it does."""
    host = settings.host or "127.0.0.1"
    try:
        key = asyncio.run(handshake(host, settings.port, seconds=_HANDSHAKE_TIMEOUT))
    except (OSError, TimeoutError) as error:
        return f"{host} port {settings.port}: {describe(error)}"
    own = find_host_keys(settings)
    if own and key.split()[:2] not in [each.split() for each in own]:
        return (
            f"{host} port {settings.port}: answered with a host key that is not in "
            f"{settings.keys_dir}: {key}"
        )
    return None
