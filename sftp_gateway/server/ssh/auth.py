"""The login attempts of one connection: decides, logs and counts them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import asyncssh

from sftp_gateway.auth.authenticator import Decision, Reason
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import Certificate
from sftp_gateway.auth.keys.generate import public_line
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.ssh.context import ServerContext


class LoginAttempts:
    """The login attempts of one connection, and the decision on the last of them."""

    def __init__(self, *, context: ServerContext, recorder: Recorder, address: str) -> None:
        """`address` is the client's, as text."""
        self._context = context
        self._recorder = recorder
        self._address = address
        self._decision: Decision | None = None
        self._certificate: Certificate | None = None
        self._method: str | None = None
        self._attempted = False
        self._verifying: str | None = None  # the user whose password is being verified
        self.accepted = False
        self.refused = 0
        self.unknown_user = False

    @property
    def passwords_offered(self) -> bool:
        """Whether any user has a password."""
        return self._context.authenticator.passwords_offered

    # Attempts

    def begin_key(self, certificate: Certificate | None) -> None:
        """A key is offered next: the one in `certificate`, or a plain key."""
        self._decision, self._certificate = None, certificate

    def check_key(self, user: str, key: bytes) -> bool:
        """Whether the user may log in with this key blob. asyncssh verifies its signature later."""
        authenticator = self._context.authenticator
        if self._certificate is None:
            return self._decide(
                user, "publickey", authenticator.check_key(user, key, self._address)
            )
        decision = authenticator.check_certificate(user, self._certificate, self._address)
        # An authority that is not trusted is refused before any work for its signature.
        if decision.certificate is not None and not _signed_by_authority(decision.certificate):
            decision = Decision(reason=Reason.CERTIFICATE_INVALID, fingerprint=decision.fingerprint)
        return self._decide(user, "publickey", decision)

    async def check_password(self, user: str, password: str) -> bool:
        """Whether this is the user's password."""
        self._verifying = user
        decision = await asyncio.get_running_loop().run_in_executor(
            self._context.password_threads,
            self._context.authenticator.check_password,
            user,
            password,
            self._address,
        )
        self._verifying = None
        return self._decide(user, "password", decision)

    def _decide(self, user: str, method: str, decision: Decision) -> bool:
        self._decision, self._method = decision, method
        if not decision.accepted:
            self.refuse(
                user,
                method,
                decision.reason.value,
                key=decision.fingerprint,
                label=decision.label,
                certificate=decision.certificate,
            )
        return decision.accepted

    # Refusals

    def method_refused(self, user: str, method: bytes) -> None:
        """The client tried a method that is not offered. It may ask for `none` first."""
        first, self._attempted = not self._attempted, True
        if not (first and method == b"none"):
            self.refuse(user, method.decode("ascii", "replace"), "method_not_offered", key=None)

    def key_refused(self, user: str, key: str) -> None:
        """asyncssh has refused the key with this fingerprint, for a reason not logged yet."""
        if self._decision is None:  # a type of key that asyncssh does not accept
            self.refuse(user, "publickey", Reason.KEY_NOT_AUTHORIZED.value, key=key)
        elif self._decision.accepted:
            self.refuse(
                user,
                "publickey",
                "bad_signature",
                key=key,
                label=self._decision.label,
                certificate=self._decision.certificate,
            )

    def connection_lost(self) -> None:
        """Count the password that is being verified: the client does not wait for the answer."""
        if self._verifying is not None:
            with suppress(asyncssh.DisconnectError):
                self.refuse(self._verifying, "password", "connection_lost", key=None)

    def refuse(
        self,
        user: str,
        method: str,
        reason: str,
        *,
        key: str | None,
        label: str | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Log a refused attempt; raise DisconnectError if it was one too many."""
        self._recorder.login_refused(
            user=user,
            method=method,
            key=key,
            key_label=label,
            reason=reason,
            **_certificate_fields(certificate),
        )
        self.refused += 1
        self.unknown_user = self.unknown_user or reason == Reason.UNKNOWN_USER.value
        if self.refused >= self._context.limits.max_auth_tries:
            raise asyncssh.DisconnectError(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many authentication failures"
            )

    # After the login

    def accept(self, user: str) -> None:
        """asyncssh has accepted the last attempt."""
        decision = self._decision
        self._recorder.update(
            user=user,
            auth=self._method,
            key=decision.fingerprint if decision else None,
            key_label=decision.label if decision else None,
            **_certificate_fields(decision.certificate if decision else None),
        )
        self._recorder.login_accepted()
        self.accepted = True

    def review(self) -> Reason:
        """What the current credentials say of the login; ACCEPTED before it."""
        login = self._decision.login if self.accepted and self._decision else None
        return Reason.ACCEPTED if login is None else self._context.authenticator.review(login)


def _signed_by_authority(certificate: Certificate) -> bool:
    """Whether the authority that the certificate names has signed it."""
    line = public_line(certificate.authority)
    try:
        return asyncssh.import_public_key(line).verify(certificate.signed, certificate.signature)
    except (ValueError, asyncssh.Error):
        return False


def _certificate_fields(certificate: Certificate | None) -> dict[str, Any]:
    """The access log's fields of a certificate."""
    if certificate is None:
        return {}
    return {
        "ca": fingerprint(certificate.authority),
        "certificate": certificate.key_id,
        "serial": certificate.serial,
    }
