"""A gateway running in this process, as in one worker."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import uvloop
from asyncssh.constants import (
    MSG_CHANNEL_CLOSE,
    MSG_IGNORE,
    MSG_KEXINIT,
)
from asyncssh.packet import String
from pydantic import SecretStr

from sftp_gateway import __version__
from sftp_gateway.app.gateway import mount_help
from sftp_gateway.app.worker import WorkerService
from sftp_gateway.auth import generate_ed25519, hash_password
from sftp_gateway.commands.main import main
from sftp_gateway.config.bootstrap import set_up
from sftp_gateway.config.shares import probe_share
from sftp_gateway.config.snapshot import ConfigSnapshot
from sftp_gateway.config.validate import Findings, validate
from sftp_gateway.observability.access_log.sinks import FileSink
from sftp_gateway.server.limits.budget import BufferBudget
from sftp_gateway.server.packets import compatibility
from sftp_gateway.server.packets.ciphers import PacketCipher
from sftp_gateway.server.packets.connection import PacketConnection
from sftp_gateway.server.packets.outgoing import OutgoingBuffer
from sftp_gateway.server.packets.transport import GatheringTransport
from sftp_gateway.server.sftp.owners import OwnerNames
from sftp_gateway.server.sftp.session import SftpSession
from sftp_gateway.server.ssh.callbacks import ConnectionCallbacks
from sftp_gateway.server.ssh.probe import handshake
from sftp_gateway.settings import (
    DEFAULT_CONFIG_FILE,
    AccessLogSettings,
    Settings,
    ShareSettings,
    UserSettings,
)
from sftp_gateway.system.sockets import listen
from sftp_gateway.vfs.path_resolution import open_no_symlinks
from tests.support.gateway import TIMEOUT
from tests.support.measured import Measured
from tests.support.sftp_wire import encode_init, encode_open, encode_read


@pytest.fixture
def folder(unconfigured: Path) -> Path:
    """The working directory of a gateway after setup."""
    set_up(Settings(), gateway=None, report=lambda line: None)
    return unconfigured


class Running:
    """A running gateway and its acceptor."""

    def __init__(self, gateway: WorkerService, settings: Settings, measured: Measured) -> None:
        self.gateway = gateway
        self.ended = 0
        self.offences: list[str | None] = []
        self.interrupted = 0
        self.users: list[str] = []
        self._drain_seconds = settings.drain_timeout
        self._measured = measured
        self._stopped = False
        self._listener = listen(settings.host, settings.port)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        def ended(kind: str | None) -> None:
            self.ended += 1
            self.offences.append(kind)

        def interrupted() -> None:
            self.interrupted += 1

        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(self._listener)
            callbacks = ConnectionCallbacks(
                logged_in=lambda user, _: self.users.append(user),
                ended=ended,
                interrupted=interrupted,
            )
            await self.gateway.serve(connection, callbacks)

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._accepting.cancel()
            self._listener.close()
            await self.gateway.drain(self._drain_seconds)
            await asyncio.to_thread(self.gateway.close)
            self._measured.close()

    def metric(self, name: str, **labels: str) -> float:
        self.gateway.publish()
        return self._measured.metric(name, **labels)

    async def connect(self, **options: Any) -> asyncssh.SSHClientConnection:
        login = {"username": "gvpocr", "client_keys": ["keys/worker_ed25519"], **options}
        return await asyncssh.connect(
            "127.0.0.1", self.port, config=None, known_hosts=None, agent_path=None, **login
        )

    def events(self) -> list[dict[str, Any]]:
        text = Path("access.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


Start = Callable[..., Awaitable[Running]]


async def findings_of(settings: Settings) -> Findings:
    """The findings of validating these settings."""
    probes = {name: probe_share(share.path) for name, share in settings.shares.items()}
    return await validate(settings, config_file=DEFAULT_CONFIG_FILE, probes=probes)


async def start_gateway(measured: Measured, **options: Any) -> Running:
    """Start a gateway with some options on a free port."""
    settings = Settings(
        **{
            "host": "127.0.0.1",
            "port": 0,
            "drain_timeout": 0.0,
            "access_log": AccessLogSettings(stdout=False, file=Path("access.log")),
            **options,
        }
    )
    findings = await findings_of(settings)
    assert findings.errors == []
    gateway = WorkerService(
        ConfigSnapshot(settings, findings),
        measured.values,
        log=FileSink("access.log"),
        history_channel=measured.history_channel,
        folders={name: open_no_symlinks(share.path) for name, share in settings.shares.items()},
        owner_names=OwnerNames(),
    )
    await gateway.start()
    return Running(gateway, settings, measured)


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Start]:
    """Starts gateways that are stopped after the test."""
    started: list[Running] = []

    async def run(**options: Any) -> Running:
        measured = Measured()
        try:
            started.append(await start_gateway(measured, **options))
        except BaseException:
            measured.close()
            raise
        return started[-1]

    yield run
    for running in started:
        await running.stop()


# Serving


async def test_the_initial_worker_key_can_read_a_file(start: Start, folder: Path) -> None:
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
        "connection",
        "login_accepted",
        "file_opened",
        "file_closed",
    ]
    assert events["file_closed"]["whole"] is True
    assert events["session_end"]["files"] == 1


async def test_a_user_with_a_password_sees_its_granted_shares(start: Start, folder: Path) -> None:
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


async def test_requests_and_sessions_are_counted(start: Start) -> None:
    running = await start()
    assert running.gateway.share_problems() == {}
    assert running.metric("sftp_gateway_share_up", share="models") == 1
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        await sftp.stat("models")
        assert running.metric("sftp_gateway_sessions") == 1
        assert running.metric("sftp_gateway_requests_total", operation="stat", share="models") == 1
    await running.stop()
    assert running.ended == 1


async def test_the_end_of_every_connection_is_reported_once(start: Start) -> None:
    running = await start()
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.transport.abort()  # a reset, possibly before it is served
    async with await running.connect():
        pass
    async with asyncio.timeout(TIMEOUT):
        while running.ended < 4:
            await asyncio.sleep(0)
    await running.stop()
    assert running.ended == 4


async def test_healthcheck_recognizes_its_own_gateway(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await start()
    line = await handshake("127.0.0.1", running.port, seconds=TIMEOUT)
    private = folder / "keys/ssh_host_ed25519_key"
    assert line.split()[:2] == Path(f"{private}.pub").read_text().split()[:2]
    monkeypatch.setenv("SFTP_GATEWAY_PORT", str(running.port))
    assert await asyncio.to_thread(main, ["healthcheck"]) == 0
    assert capsys.readouterr().err == "ok\n"
    Path(f"{private}.pub").write_text("ssh-ed25519 another\n")  # the private key decides
    assert await asyncio.to_thread(main, ["healthcheck"]) == 0
    private.write_bytes(generate_ed25519("another").private_pem)
    assert await asyncio.to_thread(main, ["healthcheck"]) == 1
    assert "answered with a host key that is not in" in capsys.readouterr().err
    private.unlink()  # and none is known
    assert await asyncio.to_thread(main, ["healthcheck"]) == 0
    await running.stop()
    # A health check is not logged.
    assert running.events() == []


# Starting and stopping


def run_on(factory: Callable[[], asyncio.AbstractEventLoop], work: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(work)  # type: ignore[arg-type]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_gateway_starts_and_stops_on_either_event_loop(
    folder: Path, factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def once() -> None:
        running = await start_gateway(Measured())
        await handshake("127.0.0.1", running.port, seconds=TIMEOUT)
        await running.stop()

    run_on(factory, once())


async def test_a_stop_does_not_wait_for_a_client_without_handles(start: Start) -> None:
    running = await start(drain_timeout=10 * TIMEOUT)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    await sftp.stat(".")
    async with asyncio.timeout(TIMEOUT):
        await running.stop()
        await connection.wait_closed()
    assert running.events()[-1]["event"] == "session_end"
    assert running.events()[-1]["reason"] == "server_stopping"


async def test_a_stop_waits_for_an_open_file(start: Start) -> None:
    running = await start(drain_timeout=10 * TIMEOUT)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    file = await sftp.open("models/README.txt", "rb")
    stopping = asyncio.create_task(running.stop())
    assert await file.read()
    assert not stopping.done()
    await file.close()
    async with asyncio.timeout(TIMEOUT):
        await stopping
        await connection.wait_closed()
    (closed,) = [event for event in running.events() if event["event"] == "file_closed"]
    assert (closed["whole"], closed["result"]) == (True, "ok")


async def test_a_connection_lost_during_a_stop_is_not_an_error(
    start: Start,
) -> None:
    running = await start(drain_timeout=10 * TIMEOUT)
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    await sftp.open("models/README.txt", "rb")
    stopping = asyncio.create_task(running.stop())
    connection.abort()
    async with asyncio.timeout(TIMEOUT):
        await stopping
    assert [e["result"] for e in running.events() if e["event"] == "file_closed"] == ["aborted"]


async def test_a_vanished_share_is_a_problem(start: Start, folder: Path) -> None:
    running = await start()
    (folder / "shared/models").rename(folder / "shared/away")
    await running.gateway._monitor.probe()
    assert running.gateway.share_problems() == {"models": "No such file or directory"}
    assert running.metric("sftp_gateway_share_up", share="models") == 0
    assert running.metric("sftp_gateway_share_up", share="newsletters") == 1


async def test_an_invalid_host_key_is_an_error(folder: Path) -> None:
    (folder / "keys/ssh_host_ed25519_key").write_text("nonsense")
    (said,) = (await findings_of(Settings())).errors
    assert said.startswith("keys_dir: a host key cannot be read: keys/ssh_host_ed25519_key: ")


# The mount line


def mount_line(settings: Settings, port: int = 2222) -> str:
    (line,) = [line for line in mount_help(settings, port) if "sshfs" in line]
    return line.strip()


def test_the_mount_line_names_the_initial_worker_key(folder: Path) -> None:
    assert mount_line(Settings(), 2022) == (
        "mkdir -p ~/main-server && sshfs -p 2022 "
        '-o "StrictHostKeyChecking=accept-new,IdentityFile=$PWD/keys/worker_ed25519,'
        'reconnect,ServerAliveInterval=15,ServerAliveCountMax=3" '
        "gvpocr@localhost:/home/gvpocr ~/main-server"
    )


def test_the_mount_line_uses_the_public_host_and_port(folder: Path) -> None:
    line = mount_line(
        Settings(public_host="files.example.org", public_port=22, keys_dir=folder / "keys")
    )
    assert "sshfs -p 22 " in line
    assert f"IdentityFile={folder}/keys/worker_ed25519," in line
    assert "gvpocr@files.example.org:/home/gvpocr" in line


def test_the_mount_line_omits_a_missing_worker_key(folder: Path) -> None:
    (folder / "keys/worker_ed25519").unlink()
    assert "IdentityFile" not in mount_line(Settings())


def test_the_mount_line_is_for_the_first_user(folder: Path) -> None:
    users = {"ana": UserSettings(), "ben": UserSettings()}
    assert "ana@localhost:/home/ana " in mount_line(Settings(users=users))
    assert "USER@localhost:/home/USER " in mount_line(Settings(users={}))


def test_the_mount_help_has_the_number_of_shares() -> None:
    shares = {"a": ShareSettings(path=Path("a")), "b": ShareSettings(path=Path("b"))}
    assert mount_help(Settings(shares=shares), 1)[0] == (
        f"sftp-gateway {__version__} serves 2 shares. Mount them with:"
    )


# The packet layer


async def download(running: Running) -> bytes:
    """Download a large file with asyncssh's client."""
    async with (
        await running.connect() as connection,
        connection.start_sftp_client() as sftp,
        sftp.open("models/big.bin", "rb") as file,
    ):
        return bytes(await file.read(-1))


