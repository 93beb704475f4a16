"""Bans, connection limits, allowed addresses and idle timeouts, across all processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from sftp_gateway.settings import Settings
from tests.support.gateway import TIMEOUT, Gateway, fill, running, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

#: Loopback addresses that clients connect from.
GOOD, BAD, EXEMPT = "127.0.0.4", "127.0.0.5", "127.0.0.6"

BANS = f"""
workers = 2
[penalties]
failed_login = 20
unknown_user = 30
minimum = 55
exempt = ["127.0.0.1/32", "{EXEMPT}"]
"""


@pytest.fixture(scope="module")
def wrong_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "wrong", "ed25519")


def log_in(
    gateway: Gateway, source: str, key: Path | None = None, user: str = "gvpocr"
) -> subprocess.CompletedProcess[str]:
    options = gateway.ssh_options(key=key, BindAddress=source)
    return gateway.ssh("echo in", user=user, options=options)


def greeting(gateway: Gateway, source: str) -> bytes:
    """What a client at this address reads first; nothing if its connection is refused."""
    with socket.create_connection(
        ("127.0.0.1", gateway.port), TIMEOUT, source_address=(source, 0)
    ) as connection:
        with contextlib.suppress(ConnectionResetError):
            return connection.recv(8)
        return b""


def misbehave(gateway: Gateway, source: str, key: Path, times: int) -> None:
    for _ in range(times):
        refused = len(gateway.events("session_end", client_ip=source))
        assert "Permission denied" in log_in(gateway, source, key).stderr
        wait_for(
            lambda n=refused: gateway.events("session_end", client_ip=source)[n:],
            "its session's end",
        )


def ban(gateway: Gateway, source: str, key: Path) -> None:
    misbehave(gateway, source, key, 3)
    gateway.wait_event("source_banned", source=source)


def hang_up(gateway: Gateway) -> None:
    assert gateway.process is not None
    before = len(gateway.events("configuration_reloaded"))
    gateway.process.send_signal(signal.SIGHUP)
    wait_for(lambda: gateway.events("configuration_reloaded")[before:], "the new configuration")


def configure(gateway: Gateway, config: str) -> None:
    (gateway.folder / "config/sftp-gateway.toml").write_text(config)
    hang_up(gateway)


@contextlib.contextmanager
def held(gateway: Gateway, source: str, count: int = 1) -> Iterator[list[socket.socket]]:
    """Open silent connections from this address, after the server's banner."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = socket.create_connection(
                ("127.0.0.1", gateway.port), TIMEOUT, source_address=(source, 0)
            )
            connections.append(stack.enter_context(connection))
            assert connection.recv(8) == b"SSH-2.0-"
        yield connections


@contextlib.contextmanager
def session(gateway: Gateway, source: str, user: str = "gvpocr") -> Iterator[subprocess.Popen[str]]:
    """A client that is logged in from this address and sends no requests."""
    before = len(gateway.events("login_accepted", client_ip=source))
    options = gateway.ssh_options(BindAddress=source)
    client = subprocess.Popen(
        ["sftp", *options, "-P", str(gateway.port), f"{user}@127.0.0.1"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: gateway.events("login_accepted", client_ip=source)[before:], "a login")
        yield client
    finally:
        client.terminate()
        client.communicate(timeout=TIMEOUT)


# Bans


@pytest.fixture(scope="module")
def banned(tmp_path_factory: pytest.TempPathFactory, wrong_key: Path) -> Iterator[Gateway]:
    """A gateway with two workers that has banned BAD."""
    with running(tmp_path_factory.mktemp("banned"), BANS) as gateway:
        ban(gateway, BAD, wrong_key)
        yield gateway


def test_failed_logins_get_a_source_banned_and_logged(banned: Gateway) -> None:
    event = banned.wait_event("source_banned", source=BAD)
    assert (event["reason"], event["effect"], event["times"]) == ("failed_login", "refused", 1)
    assert 55 <= event["score"] <= 60
    assert event["until"] > event["time"]
    assert greeting(banned, BAD) == b""


def test_a_ban_holds_on_every_worker(banned: Gateway) -> None:
    for _ in range(4):
        assert greeting(banned, BAD) == b""
    ran = log_in(banned, BAD)  # with the right key
    assert (ran.returncode, ran.stdout) == (255, "")
    assert not banned.events("login_accepted", client_ip=BAD)
    assert banned.wait_event("connections_refused", client_ip=BAD)["reason"] == "source_banned"


def test_other_sources_can_log_in_during_a_ban(banned: Gateway) -> None:
    assert log_in(banned, GOOD).stdout == "in\n"
    assert log_in(banned, "127.0.0.1").stdout == "in\n"


def test_a_ban_survives_new_workers_and_a_reload(banned: Gateway) -> None:
    for pid in [event["pid"] for event in banned.events("worker_started")]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(banned.events("worker_started")) >= 4, "new workers")
    assert log_in(banned, GOOD).stdout == "in\n"
    assert greeting(banned, BAD) == b""
    configure(banned, f"max_handles = 99\n{BANS}")
    assert log_in(banned, GOOD).stdout == "in\n"
    assert greeting(banned, BAD) == b""


