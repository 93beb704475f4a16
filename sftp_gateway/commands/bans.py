"""`sftp-gateway bans`: lists the sources that the running gateway has banned, and lifts bans."""

from __future__ import annotations

import argparse
import ipaddress
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

from sftp_gateway.console import (
    add_config,
    add_json,
    ignore_broken_pipe,
    load,
    print_table,
    report,
)
from sftp_gateway.observability import formatting
from sftp_gateway.observability.access_log.terminal import wants_colour
from sftp_gateway.process.supervisor import control
from sftp_gateway.process.supervisor.control import Client
from sftp_gateway.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(
        name: str, action: Callable[[Client, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(run=lambda options: _ask(load(options), options, action))
        add_config(sub)
        return sub

    add_json(add("list", _list, "Print the banned sources: why, and until when."))
    lift = add("lift", _lift, "Lift bans, and clear the penalties of the sources.")
    which = lift.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="lift all bans")
    which.add_argument(
        "ADDRESS", nargs="*", default=[], type=_address, help="an address or a network"
    )


def _address(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as 192.0.2.7, nor a network such as 192.0.2.0/24"
        ) from None
    return str(network.network_address if network.num_addresses == 1 else network)


def _ask(
    settings: Settings,
    options: argparse.Namespace,
    action: Callable[[Client, argparse.Namespace], int],
) -> int:
    try:
        with Client(settings) as client, ignore_broken_pipe():
            return action(client, options)
    except PermissionError:
        why = "permitted to root and the gateway's user only"
    except (FileNotFoundError, ConnectionRefusedError):
        why = "the gateway does not run, or runs in another folder: run this command there"
    except (OSError, ValueError) as error:
        why = f"the gateway does not answer: {error}"
    report(f"error: {control.path_of(settings)}: {why}")
    return 1


def _list(client: Client, options: argparse.Namespace) -> int:
    now = time.time()
    bans = [(each, formatting.stamp(now + each.seconds)) for each in client.bans()]
    if options.json:
        for each, until in bans:
            print(json.dumps({**asdict(each), "until": until}))
    elif bans and wants_colour(sys.stdout):
        print_table(
            ("SOURCE", "EFFECT", "UNTIL", "REASON", "BANS IN A ROW"),
            [(b.source, b.effect, until, b.reason, str(b.times)) for b, until in bans],
        )
    else:
        for each, until in bans:
            times = f", ban {each.times} in a row" if each.times > 1 else ""
            print(f"{each.source:<22} {each.effect} until {until} for {each.reason}{times}")
    if not bans:
        report("no source is banned")
    return 0


def _lift(client: Client, options: argparse.Namespace) -> int:
    lifted = client.lift(None if options.all else options.ADDRESS)
    for each in lifted:
        report(f"{each} is no longer banned")
    if not lifted:
        report("no source is banned" if options.all else "none of these is banned")
    return 0 if lifted or options.all else 1
