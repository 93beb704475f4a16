"""`sha256sum PATH...` and the like, with the output of coreutils. rclone uses them."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from sftp_gateway.errors import FileSystemError
from sftp_gateway.server.exec.command_line import Checksum
from sftp_gateway.server.exec.globs import TooManyPaths, expand
from sftp_gateway.server.exec.session import CommandSession, message_of, sanitize

_STANDARD_INPUT: Final = b"-"

#: The escapes of coreutils in names; the line then starts with a backslash.
_ESCAPES: Final = {b"\\": rb"\\", b"\n": rb"\n", b"\r": rb"\r"}
_ESCAPED: Final = re.compile(rb"[\\\n\r]")


async def run(session: CommandSession, command: Checksum) -> int:
    """Print the checksums; the exit status is 1 if one could not be computed."""
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
            words = message_of(error).encode()
            session.write_error(b"%s: %s: %s\n" % (command.program.encode(), sanitize(path), words))
        else:
            session.write(_line(value, path, binary=command.binary))
    return 1 if failed else 0


async def _checksum(session: CommandSession, path: bytes, algorithm: str) -> bytes:
    if path != _STANDARD_INPUT:
        return await session.checksum(path, algorithm)
    # rclone runs each program without a file to find out which ones exist.
    if not await session.end_of_input():
        raise FileSystemError("only files on the server can be read")
    return hashlib.new(algorithm, usedforsecurity=False).digest()


def _line(value: bytes, path: bytes, *, binary: bool) -> bytes:
    name = _ESCAPED.sub(lambda found: _ESCAPES[found[0]], path)
    escaped = b"\\" if name != path else b""
    return b"%s%s %s%s\n" % (escaped, value.hex().encode(), b"*" if binary else b" ", name)
