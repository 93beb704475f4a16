"""Requests, responses, and what each path answers; server.py has the sockets.

The endpoint runs in a process of its own, so that a scrape never delays a READ. Health is therefore
asked of `probe`, which raises TimeoutError if a process has missed its heartbeats.

A web page from anywhere can make its own name resolve to this machine (DNS rebinding), and then
read what a browser there may read. So metrics are served only under names that others cannot
control: an address, a name without a dot (localhost, a container's), or a configured one. The
status page is protected by its token.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from ipaddress import ip_address
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from sftp_gateway.observability.gateway_state import Health

#: Bytes of request line and headers, and of a form.
MAX_HEAD_LENGTH: Final = 8192
_MAX_FORM_LENGTH: Final = 4096

_HEAD_END: Final = b"\r\n\r\n"
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})", re.IGNORECASE)

#: Health checks, which are answered at once, whatever else is requested.
_HEALTH: Final = re.compile(rb"(?:GET|HEAD) /(?:healthz|readyz)[? ]")

_TEXT: Final = "text/plain; charset=utf-8"
_NO_ANSWER: Final = "a process does not answer"
_WRONG_NAME: Final = (
    b"metrics are not given under this name: ask by an address, or add the name to "
    b"SFTP_GATEWAY_METRICS_ALLOWED_HOSTS\n"
)
_INDEX: Final = b"""<!doctype html>
<html lang="en"><title>sftp-gateway</title>
<ul><li><a href="/metrics">metrics</a><li><a href="/healthz">healthz</a>\
<li><a href="/readyz">readyz</a></ul></html>
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request: its path with the query, and headers by their names in lower case.

    `form` is the body of a POST, None for GET and HEAD.
    """

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    form: bytes | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `headers` are added to those that every response has."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


Probe: TypeAlias = Callable[[], Health]

#: Serves `/` and `/status*`.
Application: TypeAlias = Callable[[Request], Response]

#: Returns the content type and the body of the metrics.
Render: TypeAlias = Callable[[], tuple[str, bytes]]


class Router:
    """Maps paths to responses."""

    def __init__(
        self,
        *,
        render: Render,
        probe: Probe,
        status_app: Application | None = None,
        names: Collection[str] = (),
    ) -> None:
        """`names` are those of the endpoint in lower case, beside its addresses; * is any."""
        self._render = render
        self._probe = probe
        self._status_app = status_app
        self._names = names

    def takes_form(self, path: str) -> bool:
        """Whether the path accepts POST."""
        return self._status_app is not None and path.partition("?")[0] == "/"

    def response(self, request: Request) -> Response:
        """The response to a request."""
        path = request.path.partition("?")[0]
        if self._status_app is not None and (path == "/" or path.startswith("/status")):
            return self._status_app(request)
        known = self._is_own_name(request.headers.get("host"))
        match path:
            case "/metrics" if not known:
                return Response(HTTPStatus.MISDIRECTED_REQUEST, _TEXT, _WRONG_NAME)
            case "/metrics":
                return Response(HTTPStatus.OK, *self._render())
            case "/healthz":
                return self._healthz()
            case "/readyz":
                return self._readyz(details=known)
            case "/":
                return Response(HTTPStatus.OK, "text/html; charset=utf-8", _INDEX)
            case _:
                return Response(HTTPStatus.NOT_FOUND, _TEXT, b"not found\n")

    def _is_own_name(self, host: str | None) -> bool:
        """Whether a Host header has a name that only the operator controls."""
        if host is None or "*" in self._names:  # every browser sends one
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").removesuffix(".")
            return name != "" and (name in self._names or "." not in name or bool(ip_address(name)))
        except ValueError:
            return False

    def _healthz(self) -> Response:
        health = self._health()
        if isinstance(health, str):
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{health}\n".encode())
        if not health.alive:
            return Response(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not alive\n")
        return Response(HTTPStatus.OK, _TEXT, b"ok\n")

    def _readyz(self, *, details: bool) -> Response:
        health = self._health()
        answer: dict[str, object]
        if isinstance(health, str):
            ready, answer = False, {"ready": False, "shares": {}, "error": health}
        else:
            ready = health.alive and health.ready
            answer = {"ready": ready, "shares": dict(health.details) if details else {}}
            if details:
                answer["configuration"] = health.configuration
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, "application/json", json.dumps(answer).encode() + b"\n")

    def _health(self) -> Health | str:
        """The health, or the reason why it is unknown."""
        try:
            return self._probe()
        except TimeoutError:
            return _NO_ANSWER
        except Exception:  # a probe that fails is a finding, not a reason to hang up
            _logger.exception("The health probe failed")
            return "the probe failed"


def is_complete(received: bytes | bytearray) -> bool:
    """Whether the request is complete, or as long as is ever read."""
    head, end, body = received.partition(_HEAD_END)
    if not end:
        return len(received) >= MAX_HEAD_LENGTH
    length = _CONTENT_LENGTH.search(head)
    return length is None or len(body) >= min(int(length[1]), _MAX_FORM_LENGTH)


def is_health_check(request: bytes) -> bool:
    """Whether this is a health check, whose response takes no time to make."""
    return _HEALTH.match(request) is not None


def respond(router: Router, request: bytes) -> bytes:
    """The response as bytes; empty if the request cannot be read at all. Never raises."""
    try:
        return _Handler(router, request).answer
    except Exception:  # a bug must not end the thread that serves all
        _logger.exception("A request could not be answered")
        return b""


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, router: Router, request: bytes) -> None:
        self._router = router
        self._received = request
        super().__init__(None, ("", 0), None)  # type: ignore[arg-type]  # what it never touches

    def setup(self) -> None:
        """Read and write memory."""
        self.rfile = BytesIO(self._received)
        self.wfile = self._written = BytesIO()

    def finish(self) -> None:
        """Keep what was written."""
        self.answer = self._written.getvalue()

    def do_GET(self) -> None:
        """Answer, without the body for HEAD."""
        self._answer(None)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Answer a form."""
        if self._router.takes_form(self.path):
            self._answer(self._received.partition(_HEAD_END)[2][:_MAX_FORM_LENGTH])
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def _answer(self, form: bytes | None) -> None:
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = self._router.response(Request(path=self.path, headers=headers, form=form))
        except Exception:
            _logger.exception("%s %s failed", self.command, self.path.partition("?")[0])
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"internal error\n")
        self._send(response)

    def _send(self, response: Response, **headers: str) -> None:
        # A request that could not be read counts as HTTP/0.9, which has no status.
        self.request_version = self.protocol_version
        # send_response would add the Server header, which discloses versions.
        self.send_response_only(response.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in response.headers:
            self.send_header(name, value)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server rejects itself: one line, without the client's input."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # it means: no method do_...
            not_allowed = Response(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD\n")
            self._send(not_allowed, Allow="GET, HEAD")
        else:
            status = HTTPStatus(code)
            self._send(Response(status, _TEXT, f"{status.phrase}\n".encode()))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: scrapes and health checks come every few seconds."""
