"""Decides whether a user may log in with a key, certificate or password, from an address, now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from sftp_gateway.auth.keys.authorized_keys import AuthorizedKey, AuthorizedKeys
from sftp_gateway.auth.keys.blobs import fingerprint, too_weak
from sftp_gateway.auth.keys.certificates import Certificate
from sftp_gateway.auth.keys.revocations import Revocations
from sftp_gateway.auth.passwords import PasswordVerifier
from sftp_gateway.auth.sources import Networks

#: Maximum length of the comment or key id that the log repeats in each line.
MAX_LABEL: Final = 64

_NO_KEYS = AuthorizedKeys((), ())
_NOTHING_REVOKED = Revocations()


class Reason(StrEnum):
    """Why a login was accepted or refused, for the access log only; the values are stable."""

    ACCEPTED = "accepted"
    UNKNOWN_USER = "unknown_user"
    KEY_NOT_AUTHORIZED = "key_not_authorized"
    ADDRESS_NOT_ALLOWED = "address_not_allowed"
    USER_ADDRESS_NOT_ALLOWED = "user_address_not_allowed"
    KEY_EXPIRED = "key_expired"
    KEY_TOO_WEAK = "key_too_weak"
    REVOKED = "revoked"
    AUTHORITY_NOT_TRUSTED = "authority_not_trusted"
    CERTIFICATE_INVALID = "certificate_invalid"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_NOT_YET_VALID = "certificate_not_yet_valid"
    PRINCIPAL_NOT_LISTED = "principal_not_listed"
    WRONG_PASSWORD = "wrong_password"  # noqa: S105 - not a secret
    NO_PASSWORD = "no_password"  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The credentials of one user, and the addresses they are accepted from.

    `password_hash` is a PHC string, or None if the user has no password. An empty `allow_from`
    allows all addresses.
    """

    user: str
    keys: AuthorizedKeys
    password_hash: str | None = field(repr=False)
    allow_from: Networks = Networks()  # noqa: RUF009 - it is frozen


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Certificate authorities and revocations that apply to all users."""

    authorities: AuthorizedKeys = _NO_KEYS
    revoked: Revocations = _NOTHING_REVOKED


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """An accepted login, to be reviewed when the credentials change.

    Exactly one of `key` (a blob), `certificate` and `password_hash` is set.
    """

    user: str
    address: str
    at: datetime
    key: bytes | None = None
    certificate: Certificate | None = None
    password_hash: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The result of one login attempt.

    `fingerprint` is the offered key's, None for passwords. `label` is the key's comment in the
    user's file, or the certificate's key id. `certificate` is set only if its authority is trusted;
    the contents of others prove nothing. `login` is set if the attempt was accepted.
    """

    reason: Reason
    fingerprint: str | None = None
    label: str | None = None
    certificate: Certificate | None = None
    login: Login | None = field(default=None, compare=False)

    @property
    def accepted(self) -> bool:
        """Whether the login succeeds."""
        return self.reason is Reason.ACCEPTED


#: Order of precedence if several lines match a key or certificate and none accepts it.
_CLOSEST = (
    Reason.ACCEPTED,
    Reason.ADDRESS_NOT_ALLOWED,
    Reason.KEY_EXPIRED,
    Reason.CERTIFICATE_EXPIRED,
    Reason.CERTIFICATE_NOT_YET_VALID,
    Reason.PRINCIPAL_NOT_LISTED,
)


