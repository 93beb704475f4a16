"""Each error becomes one status, in words that tell nothing of our own."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftp_gateway import errors
from sftp_gateway.errors import FileSystemError
from sftp_gateway.observability.labels import RESULTS
from sftp_gateway.protocol.constants import StatusCode
from sftp_gateway.server.status import refusal, status_of

CASES = [
    (errors.NotFound("/secret"), StatusCode.NO_SUCH_FILE, "No such file"),
    (errors.Denied("read_only"), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (errors.Denied("unreadable", hidden=False), StatusCode.PERMISSION_DENIED, "Permission denied"),
    (errors.Denied("special_file", hidden=True), StatusCode.NO_SUCH_FILE, "No such file"),
    (errors.NotADirectory("/secret"), StatusCode.FAILURE, "Not a directory"),
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


def test_every_error_of_the_file_tree_has_a_place_in_the_table() -> None:
    told = {type(error) for error, _, _ in CASES}
    assert set(FileSystemError.__subclasses__()) <= told


WORDS = {message for _, _, message in CASES}


@given(st.sampled_from(sorted(errno.errorcode)), st.text())
def test_whatever_a_disk_reports_the_client_gets_known_words(number: int, text: str) -> None:
    code, message = status_of(OSError(number, text, f"/{text}"))
    assert message in WORDS
    assert code in (StatusCode.FAILURE, StatusCode.PERMISSION_DENIED)


def test_every_status_is_a_result_that_metrics_and_log_know() -> None:
    assert {code.name.lower() for _, code, _ in CASES} <= RESULTS
    assert {"ok", "eof"} <= RESULTS
