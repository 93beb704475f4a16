"""`sftp-gateway init`: creates what the first start needs."""

from __future__ import annotations

import argparse
import os
import pwd

from sftp_gateway.config import folder_lock
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.console import add_config, load, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings import config_path
from sftp_gateway.system.dirfd import Owner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--owner",
        type=_owner,
        metavar="UID:GID|USER",
        help="the user of a gateway that runs as another user: what it reads and writes is handed "
        "over, from its previous user too",
    )
    add_config(parser)


def _run(options: argparse.Namespace) -> int:
    settings, config_file = load(options), config_path(options.config, os.environ)
    folder_lock.check(settings.keys_dir)
    try:
        set_up(settings, gateway=options.owner, report=report, config_file=config_file)
        if lock := folder_lock.acquire(settings.keys_dir):  # so that it is there for the gateway
            os.close(lock.descriptor)
    except OSError as error:
        raise ConfigurationError([f"{error.filename}: {error.strerror}"]) from error
    return 0


def _owner(text: str) -> Owner:
    uid, colon, gid = text.partition(":")
    if uid.isdecimal() and colon and gid.isdecimal():
        return Owner(int(uid), int(gid))
    try:
        user = pwd.getpwnam(text)
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither UID:GID, such as 10001:10001, nor the name of a user"
        ) from None
    return Owner(user.pw_uid, user.pw_gid)
