"""Keys are added and removed while clients read; only removed ones lose sessions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from argon2 import low_level

from sftp_gateway.auth import hash_password
from tests.integration.test_workers import Reader, content, hang_up, workers
from tests.support.gateway import TIMEOUT, Gateway, fill, free_port, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

Make = Callable[..., Gateway]


@pytest.fixture
def two(make_gateway: Make) -> Gateway:
    """A gateway with two workers."""
    gateway = make_gateway(SFTP_GATEWAY_WORKERS="2", SFTP_GATEWAY_PORT=str(free_port())).start()
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    return gateway


def authorize_also(gateway: Gateway, line: str) -> None:
    with open(gateway.folder / "keys/authorized_keys/gvpocr", "a") as file:
        file.write(f"{line}\n")


def lets_in(gateway: Gateway, key: Path, user: str = "gvpocr", **more: str) -> bool:
    return (
        gateway.ssh("echo in", user=user, options=gateway.ssh_options(key=key, **more)).stdout
        == "in\n"
    )


@contextmanager
def reading(gateway: Gateway, at: Path, key: Path | None = None) -> Iterator[Reader]:
    """A reader on a mount without `reconnect`, which ends with its connection."""
    with gateway.mounted(at, "/home/gvpocr", "direct_io", key=key) as mount:
        reader = Reader(mount / "models/0.bin", content(0))
        try:
            reader.read_more()
            yield reader
        finally:
            reader.stop()


def reloaded(gateway: Gateway, count: int = 1, **fields: Any) -> dict[str, Any]:
    wait_for(
        lambda: len(gateway.events("configuration_reloaded", **fields)) >= count,
        f"the configuration to be read again {fields}",
    )
    return gateway.events("configuration_reloaded", **fields)[-1]


# Keys


def test_an_added_key_can_log_in_without_disturbing_a_mount(two: Gateway, tmp_path: Path) -> None:
    before = workers(two)
    new = make_key(tmp_path / "new", "ed25519")
    with reading(two, tmp_path / "mnt") as reader:
        assert not lets_in(two, new)
        authorize_also(two, public_line(new))
        event = reloaded(two)
        assert (event["cause"], event["changed"]) == ("files", "credentials")
        # Both workers have loaded it: connections go to them in turn.
        assert [lets_in(two, new) for _ in range(4)] == [True] * 4
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
    assert workers(two) == before


def test_removing_a_key_ends_only_its_own_sessions(two: Gateway, tmp_path: Path) -> None:
    before = workers(two)
    lost = make_key(tmp_path / "lost", "ed25519")
    kept = (two.folder / "keys/authorized_keys/gvpocr").read_text()
    authorize_also(two, public_line(lost))
    reloaded(two)
    with (
        reading(two, tmp_path / "mnt") as reader,
        reading(two, tmp_path / "lost-mnt", lost) as loser,
    ):
        (two.folder / "keys/authorized_keys/gvpocr").write_text(kept)
        removed = two.wait_event("credentials_removed")
        assert removed["reason"] == "key_not_authorized"
        ended = two.wait_event("session_end", session=removed["session"])
        assert ended["reason"] == "credentials_removed"
        wait_for(lambda: loser.errors, "the mount of the removed key to fail")
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
        assert not lets_in(two, lost)
        refused = two.wait_event("login_refused", key=removed["key"])
        assert refused["reason"] == "key_not_authorized"
    assert len(two.events("credentials_removed")) == 1
    assert workers(two) == before


def test_sessions_of_a_removed_key_can_be_kept(make_gateway: Make, tmp_path: Path) -> None:
    gateway = make_gateway("end_sessions_of_removed_keys = false\n").start()
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    with reading(gateway, tmp_path / "mnt") as reader:
        (gateway.folder / "keys/authorized_keys/gvpocr").write_text("")
        reloaded(gateway)
        assert not lets_in(gateway, gateway.key)
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
        # Enabling the option ends them.
        (gateway.folder / "config/sftp-gateway.toml").write_text("# as by default\n")
        assert reloaded(gateway, 2)["changed"] == "credentials"
        gateway.wait_event("credentials_removed")
        wait_for(lambda: reader.errors, "the mount to fail")


def test_a_key_that_expires_keeps_its_sessions(two: Gateway, tmp_path: Path) -> None:
    file = two.folder / "keys/authorized_keys/gvpocr"
    line = file.read_text()
    with reading(two, tmp_path / "mnt") as reader:
        started = two.wait_event("login_accepted")["time"]
        # A minute that starts after the login, so that the key was valid then.
        file.write_text(f'expiry-time="{_after(started)}" {line}')
        reloaded(two)
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
    assert two.events("credentials_removed") == []


def _after(time: str) -> str:
    """The next second, as an expiry-time."""
    from datetime import datetime, timedelta

    moment = datetime.fromisoformat(time) + timedelta(seconds=1)
    return moment.strftime("%Y%m%d%H%M%SZ")


def test_changes_are_not_applied_without_automatic_reload(
    make_gateway: Make, tmp_path: Path
) -> None:
    gateway = make_gateway("auto_reload = false\n").start()
    other = make_gateway().start()
    new = make_key(tmp_path / "new", "ed25519")
    for each in (gateway, other):
        authorize_also(each, public_line(new))
    reloaded(other)  # by then this one would have been, too
    assert not lets_in(gateway, new)
    hang_up(gateway)
    event = reloaded(gateway)
    assert (event["cause"], event["changed"]) == ("signal", "credentials")
    assert lets_in(gateway, new)
    assert gateway.events("configuration_reloaded", cause="files") == []


def test_sighup_without_a_change_replaces_no_worker(two: Gateway) -> None:
    before = workers(two)
    hang_up(two)
    assert reloaded(two)["changed"] == "nothing"
    assert workers(two) == before


def test_an_invalid_configuration_is_rejected_and_reported_once(
    two: Gateway, tmp_path: Path
) -> None:
    config = two.folder / "config/sftp-gateway.toml"
    before = workers(two)
    with reading(two, tmp_path / "mnt") as reader:
        config.write_text("nonsense")
        refused = two.wait_event("configuration_refused")
        assert refused["cause"] == "files"
        assert "not valid TOML" in refused["mistakes"]
        reader.read_more()
        config.write_text("")
        # Restoring the running configuration changes nothing but is reported.
        assert reloaded(two)["changed"] == "nothing"
        new = make_key(tmp_path / "new", "ed25519")
        authorize_also(two, public_line(new))
        reloaded(two, 2)
        assert lets_in(two, new)
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
    assert len(two.events("configuration_refused")) == 1
    assert "keeping the current one" in two.stderr
    assert workers(two) == before


def test_a_worker_that_ignores_new_credentials_is_replaced(two: Gateway, tmp_path: Path) -> None:
    stuck = workers(two)[0]
    new = make_key(tmp_path / "new", "ed25519")
    os.kill(stuck, signal.SIGSTOP)
    authorize_also(two, public_line(new))
    exited = two.wait_event("worker_exited", pid=stuck)
    assert exited["signal"] == "SIGKILL"
    reloaded(two)
    assert [lets_in(two, new) for _ in range(4)] == [True] * 4


def test_a_replaced_observer_keeps_watching(two: Gateway, tmp_path: Path) -> None:
    from tests.integration.test_workers import observer

    before = observer(two)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: two.http("/healthz") == (200, "ok\n"), "another observer")
    new = make_key(tmp_path / "new", "ed25519")
    authorize_also(two, public_line(new))
    reloaded(two)
    assert lets_in(two, new)


# Users and passwords


def test_users_are_added_and_removed_without_new_workers(two: Gateway, tmp_path: Path) -> None:
    config = two.folder / "config/sftp-gateway.toml"
    before = workers(two)
    key = make_key(tmp_path / "ana", "ed25519")
    with reading(two, tmp_path / "mnt") as reader:
        two.authorize("ana", public_line(key))
        config.write_text('[users.gvpocr]\n[users.ana]\nshares = ["models"]\n')
        assert reloaded(two)["changed"] == "credentials"
        ran = two.sftp("ls", user="ana", options=two.ssh_options(key=key))
        assert b"models" in ran.stdout
        assert b"newsletters" not in ran.stdout
        # Her key file is now watched.
        other = make_key(tmp_path / "other", "ed25519")
        two.authorize("ana", public_line(other))
        reloaded(two, 2)
        assert (lets_in(two, other, "ana"), lets_in(two, key, "ana")) == (True, False)
        config.write_text("[users.gvpocr]\n")
        reloaded(two, 3)
        assert not lets_in(two, other, "ana")
        assert two.wait_event("login_refused", user_tried="ana", reason="unknown_user")
        reader.read_more()
        assert (reader.errors, reader.wrong) == ([], 0)
    assert workers(two) == before


def test_changing_a_users_shares_replaces_the_workers(two: Gateway) -> None:
    before = workers(two)
    (two.folder / "config/sftp-gateway.toml").write_text('[users.gvpocr]\nshares = ["models"]\n')
    assert reloaded(two)["changed"] == "all"
    assert b"newsletters" not in two.sftp("ls").stdout
    assert not set(workers(two).values()) & set(before.values())


def ask_for_password(gateway: Gateway, *command: str) -> list[str]:
    """An `ssh` that logs in by password only."""
    options = gateway.ssh_options(
        BatchMode="no", PreferredAuthentications="password", NumberOfPasswordPrompts="1"
    )
    return ["ssh", *options, "-p", str(gateway.port), "gvpocr@127.0.0.1", *command]


@pytest.mark.parametrize("change", ["another", "none"])
def test_changing_a_password_ends_its_sessions(
    make_gateway: Make, tmp_path: Path, change: str
) -> None:
    from tests.integration.test_passwords import _by_password

    hashes = tmp_path / "hash"
    hashes.write_text(hash_password("first"))
    config = f'[users.gvpocr]\npassword_hash_file = "{hashes}"\n'
    gateway = make_gateway(config)
    key = make_key(tmp_path / "key", "ed25519")
    gateway.authorize("gvpocr", public_line(key))
    gateway.start()
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    program = ask_for_password(gateway, "echo in")
    assert _by_password(gateway, program, "first").stdout == "in\n"
    # One idle session by password, and one by key.
    client = subprocess.Popen(
        ["sshpass", "-e", *ask_for_password(gateway, "-N")],
        env={**os.environ, "SSHPASS": "first"},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        logins = "login_accepted"
        wait_for(lambda: len(gateway.events(logins, auth="password")) == 2, "it to be logged in")
        session = gateway.events(logins, auth="password")[-1]["session"]
        with reading(gateway, tmp_path / "mnt", key) as reader:
            if change == "another":
                hashes.write_text(hash_password("second"))
            else:
                (gateway.folder / "config/sftp-gateway.toml").write_text("[users.gvpocr]\n")
            assert reloaded(gateway)["changed"] == "credentials"
            removed = gateway.wait_event("credentials_removed", session=session)
            assert (removed["reason"], removed["auth"]) == ("wrong_password", "password")
            ended = gateway.wait_event("session_end", session=session)
            assert ended["reason"] == "credentials_removed"
            assert client.wait(TIMEOUT) == 255
            reader.read_more()
            assert (reader.errors, reader.wrong) == ([], 0)
    finally:
        client.kill()
        client.communicate()
    assert len(gateway.events("credentials_removed")) == 1
    assert _by_password(gateway, program, "first").returncode == 255
    if change == "another":
        assert _by_password(gateway, program, "second").stdout == "in\n"


async def test_a_user_removed_during_a_login_is_refused(
    make_gateway: Make,
) -> None:
    """New credentials arrive while a worker verifies a login against the old ones."""
    slow = low_level.hash_secret(
        b"first", os.urandom(16), time_cost=40, memory_cost=64 * 1024, parallelism=1, hash_len=32,
        type=low_level.Type.ID,
    ).decode()  # fmt: skip
    gateway = make_gateway(f"[users.gvpocr]\npassword_hash = '{slow}'\n").start()
    given = asyncio.Event()
    attempt = asyncio.create_task(ended_login(gateway, "first", given))
    try:
        await given.wait()
        (gateway.folder / "config/sftp-gateway.toml").write_text("[users.gvpocr]\n")
        hang_up(gateway)
        assert (await asyncio.to_thread(reloaded, gateway))["changed"] == "credentials"
        assert gateway.events("login_accepted") == []
        removed = await asyncio.to_thread(gateway.wait_event, "credentials_removed")
        async with asyncio.timeout(TIMEOUT):
            await attempt
    finally:
        attempt.cancel()
    assert (removed["reason"], removed["auth"]) == ("wrong_password", "password")
    ended = gateway.wait_event("session_end", session=removed["session"])
    assert (ended["reason"], ended["requests"]) == ("credentials_removed", 0)


async def ended_login(gateway: Gateway, password: str, given: asyncio.Event) -> None:
    """Log in by password; return once the connection has ended, for any reason."""

    class Client(asyncssh.SSHClient):
        asked = False

        def password_auth_requested(self) -> str | None:
            if self.asked:
                return None
            self.asked = True
            asyncio.get_running_loop().call_soon(given.set)
            return password

    with contextlib.suppress(asyncssh.Error, OSError):
        async with asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_factory=Client, client_keys=None,
            known_hosts=str(gateway.known_hosts), config=None, agent_path=None,
        ) as connection:  # fmt: skip
            await connection.wait_closed()
