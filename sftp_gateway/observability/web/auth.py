"""Who may see the status page.

| reachable from     | without a token                                   | with a token   |
|--------------------|---------------------------------------------------|----------------|
| this machine only  | served, if requested under a name of this machine | token required |
| other machines too | refused                                           | token required |

A browser sends the token once, in a form that is POSTed, and gets a cookie that proves this without
containing the token. Programs send `Authorization: Bearer TOKEN`. A token in a URL is ignored:
histories and proxy logs would keep it.

The name matters because any web page can make its own name resolve to 127.0.0.1 (DNS rebinding),
and then read what a browser on this machine may read. It has neither the cookie nor the token.
"""

from __future__ import annotations

import hashlib
import hmac
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from sftp_gateway.observability.web.routes import Request, Response

COOKIE: Final = "sftp_gateway_status"

#: Seconds that a browser keeps the cookie.
_COOKIE_AGE: Final = 30 * 86_400


class TokenAuth:
    """Authenticates requests."""

    def __init__(self, *, token: str | None, local: bool) -> None:
        """`local`: only this machine can reach the endpoint."""
        self._token = token
        self._local = local
        self._cookie = _derived(token) if token is not None else ""

    def refusal(self, request: Request) -> str | None:
        """Why the request is refused: a key of app.py's `_REFUSALS`; None if it is not."""
        if self._token is not None:
            shown = self._is_token(_bearer(request)) or self._has_cookie(request)
            if shown:
                return None
            return "wrong_token" if request.form is not None else "token"
        if not self._local:
            return "no_token"
        return None if _names_this_machine(request.headers.get("host", "")) else "host"

    def login(self, request: Request) -> Response | None:
        """For a form with the token: a redirect to the page, with the cookie."""
        if request.form is None or not self._is_token(_form_token(request.form)):
            return None
        query = urlencode(parse_qsl(urlsplit(request.path).query))
        # Relative, so that a proxy may serve the page below a path of its own.
        target = f"?{query}" if query else "./"
        cookie = (
            f"{COOKIE}={self._cookie}; Max-Age={_COOKIE_AGE}; Path=/; HttpOnly; SameSite=Strict"
        )
        return Response(
            HTTPStatus.SEE_OTHER,
            "text/plain; charset=utf-8",
            b"",
            headers=(("Location", target), ("Set-Cookie", cookie)),
        )

    def _is_token(self, shown: str | None) -> bool:
        return (
            self._token is not None
            and shown is not None
            and hmac.compare_digest(shown.encode(), self._token.encode())
        )

    def _has_cookie(self, request: Request) -> bool:
        try:
            morsel = SimpleCookie(request.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(
            morsel.value.encode(), self._cookie.encode()
        )


def _derived(token: str) -> str:
    """A value that proves knowledge of the token without disclosing it."""
    return hmac.new(token.encode(), b"sftp-gateway status page", hashlib.sha256).hexdigest()


def _form_token(form: bytes) -> str | None:
    return dict(parse_qsl(form.decode(errors="replace"))).get("token")


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names this machine, with any port: it may be that of a tunnel."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
