"""`sftp-gateway serve`: serves in the foreground."""

from __future__ import annotations

import argparse
import os

from sftp_gateway.app.gateway import serve
from sftp_gateway.console import add_config, load, report
from sftp_gateway.settings import config_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(run=_run)
    add_config(parser)


def _run(options: argparse.Namespace) -> int:
    serve(lambda: load(options), config_file=config_path(options.config, os.environ), report=report)
    return 0
