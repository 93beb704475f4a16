from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from argon2 import low_level

from sftp_gateway.auth.authenticator import Authenticator, Credentials, Decision, Reason
from sftp_gateway.auth.keys.authorized_keys import parse_authorized_keys
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.sources import Networks

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HERE, ELSEWHERE = "192.0.2.7", "198.51.100.1"
HASH = low_level.hash_secret(b"secret", b"saltsalt", 1, 64, 1, 32, low_level.Type.ID).decode()


def wire(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


BLOB = wire(b"ssh-ed25519", bytes(32))
OTHER = wire(b"ssh-ed25519", bytes([1]) * 32)
WEAK = wire(b"ssh-rsa", b"\x01\x00\x01", b"\x00\x80" + bytes(126) + b"\x01")


def credentials(
    *options: str, user: str = "gvpocr", password_hash: str | None = None
) -> Credentials:
    encoded = base64.b64encode(BLOB).decode()
    text = "\n".join(f"{option} ssh-ed25519 {encoded}" for option in options)
    keys = parse_authorized_keys(text, source="test")
    assert keys.errors == ()
    return Credentials(user=user, keys=keys, password_hash=password_hash)


def authenticator(*users: Credentials, now: datetime = NOW) -> Authenticator:
    return Authenticator(users, clock=lambda: now)


def test_a_listed_key_is_accepted_with_its_name() -> None:
    decision = authenticator(credentials("restrict")).check_key("gvpocr", BLOB, HERE)
    assert decision.accepted
    assert decision == Decision(reason=Reason.ACCEPTED, fingerprint=fingerprint(BLOB))


@pytest.mark.parametrize(
    ("user", "blob", "reason"),
    [
        ("nobody", BLOB, Reason.UNKNOWN_USER),
        ("GVPOCR", BLOB, Reason.UNKNOWN_USER),
        ("nobody", WEAK, Reason.UNKNOWN_USER),
        ("gvpocr", OTHER, Reason.KEY_NOT_AUTHORIZED),
        ("gvpocr", b"", Reason.KEY_NOT_AUTHORIZED),
        ("gvpocr", BLOB + b"x", Reason.KEY_NOT_AUTHORIZED),
        ("gvpocr", WEAK, Reason.KEY_TOO_WEAK),
    ],
)
def test_a_refused_key_has_a_reason_and_a_name(user: str, blob: bytes, reason: Reason) -> None:
    decision = authenticator(credentials("restrict")).check_key(user, blob, HERE)
    assert not decision.accepted
    assert decision == Decision(reason=reason, fingerprint=fingerprint(blob))


def test_the_key_of_one_user_is_not_the_key_of_another() -> None:
    both = authenticator(credentials("restrict"), credentials(user="other"))
    assert both.check_key("other", BLOB, HERE).reason is Reason.KEY_NOT_AUTHORIZED


FROM_HERE, NEW = 'from="192.0.2.0/24"', 'expiry-time="20310101Z"'
OLD = 'expiry-time="20300101Z"'


@pytest.mark.parametrize(
    ("options", "address", "reason"),
    [
        ((FROM_HERE,), HERE, Reason.ACCEPTED),
        ((FROM_HERE,), "::ffff:192.0.2.7", Reason.ACCEPTED),
        ((FROM_HERE,), ELSEWHERE, Reason.ADDRESS_NOT_ALLOWED),
        ((FROM_HERE,), "", Reason.ADDRESS_NOT_ALLOWED),
        ((NEW,), HERE, Reason.ACCEPTED),
        ((OLD,), HERE, Reason.KEY_EXPIRED),
        ((f"{OLD},{FROM_HERE}",), ELSEWHERE, Reason.KEY_EXPIRED),
        ((OLD, FROM_HERE), HERE, Reason.ACCEPTED),
        ((FROM_HERE, NEW), ELSEWHERE, Reason.ACCEPTED),
        ((OLD, FROM_HERE), ELSEWHERE, Reason.ADDRESS_NOT_ALLOWED),
        ((FROM_HERE, OLD), ELSEWHERE, Reason.ADDRESS_NOT_ALLOWED),
        ((OLD, OLD), HERE, Reason.KEY_EXPIRED),
    ],
)
def test_any_permitting_line_of_a_key_wins(
    options: tuple[str, ...], address: str, reason: Reason
) -> None:
    decision = authenticator(credentials(*options)).check_key("gvpocr", BLOB, address)
    assert decision.reason is reason


@pytest.mark.parametrize(
    ("late", "reason"), [(0, Reason.ACCEPTED), (1, Reason.KEY_EXPIRED), (-1, Reason.ACCEPTED)]
)
def test_a_key_is_accepted_until_its_expiry(late: int, reason: Reason) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=late)
    decision = authenticator(credentials(OLD), now=now).check_key("gvpocr", BLOB, HERE)
    assert decision.reason is reason


