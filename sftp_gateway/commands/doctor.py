"""`sftp-gateway doctor`: what `check` finds, and whether the running gateway serves."""

from __future__ import annotations

import argparse
import os

from sftp_gateway.commands import gateway_client
from sftp_gateway.commands.check import inspect_as_gateway
from sftp_gateway.commands.healthcheck import handshake_failure
from sftp_gateway.console import add_config, add_json, load, print_json, report
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import policy
from sftp_gateway.settings import settings_without_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--worker",
        action="store_true",
        help="diagnose a mount of this machine; `doctor --worker --help` lists its options",
    )
    add_json(parser, "print the result as one JSON object")
    add_config(parser)


def _run(options: argparse.Namespace) -> int:
    findings: dict[str, object] = {}
    try:
        settings = load(options)
    except ConfigurationError as error:
        found, errors, warnings = None, list(error.errors), []
        settings = settings_without_file(os.environ)
    else:
        found = inspect_as_gateway(settings, options)
        errors = [*found.findings.errors, *found.findings.away]
        warnings = found.findings.warnings
        findings["landlock"] = policy.describe(settings.landlock)
    failure = handshake_failure(settings)
    ready, readiness = (False, "") if found is None and failure else gateway_client.ready(settings)
    running = []
    if found is not None:
        running = gateway_client.differences(settings, found.grants, found.status_token)
    elif not failure:
        running = ["The running gateway serves the previous configuration."]
    ok = not errors and not failure and ready
    if options.json:
        print_json(
            {
                "ok": ok,
                "errors": errors,
                "warnings": warnings,
                **findings,
                "handshake": failure or "ok",
                "readyz": readiness,
                "running": running,
            }
        )
        return 0 if ok else 1
    for line in (
        *(f"warning: {each}" for each in warnings),
        *(f"error: {each}" for each in errors),
        *(f"Landlock: {each}." for each in findings.values()),
        f"error: {failure}" if failure else "ok",
        *(running if found is None else ()),
        *([f"{'' if ready else 'error: '}/readyz: {readiness}"] if readiness else []),
        *(running if found is not None else ()),
    ):
        report(line)
    return 0 if ok else 1
