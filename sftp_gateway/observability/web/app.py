"""Answers for the status page: who may see it, the page, and the few files that it is made with."""

from __future__ import annotations

import dataclasses
import json
from http import HTTPStatus
from importlib.resources import files
from typing import Final

from sftp_gateway.observability.web import page
from sftp_gateway.observability.web.auth import TokenAuth
from sftp_gateway.observability.web.http import Request, Response
from sftp_gateway.observability.web.markup import Html, fill
from sftp_gateway.observability.web.page import Sources
from sftp_gateway.observability.web.query import Query

_HTML: Final = "text/html; charset=utf-8"

#: Nothing from outside, nothing inline, no frame around it, no form to elsewhere.
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

#: They tell nothing, so everybody may have them.
_ASSETS: Final = {
    "/status.css": "text/css; charset=utf-8",
    "/status.js": "text/javascript; charset=utf-8",
    "/status.svg": "image/svg+xml",
}

_ASK: Final = """<main class="door"><h1>sftp-gateway</h1>
<p>{text}</p>{form}</main>"""
_FORM: Final = Html(
    '<form method="post"><label>Token<input type="password" name="token" required '
    'autocomplete="current-password"></label><button>Show the status</button></form>'
)

#: What is told to who is not let in, and whether showing a token would help.
REASONS: Final = {
    "token": (
        HTTPStatus.UNAUTHORIZED,
        "This page is for who has the gateway's token. It is in {where} on the server.",
        True,
    ),
    "wrong_token": (
        HTTPStatus.UNAUTHORIZED,
        "That is not the token. It is in {where} on the server.",
        True,
    ),
    "no_token": (
        HTTPStatus.FORBIDDEN,
        "This page is shown to nobody yet: others than the gateway's own machine can reach it "
        "(metrics_host), and no token is set. On the server, run “sftp-gateway init”, which makes "
        "{where}, or set SFTP_GATEWAY_STATUS__TOKEN.",
        False,
    ),
    "host": (
        HTTPStatus.FORBIDDEN,
        "This page is shown by the names of the gateway's own machine only, such as localhost or "
        "127.0.0.1. For another name, as that of a proxy, set SFTP_GATEWAY_STATUS__TOKEN.",
        False,
    ),
}


class StatusApp:
    """The page and all that belongs to it."""

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
            body = json.dumps(self._present(), ensure_ascii=True).encode() + b"\n"
            return Response(HTTPStatus.OK, "application/json", body, headers=_HEADERS)
        body = page.render(self._sources, Query.parse(request.path))
        return Response(HTTPStatus.OK, _HTML, body, headers=_HEADERS)

    def _refuse(self, refusal: str) -> Response:
        status, text, helps = REASONS[refusal]
        body = fill(
            _ASK, text=text.format(where=self._token_location), form=_FORM if helps else Html("")
        )
        challenge = (("WWW-Authenticate", "Bearer"),) if helps else ()
        document = page.frame("sftp-gateway", body)
        return Response(status, _HTML, document, headers=(*_HEADERS, *challenge))

    def _present(self) -> dict[str, object]:
        """What is served now, for programs."""
        state = self._sources.state()
        live = self._sources.registry.live([each.pid for each in state.workers] if state else [])
        return {
            "time": self._sources.now(),
            "version": self._sources.version,
            "sessions": [dataclasses.asdict(each) for each in live.sessions],
            "total_sessions": live.total,
            "bytes_per_second": live.rate,
            "configuration": str(state.reload) if state else "not known",
            "served": state.served if state else {},
            "bans": [dataclasses.asdict(each) for each in state.bans] if state else [],
        }