async def test_received_data_is_acknowledged_at_once_before_login(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    acknowledged = 0
    acknowledge = GatheringTransport.acknowledge

    def counted(self: GatheringTransport) -> None:
        nonlocal acknowledged
        acknowledged += 1
        acknowledge(self)

    monkeypatch.setattr(GatheringTransport, "acknowledge", counted)
    running = await start()
    async with await running.connect() as connection:
        until_login = acknowledged
        assert until_login >= 4  # at least version, key exchange and authentication
        async with connection.start_sftp_client() as sftp:
            await sftp.listdir("models")
    assert acknowledged == until_login


@pytest.mark.parametrize("unknown", [(), ("SSHConnection.send_packet",)])
async def test_an_unverified_asyncssh_serves_the_same_bytes(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch, unknown: tuple[str, ...]
) -> None:
    content = os.urandom(3_000_000)
    (folder / "shared/models/big.bin").write_bytes(content)
    monkeypatch.setattr(compatibility, "unverified", lambda: unknown)
    sealed: list[int] = []
    seal = PacketConnection._seal

    def counted(
        self: PacketConnection,
        cipher: PacketCipher,
        channel: Any,
        outgoing: OutgoingBuffer,
        length: int,
    ) -> bool:
        sealed.append(length)
        return seal(self, cipher, channel, outgoing, length)

    monkeypatch.setattr(PacketConnection, "_seal", counted)
    running = await start()
    assert await download(running) == content
    assert (sum(sealed) > len(content)) is not bool(unknown)
    own = running.metric("sftp_gateway_own_record_layer")
    assert own == (0 if unknown else 1)


async def test_an_unverified_asyncssh_is_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = ConfigSnapshot(Settings(), await findings_of(Settings()))
    assert configuration.record_layer == "own"
    before = list(configuration.warnings)
    monkeypatch.setattr(compatibility, "unverified", lambda: ("SSHConnection.send_packet",))
    assert configuration.record_layer == "asyncssh"
    (warning,) = [warning for warning in configuration.warnings if warning not in before]
    assert "(SSHConnection.send_packet)" in warning
    chosen = ConfigSnapshot(Settings(record_layer="asyncssh"), configuration.findings)
    assert list(chosen.warnings) == before  # whoever chose it knows


async def test_a_file_is_served_without_any_buffer_budget(start: Start, folder: Path) -> None:
    content = os.urandom(5_000_000)
    (folder / "shared/models/big.bin").write_bytes(content)
    running = await start()
    running.gateway._server.context.budget = BufferBudget(0)
    assert await download(running) == content


# Reports about connections


async def test_a_login_and_its_end_are_reported(start: Start) -> None:
    running = await start()
    async with await running.connect() as connection:
        assert running.users == ["gvpocr"]
        assert running.offences == []
        await connection.run("echo in")
    await running.stop()
    assert running.offences == [None]


async def test_an_internal_error_is_reported_as_a_crash(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    running = await start()
    monkeypatch.setattr("sftp_gateway.auth.authenticator.Authenticator.check_key", broken)
    with pytest.raises((asyncssh.Error, OSError)):
        await running.connect()
    await running.stop()
    assert running.offences == ["crash"]


async def test_a_connection_closed_by_a_stop_is_not_an_offence(start: Start) -> None:
    running = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    assert await reader.readexactly(8) == b"SSH-2.0-"
    await running.stop()
    assert running.offences == [None]
    writer.close()


# Misbehaving clients


async def test_a_flood_of_messages_is_a_protocol_error(start: Start) -> None:
    running = await start()
    connection: Any = await running.connect()
    for _ in range(3000):
        connection.send_packet(MSG_IGNORE, String(b""))
    await connection.wait_closed()
    await running.stop()
    assert running.offences == ["protocol_error"]


async def test_an_unfinished_key_exchange_ends_the_connection(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftp_gateway.server.ssh.connection._KEY_EXCHANGE_TIMEOUT", 0.05)
    running = await start()
    connection: Any = await running.connect()
    connection._packet_handlers = {
        **connection._packet_handlers, MSG_KEXINIT: lambda *_: True,
    }  # fmt: skip
    connection._send_kexinit()
    await connection.wait_closed()
    await running.stop()
    assert running.events()[-1]["reason"] == "key_exchange_timeout"


async def test_logged_messages_wait_for_room_in_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await start()
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        log = running.gateway._log
        with monkeypatch.context() as full:
            full.setattr(log, "congested", lambda user: True)
            opening = asyncio.create_task(connection.open_session(subsystem="x", encoding=None))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(opening), 0.1)
            assert not running.events() or running.events()[-1]["event"] != "command_refused"
        for callback in log._room_callbacks:
            callback()
        with pytest.raises(asyncssh.ChannelOpenError):
            await opening
        assert await sftp.listdir("models")


async def test_a_stop_does_not_wait_for_a_half_closed_channel(
    start: Start,
) -> None:
    running = await start(drain_timeout=60.0)
    connection: Any = await running.connect()
    writer, *_ = await connection.open_session(subsystem="sftp", encoding=None)
    channel, closed = writer.channel, asyncio.Event()
    channel._packet_handlers = {
        **channel._packet_handlers, MSG_CHANNEL_CLOSE: lambda *_: closed.set(),
    }  # fmt: skip
    writer.write(b"\0\0\0\0")  # an invalid packet, which closes the channel
    await closed.wait()
    async with asyncio.timeout(TIMEOUT):
        await running.stop()
    connection.abort()


async def test_thousands_of_open_files_are_released_in_time_slices(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "shared/models/small").write_bytes(b"x")
    running = await start()
    turns = 0
    release = SftpSession._release_rest

    def counted(session: SftpSession) -> None:
        nonlocal turns
        turns += 1
        release(session)

    monkeypatch.setattr(SftpSession, "_release_rest", counted)
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        for _ in range(1000):
            await sftp.open("models/small", "rb")
        connection.abort()
    while running.ended == 0:
        await asyncio.sleep(0.01)
    await running.stop()
    assert turns > 1
    events = [event["event"] for event in running.events()]
    assert events.count("file_closed") == 1000
    assert events[-1] == "session_end"


@pytest.mark.parametrize("pause", [0.02, None])
async def test_a_stalled_client_is_disconnected_but_a_slow_one_is_not(
    start: Start, folder: Path, monkeypatch: pytest.MonkeyPatch, pause: float | None
) -> None:
    monkeypatch.setattr("sftp_gateway.server.ssh.channel._STALL_TIMEOUT", 0.2)
    (folder / "shared/models/big.bin").write_bytes(bytes(64 * 1024))
    running = await start()
    async with await running.connect() as connection:
        writer, reader, _ = await connection.open_session(
            subsystem="sftp", encoding=None, window=64 * 1024
        )
        asked = [encode_init(), encode_open(1, b"models/big.bin")]
        asked += [encode_read(number, bytes(4), 0, 64 * 1024) for number in range(100)]
        writer.write(b"".join(asked))
        taken = 0
        if pause is None:
            while running.metric("sftp_gateway_open_handles") or not taken:
                taken += running.metric("sftp_gateway_open_handles") > 0
                await asyncio.sleep(0.01)
            return
        while taken < 100 * 64 * 1024:
            piece = await reader.read(64 * 1024)
            assert piece, f"cut off after {taken} bytes"
            taken += len(piece)
            await asyncio.sleep(pause)


# Interrupted connections


@pytest.mark.parametrize("opened", [False, True])
async def test_a_connection_is_interrupted_if_it_is_lost_with_files_open(
    start: Start, opened: bool
) -> None:
    running = await start()
    connection = await running.connect()
    sftp = await connection.start_sftp_client()
    if opened:
        await sftp.open("models/README.txt")
    connection.abort()
    async with asyncio.timeout(TIMEOUT):
        while not running.ended:
            await asyncio.sleep(0.01)
    assert running.interrupted == opened


async def test_a_client_that_disconnects_with_files_open_is_not_interrupted(start: Start) -> None:
    running = await start()
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        await sftp.open("models/README.txt")
    async with asyncio.timeout(TIMEOUT):
        while not running.ended:
            await asyncio.sleep(0.01)
    assert running.interrupted == 0


async def test_a_stop_interrupts_clients_with_open_files(start: Start) -> None:
    running = await start()
    async with await running.connect() as connection, connection.start_sftp_client() as sftp:
        await sftp.open("models/README.txt")
        await running.stop()
    assert running.interrupted >= 1


async def test_a_user_added_at_run_time_has_a_bandwidth_limit(start: Start) -> None:
    running = await start()
    users = {"gvpocr": UserSettings(), "ana": UserSettings(bandwidth_limit=1 << 20)}
    snapshot = ConfigSnapshot(Settings(users=users), await findings_of(Settings(users=users)))
    running.gateway.reload_credentials(snapshot.credentials)
    running.gateway.set_session_fraction("ana", 0.5)
    assert running.gateway._bandwidths.keys() == {"ana"}
    assert running.metric("sftp_gateway_bandwidth_bytes", user="ana") == 1 << 19
