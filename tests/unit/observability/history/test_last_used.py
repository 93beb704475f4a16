"""The last login of each key is found in current and rotated access logs."""

from __future__ import annotations

import gzip
import secrets
from pathlib import Path

import pytest

from sftp_gateway.observability.access_log.events import LoginAccepted, LoginRefused, Session
from sftp_gateway.observability.access_log.json_lines import encode
from sftp_gateway.observability.history.last_used import last_used, read_lines, with_rotated_files


def accepted(time: float, key: str | None, user: str = "gvpocr") -> bytes:
    session = Session(session="0", client_ip="192.0.2.7", client_port=1, user=user, key=key)
    return encode(LoginAccepted(time=time, session=session))


def test_the_last_login_per_user_and_key_is_found() -> None:
    session = Session(session="0", client_ip="192.0.2.7", client_port=1)
    lines = [
        accepted(20, "SHA256:a"),
        accepted(10, "SHA256:a"),
        accepted(30, "SHA256:a", "ana"),
        accepted(40, None),  # a password
        encode(
            LoginRefused(
                time=50, session=session, user_tried="gvpocr", method="publickey",
                key="SHA256:a", reason='"event":"login_accepted"',
            )
        ),
        b'sftp-gateway  | ' + accepted(5, "SHA256:b"),
        b'{"event":"login_accepted","user":["x"],"key":1,"time":2}\n',
        accepted(99, "SHA256:b")[:-20],  # truncated by a full disk
    ]  # fmt: skip
    assert last_used(lines) == {
        ("gvpocr", "SHA256:a"): "1970-01-01T00:00:20.000000Z",
        ("ana", "SHA256:a"): "1970-01-01T00:00:30.000000Z",
        ("gvpocr", "SHA256:b"): "1970-01-01T00:00:05.000000Z",
    }


def test_rotated_logs_are_read(tmp_path: Path) -> None:
    message: list[str] = []
    log = tmp_path / "access.log"
    log.write_bytes(accepted(3, "SHA256:a"))
    (tmp_path / "access.log-20260101").write_bytes(accepted(2, "SHA256:b"))
    with gzip.open(tmp_path / "access.log.2.gz", "wb") as file:
        file.write(accepted(1, "SHA256:c"))
    (tmp_path / "other.log").write_bytes(accepted(4, "SHA256:d"))
    found = last_used(read_lines(with_rotated_files(log), report=message.append))
    assert message == []
    assert {key for _, key in found} == {"SHA256:a", "SHA256:b", "SHA256:c"}
    assert with_rotated_files(tmp_path / "missing.log") == []


@pytest.mark.parametrize("damage", ["cut", "changed", "not compressed"])
def test_a_damaged_compressed_log_is_read_up_to_the_damage(tmp_path: Path, damage: str) -> None:
    lines = [accepted(time, secrets.token_hex(20)) for time in range(2000)]
    whole = gzip.compress(b"".join(lines))
    half = len(whole) // 2
    written = {
        "cut": whole[:half],
        "changed": whole[:half] + bytes(100) + whole[half + 100 :],
        "not compressed": b"".join(lines),
    }[damage]
    cut, good = tmp_path / "access.log.1.gz", tmp_path / "access.log.2"
    cut.write_bytes(written)
    good.write_bytes(lines[-1])
    message: list[str] = []
    found = list(read_lines([cut, good], report=message.append))
    assert found[-1] == lines[-1]
    if damage != "not compressed":
        assert found[:500] == lines[:500]
    assert len(message) == 1
    assert str(cut) in message[0]
