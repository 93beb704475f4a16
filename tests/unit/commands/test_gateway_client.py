"""What the running gateway is asked, and what is said of its answers."""

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

Answering = Callable[[int, bytes], Settings]


@pytest.fixture
def answering(unconfigured: object) -> Iterator[Answering]:
    """The settings of a gateway that gives this answer to whoever shows the token."""
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


def told(**more: object) -> bytes:
    return json.dumps({"served": SERVED.as_json(), "sessions": SESSIONS, **more}).encode()


def test_what_is_taken_away_is_asked_with_the_token(answering: Answering) -> None:
    settings = answering(200, told())
    assert gateway_client.differences(settings, NOTHING, "token") == [
        "Compared with the running gateway, users no longer served: gvpocr (1 key, 2 sessions)",
        "Compared with the running gateway, live sessions that lose their login: 2",
    ]
    (same,) = gateway_client.differences(settings, SERVED, "token")
    assert same.endswith("nothing would be taken away.")
    (said,) = gateway_client.differences(settings, NOTHING, None)
    assert said.endswith("does not tell what it serves: 401 for /status.json.")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", told(served={}), told(sessions=[{}])])
def test_an_answer_of_another_version_is_not_compared_with(
    answering: Answering, body: bytes
) -> None:
    settings = answering(200, body)
    (said,) = gateway_client.differences(settings, NOTHING, "token")
    assert said.startswith("The running gateway has another version")
    assert gateway_client.refusal(settings) == []


def test_a_refusal_is_asked_without_a_token(answering: Answering) -> None:
    (said,) = gateway_client.refusal(answering(200, b'{"configuration": "refused since x: y"}'))
    assert said == "The running gateway's newest configuration: refused since x: y"
    assert gateway_client.refusal(answering(503, b'{"configuration": "ok"}')) == []


def test_where_nothing_answers_that_is_said(unconfigured: object) -> None:
    (said,) = gateway_client.differences(Settings(metrics_port=1), NOTHING, None)
    assert said == "No running gateway to compare with."
    assert gateway_client.refusal(Settings(metrics_port=1)) == []