def test_metrics_show_the_ban(banned: Gateway) -> None:
    wait_for(lambda: banned.metric("sftp_gateway_banned_sources") == 1, "the ban to be shown")
    assert banned.metric("sftp_gateway_penalties_total", kind="failed_login") == 3
    assert greeting(banned, BAD) == b""
    refused = "sftp_gateway_connections_refused_total"
    wait_for(lambda: banned.metric(refused, reason="source_banned") >= 1, "the refusals' count")


def test_an_exempt_source_is_never_banned(banned: Gateway, wrong_key: Path) -> None:
    misbehave(banned, EXEMPT, wrong_key, 4)
    assert greeting(banned, EXEMPT) == b"SSH-2.0-"
    assert not banned.events("source_banned", source=EXEMPT)


def test_exempting_a_source_lifts_its_ban_on_reload(
    make_gateway: Callable[..., Gateway], wrong_key: Path
) -> None:
    gateway = make_gateway(BANS).start()
    ban(gateway, BAD, wrong_key)
    assert greeting(gateway, BAD) == b""
    configure(gateway, BANS.replace(EXEMPT, BAD))
    assert log_in(gateway, BAD).stdout == "in\n"
    assert gateway.wait_event("source_unbanned", source=BAD)["reason"] == "configuration"


def test_a_ban_expires(make_gateway: Callable[..., Gateway], wrong_key: Path) -> None:
    gateway = make_gateway(BANS.replace("minimum = 55", "minimum = 1\nmaximum = 2")).start()
    misbehave(gateway, BAD, wrong_key, 1)
    gateway.wait_event("source_banned", source=BAD)
    assert gateway.wait_event("source_unbanned", source=BAD)["reason"] == "expired"
    assert log_in(gateway, BAD).stdout == "in\n"


def test_a_source_with_an_open_session_is_not_banned(
    make_gateway: Callable[..., Gateway], wrong_key: Path
) -> None:
    gateway = make_gateway(BANS).start()
    with session(gateway, BAD):
        ban(gateway, BAD, wrong_key)
        assert gateway.events("source_banned", source=BAD)[-1]["effect"] == "throttled"
        misbehave(gateway, BAD, wrong_key, 3)
        assert log_in(gateway, BAD).stdout == "in\n"


def test_a_source_with_an_open_session_is_throttled_instead(
    make_gateway: Callable[..., Gateway], wrong_key: Path
) -> None:
    gateway = make_gateway(BANS + "trusted_rate = 0.001\n").start()
    with session(gateway, BAD):
        ban(gateway, BAD, wrong_key)
        assert greeting(gateway, BAD) == b""
        refused = gateway.wait_event("connections_refused", client_ip=BAD)
        assert refused["reason"] == "source_throttled"


def test_bans_can_be_listed_and_lifted(
    make_gateway: Callable[..., Gateway], wrong_key: Path
) -> None:
    gateway = make_gateway(BANS)
    asked = gateway.run("bans", "list")
    assert asked.returncode == 1
    assert asked.stderr == (
        "error: state/control.sock: the gateway does not run, or runs in another folder: "
        "run this command there\n"
    )
    gateway.start()
    assert gateway.run("bans", "list").stderr == "no source is banned\n"
    for source in (BAD, GOOD):
        ban(gateway, source, wrong_key)
    listed = [
        json.loads(line) for line in gateway.run("bans", "list", "--json").stdout.split("\n")[:-1]
    ]
    assert [(each["source"], each["reason"], each["effect"]) for each in listed] == [
        (BAD, "failed_login", "refused"),
        (GOOD, "failed_login", "refused"),
    ]
    shown = gateway.run("bans", "list").stdout.splitlines()
    assert shown[0].startswith(BAD)
    assert "refused until" in shown[0]
    lifted = gateway.run("bans", "lift", BAD, "203.0.113.0/24")
    assert (lifted.returncode, lifted.stderr) == (0, f"{BAD} is no longer banned\n")
    assert gateway.wait_event("source_unbanned", source=BAD)["reason"] == "lifted"
    assert log_in(gateway, BAD).stdout == "in\n"
    assert greeting(gateway, GOOD) == b""
    assert gateway.run("bans", "lift", BAD).returncode == 1
    assert gateway.run("bans", "lift", "nonsense").returncode == 2
    assert gateway.run("bans", "lift", "--all").stderr == f"{GOOD} is no longer banned\n"
    assert log_in(gateway, GOOD).stdout == "in\n"
    kept = gateway.run("logs", "--ip", BAD, "--event", "source_banned").stdout
    assert f"{BAD}: refused until " in kept
    assert gateway.stop() == 0
    assert gateway.run("bans", "lift", "--all").returncode == 1


