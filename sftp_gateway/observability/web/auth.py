"""Who may see the status page.

| the endpoint is reached by | without a token                                        | with one  |
|----------------------------|--------------------------------------------------------|-----------|
| this machine only          | shown, where it was asked for by a name of the machine | asked for |
| others                     | shown to nobody                                        | asked for |

A browser shows the token once, by a form that is POSTed, and has a cookie from then on that says
it did, and not what the token is. Programs send `Authorization: Bearer TOKEN`. A token in the
address is not looked at: histories and the logs of proxies would keep it.

The name matters because a web page from anywhere can make its own name mean 127.0.0.1 (DNS
rebinding), and then read what a browser on this machine may read. A cookie or a token it has not.
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

#: Seconds that a browser keeps it.
_COOKIE_AGE: Final = 30 * 86_400


class TokenAuth:
    """Lets in, or says what is missing."""

    def __init__(self, *, token: str | None, local: bool) -> None:
        """`local`: only this machine itself can reach the endpoint."""
        self._token = token
        self._local = local
        self._cookie = _derived(token) if token is not None else ""

    def refusal(self, request: Request) -> str | None:
        """What to tell who is not let in: a word of `REASONS`; None for who is."""
        if self._token is not None:
            shown = self._is_token(_bearer(request)) or self._has_cookie(request)
            if shown:
                return None
            return "wrong_token" if request.form is not None else "token"
        if not self._local:
            return "no_token"
        return None if _names_this_machine(request.headers.get("host", "")) else "host"

    def login(self, request: Request) -> Response | None:
        """For a form with the token: the cookie, and the page that was asked for."""
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
    """Only who knows the token can have come by this; it does not give the token away."""
    return hmac.new(token.encode(), b"sftp-gateway status page", hashlib.sha256).hexdigest()


def _form_token(form: bytes) -> str | None:
    return dict(parse_qsl(form.decode(errors="replace"))).get("token")


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _names_this_machine(host: str) -> bool:
    """Whether a Host header names the machine itself, whatever the port: it may be a tunnel's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False
