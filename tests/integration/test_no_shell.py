"""Commands, shells and forwarding: `echo` is answered, all else refused, nothing executed."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import pytest

from sftp_gateway.server.exec.command_line import REFUSAL
from tests.support.gateway import TIMEOUT, Gateway, children_of, free_port, running, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def _ssh(gateway: Gateway, *arguments: str) -> subprocess.Popen[str]:
    """An `ssh` that runs until the test ends it."""
    return subprocess.Popen(
        [
            "ssh", *gateway.ssh_options(ExitOnForwardFailure="yes"), "-p", str(gateway.port),
            *arguments, "gvpocr@127.0.0.1",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def _ended(ssh: subprocess.Popen[str]) -> str:
    """End a running `ssh`; returns its standard error."""
    assert ssh.poll() is None, "ssh exited on its own"
    ssh.kill()
    return ssh.communicate(timeout=TIMEOUT)[1]


# Commands


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("echo 'SSH connection successful'", "SSH connection successful\n"),
        ("echo", "\n"),
        ('echo  two   words "and  two more"', "two words and  two more\n"),
        ("echo नमस्ते", "नमस्ते\n"),
        ("echo ${ShellId}%ComSpec%", "%ComSpec%\n"),  # rclone's question for a shell
    ],
)
def test_echo_is_answered_as_a_shell_would(gateway: Gateway, command: str, printed: str) -> None:
    ran = gateway.ssh(command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, printed, "")
    assert gateway.wait_event("command_answered", command=command)["user"] == "gvpocr"


@pytest.mark.parametrize(
    "command",
    [
        "ls",
        "/bin/sh -i",
        "internal-sftp",
        "/usr/lib/openssh/sftp-server",
        "scp -f . ; touch {made}",
        "scp -f $(touch {made})",
        "scp -S {made} -f .",
        "sha256sum `touch {made}`",
        "sha256sum x > {made}",
        "sha256sum $HOME",
        "sha256sum --check x",
        "echo hi; touch {made}",
        "echo hi && touch {made}",
        "echo hi | tee {made}",
        "echo hi > {made}",
        "echo `touch {made}`",
        "echo $(touch {made})",
        "echo hi\ntouch {made}",
        "echo hi &",
        "echo $HOME",
        'echo "$HOME"',
        "echo ~",
        "echo *",
        "echo -e hi",
        "echo 'unclosed",
        "echo back\\slash",
        "echohi",
        "ECHO hi",
        "echo " + "x" * 5_000,
    ],
)
def test_a_command_is_refused_with_one_line(gateway: Gateway, tmp_path: Path, command: str) -> None:
    made = tmp_path / "made"
    command = command.format(made=made)
    ran = gateway.ssh(command)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", REFUSAL)
    assert REFUSAL.count("\n") == 1
    assert not made.exists()
    logged = command.replace("\\", "\\\\")[:4096]
    refused = gateway.wait_event("command_refused", command=logged)
    assert (refused["kind"], refused["user"]) == ("exec", "gvpocr")


def test_a_shell_is_refused_with_one_line(gateway: Gateway) -> None:
    before = len(gateway.events("command_refused", kind="shell"))
    ran = gateway.ssh()
    assert (ran.returncode, ran.stdout) == (1, "")
    lines = ran.stderr.splitlines(keepends=True)
    assert [line for line in lines if not line.startswith("Pseudo-terminal will not")] == [REFUSAL]
    wait_for(lambda: gateway.events("command_refused", kind="shell")[before:], "the refusal")


def test_interactive_ssh_gets_no_terminal_and_one_line(gateway: Gateway) -> None:
    status, shown = _at_a_terminal(gateway)
    assert status == 1
    assert "PTY allocation request failed" in shown
    assert REFUSAL.strip() in shown


def test_ssh_t_gets_no_terminal(gateway: Gateway) -> None:
    # Told to have one, the program itself gives up when it is refused.
    status, shown = _at_a_terminal(gateway, "-t")
    assert status in (1, 255)
    assert "PTY allocation request failed" in shown


def _at_a_terminal(gateway: Gateway, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `ssh` on a pseudo-terminal."""
    ours, theirs = pty.openpty()
    ssh = subprocess.Popen(
        [
            "ssh", *gateway.ssh_options(), *arguments, "-p", str(gateway.port), "gvpocr@127.0.0.1",
        ],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    status = ssh.wait(TIMEOUT)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says EIO where the other side is closed
        pass
    finally:
        os.close(ours)
    return status, shown.decode()


@pytest.mark.parametrize("subsystem", ["sftp2", "netconf", "sh", "SFTP", "../sftp"])
def test_an_unknown_subsystem_is_refused(gateway: Gateway, subsystem: str) -> None:
    ran = gateway.ssh(subsystem, options=[*gateway.ssh_options(), "-s"])
    assert (ran.returncode, ran.stdout) == (255, "")
    assert ran.stderr.strip() == "subsystem request failed on channel 0"
    assert gateway.wait_event("command_refused", kind="subsystem", command=subsystem)


def test_a_session_without_requests_stays_open(gateway: Gateway) -> None:
    before = len(gateway.events("login_accepted"))
    ssh = _ssh(gateway, "-N")
    wait_for(lambda: gateway.events("login_accepted")[before:], "the login")
    assert gateway.ssh("echo hello").stdout == "hello\n"
    assert _ended(ssh) == ""


# Forwarding


@contextmanager
def _refused(gateway: Gateway) -> Iterator[None]:
    """The request is refused by policy, rather than failing."""
    before = len(gateway.events("command_refused", kind="forwarding"))
    yield
    refused = wait_for(
        lambda: gateway.events("command_refused", kind="forwarding")[before:], "the refusal"
    )
    assert {event["user"] for event in refused} == {"gvpocr"}


def test_local_port_forwarding_is_refused(gateway: Gateway) -> None:
    port = free_port()
    with _refused(gateway):
        ssh = _ssh(gateway, "-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{gateway.port}")
        assert _what_comes_through(port) == b""
    assert "open failed" in _ended(ssh)


def test_dynamic_forwarding_is_refused(gateway: Gateway) -> None:
    port = free_port()
    with _refused(gateway):
        ssh = _ssh(gateway, "-N", "-D", f"127.0.0.1:{port}")
        address = socket.inet_aton("127.0.0.1") + gateway.port.to_bytes(2, "big")
        answer = _what_comes_through(port, b"\x05\x01\x00" + b"\x05\x01\x00\x01" + address)
        assert b"SSH-2.0" not in answer
    assert "open failed" in _ended(ssh)


def test_local_socket_forwarding_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    port = free_port()
    with _refused(gateway), socket.socket(socket.AF_UNIX) as there:
        there.bind(str(tmp_path / "socket"))
        there.listen()
        ssh = _ssh(gateway, "-N", "-L", f"127.0.0.1:{port}:{tmp_path}/socket")
        assert _what_comes_through(port) == b""
        there.setblocking(False)
        with pytest.raises(BlockingIOError):
            there.accept()
    assert "open failed" in _ended(ssh)


def test_ssh_w_is_refused(gateway: Gateway) -> None:
    options = [*gateway.ssh_options(), "-W", f"127.0.0.1:{gateway.port}"]
    with _refused(gateway):
        ran = gateway.ssh(options=options)
    assert (ran.returncode, ran.stdout) == (255, "")
    assert "forwarding failed" in ran.stderr


@pytest.mark.parametrize("listen", ["0", "socket"])
def test_remote_forwarding_is_refused(gateway: Gateway, tmp_path: Path, listen: str) -> None:
    there = str(tmp_path / "socket") if listen == "socket" else listen
    with _refused(gateway):
        ssh = _ssh(gateway, "-N", "-R", f"{there}:127.0.0.1:{gateway.port}")
        assert "remote port forwarding failed" in ssh.communicate(timeout=TIMEOUT)[1]
    assert ssh.returncode == 255
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("kind", ["point-to-point", "ethernet"])
def test_a_tunnel_is_refused(gateway: Gateway, kind: str) -> None:
    with _refused(gateway):
        ssh = _ssh(gateway, "-N", "-o", f"Tunnel={kind}", "-w", "any")  # the first one counts
        assert "Tunnel forwarding failed" in ssh.communicate(timeout=TIMEOUT)[1]
    assert ssh.returncode == 255


async def test_agent_forwarding_is_refused_and_environment_ignored(gateway: Gateway) -> None:
    async with _connected(gateway) as connection:
        channel, _ = await connection.create_session(
            asyncssh.SSHClientSession, subsystem="sftp", encoding=None, env={"LD_PRELOAD": "/x.so"}
        )
        answer = await channel._make_request(b"auth-agent-req@openssh.com")
        assert not answer
        channel.close()
    assert gateway.sftp("ls", options=gateway.ssh_options(ForwardAgent="yes")).returncode == 0


async def test_x11_is_not_forwarded(gateway: Gateway) -> None:
    async with _connected(gateway) as connection:
        with pytest.raises(asyncssh.ChannelOpenError, match="X11"):
            await connection.create_session(
                asyncssh.SSHClientSession, "echo hello", x11_forwarding=True, x11_display="x:0"
            )


def test_the_gateway_starts_no_process(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway().start()
    for command in ("sleep 1000", "echo hello"):
        gateway.ssh(command)
    # The supervisor's children are forks of it and have no children.
    _supervisor, *others = gateway.pids
    commands = {Path(f"/proc/{pid}/cmdline").read_bytes() for pid in gateway.pids}
    assert len(commands) == 1
    assert len(others) >= 2
    assert [pid for pid in others if children_of(pid)] == []
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.stderr


def _connected(gateway: Gateway) -> asyncssh.SSHClientConnection:
    return asyncssh.connect(
        "127.0.0.1",
        gateway.port,
        username="gvpocr",
        client_keys=[str(gateway.key)],
        known_hosts=str(gateway.known_hosts),
        config=None,
    )


def _what_comes_through(port: int, say: bytes = b"hello") -> bytes:
    """Connect to a forwarded port and read to EOF."""

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), TIMEOUT)
        except ConnectionRefusedError:
            return None

    heard = b""
    with wait_for(connect, "ssh to listen") as there:
        try:
            there.sendall(say)
            while piece := there.recv(4096):
                heard += piece
        except ConnectionError:
            pass
    return heard
