"""The HTTP endpoint for Prometheus and health checks, on threads of its own.

It is served by a process of its own, and so a scrape never delays a READ. But a process that
answers by itself would make stuck ones look healthy: health is asked of `probe`, which knows when
each of them spoke last, and raises TimeoutError when one of them has fallen silent.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from time import monotonic
from typing import Any, Final, TypeAlias

from sftp_gateway.errors import ConfigurationError

#: Seconds for a request to arrive, and again for its answer to be taken.
REQUEST_TIMEOUT: Final = 5.0

#: More requests at once are answered 503: each one has a thread.
MAX_REQUESTS: Final = 16

#: Bytes of request line and headers.
_MAX_HEAD_LENGTH: Final = 8192

_TEXT: Final = "text/plain; charset=utf-8"
_NO_ANSWER: Final = "a process does not answer"
_INDEX: Final = b"""<!doctype html>
<html lang="en"><title>sftp-gateway</title>
<ul><li><a href="/metrics">metrics</a><li><a href="/healthz">healthz</a>\
<li><a href="/readyz">readyz</a></ul></html>
"""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """`alive`: clients are served. `ready`: new ones can be, and every share.

    `details` has one entry per share: "ok", or why it is not.
    """

    alive: bool
    ready: bool
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What is asked for: a path with its query, and headers by their names in lower case."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """One answer, with headers of its own."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


Probe: TypeAlias = Callable[[], Health]

#: Answers `/` and what is below `/status`.
Front: TypeAlias = Callable[[Visit], Page]

#: Gives the content type and the body of the metrics.
Render: TypeAlias = Callable[[], tuple[str, bytes]]


class Site:
    """What each path answers; knows nothing of sockets."""

    def __init__(self, *, render: Render, probe: Probe, front: Front | None = None) -> None:
        self._render = render
        self._probe = probe
        self._front = front

    def page(self, visit: Visit) -> Page:
        """The answer to a GET."""
        path = visit.path.partition("?")[0]
        if self._front is not None and (path == "/" or path.startswith("/status")):
            return self._front(visit)
        match path:
            case "/metrics":
                return Page(HTTPStatus.OK, *self._render())
            case "/healthz":
                return self._healthz()
            case "/readyz":
                return self._readyz()
            case "/":
                return Page(HTTPStatus.OK, "text/html; charset=utf-8", _INDEX)
            case _:
                return Page(HTTPStatus.NOT_FOUND, _TEXT, b"not found\n")

    def _healthz(self) -> Page:
        health = self._ask()
        if isinstance(health, str):
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, f"{health}\n".encode())
        if not health.alive:
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, b"not alive\n")
        return Page(HTTPStatus.OK, _TEXT, b"ok\n")

    def _readyz(self) -> Page:
        health = self._ask()
        answer: dict[str, object]
        if isinstance(health, str):
            ready, answer = False, {"ready": False, "shares": {}, "error": health}
        else:
            ready = health.alive and health.ready
            answer = {"ready": ready, "shares": dict(health.details)}
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Page(status, "application/json", json.dumps(answer).encode() + b"\n")

    def _ask(self) -> Health | str:
        """The health, or why it is not known."""
        try:
            return self._probe()
        except TimeoutError:
            return _NO_ANSWER
        except Exception:  # a probe that fails is a finding, not a reason to hang up
            _logger.exception("The health probe failed")
            return "the probe failed"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens for the endpoint; port 0 takes any free one.

    Raises ConfigurationError when the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=MAX_REQUESTS)
    except OSError as error:
        raise ConfigurationError(
            [
                f"SFTP_GATEWAY_METRICS_PORT: cannot listen on {host} port {port}:"
                f" {error.strerror or error}; choose a port that is free, and an address of"
                " this machine for SFTP_GATEWAY_METRICS_HOST"
            ]
        ) from error


class ObservabilityServer:
    """Serves metrics and health, and whatever `front` has, over HTTP on a listening socket."""

    def __init__(
        self,
        *,
        listener: socket.socket,
        render: Render,
        probe: Probe,
        front: Front | None = None,
    ) -> None:
        self._server = _Server(listener, Site(render=render, probe=probe, front=front))
        self._thread = threading.Thread(
            target=self._server.serve, name="observability", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, in every process that has the socket. Running requests get no time."""
        self._server.stop()
        if self._thread.is_alive():
            self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, site: Site) -> None:
        self.site = site
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self._stopping = threading.Event()
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener

    def serve(self) -> None:
        """Answer until `stop`, without the twice-a-second poll of `serve_forever`."""
        with self:
            while not self._stopping.is_set():
                self.handle_request()

    def stop(self) -> None:
        """Make `serve` return: a listening socket that is shut down wakes who waits for it."""
        self._stopping.set()
        with suppress(OSError):  # `serve` saw the flag first, and has closed the socket
            self.socket.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; where that fails for want of descriptors, rest a moment rather than spin."""
        try:
            return super().get_request()
        except OSError:
            self._stopping.wait(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, or turn it away."""
        request.settimeout(REQUEST_TIMEOUT)
        if not self._free.acquire(blocking=False):
            # Fits any send buffer, so it cannot hold up the next request.
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer on the request's own thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell our own log, not standard error; clients that hang up are no news."""
        _logger.debug("A request from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        """Read the whole head before parsing: one deadline for all of it, and one cap."""
        super().setup()
        self.rfile.close()
        self.rfile = BytesIO(_read_head(self.request))

    def do_GET(self) -> None:
        """Answer, without the body for HEAD."""
        try:
            headers = {name.lower(): value for name, value in self.headers.items()}
            page = self.server.site.page(Visit(path=self.path, headers=headers))
        except Exception:
            _logger.exception("GET %s failed", self.path)
            page = Page(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"internal error\n")
        self._send(page)

    do_HEAD = do_GET

    def _send(self, page: Page, **headers: str) -> None:
        # A request that could not be read counts as HTTP/0.9, which has no status.
        self.request_version = self.protocol_version
        # send_response would add the Server header, which tells versions.
        self.send_response_only(page.status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in page.headers:
            self.send_header(name, value)
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server refuses by itself: in one line, without the client's words."""
        if code == HTTPStatus.NOT_IMPLEMENTED:  # it means: no method do_...
            not_allowed = Page(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"only GET and HEAD\n")
            self._send(not_allowed, Allow="GET, HEAD")
        else:
            status = HTTPStatus(code)
            self._send(Page(status, _TEXT, f"{status.phrase}\n".encode()))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: scrapes and health checks come every few seconds."""


def _read_head(connection: socket.socket) -> bytes:
    """Request line and headers; what came of them when the deadline or the cap is reached."""
    deadline = monotonic() + REQUEST_TIMEOUT
    head = b""
    try:
        while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD_LENGTH:
            connection.settimeout(max(0.001, deadline - monotonic()))
            received = connection.recv(_MAX_HEAD_LENGTH)
            if not received:
                break
            head += received
    except OSError:
        return b""
    finally:
        connection.settimeout(REQUEST_TIMEOUT)
    return head