def test_time_is_read_at_each_login() -> None:
    times = iter([datetime(2029, 1, 1, tzinfo=UTC), NOW])
    clocked = Authenticator([credentials(OLD)], clock=lambda: next(times))
    reasons = [clocked.check_key("gvpocr", BLOB, HERE).reason for _ in range(2)]
    assert reasons == [Reason.ACCEPTED, Reason.KEY_EXPIRED]


@pytest.mark.parametrize(
    ("user", "password", "reason"),
    [
        ("gvpocr", "secret", Reason.ACCEPTED),
        ("gvpocr", "Secret", Reason.WRONG_PASSWORD),
        ("gvpocr", "", Reason.WRONG_PASSWORD),
        ("gvpocr", "x" * 100_000, Reason.WRONG_PASSWORD),
        ("keys-only", "secret", Reason.NO_PASSWORD),
        ("nobody", "secret", Reason.UNKNOWN_USER),
        ("", "\ud800", Reason.UNKNOWN_USER),
    ],
)
def test_a_password_is_accepted_or_refused_with_a_reason(
    user: str, password: str, reason: Reason
) -> None:
    users = [credentials(password_hash=HASH), credentials("restrict", user="keys-only")]
    decision = authenticator(*users).check_password(user, password, HERE)
    assert decision == Decision(reason=reason)
    assert decision.accepted is (reason is Reason.ACCEPTED)


def test_every_password_check_computes_one_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[bytes] = []
    verify_secret = low_level.verify_secret

    def spy(password_hash: bytes, secret: bytes, type: low_level.Type) -> bool:
        costs.append(password_hash.split(b"$")[3])
        return verify_secret(password_hash, secret, type)

    monkeypatch.setattr(low_level, "verify_secret", spy)
    users = [credentials(password_hash=HASH), credentials(user="keys-only")]
    asked = authenticator(*users)
    for user in ("gvpocr", "keys-only", "nobody"):
        for password in ("secret", "wrong", "x" * 2000):
            asked.check_password(user, password, HERE)
    assert costs == [b"m=64,t=1,p=1"] * 9


def test_passwords_are_offered_if_any_user_has_one() -> None:
    assert not authenticator().passwords_offered
    assert not authenticator(credentials("restrict")).passwords_offered
    mixed = authenticator(credentials(), credentials(user="b", password_hash=HASH))
    assert mixed.passwords_offered


def test_a_duplicate_user_is_an_error() -> None:
    with pytest.raises(ValueError, match="duplicate user 'gvpocr'"):
        authenticator(credentials(), credentials("restrict"))


def test_an_unhashed_password_is_an_error() -> None:
    with pytest.raises(ValueError, match="sftp-gateway hash-password"):
        authenticator(credentials(password_hash="secret"))


def test_repr_hides_the_password_hash() -> None:
    assert "argon2" not in repr(credentials(password_hash=HASH))


def test_reasons_are_in_the_access_log_vocabulary() -> None:
    assert [str(reason) for reason in Reason] == [
        "accepted",
        "unknown_user",
        "key_not_authorized",
        "address_not_allowed",
        "user_address_not_allowed",
        "key_expired",
        "key_too_weak",
        "revoked",
        "authority_not_trusted",
        "certificate_invalid",
        "certificate_expired",
        "certificate_not_yet_valid",
        "principal_not_listed",
        "wrong_password",
        "no_password",
    ]


# The user's addresses


def allowed_from(*networks: str, password_hash: str | None = None) -> Authenticator:
    given = credentials("restrict", password_hash=password_hash)
    return authenticator(
        dataclasses.replace(given, allow_from=Networks.parse(networks)),
    )


def test_a_valid_key_from_a_disallowed_address_is_refused() -> None:
    users = allowed_from("192.0.2.0/24", "2001:db8::/32")
    assert users.check_key("gvpocr", BLOB, HERE).accepted
    assert users.check_key("gvpocr", BLOB, f"::ffff:{HERE}").accepted
    assert users.check_key("gvpocr", BLOB, "2001:db8::1").accepted
    refused = users.check_key("gvpocr", BLOB, ELSEWHERE)
    assert refused.reason is Reason.USER_ADDRESS_NOT_ALLOWED
    assert users.check_key("gvpocr", BLOB, "nowhere").reason is Reason.USER_ADDRESS_NOT_ALLOWED


def test_an_unknown_key_is_reported_as_such_from_any_address() -> None:
    refused = allowed_from("192.0.2.0/24").check_key("gvpocr", OTHER, ELSEWHERE)
    assert refused.reason is Reason.KEY_NOT_AUTHORIZED


def test_a_valid_password_from_a_disallowed_address_is_refused() -> None:
    users = allowed_from("192.0.2.0/24", password_hash=HASH)
    assert users.check_password("gvpocr", "secret", HERE).accepted
    refused = users.check_password("gvpocr", "secret", ELSEWHERE)
    assert refused.reason is Reason.USER_ADDRESS_NOT_ALLOWED
    wrong = users.check_password("gvpocr", "wrong", ELSEWHERE)
    assert wrong.reason is Reason.WRONG_PASSWORD
