"""Logins by password with OpenSSH's clients."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncssh.constants import MSG_USERAUTH_FAILURE, MSG_USERAUTH_REQUEST
from asyncssh.packet import Boolean, String

from tests.hostile.test_hostile_ssh import _client, _wait_closed
from tests.integration.test_workers import workers
from tests.support.gateway import TIMEOUT, Gateway, wait_for

pytestmark = pytest.mark.integration

PASSWORD = "correct horse, नमस्ते"
#: Options that allow password authentication only.
ASK = {"PubkeyAuthentication": "no", "BatchMode": "no"}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one user with a password, and one without."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    hashed = gateway.run("hash-password", input=PASSWORD + "\n").stdout.strip()
    (gateway.folder / "config/sftp-gateway.toml").write_text(
        f'[users.gvpocr]\npassword_hash = "{hashed}"\n[users.keyed]\n'
    )
    assert gateway.run("init").returncode == 0
    try:
        yield gateway.start()
    finally:
        gateway.close()


def _by_password(
    gateway: Gateway, program: list[str], password: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sshpass", "-e", *program],
        env={**os.environ, "SSHPASS": password},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _ssh(gateway: Gateway, user: str = "gvpocr", **options: str) -> list[str]:
    return [
        "ssh", *gateway.ssh_options(**{**ASK, **options}), "-p", str(gateway.port),
        f"{user}@127.0.0.1", "echo in",
    ]  # fmt: skip


def test_the_right_password_can_log_in(gateway: Gateway) -> None:
    assert _by_password(gateway, _ssh(gateway), PASSWORD).stdout == "in\n"
    accepted = gateway.wait_event("login_accepted", auth="password")
    assert accepted["user"] == "gvpocr"
    assert "key" not in accepted


def test_password_verification_yields_to_requests(gateway: Gateway) -> None:
    def niced() -> set[int]:
        return {
            int(thread)
            for pid in workers(gateway).values()
            for thread in os.listdir(f"/proc/{pid}/task")
            if os.getpriority(os.PRIO_PROCESS, int(thread)) > os.getpriority(os.PRIO_PROCESS, pid)
        }

    assert _by_password(gateway, _ssh(gateway), PASSWORD).stdout == "in\n"
    assert niced()


def test_sftp_works_with_a_password(gateway: Gateway, tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    batch.write_text(f"get Bhushanji/README.txt {tmp_path}\n")
    program = [
        "sftp", *gateway.ssh_options(**ASK), "-P", str(gateway.port), "-b", str(batch),
        "gvpocr@127.0.0.1",
    ]  # fmt: skip
    ran = _by_password(gateway, program, PASSWORD)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "README.txt").stat().st_size > 0


@pytest.mark.parametrize("password", ["not this one", PASSWORD + " ", PASSWORD[:-1], "x" * 1000])
def test_a_wrong_password_is_refused_and_never_logged(gateway: Gateway, password: str) -> None:
    before = len(gateway.events("login_refused"))
    ran = _by_password(gateway, _ssh(gateway, NumberOfPasswordPrompts="1"), password)
    assert (ran.returncode, ran.stdout) == (255, "")
    assert "Permission denied (publickey,password)" in ran.stderr
    [refused] = wait_for(lambda: gateway.events("login_refused")[before:], "the refusal")
    assert (refused["method"], refused["reason"]) == ("password", "wrong_password")
    assert refused["user_tried"] == "gvpocr"
    assert password not in (gateway.folder / "access.log").read_text()
    assert password not in gateway.stderr


@pytest.mark.parametrize(("user", "reason"), [("nobody", "unknown_user"), ("keyed", "no_password")])
def test_a_password_for_a_user_without_one_is_refused(
    gateway: Gateway, user: str, reason: str
) -> None:
    program = _ssh(gateway, user, NumberOfPasswordPrompts="1")
    assert _by_password(gateway, program, PASSWORD).returncode == 255
    refused = gateway.wait_event("login_refused", user_tried=user)
    assert (refused["method"], refused["reason"]) == ("password", reason)


def test_an_empty_password_is_refused(gateway: Gateway) -> None:
    program = _ssh(gateway, NumberOfPasswordPrompts="1")
    assert _by_password(gateway, program, "").returncode == 255


def test_six_wrong_passwords_end_the_connection(gateway: Gateway, tmp_path: Path) -> None:
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho wrong\n")
    ask.chmod(0o700)
    ran = subprocess.run(
        _ssh(gateway, NumberOfPasswordPrompts="20"),
        env={**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 255
    assert "Too many authentication failures" in ran.stderr
    ended = gateway.wait_event("session_end", reason="too_many_login_attempts")
    assert len(gateway.events("login_refused", session=ended["session"])) == 6


def test_every_user_name_is_offered_the_same_methods(gateway: Gateway) -> None:
    assert {_offered(gateway, user) for user in ("gvpocr", "keyed", "nobody", "root")} == {
        "publickey,password"
    }


def test_password_authentication_is_not_offered_without_passwords(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway().start()
    assert {_offered(gateway, user) for user in ("gvpocr", "nobody")} == {"publickey"}


def _offered(gateway: Gateway, user: str) -> str:
    options = gateway.ssh_options(PreferredAuthentications="none")
    ran = gateway.ssh("echo in", user=user, options=options)
    assert ran.returncode == 255
    return ran.stderr.partition("Permission denied (")[2].partition(")")[0]


# Pipelined attempts

_WRONG: Any = (
    MSG_USERAUTH_REQUEST, String("gvpocr"), String("ssh-connection"), String("password"),
    Boolean(False), String("wrong"),
)  # fmt: skip


async def test_pipelined_password_attempts_are_all_counted(gateway: Gateway) -> None:
    """RFC 4252 §5.1: each must be processed completely before the next."""
    before = len(gateway.events("login_refused", reason="wrong_password"))
    async with _client(gateway, log_in=False) as connection:
        for _ in range(50):
            connection.send_packet(*_WRONG)
        await _wait_closed(connection)
    first = wait_for(
        lambda: gateway.events("login_refused", reason="wrong_password")[before:], "a line"
    )[0]
    end = gateway.wait_event("session_end", session=first["session"])
    assert end["reason"] == "too_many_login_attempts"
    assert len(gateway.events("login_refused", session=first["session"])) == 6


async def test_an_attempt_abandoned_by_its_client_is_counted(gateway: Gateway) -> None:
    """The client disconnects at some point during the verification of its second password."""
    for _ in range(20):
        answered = asyncio.Event()
        async with _client(gateway, log_in=False) as connection:
            connection._packet_handlers = {
                **connection._packet_handlers,
                MSG_USERAUTH_FAILURE: lambda *_, answered=answered: answered.set(),
            }
            connection.send_packet(*_WRONG)
            connection.send_packet(*_WRONG)
            async with asyncio.timeout(TIMEOUT):
                await answered.wait()
            connection._transport.close()
        ended = gateway.wait_event("session_end", reason="connection_lost")
        refused = gateway.events("login_refused", session=ended["session"])
        if [event["reason"] for event in refused] == ["wrong_password", "connection_lost"]:
            break
    else:
        raise AssertionError("no attempt was counted that had begun")
    assert (refused[1]["user_tried"], refused[1]["method"]) == ("gvpocr", "password")
