"""Queries to the running gateway and the messages about its responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from sftp_gateway.commands import gateway_client
from sftp_gateway.config.grants import Grants
from sftp_gateway.settings import Settings

SERVED = Grants(shares={"gvpocr": ("models",)}, keys={"gvpocr": {"SHA256:a": "worker7"}})
NOTHING = Grants(shares={}, keys={})
SESSIONS = [{"user": "gvpocr", "credential": "SHA256:a"}] * 2

ServeResponse = Callable[[int, bytes], Settings]


@pytest.fixture
def serve_response(unconfigured: object) -> Iterator[ServeResponse]:
    """The settings of a gateway that sends this response to requests with the token."""
    servers: list[HTTPServer] = []

    def serve(status: int, body: bytes) -> Settings:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/readyz" or self.headers["Authorization"] == "Bearer token"
                self.send_response(status if known else 401)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever).start()
        return Settings(metrics_host="0.0.0.0", metrics_port=server.server_port)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def status_json(**more: object) -> bytes:
    return json.dumps({"served": SERVED.as_json(), "sessions": SESSIONS, **more}).encode()


def test_removed_grants_are_requested_with_the_token(serve_response: ServeResponse) -> None:
    settings = serve_response(200, status_json())
    assert gateway_client.differences(settings, NOTHING, "token") == [
        "Compared with the running gateway, users no longer served: gvpocr (1 key, 2 sessions)",
        "Compared with the running gateway, live sessions that lose their login: 2",
    ]
    (same,) = gateway_client.differences(settings, SERVED, "token")
    assert same.endswith("nothing would be taken away.")
    (message,) = gateway_client.differences(settings, NOTHING, None)
    assert message.endswith("does not tell what it serves: 401 for /status.json.")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", status_json(served={}), status_json(sessions=[{}])]
)
def test_a_response_of_another_version_is_not_compared(
    serve_response: ServeResponse, body: bytes
) -> None:
    settings = serve_response(200, body)
    (message,) = gateway_client.differences(settings, NOTHING, "token")
    assert message.startswith("The running gateway has another version")
    assert gateway_client.refusal(settings) == []


def test_a_rejected_configuration_is_shown_without_a_token(serve_response: ServeResponse) -> None:
    (message,) = gateway_client.refusal(
        serve_response(200, b'{"configuration": "refused since x: y"}')
    )
    assert message == "The running gateway's newest configuration: refused since x: y"
    assert gateway_client.refusal(serve_response(503, b'{"configuration": "ok"}')) == []


def test_an_unreachable_gateway_is_reported(unconfigured: object) -> None:
    (message,) = gateway_client.differences(Settings(metrics_port=1), NOTHING, None)
    assert message == "No running gateway to compare with."
    assert gateway_client.refusal(Settings(metrics_port=1)) == []
