"""The whole error tree of the gateway.

Errors are neutral: they say what happened, not what is sent. The one table from error to SFTP
status is in `server/sftp/status.py`; an error's text goes to our log, never to a client.
"""

from __future__ import annotations

from collections.abc import Sequence


class GatewayError(Exception):
    """Base class of the errors that the gateway raises."""


class ConfigurationError(GatewayError):
    """The configuration is invalid; `errors` has a message for each error.

    Messages name the option and a remedy.
    """

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class ProtocolError(GatewayError):
    """The peer sent bytes that are not a well-formed SFTP packet; the channel is closed."""


class FileSystemError(GatewayError):
    """Base of what a file operation can be refused with."""


class NotFound(FileSystemError):
    """No such file or folder, for this user."""


class Denied(FileSystemError):
    """The request is not permitted; `reason` is a stable word for the access log.

    `hidden` asks for the answer that a missing file would get, so that the refusal does not
    tell what exists.
    """

    def __init__(self, reason: str, *, hidden: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hidden = hidden


class NotADirectory(FileSystemError):
    """A folder was needed and something else is there."""


class IsADirectory(FileSystemError):
    """A file was needed and a folder is there."""


class NotALink(FileSystemError):
    """READLINK was asked of something that is not a symbolic link."""


class Truncated(FileSystemError):
    """The file became shorter while it was read: it ends before the size that the client knows."""


class InvalidHandle(FileSystemError):
    """The handle is not open in this session, or not of the kind that the request needs."""


class TooManyHandles(FileSystemError):
    """The connection has as much open as it may have: `used` of `limit`, of what `reason` names.

    `reason` is a stable word for the access log.
    """

    def __init__(self, reason: str, *, used: int, limit: int) -> None:
        super().__init__(f"{reason}: {used} of {limit}")
        self.reason = reason
        self.used = used
        self.limit = limit


class Unsupported(FileSystemError):
    """The request or extension is not one that this server knows."""
