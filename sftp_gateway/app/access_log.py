"""The access log as the settings have it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sftp_gateway.observability.access_log.log import AccessLog
from sftp_gateway.observability.access_log.sinks import FileSink, Sink, StreamSink, check_file
from sftp_gateway.observability.access_log.terminal import TerminalSink, is_for_people
from sftp_gateway.settings import Settings


def make_access_log(settings: Settings, sinks: Sequence[Sink]) -> AccessLog:
    """The access log of one process."""
    options = settings.access_log
    return AccessLog(
        sinks=sinks, level=options.level, overflow=options.overflow, capacity=options.capacity
    )


def log_outputs(settings: Settings) -> list[Sink]:
    """Where the observer writes the lines of all processes."""
    options = settings.access_log
    sinks: list[Sink] = []
    if options.stdout:
        people = is_for_people(sys.stdout)
        sinks.append(TerminalSink(sys.stdout) if people else StreamSink(sys.stdout.fileno()))
    if options.file is not None:
        sinks.append(FileSink(options.file))
    return sinks


def check_log(settings: Settings) -> None:
    """Raises ConfigurationError if the log's only output is a file that cannot be written."""
    if settings.access_log.file is not None and not settings.access_log.stdout:
        check_file(settings.access_log.file)
