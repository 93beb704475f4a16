"""The one mapping of errors to SFTP status codes and messages."""

from __future__ import annotations

import errno
from typing import Final

from sftp_gateway import errors
from sftp_gateway.protocol.constants import StatusCode
from sftp_gateway.protocol.responses import StatusResponse

#: The first class that matches decides. A client gets the code and the message, nothing else.
_STATUS: Final[tuple[tuple[type[Exception], StatusCode, str], ...]] = (
    (errors.NotFound, StatusCode.NO_SUCH_FILE, "No such file"),
    (errors.Denied, StatusCode.PERMISSION_DENIED, "Permission denied"),
    # As in OpenSSH: clients take NO_SUCH_FILE to mean that a path is not a directory.
    (errors.NotADirectory, StatusCode.NO_SUCH_FILE, "Not a directory"),
    (errors.IsADirectory, StatusCode.FAILURE, "Is a directory"),
    (errors.NotALink, StatusCode.FAILURE, "Not a symbolic link"),
    (errors.Truncated, StatusCode.FAILURE, "File became shorter while it was read"),
    (errors.InvalidHandle, StatusCode.FAILURE, "Invalid handle"),
    (errors.TooManyHandles, StatusCode.FAILURE, "Too many open handles"),
    (errors.Unsupported, StatusCode.OP_UNSUPPORTED, "Operation unsupported"),
)
_STATUS_OF_ERRNO: Final = {
    errno.EIO: (StatusCode.FAILURE, "Input/output error"),
    errno.ETIMEDOUT: (StatusCode.FAILURE, "The disk does not answer"),
    errno.ESTALE: (StatusCode.FAILURE, "Stale file"),
    errno.EMFILE: (StatusCode.FAILURE, "Too many open files"),
    errno.ENFILE: (StatusCode.FAILURE, "Too many open files"),
    errno.EACCES: (StatusCode.PERMISSION_DENIED, "Permission denied"),
    errno.EPERM: (StatusCode.PERMISSION_DENIED, "Permission denied"),
}
_FAILURE: Final = (StatusCode.FAILURE, "Failure")


def status_of(error: Exception) -> tuple[StatusCode, str]:
    """The status code and message that a client gets for `error`."""
    if isinstance(error, errors.Denied) and error.hidden:
        return StatusCode.NO_SUCH_FILE, "No such file"
    for kind, code, message in _STATUS:
        if isinstance(error, kind):
            return code, message
    if isinstance(error, OSError) and error.errno is not None:
        return _STATUS_OF_ERRNO.get(error.errno, _FAILURE)
    return _FAILURE


def refusal(request_id: int, error: Exception) -> StatusResponse:
    """The response for a request that failed with `error`."""
    code, message = status_of(error)
    return StatusResponse(request_id, code, message)