# Offences


def _raw(gateway: Gateway, data: bytes, *, wait: bool) -> None:
    with socket.create_connection(
        ("127.0.0.1", gateway.port), TIMEOUT, source_address=(BAD, 0)
    ) as connection:
        connection.recv(8)
        connection.sendall(data)
        if wait:
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass


@pytest.mark.parametrize(
    ("kind", "user", "data"),
    [
        ("no_attempt", None, b""),
        ("no_attempt", None, b"SSH-2.0-scanner\r\n"),
        ("grace_exceeded", None, b""),
        ("protocol_error", None, b"GET / HTTP/1.1\r\n\r\n" * 10_000),
        ("failed_login", "gvpocr", b""),
        ("unknown_user", "nobody", b""),
    ],
)
def test_each_offence_has_its_penalty(
    make_gateway: Callable[..., Gateway],
    wrong_key: Path,
    kind: str,
    user: str | None,
    data: bytes,
) -> None:
    gateway = make_gateway(
        f"login_grace_time = {1 if kind == 'grace_exceeded' else 30}\n"
        "[penalties]\nminimum = 1\nno_attempt = 60\n"
    ).start()
    if user is None:
        _raw(gateway, data, wait=kind != "no_attempt")
    else:
        assert log_in(gateway, BAD, wrong_key, user).returncode == 255
    assert gateway.wait_event("source_banned", source=BAD)["reason"] == kind
    wait_for(lambda: gateway.metric("sftp_gateway_penalties_total") == 1, "it to be counted")
    assert gateway.metric("sftp_gateway_penalties_total", kind=kind) == 1


def nothing_was_penalised(gateway: Gateway) -> None:
    """No penalty is counted, even half a second later."""
    penalties = "sftp_gateway_penalties_total"
    with socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT, (BAD, 0)) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        wait_for(lambda: gateway.metric(penalties, kind="protocol_error"), "this to be counted")
    assert gateway.metric(penalties) == 1


def test_clients_that_log_in_are_not_penalised(
    make_gateway: Callable[..., Gateway], wrong_key: Path, tmp_path: Path
) -> None:
    gateway = make_gateway("[penalties]\nminimum = 1\n").start()
    fill(gateway.folder / "shared", {"models/a.bin": b"a" * 100_000})
    options = gateway.ssh_options(key=wrong_key, BindAddress=GOOD)  # then the right one
    more = ["-i", str(gateway.key)]
    assert gateway.ssh("echo in", options=[*options, *more]).stdout == "in\n"
    right = gateway.ssh_options(BindAddress=GOOD)
    assert gateway.sftp(f"get models/a.bin {tmp_path}", options=right).returncode == 0
    with gateway.mounted(tmp_path / "mnt") as mount:
        assert (mount / "models/a.bin").read_bytes() == b"a" * 100_000
    assert gateway.ssh("true", options=right).returncode == 1  # a command that is refused
    wait_for(lambda: len(gateway.events("session_end")) >= 4, "all to have ended")
    nothing_was_penalised(gateway)


# Allowed addresses