class Authenticator:
    """Decides on the basis of `credentials`; stateless, and without I/O.

    `clock` returns the current time as an aware datetime. Raises ValueError for a duplicate user
    and for a hash that `check_hash` rejects.
    """

    def __init__(
        self,
        credentials: Iterable[Credentials],
        *,
        trust: Trust = Trust(),
        clock: Callable[[], datetime],
    ) -> None:
        self._clock = clock
        self._revoked = trust.revoked
        self._authorities = trust.authorities.keys
        # Ordinary dict look-ups, not in constant time: user names and public keys are not secret,
        # and the caller verifies the signature.
        self._keys: dict[str, dict[bytes, list[AuthorizedKey]]] = {}
        self._password_hashes: dict[str, str] = {}
        self._allowed: dict[str, Networks] = {}
        for each in credentials:
            if each.user in self._keys:
                raise ValueError(f"duplicate user {each.user!r}; merge the two")
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

        All user names are offered the same methods, which therefore do not reveal valid names.
        """
        return bool(self._password_hashes)

    def check_key(self, user: str, blob: bytes, address: str) -> Decision:
        """Whether the user may log in with this key from this address (text), now.

        The caller verifies the client's signature. Never raises.
        """
        login = Login(user=user, address=address, at=self._clock(), key=blob)
        return Decision(
            reason=self._key_reason(user, blob, address, login.at),
            fingerprint=fingerprint(blob),
            label=self._comment(user, blob),
            login=login,
        )

    def check_certificate(self, user: str, certificate: Certificate, address: str) -> Decision:
        """Whether the user may log in with this certificate from this address, now.

        The caller verifies the signatures of the authority and of the client. Never raises.
        """
        login = Login(user=user, address=address, at=self._clock(), certificate=certificate)
        trusted = bool(self._trusting(user, certificate))
        return Decision(
            reason=self._certificate_reason(user, certificate, address, login.at),
            fingerprint=fingerprint(certificate.key),
            label=_label(certificate.key_id) if trusted else None,
            certificate=certificate if trusted else None,
            login=login,
        )

    def check_password(self, user: str, password: str, address: str) -> Decision:
        """Whether this is the user's password.

        Takes about 50 ms, also for unknown users and users without a password; do not call it on
        the event loop. Never raises.
        """
        password_hash = self._password_hashes.get(user)
        matched = self._passwords.verify(password_hash, password)
        if user not in self._keys:
            return Decision(reason=Reason.UNKNOWN_USER)
        if password_hash is None:
            return Decision(reason=Reason.NO_PASSWORD)
        reason = Reason.ACCEPTED if matched else Reason.WRONG_PASSWORD
        return Decision(
            reason=self._allowed_from(user, address, reason),
            login=Login(user=user, address=address, at=self._clock(), password_hash=password_hash),
        )

    def review(self, login: Login) -> Reason:
        """Whether these credentials would have accepted an earlier login, at its own time.

        So sessions survive the expiry of their key or certificate, as in sshd; only removed or
        revoked credentials end them.
        """
        if login.certificate is not None:
            return self._certificate_reason(login.user, login.certificate, login.address, login.at)
        if login.key is not None:
            return self._key_reason(login.user, login.key, login.address, login.at)
        if login.user not in self._keys:
            return Reason.UNKNOWN_USER
        same = self._password_hashes.get(login.user) == login.password_hash
        reason = Reason.ACCEPTED if same else Reason.WRONG_PASSWORD
        return self._allowed_from(login.user, login.address, reason)

    def _key_reason(self, user: str, blob: bytes, address: str, at: datetime) -> Reason:
        entries = self._keys.get(user)
        if entries is None:
            return Reason.UNKNOWN_USER
        if self._revoked.revokes_key(blob):
            return Reason.REVOKED
        # As in sshd, each line with the key is tried until one accepts.
        reasons = {
            _line_reason(line, address, at)
            for line in entries.get(blob, ())
            if not line.authority  # an authority's key only signs
        }
        for reason in _CLOSEST:
            if reason in reasons:
                return self._allowed_from(user, address, reason)
        # A weak key is never among the entries: the parser has rejected its line.
        return Reason.KEY_TOO_WEAK if too_weak(blob) else Reason.KEY_NOT_AUTHORIZED

    def _comment(self, user: str, blob: bytes) -> str | None:
        """The comment of a key in the user's file, from the first line that authorizes it."""
        lines = self._keys.get(user, {}).get(blob, ())
        return next((_label(line.comment) for line in lines if not line.authority), None)

    def _certificate_reason(
        self, user: str, certificate: Certificate, address: str, at: datetime
    ) -> Reason:
        if user not in self._keys:
            return Reason.UNKNOWN_USER
        if self._revoked.revokes_certificate(certificate):
            return Reason.REVOKED
        if too_weak(certificate.key):
            return Reason.KEY_TOO_WEAK
        reasons = set()
        for line in self._trusting(user, certificate):
            reason = _line_reason(line, address, at)
            if reason is Reason.ACCEPTED:
                reason = _conditions_reason(certificate, line.principals or (user,), address, at)
            reasons.add(reason)
        reason = next((each for each in _CLOSEST if each in reasons), Reason.AUTHORITY_NOT_TRUSTED)
        return self._allowed_from(user, address, reason)

    def _allowed_from(self, user: str, address: str, reason: Reason) -> Reason:
        """`reason`, or USER_ADDRESS_NOT_ALLOWED for good credentials from another address.

        Checked last, so that the log distinguishes a stolen key from a wrong one.
        """
        allowed = self._allowed[user]
        if reason is Reason.ACCEPTED and allowed and not allowed.contains(address):
            return Reason.USER_ADDRESS_NOT_ALLOWED
        return reason

    def _trusting(self, user: str, certificate: Certificate) -> list[AuthorizedKey]:
        """The lines that trust the certificate's authority, for this user or for all."""
        own = self._keys.get(user, {}).get(certificate.authority, ())
        return [
            *(line for line in own if line.authority),
            *(line for line in self._authorities if line.blob == certificate.authority),
        ]


def _label(text: str) -> str | None:
    return text[:MAX_LABEL] or None


def _line_reason(line: AuthorizedKey, address: str, at: datetime) -> Reason:
    if line.expires is not None and at > line.expires:
        return Reason.KEY_EXPIRED
    if line.sources is not None and not line.sources.matches(address):
        return Reason.ADDRESS_NOT_ALLOWED
    return Reason.ACCEPTED


def _conditions_reason(
    certificate: Certificate, principals: tuple[str, ...], address: str, at: datetime
) -> Reason:
    """Checks the certificate's own conditions: validity, principals and source addresses.

    A certificate without principals is refused. PROTOCOL.certkeys: "As a special case, a
    zero-length "valid principals" field means the certificate is valid for any principal"; but
    usually `ssh-keygen -n` was forgotten.
    """
    seconds = at.timestamp()
    if seconds >= certificate.valid_before:
        return Reason.CERTIFICATE_EXPIRED
    if seconds < certificate.valid_after:
        return Reason.CERTIFICATE_NOT_YET_VALID
    if not set(principals) & set(certificate.principals):
        return Reason.PRINCIPAL_NOT_LISTED
    if certificate.sources is not None and not certificate.sources.matches(address):
        return Reason.ADDRESS_NOT_ALLOWED
    return Reason.ACCEPTED
