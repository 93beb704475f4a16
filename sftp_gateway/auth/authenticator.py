"""The decision: may this user log in with this key or password, from this address, now?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sftp_gateway.auth.authorized_keys import AuthorizedKey, AuthorizedKeys
from sftp_gateway.auth.blobs import fingerprint, too_weak
from sftp_gateway.auth.passwords import PasswordVerifier
from sftp_gateway.auth.sources import Networks


class Reason(StrEnum):
    """Why a login was accepted or refused: stable words for the access log, not for the client."""

    ACCEPTED = "accepted"
    UNKNOWN_USER = "unknown_user"
    KEY_NOT_AUTHORIZED = "key_not_authorized"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    USER_ADDRESS_NOT_ALLOWED = "user_address_not_allowed"
    KEY_EXPIRED = "key_expired"
    KEY_TOO_WEAK = "key_too_weak"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a word for the log
    NO_PASSWORD = "no_password"  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What one user may log in with, and where from.

    `password_hash` is a PHC string, None for keys only; without any `allow_from`, all addresses
    are allowed.
    """

    user: str
    keys: AuthorizedKeys
    password_hash: str | None = field(repr=False)
    allow_from: Networks = Networks()  # noqa: RUF009 - it is frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer to one attempt; `fingerprint` is the offered key's, None for passwords."""

    reason: Reason
    fingerprint: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the login may go on."""
        return self.reason is Reason.ACCEPTED


class Authenticator:
    """Decides from the credentials that it was made with; holds no state and does no IO.

    `clock` gives the present as an aware datetime. Raises ValueError for a user that is given
    twice and for a hash that `check_hash` refuses.
    """

    def __init__(
        self, credentials: Iterable[Credentials], *, clock: Callable[[], datetime]
    ) -> None:
        self._clock = clock
        # Looked up as in any dict, not in constant time: user names and public keys are no
        # secrets, and the signature that proves a key is checked elsewhere.
        self._keys: dict[str, dict[bytes, list[AuthorizedKey]]] = {}
        self._password_hashes: dict[str, str] = {}
        self._allowed: dict[str, Networks] = {}
        for each in credentials:
            if each.user in self._keys:
                raise ValueError(f"the user {each.user!r} is given twice; merge the two")
            entries = self._keys[each.user] = {}
            self._allowed[each.user] = each.allow_from
            for key in each.keys.keys:
                entries.setdefault(key.blob, []).append(key)
            if each.password_hash is not None:
                self._password_hashes[each.user] = each.password_hash
        self._passwords = PasswordVerifier(self._password_hashes.values())

    @property
    def passwords_offered(self) -> bool:
        """Whether any user has a password.

        The same methods are offered to every name, so that they do not tell who exists.
        """
        return bool(self._password_hashes)

    def check_key(self, user: str, blob: bytes, address: str) -> Decision:
        """Whether the user may log in with this key from this address (text), now.

        The caller has the signature checked: this is about the key only. Never raises.
        """
        return Decision(reason=self._key_reason(user, blob, address), fingerprint=fingerprint(blob))

    def check_password(self, user: str, password: str, address: str) -> Decision:
        """Whether this is the user's password.

        Takes about 50 ms, the same for unknown users and those without a password: call it off
        the event loop. Never raises.
        """
        password_hash = self._password_hashes.get(user)
        matched = self._passwords.verify(password_hash, password)
        if user not in self._keys:
            return Decision(reason=Reason.UNKNOWN_USER)
        if password_hash is None:
            return Decision(reason=Reason.NO_PASSWORD)
        if not matched:
            return Decision(reason=Reason.WRONG_PASSWORD)
        return Decision(reason=self._accepted_from(user, address))

    def _key_reason(self, user: str, blob: bytes, address: str) -> Reason:
        entries = self._keys.get(user)
        if entries is None:
            return Reason.UNKNOWN_USER
        reasons = {self._entry_reason(key, address) for key in entries.get(blob, ())}
        # sshd tries each line of a key until one permits; if none does, the one that came
        # closest says why.
        if Reason.ACCEPTED in reasons:
            return self._accepted_from(user, address)
        for reason in (Reason.ADDRESS_NOT_ALLOWED, Reason.KEY_EXPIRED):
            if reason in reasons:
                return reason
        # A weak key is never among the entries: its line was a mistake.
        return Reason.KEY_TOO_WEAK if too_weak(blob) else Reason.KEY_NOT_AUTHORIZED

    def _accepted_from(self, user: str, address: str) -> Reason:
        """The key or password is right; may it come from there?

        Asked last, so that the log tells a stolen key from a wrong one.
        """
        allowed = self._allowed[user]
        if allowed and not allowed.have(address):
            return Reason.USER_ADDRESS_NOT_ALLOWED
        return Reason.ACCEPTED

    def _entry_reason(self, key: AuthorizedKey, address: str) -> Reason:
        if key.expires is not None and self._clock() > key.expires:
            return Reason.KEY_EXPIRED
        if key.sources is not None and not key.sources.matches(address):
            return Reason.ADDRESS_NOT_ALLOWED
        return Reason.ACCEPTED
