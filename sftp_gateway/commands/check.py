"""`sftp-gateway check`: the configuration, its errors, and what a reload would take away."""

from __future__ import annotations

import argparse
import os

from sftp_gateway.commands import gateway_client
from sftp_gateway.config.bootstrap import HOST_KEY
from sftp_gateway.config.snapshot import ConfigSnapshot, inspect_config
from sftp_gateway.console import add_config, add_json, load, print_json, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy
from sftp_gateway.settings import Settings, config_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.add_argument("--all", action="store_true", help="print the defaults, too")
    add_json(parser, "print the result too, as one JSON object")
    add_config(parser)


def _run(options: argparse.Namespace) -> int:
    try:
        settings = load(options)
    except ConfigurationError as error:
        if options.json:
            print_json({"ok": False, "errors": error.errors})
            return 2
        raise
    shown = settings.model_dump(mode="json") if options.all else settings.changed
    if not options.json:
        print_json(shown)
        if not shown:
            report("All options have their defaults; `check --all` prints them.")
    found = inspect_as_gateway(settings, options)
    running = gateway_client.refusal(settings)
    if not (errors := found.findings.errors):  # else a reload would reject it
        running += gateway_client.differences(settings, found.grants, found.status_token)
    errors = [*errors, *found.findings.away]
    landlock = policy.describe(settings.landlock)
    if options.json:
        print_json(
            {
                "ok": not errors,
                "options": shown,
                "errors": errors,
                "warnings": found.findings.warnings,
                "running": running,
                "landlock": landlock,
            }
        )
        return 2 if errors else 0
    for line in (*(f"warning: {each}" for each in found.findings.warnings), *running):
        report(line)
    if errors:
        raise ConfigurationError(errors)
    report(f"Landlock: {landlock}.")
    report("The configuration is valid.")
    return 0


def inspect_as_gateway(settings: Settings, options: argparse.Namespace) -> ConfigSnapshot:
    """What the settings point to, as the gateway sees it: root becomes the host key's owner."""
    key = settings.keys_dir / HOST_KEY
    try:
        status = os.stat(key)
    except OSError:
        pass
    else:
        if os.geteuid() == 0 and status.st_uid != 0:
            report(f"Checking as user {status.st_uid}, who owns {key}:")
            os.setgroups([])
            os.setgid(status.st_gid)
            os.setuid(status.st_uid)
    return inspect_config(settings, config_path(options.config, os.environ))
