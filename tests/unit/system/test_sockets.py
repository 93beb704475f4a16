"""The listening sockets, or an error of one sentence."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.system.sockets import listen


@pytest.fixture
def used_port() -> Iterator[int]:
    """A port in use on every address."""
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        yield other.getsockname()[1]


def listen_error(host: str, port: int) -> str:
    with pytest.raises(ConfigurationError) as raised:
        listen(host, port)
    (said,) = raised.value.errors
    return said


def test_without_a_host_one_socket_serves_ipv4_and_ipv6() -> None:
    listener = listen("", 0)
    with listener:
        port = listener.getsockname()[1]
        assert port
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port)).close()


def test_without_ipv6_the_socket_is_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    listener = listen("", 0)
    with listener:
        assert listener.getsockname()[0] == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("0.0.0.0", "0.0.0.0"), ("::", "::")],
)
def test_a_host_restricts_the_listening_address(host: str, address: str) -> None:
    listener = listen(host, 0)
    with listener:
        assert listener.getsockname()[0] == address
        assert listener.getblocking() is False
        if listener.family == socket.AF_INET6:
            assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_the_kernel_buffers_little_of_what_a_client_sends() -> None:
    chunk = bytes(1 << 20)
    with listen("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        listener.setblocking(True)
        server, _ = listener.accept()
        with client, server:
            sender = threading.Thread(target=lambda: [client.sendall(chunk) for _ in range(32)])
            sender.start()
            received = 0
            while received < 32 * len(chunk):
                received += len(server.recv(len(chunk)))
            sender.join()
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 256 * 1024


def test_a_host_name_is_resolved() -> None:
    listener = listen("localhost", 0)
    with listener:
        assert listener.getsockname()[0] in ("127.0.0.1", "::1")


def test_a_port_can_be_reused_right_after_its_last_connection() -> None:
    listener = listen("127.0.0.1", 0)
    with listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.setblocking(True)
            listener.accept()[0].close()  # leaves the server's side in TIME_WAIT
    again = listen("127.0.0.1", port)
    again.close()


@pytest.mark.parametrize("host", ["", "127.0.0.1", "::1", "0.0.0.0"])
def test_a_used_port_is_an_error_that_names_the_option(used_port: int, host: str) -> None:
    said = listen_error(host, used_port)
    assert said.startswith("port: cannot listen on port ")
    assert str(used_port) in said
    assert (host or "all addresses") in said
    assert "Address already in use" in said


def test_a_port_used_on_ipv6_only_is_an_error() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as other:
        assert "Address already in use" in listen_error("", other.getsockname()[1])


def test_a_foreign_address_is_an_error_of_the_host_option() -> None:
    # RFC 5737: a documentation address.
    said = listen_error("192.0.2.1", 0)
    assert said == "host: 192.0.2.1 is not an address of this machine"


def test_an_invalid_address_is_an_error_of_the_host_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = listen_error("no.such.host", 0)
    assert said.startswith("host: 'no.such.host' cannot be resolved: ")
    assert "Name or service not known" in said


def test_accepted_sockets_retransmit_soon_if_the_kernel_supports_it() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            option = (socket.IPPROTO_TCP, 44)  # TCP_RTO_MAX_MS
            if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15):
                assert accepted.getsockopt(*option) == 4_000
            else:
                with pytest.raises(OSError, match="Protocol not available"):
                    accepted.getsockopt(*option)
