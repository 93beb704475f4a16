"""`sha256sum PATH...` and its kin, which print as coreutils do (rclone asks for checksums so)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from sftp_gateway.errors import FileSystemError
from sftp_gateway.server.exec.command_line import Checksum
from sftp_gateway.server.exec.globs import TooManyPaths, expand
from sftp_gateway.server.exec.session import CommandSession, printable, words_of

_STANDARD_INPUT: Final = b"-"

#: What coreutils escape in names, with a backslash before the line.
_ESCAPES: Final = {b"\\": rb"\\", b"\n": rb"\n", b"\r": rb"\r"}
_ESCAPED: Final = re.compile(rb"[\\\n\r]")


async def run(session: CommandSession, command: Checksum) -> int:
    """Print the checksums; the exit status is 1 if one is missing."""
    failed = False
    try:
        paths = await expand(session, command.paths) or [_STANDARD_INPUT]
    except TooManyPaths:
        session.write_error(f"{command.program}: Argument list too long\n".encode())
        return 1
    for path in paths:
        try:
            value = await _checksum(session, path, command.algorithm)
        except (FileSystemError, OSError) as error:
            failed = True
            words = words_of(error).encode()
            session.write_error(
                b"%s: %s: %s\n" % (command.program.encode(), printable(path), words)
            )
        else:
            session.write(_line(value, path, binary=command.binary))
    return 1 if failed else 0


async def _checksum(session: CommandSession, path: bytes, algorithm: str) -> bytes:
    if path != _STANDARD_INPUT:
        return await session.checksum(path, algorithm)
    # rclone tries each program without a file to see whether there is such a one.
    if not await session.end_of_input():
        raise FileSystemError("only files of the server are read")
    return hashlib.new(algorithm, usedforsecurity=False).digest()


def _line(value: bytes, path: bytes, *, binary: bool) -> bytes:
    name = _ESCAPED.sub(lambda found: _ESCAPES[found[0]], path)
    escaped = b"\\" if name != path else b""
    return b"%s%s %s%s\n" % (escaped, value.hex().encode(), b"*" if binary else b" ", name)
