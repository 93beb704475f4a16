"""`sftp-gateway bans`: lists the sources that the running gateway has banned, and lifts bans."""

from __future__ import annotations

import argparse
import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import asdict

from sftp_gateway.console import Load, add_config, ignore_broken_pipe, report
from sftp_gateway.observability import formatting
from sftp_gateway.process.supervisor import control
from sftp_gateway.process.supervisor.control import Client
from sftp_gateway.settings import Settings


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser], load: Load) -> None:
    """Add `bans` to the program's commands; `load` gives the settings of its options."""
    text = "List the sources that the running gateway has banned, or lift bans."
    actions = commands.add_parser("bans", help=text, description=text).add_subparsers(
        required=True, metavar="ACTION"
    )

    def add(
        name: str, action: Callable[[Client, argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        sub.set_defaults(command=lambda options: _asked(load(options), options, action))
        add_config(sub)
        return sub

    add("list", _list, "Print the sources that are banned: why, and until when.").add_argument(
        "--json", action="store_true", help="JSON, one object a line"
    )
    lift = add("lift", _lift, "Lift bans, and forget what the sources did.")
    which = lift.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="lift all bans")
    which.add_argument(
        "ADDRESS", nargs="*", default=[], type=_address, help="an address, or a network"
    )


def _address(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an address such as 192.0.2.7, nor a network such as 192.0.2.0/24"
        ) from None
    return str(network.network_address if network.num_addresses == 1 else network)


def _asked(
    settings: Settings,
    options: argparse.Namespace,
    action: Callable[[Client, argparse.Namespace], int],
) -> int:
    try:
        with Client(settings) as client, ignore_broken_pipe():
            return action(client, options)
    except PermissionError:
        why = "only root and the user that the gateway runs as may ask it"
    except (FileNotFoundError, ConnectionRefusedError):
        why = "the gateway does not run, or in another folder: run this where it runs"
    except (OSError, ValueError) as error:
        why = f"the gateway does not answer: {error}"
    report(f"error: {control.path_of(settings)}: {why}")
    return 1


def _list(client: Client, options: argparse.Namespace) -> int:
    bans = client.bans()
    now = time.time()
    for each in bans:
        until = formatting.stamp(now + each.seconds)
        if options.json:
            print(json.dumps({**asdict(each), "until": until}))
        else:
            times = f", ban {each.times} in a row" if each.times > 1 else ""
            print(f"{each.source:<22} {each.effect} until {until} for {each.reason}{times}")
    if not bans:
        report("no source is banned")
    return 0


def _lift(client: Client, options: argparse.Namespace) -> int:
    lifted = client.lift(None if options.all else options.ADDRESS)
    for each in lifted:
        report(f"{each} is not banned any more")
    if not lifted:
        report("no source is banned" if options.all else "none of these is banned")
    return 0 if lifted or options.all else 1
