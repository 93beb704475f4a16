import http.client
import json
import logging
import socket
import threading
import urllib.request
from contextlib import ExitStack
from urllib.error import HTTPError

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.observability.gateway_state import Health
from sftp_gateway.observability.web.routes import Response
from sftp_gateway.observability.web.server import (
    MAX_CONNECTIONS,
    THREADS,
    ObservabilityServer,
    listen,
)

HEALTHY = Health(alive=True, ready=True, details={"Bhushanji": "ok"})


class Gateway:
    """The result of the probe."""

    def __init__(self):
        self.health = HEALTHY
        self.error = None

    def probe(self):
        if self.error:
            raise self.error
        return self.health


@pytest.fixture
def gateway():
    return Gateway()


def render():
    return "text/plain; version=0.0.4; charset=utf-8", b"# metrics\nsftp_gateway_sessions 0.0\n"


class Server(ObservabilityServer):
    """A server that listens on construction and has its port."""

    def __init__(self, *, probe, host="127.0.0.1", port=0, render=render, **more):
        self.listener = listen(host, port)
        self.port = self.listener.getsockname()[1]
        super().__init__(listener=self.listener, render=render, probe=probe, **more)


@pytest.fixture
def server(gateway):
    server = Server(probe=gateway.probe)
    server.start()
    yield server
    server.close()


