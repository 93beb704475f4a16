"""Settings become a running gateway in this process, and a gateway lets go of its ports."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import uvloop
from pydantic import SecretStr

from sftp_gateway import __version__
from sftp_gateway.app import Gateway, mount_help
from sftp_gateway.auth import hash_password
from sftp_gateway.cli import main
from sftp_gateway.errors import ConfigurationError
from sftp_gateway.first_start import set_up
from sftp_gateway.inspection import inspect
from sftp_gateway.server.probe import handshake, same_key
from sftp_gateway.settings import AccessLogSettings, Settings, ShareSettings, UserSettings
from tests.support.gateway import PATIENCE, free_port


@pytest.fixture
def folder(unconfigured: Path) -> Path:
    """The working directory of a gateway that has been set up."""
    set_up(Settings(), gateway=None, say=lambda line: None)
    return unconfigured


class Running:
    """A gateway that was started here."""

    def __init__(self, gateway: Gateway, settings: Settings, port: int) -> None:
        self.gateway = gateway
        self.port = port
        self._settings = settings
        self._stopped = False

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            await self.gateway.stop("SIGTERM")
            await asyncio.to_thread(self.gateway.close)

    async def http(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""

        def get() -> tuple[int, str]:
            url = f"http://127.0.0.1:{self._settings.metrics_port}{path}"
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(get)

    async def connect(self, **options: Any) -> asyncssh.SSHClientConnection:
        login = {"username": "gvpocr", "client_keys": ["keys/worker_ed25519"], **options}
        return await asyncssh.connect(
            "127.0.0.1", self.port, config=None, known_hosts=None, agent_path=None, **login
        )

    def events(self) -> list[dict[str, Any]]:
        text = Path("access.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    """Starts gateways with some options, each on free ports; they end with the test."""
    started: list[Running] = []

    async def run(**options: Any) -> Running:
        settings = Settings(
            **{
                "host": "127.0.0.1",
                "port": 0,
                "metrics_port": free_port(),
                "drain_timeout": 0.0,
                "access_log": AccessLogSettings(stdout=False, file=Path("access.log")),
                **options,
            }
        )
        findings = await inspect(settings)
        assert findings.mistakes == []
        gateway = Gateway(settings, findings)
        try:
            port = await gateway.start()
        except BaseException:
            gateway.close()
            raise
        started.append(Running(gateway, settings, port))
        return started[-1]

    yield run
    for running in started:
        await running.stop()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Serving


async def test_a_gateway_serves_a_file_to_the_worker_that_the_first_start_made(
    start: Start, folder: Path
) -> None:
    running = await start()
    async with (
        await running.connect() as connection,
        connection.start_sftp_client() as sftp,
        sftp.open("models/README.txt", "rb") as file,
    ):
        assert await file.read() == (folder / "shared/models/README.txt").read_bytes()
        assert await sftp.realpath(".") == "/home/gvpocr"
    await running.stop()
    # The connection may be seen to end before or after the gateway is told to stop.
    events = {event["event"]: event for event in running.events()}
    assert [name for name in events if name != "session_end"] == [
        "server_started",
        "connection",
        "login_accepted",
        "file_opened",
        "file_closed",
        "server_stopping",
        "server_stopped",
    ]
    started = events["server_started"]
    assert (started["version"], started["port"]) == (__version__, running.port)
    assert events["file_closed"]["whole"] is True
    assert events["session_end"]["files"] == 1


async def test_a_user_sees_the_shares_that_it_was_given_and_may_log_in_by_password(
    start: Start, folder: Path
) -> None:
    running = await start(
        users={
            "ana": UserSettings(
                shares=("models",), password_hash=SecretStr(hash_password("correct horse"))
            )
        }
    )
    login = {"username": "ana", "client_keys": None, "password": "correct horse"}
    async with (
        await running.connect(**login) as connection,
        connection.start_sftp_client() as sftp,
    ):
        assert set(await sftp.listdir(".")) == {".", "..", "models"}
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            await sftp.stat("/home/ana/newsletters")
    await running.stop()
    (denied,) = [event for event in running.events() if event["event"] == "denied"]
    assert denied["reason"] == "share_not_granted"


async def test_owners_are_shown_as_configured(start: Start) -> None:
    running = await start(show_uid=1234, show_gid=5678)
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        for path in (".", "models", "models/README.txt"):
            attributes = await sftp.stat(path)
            assert (attributes.uid, attributes.gid) == (1234, 5678)


async def test_health_and_metrics_are_served_beside(start: Start, folder: Path) -> None:
    running = await start()
    assert await running.http("/healthz") == (200, "ok\n")
    status, body = await running.http("/readyz")
    assert status == 200
    assert json.loads(body)["shares"]["models"] == "ok"
    _, metrics = await running.http("/metrics")
    assert 'sftp_gateway_share_up{share="models"} 1.0' in metrics
    assert f'version="{__version__}"' in metrics


async def test_a_healthcheck_knows_its_own_gateway(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await start()
    line = await handshake("127.0.0.1", running.port, seconds=PATIENCE)
    public = folder / "keys/ssh_host_ed25519_key.pub"
    assert same_key(line, public)
    monkeypatch.setenv("SFTP_GATEWAY_PORT", str(running.port))
    assert await asyncio.to_thread(main, ["healthcheck"]) == 0
    assert capsys.readouterr().err == "ok\n"
    public.write_text("ssh-ed25519 another\n")
    assert await asyncio.to_thread(main, ["healthcheck"]) == 1
    assert "another host key" in capsys.readouterr().err
    public.unlink()
    assert await asyncio.to_thread(main, ["healthcheck"]) == 0
    await running.stop()
    # A healthcheck is worth no line.
    assert {event["event"] for event in running.events()} == {
        "server_started",
        "server_stopping",
        "server_stopped",
    }


# Starting and stopping


def run_on(factory: Callable[[], asyncio.AbstractEventLoop], work: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)  # type: ignore[arg-type]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_gateway_starts_and_stops_on_either_event_loop(
    folder: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    settings = Settings(
        host="127.0.0.1",
        port=0,
        metrics_port=free_port(),
        drain_timeout=0.0,
        access_log=AccessLogSettings(stdout=False, file=Path("access.log")),
    )

    async def once(port: int | None) -> int:
        wanted = settings if port is None else settings.model_copy(update={"port": port})
        gateway = Gateway(wanted, await inspect(wanted))
        try:
            served = await gateway.start()
            assert listens(served)
            assert listens(settings.metrics_port)
            await gateway.stop("SIGTERM")
        finally:
            gateway.close()
        assert not listens(served)
        assert not listens(settings.metrics_port)
        return served

    async def twice() -> None:
        await once(await once(None))  # the same ports are free again

    run_on(factory, twice())


async def test_a_stopped_gateway_waits_for_no_client_that_has_nothing_open(start: Start) -> None:
    running = await start(drain_timeout=10 * PATIENCE)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    await sftp.stat(".")
    async with asyncio.timeout(PATIENCE):
        await running.stop()
        await connection.wait_closed()
    assert running.events()[-2]["event"] == "session_end"
    assert running.events()[-2]["reason"] == "server_stopping"


async def test_a_stopped_gateway_lets_a_file_be_read_to_its_end(start: Start) -> None:
    running = await start(drain_timeout=10 * PATIENCE)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    file = await sftp.open("models/README.txt", "rb")
    stopping = asyncio.create_task(running.stop())
    assert await file.read()
    assert not stopping.done()
    await file.close()
    async with asyncio.timeout(PATIENCE):
        await stopping
        await connection.wait_closed()
    (closed,) = [event for event in running.events() if event["event"] == "file_closed"]
    assert (closed["whole"], closed["result"]) == (True, "ok")


async def test_a_connection_that_breaks_while_the_gateway_stops_is_no_trouble(
    start: Start,
) -> None:
    running = await start(drain_timeout=10 * PATIENCE)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    await sftp.open("models/README.txt", "rb")
    stopping = asyncio.create_task(running.stop())
    connection.abort()
    async with asyncio.timeout(PATIENCE):
        await stopping
    assert [e["result"] for e in running.events() if e["event"] == "file_closed"] == ["aborted"]


async def test_a_share_that_goes_away_makes_the_gateway_unready(start: Start, folder: Path) -> None:
    running = await start()
    (folder / "shared/models").rename(folder / "shared/away")
    await running.gateway._monitor.look()
    status, body = await running.http("/readyz")
    assert status == 503
    assert json.loads(body)["shares"]["models"] == "No such file or directory"
    assert json.loads(body)["shares"]["newsletters"] == "ok"
    assert (await running.http("/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_told(start: Start) -> None:
    running = await start()
    with pytest.raises(ConfigurationError, match="SFTP_GATEWAY_PORT"):
        await start(port=running.port, access_log=AccessLogSettings(stdout=False))


async def test_a_log_that_cannot_be_written_is_told(start: Start) -> None:
    with pytest.raises(ConfigurationError, match="ACCESS_LOG__FILE: cannot append to shared"):
        await start(access_log=AccessLogSettings(stdout=False, file=Path("shared")))


async def test_a_host_key_that_is_none_is_told(start: Start, folder: Path) -> None:
    (folder / "keys/ssh_host_ed25519_key").write_text("nonsense")
    with pytest.raises(ConfigurationError, match="keys_dir: a host key cannot be read"):
        await start(access_log=AccessLogSettings(stdout=False))


async def test_a_share_that_is_gone_since_it_was_looked_at_is_told(folder: Path) -> None:
    settings = Settings(access_log=AccessLogSettings(stdout=False))
    findings = await inspect(settings)
    (folder / "shared/models/README.txt").unlink()
    (folder / "shared/models").rmdir()
    with pytest.raises(ConfigurationError, match=r"shares\.models\.path: shared/models cannot be"):
        Gateway(settings, findings)


# The line that mounts


def mount_line(settings: Settings, port: int = 2222) -> str:
    (line,) = [line for line in mount_help(settings, port) if "sshfs" in line]
    return line.strip()


def test_the_mount_line_of_a_first_start_uses_the_key_that_it_made(folder: Path) -> None:
    assert mount_line(Settings(), 2022) == (
        "mkdir -p ~/main-server && sshfs -p 2022 "
        '-o "StrictHostKeyChecking=accept-new,IdentityFile=$PWD/keys/worker_ed25519,'
        'reconnect,ServerAliveInterval=15,ServerAliveCountMax=3" '
        "gvpocr@localhost:/home/gvpocr ~/main-server"
    )


def test_the_mount_line_has_what_workers_see(folder: Path) -> None:
    line = mount_line(
        Settings(public_host="files.example.org", public_port=22, keys_dir=folder / "keys")
    )
    assert "sshfs -p 22 " in line
    assert f"IdentityFile={folder}/keys/worker_ed25519," in line
    assert "gvpocr@files.example.org:/home/gvpocr" in line


def test_without_a_workers_key_the_mount_line_names_none(folder: Path) -> None:
    (folder / "keys/worker_ed25519").unlink()
    assert "IdentityFile" not in mount_line(Settings())


def test_the_mount_line_is_for_the_first_user(folder: Path) -> None:
    users = {"ana": UserSettings(), "ben": UserSettings()}
    assert "ana@localhost:/home/ana " in mount_line(Settings(users=users))
    assert "USER@localhost:/home/USER " in mount_line(Settings(users={}))


def test_the_help_says_how_many_shares_there_are() -> None:
    shares = {"a": ShareSettings(path=Path("a")), "b": ShareSettings(path=Path("b"))}
    assert mount_help(Settings(shares=shares), 1)[0] == (
        f"sftp-gateway {__version__} serves 2 shares. Mount them with:"
    )
