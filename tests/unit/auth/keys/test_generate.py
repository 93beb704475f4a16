from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.auth.keys.authorized_keys import parse_authorized_keys
from sftp_gateway.auth.keys.generate import (
    generate_ed25519,
    private_key_errors,
    public_file_errors,
)


def run_advice(sentence: str) -> None:
    _, _, command = sentence.partition("run: ")
    subprocess.run(shlex.split(command), check=True)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "it's a key"
    path.write_bytes(generate_ed25519("host").private_pem)
    path.chmod(0o600)
    return path


def test_ssh_keygen_reads_a_new_pair(key_file: Path, listed: Callable[[str], list[str]]) -> None:
    pair = generate_ed25519("worker@gateway")
    key_file.write_bytes(pair.private_pem)
    command = ["ssh-keygen", "-y", "-f", str(key_file)]
    public = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert pair.public_line == f"{public[0]} {public[1]} worker@gateway"
    (key,) = parse_authorized_keys(pair.public_line, source="new").keys
    assert listed(pair.public_line)[:3] == ["256", key.fingerprint, "worker@gateway"]


def test_two_pairs_differ() -> None:
    assert generate_ed25519("a").public_line != generate_ed25519("a").public_line


def test_a_pair_without_a_comment_has_a_clean_line() -> None:
    assert len(generate_ed25519("").public_line.split(" ")) == 2


def test_a_comment_cannot_add_a_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        generate_ed25519("me\nssh-ed25519 AAAA")


def test_repr_hides_the_private_key() -> None:
    assert "PRIVATE" not in repr(generate_ed25519("a"))


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_key_readable_by_its_owner_only_is_accepted(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert private_key_errors(key_file) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777, 0o601])
def test_a_private_key_open_to_others_is_an_error_with_a_command(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    (message,) = private_key_errors(key_file)
    assert f"{mode:04o}" in message
    run_advice(message)
    assert private_key_errors(key_file) == []


def test_a_file_name_with_a_leading_dash_gets_a_working_command(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = key_file.rename(tmp_path / "-R key").relative_to(tmp_path)
    path.chmod(0o644)
    (message,) = private_key_errors(path)
    run_advice(message)
    assert private_key_errors(path) == []


def test_a_private_key_of_another_user_is_an_error(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() == 0:
        os.chown(key_file, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (message,) = private_key_errors(key_file)
    assert f"run as root: sftp-gateway init --owner {os.geteuid()}:" in message


def test_an_unreadable_private_key_is_an_error(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file.chmod(0o000)
    # Root can read everything, so the error of an unprivileged user is simulated.
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
    (message,) = private_key_errors(key_file)
    assert "cannot be read by user" in message
    assert "chmod 600" in message


def test_a_link_to_a_valid_private_key_is_accepted(key_file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(key_file)
    assert private_key_errors(link) == []


@pytest.mark.parametrize("check", [private_key_errors, public_file_errors])
def test_a_file_other_than_a_regular_one_is_an_error(
    tmp_path: Path, check: Callable[[Path], list[str]]
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "is missing" in check(tmp_path / "nothing")[0]
    assert "is not a regular file" in check(tmp_path)[0]
    assert "is not a regular file" in check(fifo)[0]
    assert "cannot be accessed" in check(loop)[0]


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o444])
def test_a_public_key_file_may_be_world_readable(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    assert public_file_errors(key_file) == []


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_public_key_writable_by_others_is_an_error_with_a_command(
    key_file: Path, mode: int
) -> None:
    key_file.chmod(mode)
    (message,) = public_file_errors(key_file)
    run_advice(message)
    assert public_file_errors(key_file) == []
