"""`sftp-gateway keys`: lists, adds, expires, removes and rotates keys.

Only files are changed; a running gateway picks the change up by itself, or on SIGHUP.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from sftp_gateway.commands.keys import edit, host_keys, listing
from sftp_gateway.commands.times import EXPIRY_FORMS
from sftp_gateway.console import add_config, add_json, load
from sftp_gateway.settings import Settings

#: How long a rotated key stays valid.
_OVERLAP: Final = "+7d"

_ARGUMENTS: Final = {
    "USER": "whose key it is",
    "KEY": "the beginning of its fingerprint, or its comment",
    "WHEN": EXPIRY_FORMS,
    "FILE": "the new private key: a bare name is a file in keys_dir, a path with / is taken as it "
    "is, - is standard output; the public key goes to FILE.pub",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(
        name: str, action: Callable[[Settings, argparse.Namespace], None], text: str, *names: str
    ) -> argparse.ArgumentParser:
        def run(options: argparse.Namespace) -> int:
            action(load(options), options)
            return 0

        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        add_config(sub)
        for argument in names:
            sub.add_argument(argument, help=_ARGUMENTS[argument])
        return sub

    list_ = add("list", listing.print_keys, "Print all keys: whose, valid until when, last used.")
    list_.add_argument(
        "--log",
        action="append",
        metavar="FILE",
        help="an access log to find the last logins in, - for standard input; default: the "
        "configured log and its rotated files, or the history",
    )
    add_json(list_)
    adding = add("add", edit.add_key, "Let a user log in with a public key.", "USER")
    adding.add_argument("FILE", nargs="?", default="-", help="the .pub file; default: - (stdin)")
    adding.add_argument(
        "--from", dest="sources", metavar="ADDRESSES", help="accept it from these addresses only"
    )
    adding.add_argument("--expires", metavar="WHEN", help=EXPIRY_FORMS)
    add("expire", edit.expire_key, "Set when a key expires.", "USER", "KEY", "WHEN")
    add("remove", edit.remove_key, "Remove a key.", "USER", "KEY")
    rotating = add(
        "rotate", edit.rotate_key, "Create a key pair with a key's options, and let that expire.",
        "USER", "KEY", "FILE",
    )  # fmt: skip
    rotating.add_argument(
        "--expires", metavar="WHEN", default=_OVERLAP, help=f"of the old key; default: {_OVERLAP}"
    )
    host = add("rotate-host", host_keys.rotate, "Rotate the host key, step by step.")
    host.add_argument(
        "STEP",
        choices=tuple(host_keys.STEPS),
        help="prepare: create the next key, which clients learn at their next login; promote: use "
        "it; finish: delete the previous one",
    )
