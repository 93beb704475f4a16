"""The status page as an application: authentication, the page, its static files and JSON."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from importlib.resources import files
from typing import Final

from sftp_gateway.observability.web.auth import TokenAuth
from sftp_gateway.observability.web.page import Sources, status_page
from sftp_gateway.observability.web.query import Query
from sftp_gateway.observability.web.rendering import render
from sftp_gateway.observability.web.routes import Request, Response

_HTML: Final = "text/html; charset=utf-8"

#: No external resources, nothing inline, no framing, no forms to other sites.
_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

#: Served to everybody: they disclose nothing.
_ASSETS: Final = {
    "/status.css": "text/css; charset=utf-8",
    "/status.js": "text/javascript; charset=utf-8",
    "/status.svg": "image/svg+xml",
}

#: The answer to each refusal of TokenAuth, and whether it has a form for the token.
_REFUSALS: Final = {
    "token": (
        HTTPStatus.UNAUTHORIZED,
        "This page requires the gateway's token. On the server, it is in {where}.",
        True,
    ),
    "wrong_token": (
        HTTPStatus.UNAUTHORIZED,
        "Wrong token. On the server, it is in {where}.",
        True,
    ),
    "no_token": (
        HTTPStatus.FORBIDDEN,
        "This page is closed: it can be reached from other machines (metrics_host), and no token "
        "is set. On the server, run “sftp-gateway init”, which creates {where}, or set "
        "SFTP_GATEWAY_STATUS__TOKEN.",
        False,
    ),
    "host": (
        HTTPStatus.FORBIDDEN,
        "This page is served under the names of this machine only, such as localhost or "
        "127.0.0.1. To serve it under another name, for example through a proxy, set "
        "SFTP_GATEWAY_STATUS__TOKEN.",
        False,
    ),
}


class StatusApp:
    """Answers requests for `/` and `/status*`."""

    def __init__(self, *, sources: Sources, auth: TokenAuth, token_location: str) -> None:
        """`token_location` is where people find the token."""
        self._sources = sources
        self._auth = auth
        self._token_location = token_location
        folder = files(__package__) / "static"
        self._assets = {path: (folder / path[1:]).read_bytes() for path in _ASSETS}

    def __call__(self, request: Request) -> Response:
        """The answer to a request."""
        path = request.path.partition("?")[0]
        if path in self._assets:
            return Response(HTTPStatus.OK, _ASSETS[path], self._assets[path], headers=_HEADERS)
        if path not in ("/", "/status.json"):
            return Response(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"not found\n")
        login = self._auth.login(request)
        if login is not None:
            return dataclasses.replace(login, headers=(*login.headers, *_HEADERS))
        refusal = self._auth.refusal(request)
        if refusal is not None:
            return self._refuse(refusal)
        if path == "/status.json":
            body = json.dumps(self._sources.as_json()).encode() + b"\n"
            return Response(HTTPStatus.OK, "application/json", body, headers=_HEADERS)
        body = status_page(self._sources, Query.parse(request.path))
        return Response(HTTPStatus.OK, _HTML, body, headers=_HEADERS)

    def _refuse(self, refusal: str) -> Response:
        status, text, form = _REFUSALS[refusal]
        body = render("login.html", message=text.format(where=self._token_location), form=form)
        challenge = (("WWW-Authenticate", "Bearer"),) if form else ()
        return Response(status, _HTML, body, headers=(*_HEADERS, *challenge))
