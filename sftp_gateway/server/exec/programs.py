"""The program of each command."""

from __future__ import annotations

from sftp_gateway.server.exec import checksum, scp
from sftp_gateway.server.exec.command_line import Checksum, ScpSink, ScpSource
from sftp_gateway.server.exec.session import CommandSession, Program


def program(session: CommandSession, command: ScpSource | ScpSink | Checksum) -> Program:
    """The coroutine that answers `command`."""
    match command:
        case ScpSource():
            return scp.send(session, command)
        case ScpSink():
            return scp.receive(session, command)
        case Checksum():
            return checksum.run(session, command)