def test_a_disallowed_address_is_refused_before_ssh_starts(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(f'allow_from = ["{GOOD}", "2001:db8::/32"]\n').start()
    assert greeting(gateway, BAD) == b""
    assert log_in(gateway, GOOD).stdout == "in\n"
    refused = gateway.wait_event("connections_refused", client_ip=BAD)
    assert refused["reason"] == "address_not_allowed"
    assert not gateway.events("connection", client_ip=BAD)
    configure(gateway, f'allow_from = ["{BAD}"]\n')
    assert greeting(gateway, GOOD) == b""
    assert log_in(gateway, BAD).stdout == "in\n"


def test_a_user_can_log_in_from_allowed_addresses_only(
    make_gateway: Callable[..., Gateway], wrong_key: Path
) -> None:
    gateway = make_gateway(
        f'[users.gvpocr]\nallow_from = ["{GOOD}"]\n[users.ana]\n[penalties]\nenabled = false\n'
    )
    assert gateway.run("init").returncode == 0
    gateway.authorize("ana", public_line(gateway.key))
    gateway.start()
    assert log_in(gateway, GOOD).stdout == "in\n"
    assert log_in(gateway, BAD, user="ana").stdout == "in\n"

    def client_messages(source: str, key: Path | None) -> list[str]:
        """The client's debugging output for a login."""
        options = [*gateway.ssh_options(key=key, BindAddress=source), "-v"]
        lines = gateway.ssh("echo in", options=options).stderr.splitlines()
        kept = [line for line in lines if "uthentic" in line or "denied" in line]
        return [line for line in kept if "Offering" not in line and "SHA256" not in line]

    right = client_messages(BAD, None)
    assert any("Permission denied" in line for line in right)
    assert right == client_messages(BAD, wrong_key)
    refused = wait_for(
        lambda: _both(gateway.events("login_refused", client_ip=BAD)), "both refusals"
    )
    reasons = {event["reason"] for event in refused}
    assert reasons == {"user_address_not_allowed", "key_not_authorized"}


def _both(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return events if len(events) >= 2 else []


# Limits


def test_unauthenticated_connections_are_limited(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway('workers = 2\nmax_startups = "4:100:4"\n').start()
    with session(gateway, GOOD), held(gateway, BAD, 4):
        assert greeting(gateway, GOOD) == b""
        refused = gateway.wait_event("connections_refused")
        assert (refused["reason"], refused["open"]) == ("max_startups", 5)
    wait_for(lambda: log_in(gateway, GOOD).stdout == "in\n", "a place to be free")


def test_unauthenticated_connections_are_dropped_at_random_below_the_limit(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway('max_startups = "2:50:1000"\n').start()
    with held(gateway, BAD, 2):
        answers = {greeting(gateway, GOOD) for _ in range(60)}  # all alike: once in 2**59 runs
    assert answers == {b"SSH-2.0-", b""}


def test_one_source_cannot_use_up_all_connections(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway("max_startups_per_source = 2\nmax_connections_per_source = 3\n").start()
    with held(gateway, BAD, 2):
        assert greeting(gateway, BAD) == b""
        assert gateway.wait_event("connections_refused")["reason"] == "max_startups_per_source"
        with session(gateway, GOOD), session(gateway, GOOD), session(gateway, GOOD):
            assert greeting(gateway, GOOD) == b""
            wait_for(
                lambda: gateway.metric(
                    "sftp_gateway_connections_refused_total", reason="max_connections_per_source"
                ),
                "the other reason",
            )
            assert log_in(gateway, EXEMPT).stdout == "in\n"


def test_sessions_of_a_user_are_limited_across_workers(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("workers = 2\n[users.gvpocr]\nmax_sessions = 2\n[users.ana]\n")
    assert gateway.run("init").returncode == 0
    gateway.authorize("ana", public_line(gateway.key))
    gateway.start()
    with session(gateway, GOOD), session(gateway, BAD):
        with session(gateway, EXEMPT) as third:
            assert third.wait(TIMEOUT) == 255
        assert gateway.wait_event("session_end", client_ip=EXEMPT)["reason"] == "too_many_sessions"
        assert log_in(gateway, EXEMPT, user="ana").stdout == "in\n"
        refused = "sftp_gateway_connections_refused_total"
        wait_for(lambda: gateway.metric(refused, reason="max_sessions_per_user") == 1, "the count")
    wait_for(lambda: log_in(gateway, EXEMPT).stdout == "in\n", "a place to be free")


# Timeouts and bandwidth


def test_an_idle_client_is_disconnected_if_configured(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway("idle_timeout = 1\n").start()
    fill(gateway.folder / "shared", {"models/a.bin": b"a"})
    with session(gateway, GOOD):
        ended = gateway.wait_event("session_end", client_ip=GOOD)
        assert ended["reason"] == "idle"
        assert ended["duration"] >= 1
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "reconnect", "direct_io") as mount:
        ends = len(gateway.events("session_end", reason="idle"))
        wait_for(lambda: gateway.events("session_end", reason="idle")[ends:], "the mount's end")
        # It comes back when it is asked for something.
        wait_for(lambda: _readable(mount / "models/a.bin"), "the mount to come back")
    nothing_was_penalised(gateway)


def _readable(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes() == b"a"
    return False


def test_a_client_that_keeps_sending_requests_is_not_idle(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("idle_timeout = 2\n").start()
    with session(gateway, GOOD) as client, session(gateway, BAD):
        assert client.stdin is not None

        def other_is_idle() -> bool:
            assert client.stdin is not None
            client.stdin.write("ls\n")
            client.stdin.flush()
            return bool(gateway.events("session_end", client_ip=BAD, reason="idle"))

        wait_for(other_is_idle, "the other one to be disconnected")
        assert not gateway.events("session_end", client_ip=GOOD)


def test_a_client_waiting_for_a_reply_is_not_idle(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """The first reply takes four seconds at the configured bandwidth."""
    gateway = make_gateway("idle_timeout = 1\n[users.gvpocr]\nbandwidth_limit = 65_536\n").start()
    content = os.urandom(300_000)
    fill(gateway.folder / "shared/models", {"a": content})
    got = subprocess.run(
        ["sftp", *gateway.ssh_options(), "-P", str(gateway.port), "-q", "-B", "250000",
         "gvpocr@127.0.0.1:models/a", str(tmp_path / "a")], timeout=120
    )  # fmt: skip
    assert got.returncode == 0
    assert (tmp_path / "a").read_bytes() == content


def test_an_unresponsive_peer_is_disconnected(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("keepalive_interval = 0.5\nkeepalive_count_max = 2\n").start()
    options = gateway.ssh_options(BindAddress=GOOD)
    client = subprocess.Popen(
        ["ssh", *options, "-p", str(gateway.port), "-s", "gvpocr@127.0.0.1", "sftp"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        gateway.wait_event("login_accepted", client_ip=GOOD)
        client.send_signal(signal.SIGSTOP)
        assert gateway.wait_event("session_end", client_ip=GOOD)["reason"] == "not_responding"
    finally:
        client.kill()
        client.communicate(timeout=TIMEOUT)
    nothing_was_penalised(gateway)


async def test_keepalives_are_sent_up_to_the_configured_count(
    make_gateway: Callable[..., Gateway],
) -> None:
    """The peer may leave each keepalive unanswered for one interval (15 s by default)."""
    gateway = make_gateway("keepalive_interval = 0.5\nkeepalive_count_max = 2\n").start()
    async with asyncssh.connect(
        "127.0.0.1", gateway.port, username="gvpocr", client_keys=[str(gateway.key)],
        known_hosts=None, config=None, agent_path=None, keepalive_interval=0,
    ) as connection:  # fmt: skip
        silent: Any = connection
        silent._process_keepalive_at_openssh_dot_com_global_request = lambda packet: None
        await asyncio.to_thread(gateway.wait_event, "session_end", reason="not_responding")
        assert len(silent._global_request_queue) == 2
    assert Settings().keepalive_interval * (Settings().keepalive_count_max + 1) == 45


def test_a_user_with_a_bandwidth_limit_gets_the_right_bytes(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway("workers = 2\n[users.gvpocr]\nbandwidth_limit = 1_000_000\n").start()
    contents = {name: os.urandom(1_500_000) for name in ("a", "b")}
    fill(gateway.folder / "shared/models", contents)
    clients = [
        subprocess.Popen(
            ["sftp", *gateway.ssh_options(), "-P", str(gateway.port), "-q",
             f"gvpocr@127.0.0.1:models/{name}", str(tmp_path / name)]
        )
        for name in contents
    ]  # fmt: skip
    for client in clients:
        assert client.wait(120) == 0
    for name, content in contents.items():
        assert (tmp_path / name).read_bytes() == content
    closed = wait_for(lambda: _both(gateway.events("file_closed")), "both files' lines")
    assert [(event["bytes"], event["whole"]) for event in closed] == [(1_500_000, True)] * 2
    with gateway.mounted(tmp_path / "mnt") as mount:
        assert (mount / "models/a").read_bytes() == contents["a"]


def test_a_bandwidth_limit_is_shared_among_workers(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway("workers = 2\n[users.gvpocr]\nbandwidth_limit = 1_000_000\n").start()

    def rate() -> float:
        return gateway.metric("sftp_gateway_bandwidth_bytes", user="gvpocr")

    with session(gateway, GOOD):
        wait_for(lambda: rate() == 1_000_000, "all of it to be one worker's")
        with session(gateway, BAD), session(gateway, EXEMPT):
            wait_for(lambda: rate() == pytest.approx(1_000_000), "each to have its part")
    wait_for(lambda: rate() == 0, "nobody to have any")
