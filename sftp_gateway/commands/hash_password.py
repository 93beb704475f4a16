"""`sftp-gateway hash-password`: prints the argon2id hash of a password."""

from __future__ import annotations

import argparse
import getpass
import sys

from sftp_gateway.auth import MIN_PASSWORD_LENGTH, hash_password
from sftp_gateway.console import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments: it has none."""
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    try:
        print(hash_password(_password()))
    except ValueError as error:
        report(f"error: {error}")
        return 1
    return 0


def _password() -> str:
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Confirm password: "):
            raise ValueError("the passwords do not match")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise ValueError("the password is empty")
    if len(password) < MIN_PASSWORD_LENGTH:
        raise ValueError(
            f"the password has {len(password)} characters; use {MIN_PASSWORD_LENGTH} or more "
            "(`openssl rand -base64 18` prints a strong one)"
        )
    return password