def get(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def raw(server, request):
    """The whole response to these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return stream.read()


def test_metrics_are_served_in_prometheus_format(server):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert b"\nsftp_gateway_sessions 0.0\n" in response.read()


def test_healthz_succeeds_while_every_process_responds(server):
    status, headers, body = get(server, "/healthz")
    assert (status, body) == (200, b"ok\n")
    assert headers["Cache-Control"] == "no-store"


def test_healthz_fails_if_a_process_does_not_respond(server, gateway):
    gateway.error = TimeoutError()
    status, _headers, body = get(server, "/healthz")
    assert (status, body) == (503, b"a process does not answer\n")


def test_healthz_fails_without_a_serving_worker(server, gateway):
    gateway.health = Health(alive=False, ready=True)
    assert get(server, "/healthz")[0] == 503


def test_healthz_succeeds_for_a_live_but_unready_gateway(server, gateway):
    gateway.health = Health(alive=True, ready=False, details={"models": "not a folder"})
    assert get(server, "/healthz")[0] == 200
    status, headers, body = get(server, "/readyz")
    assert (status, headers["Content-Type"]) == (503, "application/json")
    assert json.loads(body) == {
        "ready": False,
        "shares": {"models": "not a folder"},
        "configuration": "ok",
    }


def test_readyz_lists_each_share(server):
    status, _headers, body = get(server, "/readyz")
    assert status == 200
    expected = {"ready": True, "shares": {"Bhushanji": "ok"}, "configuration": "ok"}
    assert json.loads(body) == expected


def test_readyz_reports_a_rejected_configuration_without_failing(server, gateway):
    gateway.health = Health(alive=True, ready=True, configuration="refused since x: y")
    assert get(server, "/healthz")[0] == 200
    status, _headers, body = get(server, "/readyz")
    assert (status, json.loads(body)["configuration"]) == (200, "refused since x: y")


def test_readyz_fails_if_a_process_is_unresponsive_or_dead(server, gateway):
    gateway.health = Health(alive=False, ready=True)
    assert get(server, "/readyz")[0] == 503
    gateway.error = TimeoutError()
    status, _headers, body = get(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {
        "ready": False,
        "shares": {},
        "error": "a process does not answer",
    }


def test_details_of_a_failed_probe_are_only_logged(server, gateway, caplog):
    gateway.error = ValueError("secret detail")
    with caplog.at_level(logging.ERROR):
        status, _headers, body = get(server, "/healthz")
    assert (status, body) == (503, b"the probe failed\n")
    assert "secret detail" in caplog.text


def test_a_failure_to_render_metrics_is_an_internal_error(gateway, caplog):
    server = Server(render=lambda: {}["missing"], probe=gateway.probe)
    server.start()
    with caplog.at_level(logging.ERROR):
        assert get(server, "/metrics")[0] == 500
    server.close()


def test_the_index_links_to_the_other_pages(server):
    status, headers, body = get(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for path in (b"/metrics", b"/healthz", b"/readyz"):
        assert b'<a href="' + path + b'">' in body


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/../etc/passwd"])
def test_an_unknown_path_is_not_found(server, path):
    with pytest.raises(HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}")


def test_a_query_is_ignored(server):
    assert get(server, "/healthz?verbose=1")[0] == 200


def test_head_gets_the_headers_without_the_body(server):
    status, headers, body = get(server, "/healthz", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "<script>"])
def test_an_unknown_method_is_rejected_and_not_echoed(server, method):
    answer = raw(server, f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.0 405 ")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer
    assert method.encode() not in answer


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /a b c d HTTP/1.1\r\n\r\n", b"400"),
        (b"\xff\xfe\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 150 + b"\r\n", b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b"404"),
    ],
)
def test_a_malformed_request_gets_one_plain_line(server, request_bytes, status):
    answer = raw(server, request_bytes)
    assert answer.startswith(b"HTTP/1.0 " + status)
    assert b"<" not in answer


def test_no_response_names_the_server_software(server):
    for path in ("/", "/metrics", "/nothing"):
        assert "Server" not in get(server, path)[1]
    assert b"Server:" not in raw(server, b"BREW / HTTP/1.1\r\n\r\n")


def test_a_client_that_sends_no_request_is_not_logged(server, capfd):
    assert raw_without_answer(server) == b""
    assert get(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


def raw_without_answer(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)


def test_a_request_may_arrive_in_parts(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for piece in (b"GET /hea", b"lthz HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"):
            connection.sendall(piece)
        assert b" 200 OK\r\n" in connection.recv(65536)


def test_a_slow_request_times_out(server, monkeypatch):
    monkeypatch.setattr("sftp_gateway.observability.web.server.REQUEST_TIMEOUT", 0.05)
    assert raw(server, b"GET /healthz HTTP/1.1\r\nHost") == b""


@pytest.fixture
def connect(server):
    """Opens connections that send `data`, from the address `source`."""
    with ExitStack() as stack:

        def connect(data=b"", source="127.0.0.1"):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), 60, (source, 0))
            )
            connection.sendall(data)
            return connection

        yield connect


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: ", b"POST / HTTP/1.1\r\n"])
def test_unfinished_requests_do_not_block_other_clients(server, connect, sent):
    for _ in range(3 * MAX_CONNECTIONS):
        connect(sent)
        assert get(server, "/healthz")[0] == 200
    assert get(server, "/metrics")[0] == 200


def test_unread_responses_do_not_block_other_clients(gateway):
    server = Server(probe=gateway.probe, render=lambda: ("text/plain", b"x" * (64 << 20)))
    server.start()
    with ExitStack() as stack:
        for _ in range(2 * THREADS):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            stack.enter_context(connection)
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert connection.recv(1) == b"H"
        assert get(server, "/healthz")[0] == 200
        assert len(get(server, "/metrics")[2]) == 64 << 20
    server.close()


def test_the_source_with_most_connections_loses_one(server, connect):
    other = connect(b"GET /metrics HTTP/1.0\r\n", "127.0.0.2")
    for _ in range(2 * MAX_CONNECTIONS):
        connect(b"GET")
    other.sendall(b"\r\n")
    with other.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.0 200 OK\r\n"


def test_health_is_served_while_all_threads_are_busy(gateway):
    entered, leave = threading.Semaphore(0), threading.Event()

    def slow():
        entered.release()
        assert leave.wait(60)
        return render()

    server = Server(probe=gateway.probe, render=slow)
    server.start()
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
            for _ in range(2 * MAX_CONNECTIONS)
        ]
        for connection in waiting:
            connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        for _ in range(THREADS):
            assert entered.acquire(timeout=60)
        assert get(server, "/healthz")[0] == 200
        assert get(server, "/readyz")[0] == 200
        leave.set()
        with waiting[-1].makefile("rb") as stream:
            assert stream.readline() == b"HTTP/1.0 200 OK\r\n"
    server.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9222", "192.0.2.1", "[::1]:9222", "[2001:db8::1]", "[::ffff:192.0.2.1]",
     "localhost", "sftp-gateway:9222", "Gateway.Example.org:9222", "gateway.example.org."],
)  # fmt: skip
def test_metrics_are_served_under_local_names_and_addresses(gateway, host):
    server = Server(probe=gateway.probe, names={"gateway.example.org"})
    server.start()
    assert get(server, "/metrics", Host=host)[0] == 200
    assert raw(server, b"GET /metrics HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 ")
    server.close()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:9222", "127.0.0.1.evil.example", "localhost.evil.example",
     "x.gateway.example.org", "", "[", "evil.example@", ".."],
)  # fmt: skip
def test_metrics_are_refused_under_a_foreign_host_name(gateway, host):
    server = Server(probe=gateway.probe, names={"gateway.example.org"})
    server.start()
    status, _headers, body = get(server, "/metrics", Host=host)
    assert status == 421
    assert b"sftp_gateway_sessions" not in body
    assert get(server, "/healthz", Host=host)[0] == 200
    status, _headers, body = get(server, "/readyz", Host=host)
    assert (status, json.loads(body)) == (200, {"ready": True, "shares": {}})
    server.close()


def test_any_host_name_is_accepted_if_configured(gateway):
    server = Server(probe=gateway.probe, names={"*"})
    server.start()
    assert get(server, "/metrics", Host="evil.example")[0] == 200
    server.close()


def test_a_form_is_read_whole_up_to_its_maximum_length(gateway):
    seen = []

    def status_app(request):
        seen.append(request.form)
        return Response(200, "text/plain", b"")

    server = Server(probe=gateway.probe, status_app=status_app)
    server.start()
    for body in (b"", b"token=x", b"x" * 5000):
        head = b"POST /?hours=1 HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            for piece in (head[:20], head[20:], body[:3], body[3:]):
                connection.sendall(piece)
            assert connection.recv(9) == b"HTTP/1.0 "
    assert seen == [b"", b"token=x", b"x" * 4096]
    assert get(server, "/metrics", "POST")[0] == 405
    server.close()


def test_a_port_in_use_is_an_error_that_names_the_option(server):
    with pytest.raises(ConfigurationError) as raised:
        listen("127.0.0.1", server.port)
    (message,) = raised.value.errors
    assert message.startswith(
        f"metrics_port: cannot listen on 127.0.0.1 port {server.port}: Address already in use"
    )


def test_a_foreign_address_is_an_error_that_names_the_option():
    with pytest.raises(ConfigurationError, match="metrics_host"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["::1", "localhost", "0.0.0.0"])
def test_the_server_listens_on_ipv4_ipv6_and_by_name(gateway, host):
    server = Server(host=host, probe=gateway.probe)
    server.start()
    to = "127.0.0.1" if host == "0.0.0.0" else host
    connection = http.client.HTTPConnection(to, server.port, timeout=60)
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b"ok\n"
    connection.close()
    server.close()


def test_close_frees_the_port(gateway):
    first = Server(probe=gateway.probe)
    first.start()
    assert get(first, "/healthz")[0] == 200
    first.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first.port), timeout=60)
    again = Server(port=first.port, probe=gateway.probe)
    again.start()
    assert get(again, "/healthz")[0] == 200
    again.close()


def test_a_request_waits_for_the_next_server_of_the_socket(gateway):
    listener = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname(), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        server = ObservabilityServer(listener=listener, render=render, probe=gateway.probe)
        server.start()
        with connection.makefile("rb") as stream:
            assert stream.read().endswith(b"ok\n")
    server.close()


def test_close_is_idempotent(server):
    server.close()
    server.close()
