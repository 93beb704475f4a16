"""The way to the server: its name, its port, and what it says first."""

from __future__ import annotations

import errno
import socket
from shlex import quote

from sftp_gateway.worker_doctor.children import PATIENCE, in_child
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target


def check_network(target: Target) -> bool:
    """Whether an SSH server answers."""
    if {"proxyjump", "proxycommand"} & target.config.keys():
        target.add("port", OK, "not looked at: ssh is configured to go through another machine")
        return True
    host = target.configured("hostname", target.server)
    port = int(target.configured("port", target.port or "22"))
    try:
        found = in_child(lambda: _addresses(host), PATIENCE)
    except (OSError, TimeoutError):
        target.add(
            "name", PROBLEM, f"{host} has no address",
            "The name is wrong, or the name server does not answer.",
            f"getent hosts {quote(host)}", "cat /etc/resolv.conf",
        )  # fmt: skip
        return False
    target.add("name", OK, f"{host} is {', '.join(found)}")
    return _check_port(target, host, port) == OK


def _addresses(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, str(error)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _check_port(target: Target, host: str, port: int) -> str:
    source = target.configured("bindaddress", "")
    try:
        connection = socket.create_connection(
            (host, port), PATIENCE, source_address=(source, 0) if source else None
        )
    except ConnectionRefusedError:
        return target.add(
            "port", PROBLEM, f"{host} refuses connections to port {port}",
            "The machine is there; the gateway does not run, or has another port.",
            "docker-compose ps sftp-gateway    # on the server", f"ss -ltn | grep {port}",
        )  # fmt: skip
    except socket.timeout:
        return target.add(
            "port", PROBLEM, f"{host} does not answer on port {port}",
            "The machine is off, or a firewall drops what is sent to this port.",
            f"ping -c 3 {quote(host)}", f"ssh -v -p {port} {quote(target.login)}",
        )  # fmt: skip
    except OSError as error:
        return target.add(
            "port", PROBLEM, f"{host} cannot be reached: {error.strerror}",
            "This worker has no way there.", f"ip route get {quote(host)}",
        )  # fmt: skip
    with connection:
        return _check_greeting(target, port, _greeting(connection))


def _greeting(connection: socket.socket) -> bytes | None:
    """What the server says first; None where it says nothing in time."""
    connection.settimeout(PATIENCE)
    said = b""
    try:
        while b"\n" not in said and len(said) < 1024:
            part = connection.recv(1024)
            if not part:
                break
            said += part
    except socket.timeout:
        return said or None
    except OSError:
        pass
    return said


def _check_greeting(target: Target, port: int, said: bytes | None) -> str:
    shown = repr((said or b"").decode("utf-8", "replace").strip())[:80]
    if said is None:
        return target.add(
            "port", PROBLEM, f"port {port} takes the connection and says nothing",
            "The gateway's process hangs or is stopped, or a proxy stands before a server that "
            "is gone.",
            "docker-compose restart sftp-gateway    # on the server; mounts come back",
        )  # fmt: skip
    if not said:
        return target.add(
            "port", PROBLEM, f"port {port} takes the connection and closes it at once",
            "The gateway refuses this address: it is banned after failed logins (30 seconds or "
            "more), not in allow_from, or the server is full. Its log says which.",
            "docker-compose logs --no-log-prefix sftp-gateway | "
            "grep -E 'source_banned|connections_refused' | tail -n 3    # on the server",
        )  # fmt: skip
    if not said.startswith(b"SSH-2.0-") and b"\nSSH-2.0-" not in said:
        return target.add(
            "port", PROBLEM, f"something else than SSH answers on port {port}: {shown}",
            "The port is another program's; ask which one the gateway has.",
        )  # fmt: skip
    found = f"{shown} on port {port}"
    if b"sftp_gateway" not in said:
        target.add(
            "port", WARNING, found,
            "That is another SSH server than sftp-gateway: the one that it replaced, or one in "
            "front of it.",
        )  # fmt: skip
        return OK
    return target.add("port", OK, found)
