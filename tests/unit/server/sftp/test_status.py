"""Each error becomes one status whose message reveals no internals."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway import errors
from sftp_gateway.errors import FileSystemError
from sftp_gateway.observability.vocabulary import RESULTS
from sftp_gateway.protocol.constants import StatusCode
from sftp_gateway.server.sftp.status import refusal, status_of
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.share import Links, Share

CASES = [
    (errors.NotFound("/secret"), StatusCode.NO_SUCH_FILE, "No such file"),
    (errors.Denied("read_only"), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (errors.Denied("unreadable", hidden=False), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (errors.Denied("special_file", hidden=True), StatusCode.NO_SUCH_FILE, "No such file"),
    (errors.NotADirectory("/secret"), StatusCode.NO_SUCH_FILE, "Not a directory"),
    (errors.IsADirectory("/secret"), StatusCode.FAILURE, "Is a directory"),
    (errors.NotALink("/secret"), StatusCode.FAILURE, "Not a symbolic link"),
    (errors.Truncated("/secret"), StatusCode.FAILURE, "File became shorter while it was read"),
    (errors.InvalidHandle("/secret"), StatusCode.FAILURE, "Invalid handle"),
    (
        errors.TooManyHandles("secret", used=1, limit=1),
        StatusCode.FAILURE,
        "Too many open handles",
    ),
    (errors.Unsupported("secret"), StatusCode.OP_UNSUPPORTED, "Operation unsupported"),
    (OSError(errno.EIO, "secret"), StatusCode.FAILURE, "Input/output error"),
    (TimeoutError(errno.ETIMEDOUT, "secret"), StatusCode.FAILURE, "The disk does not answer"),
    (OSError(errno.ESTALE, "secret"), StatusCode.FAILURE, "Stale file"),
    (OSError(errno.EMFILE, "secret"), StatusCode.FAILURE, "Too many open files"),
    (OSError(errno.ENFILE, "secret"), StatusCode.FAILURE, "Too many open files"),
    (OSError(errno.EACCES, "secret"), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (OSError(errno.EPERM, "secret"), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (OSError(errno.ENOMEM, "secret"), StatusCode.FAILURE, "Failure"),
    (OSError(errno.EAGAIN, "secret"), StatusCode.FAILURE, "Failure"),
    (OSError("secret"), StatusCode.FAILURE, "Failure"),
    (TimeoutError("secret"), StatusCode.FAILURE, "Failure"),
    (RuntimeError("secret"), StatusCode.FAILURE, "Failure"),
    (UnicodeDecodeError("ascii", b"secret", 0, 1, "secret"), StatusCode.FAILURE, "Failure"),
    (errors.ProtocolError("secret"), StatusCode.FAILURE, "Failure"),
    (errors.ConfigurationError(["secret"]), StatusCode.FAILURE, "Failure"),
]


@pytest.mark.parametrize(("error", "code", "message"), CASES, ids=lambda each: repr(each)[:40])
def test_each_error_has_its_status(error: Exception, code: StatusCode, message: str) -> None:
    assert status_of(error) == (code, message)
    response = refusal(77, error)
    assert (response.request_id, response.code, response.message) == (77, code, message)


def test_every_file_tree_error_is_in_the_table() -> None:
    covered = {type(error) for error, _, _ in CASES}
    assert set(FileSystemError.__subclasses__()) <= covered


#: sftp-server.c, errno_to_portable(); all others are FAILURE.
OPENSSH = {
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP), StatusCode.NO_SUCH_FILE
    ),
    **dict.fromkeys((errno.EPERM, errno.EACCES, errno.EFAULT), StatusCode.PERMISSION_DENIED),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL), StatusCode.BAD_MESSAGE),
    errno.ENOSYS: StatusCode.OP_UNSUPPORTED,
}
#: Deliberate differences, with their reasons.
OTHERWISE = {
    errno.ENAMETOOLONG: (StatusCode.NO_SUCH_FILE, "no file can have that name"),
    errno.ENXIO: (StatusCode.NO_SUCH_FILE, "a special file is not shown"),
    errno.ENODEV: (StatusCode.NO_SUCH_FILE, "a special file is not shown"),
    errno.EXDEV: (StatusCode.PERMISSION_DENIED, "a link leads out of the share"),
    errno.EBADF: (StatusCode.FAILURE, "a share that is away is not an empty one"),
    errno.EINVAL: (StatusCode.FAILURE, "the packet was well formed"),
    errno.EFAULT: (StatusCode.FAILURE, "an internal fault is not a permission problem"),
    errno.ENOSYS: (StatusCode.FAILURE, "the operation is known"),
}


@pytest.mark.parametrize("number", sorted(errno.errorcode), ids=errno.errorcode.get)
def test_lookup_errors_have_openssh_statuses(number: int, tmp_path: Path) -> None:
    class Failing:
        descriptors = 1

        def resolve(self, root: int, path: bytes, *, follow: bool, wait: bool) -> int:
            raise OSError(number, os.strerror(number))

    share = Share(
        name="s",
        root=tmp_path,
        links=Links.AUTO,
        attribute_policy=AttributePolicy(),
        resolver=Failing(),
    )
    try:
        with pytest.raises((OSError, FileSystemError)) as raised:
            share.lstat(b"file", wait=True)
    finally:
        share.close()
    expected, _ = OTHERWISE.get(number, (OPENSSH.get(number, StatusCode.FAILURE), ""))
    assert status_of(raised.value)[0] is expected


WORDS = {message for _, _, message in CASES}


@given(st.sampled_from(sorted(errno.errorcode)), st.text())
def test_any_errno_becomes_a_known_message(number: int, text: str) -> None:
    code, message = status_of(OSError(number, text, f"/{text}"))
    assert message in WORDS
    assert code in (StatusCode.FAILURE, StatusCode.PERMISSION_DENIED)


def test_every_status_is_in_the_metrics_and_log_vocabulary() -> None:
    assert {code.name.lower() for _, code, _ in CASES} <= RESULTS
    assert {"ok", "eof"} <= RESULTS
