"""OpenSSH certificates are parsed as ssh-keygen writes them; all else is rejected."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sftp_gateway.auth.authenticator import Authenticator, Credentials, Reason, Trust
from sftp_gateway.auth.keys.authorized_keys import AuthorizedKeys, parse_authorized_keys
from sftp_gateway.auth.keys.blobs import fingerprint
from sftp_gateway.auth.keys.certificates import Certificate, is_certificate, read_certificate
from sftp_gateway.auth.keys.revocations import Revocations, parse_revocations
from tests.support.keys import certify, make_key, public_line

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
HERE, ELSEWHERE = "192.0.2.7", "198.51.100.1"


def wire(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


CA = wire(b"ssh-ed25519", bytes([9]) * 32)
KEY = wire(b"ssh-ed25519", bytes([1]) * 32)


def make_certificate(
    *,
    kind: int = 1,
    key_id: bytes = b"worker",
    serial: int = 7,
    principals: tuple[bytes, ...] = (b"gvpocr",),
    after: int = 0,
    before: int = 2**64 - 1,
    options: bytes = b"",
    authority: bytes = CA,
    algorithm: bytes = b"ssh-ed25519",
    end: bytes = b"",
) -> bytes:
    """A certificate with an invalid signature, which is not verified here."""
    return (
        wire(b"ssh-ed25519-cert-v01@openssh.com", b"nonce", bytes([1]) * 32)
        + serial.to_bytes(8, "big")
        + kind.to_bytes(4, "big")
        + wire(key_id, wire(*principals))
        + after.to_bytes(8, "big")
        + before.to_bytes(8, "big")
        + wire(options, b"", b"", authority, wire(algorithm, bytes(64)))
        + end
    )


def sources(text: bytes) -> bytes:
    return wire(b"source-address", wire(text))


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("authority_kind", ["ed25519", "ecdsa", "rsa"])
def test_a_certificate_of_ssh_keygen_is_parsed(
    tmp_path: Path, kind: str, authority_kind: str
) -> None:
    authority = make_key(tmp_path / "ca", authority_kind)
    key = make_key(tmp_path / "key", kind)
    path = certify(
        authority, key, "-z", "42", "-V", "20300101000000Z:20300201000000Z",
        "-O", "source-address=192.0.2.0/24,2001:db8::/32", principals="gvpocr,ana",
    )  # fmt: skip
    blob = base64.b64decode(path.read_text().split()[1])
    assert is_certificate(blob)
    found = read_certificate(blob)
    assert found.key == base64.b64decode(public_line(key).split()[1])
    assert found.authority == base64.b64decode(public_line(authority).split()[1])
    assert (found.key_id, found.serial, found.principals) == ("key", 42, ("gvpocr", "ana"))
    assert datetime.fromtimestamp(found.valid_after, UTC) == datetime(2030, 1, 1, tzinfo=UTC)
    assert datetime.fromtimestamp(found.valid_before, UTC) == datetime(2030, 2, 1, tzinfo=UTC)
    assert found.sources is not None
    assert [found.sources.matches(each) for each in (HERE, ELSEWHERE)] == [True, False]
    assert blob == found.signed + wire(found.signature)


def test_a_host_certificate_is_rejected(tmp_path: Path) -> None:
    authority, key = (make_key(tmp_path / name, "ed25519") for name in ("ca", "key"))
    blob = base64.b64decode(certify(authority, key, "-h").read_text().split()[1])
    with pytest.raises(ValueError, match="not a user certificate"):
        read_certificate(blob)


def test_a_truncated_certificate_is_rejected() -> None:
    whole = make_certificate(options=sources(b"192.0.2.0/24"))
    read_certificate(whole)
    for length in range(len(whole)):
        with pytest.raises(ValueError):  # noqa: PT011 - which one depends on where
            read_certificate(whole[:length])


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (make_certificate(end=b"x"), "bytes too many"),
        (make_certificate(kind=2), "not a user certificate"),
        (make_certificate(kind=0), "not a user certificate"),
        (make_certificate(algorithm=b"ssh-rsa"), "an algorithm that is not accepted"),
        (make_certificate(algorithm=b"ssh-dss"), "an algorithm that is not accepted"),
        (make_certificate(authority=make_certificate()), "no supported key type"),
        (
            make_certificate(options=wire(b"force-command", wire(b"internal-sftp"))),
            "'force-command'",
        ),
        (make_certificate(options=wire(b"verify-required", b"")), "'verify-required'"),
        (make_certificate(options=wire(b"unheard-of@example", b"")), "'unheard-of@example'"),
        (make_certificate(options=wire(b"source-address")), "has no data"),
        (make_certificate(options=sources(b"192.0.2.1") * 2), "out of order"),
        (make_certificate(options=sources(b"!192.0.2.1,*")), "not a list of addresses"),
        (make_certificate(options=sources(b"")), "not an IP address"),
        (make_certificate(options=sources(b"worker.example")), "not an IP address"),
        (make_certificate(options=wire(b"source-address", b"")), "cut short"),
        (make_certificate(principals=(b"a\0b",)), "has a NUL"),
        (make_certificate(principals=(b"\xff",)), "utf-8"),
        (make_certificate(key_id=b"x" * 20_000), "longer than"),
        (KEY, "not a certificate"),
        (b"", "cut short"),
    ],
)
def test_an_unsupported_or_malformed_certificate_is_rejected(blob: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_certificate(blob)


def test_a_plain_key_is_not_a_certificate() -> None:
    assert not is_certificate(KEY)
    assert not is_certificate(b"")
    assert not is_certificate(wire(b"x509v3-ssh-rsa"))


# Decisions


def line(blob: bytes, options: str = "") -> str:
    return f"{options} ssh-ed25519 {base64.b64encode(blob).decode()}"


def keys(*lines: str) -> AuthorizedKeys:
    parsed = parse_authorized_keys("\n".join(lines), source="test")
    assert parsed.errors == ()
    return parsed


def decide(
    blob: bytes,
    *lines: str,
    for_all: tuple[str, ...] = (),
    revoked: Revocations = Revocations(),  # noqa: B008
    user: str = "gvpocr",
    now: datetime = NOW,
) -> Reason:
    authenticator = Authenticator(
        [Credentials(user="gvpocr", keys=keys(*lines), password_hash=None)],
        trust=Trust(authorities=keys(*for_all), revoked=revoked),
        clock=lambda: now,
    )
    decision = authenticator.check_certificate(user, read_certificate(blob), HERE)
    trusted = decision.certificate is not None
    assert trusted == (user == "gvpocr" and any(CA_TEXT in each for each in (*lines, *for_all)))
    assert decision.fingerprint == fingerprint(KEY)
    return decision.reason


CA_TEXT = base64.b64encode(CA).decode()
AUTHORITY = line(CA, "cert-authority")


def test_only_a_cert_authority_is_trusted() -> None:
    assert decide(make_certificate(), AUTHORITY) is Reason.ACCEPTED
    assert decide(make_certificate(), for_all=(line(CA),)) is Reason.ACCEPTED
    assert decide(make_certificate()) is Reason.AUTHORITY_NOT_TRUSTED
    assert decide(make_certificate(), AUTHORITY, user="nobody") is Reason.UNKNOWN_USER


def test_a_plain_key_line_and_a_cert_authority_are_separate() -> None:
    plain = Authenticator(
        [Credentials(user="gvpocr", keys=keys(line(CA)), password_hash=None)], clock=lambda: NOW
    )
    decision = plain.check_certificate("gvpocr", read_certificate(make_certificate()), HERE)
    assert (decision.reason, decision.certificate) == (Reason.AUTHORITY_NOT_TRUSTED, None)
    authority = Authenticator(
        [Credentials(user="gvpocr", keys=keys(AUTHORITY), password_hash=None)], clock=lambda: NOW
    )
    assert authority.check_key("gvpocr", CA, HERE).reason is Reason.KEY_NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("principals", "options", "reason"),
    [
        ((b"gvpocr",), "", Reason.ACCEPTED),
        ((b"ana", b"gvpocr"), "", Reason.ACCEPTED),
        ((b"GVPOCR",), "", Reason.PRINCIPAL_NOT_LISTED),
        ((b"gvpocr ",), "", Reason.PRINCIPAL_NOT_LISTED),
        ((b"*",), "", Reason.PRINCIPAL_NOT_LISTED),
        ((), "", Reason.PRINCIPAL_NOT_LISTED),
        ((b"fleet",), ',principals="fleet"', Reason.ACCEPTED),
        ((b"gvpocr",), ',principals="fleet"', Reason.PRINCIPAL_NOT_LISTED),
        ((), ',principals="fleet"', Reason.PRINCIPAL_NOT_LISTED),
    ],
)
def test_a_certificate_must_name_the_user_or_a_listed_principal(
    principals: tuple[bytes, ...], options: str, reason: Reason
) -> None:
    blob = make_certificate(principals=principals)
    assert decide(blob, line(CA, f"cert-authority{options}")) is reason


SECOND = int(NOW.timestamp())


@pytest.mark.parametrize(
    ("after", "before", "reason"),
    [
        (SECOND, SECOND + 1, Reason.ACCEPTED),
        (SECOND + 1, SECOND + 2, Reason.CERTIFICATE_NOT_YET_VALID),
        (SECOND - 1, SECOND, Reason.CERTIFICATE_EXPIRED),
        (0, 2**64 - 1, Reason.ACCEPTED),
        (2**64 - 1, 0, Reason.CERTIFICATE_EXPIRED),
    ],
)
def test_a_certificate_is_valid_within_its_interval(
    after: int, before: int, reason: Reason
) -> None:
    assert decide(make_certificate(after=after, before=before), AUTHORITY) is reason


@pytest.mark.parametrize(
    ("options", "text", "reason"),
    [
        ("", b"192.0.2.0/24", Reason.ACCEPTED),
        ("", b"198.51.100.0/24", Reason.ADDRESS_NOT_ALLOWED),
        (',from="198.51.100.0/24"', b"192.0.2.0/24", Reason.ADDRESS_NOT_ALLOWED),
        (',expiry-time="20300101Z"', b"192.0.2.0/24", Reason.KEY_EXPIRED),
    ],
)
def test_conditions_of_line_and_certificate_both_apply(
    options: str, text: bytes, reason: Reason
) -> None:
    assert (
        decide(make_certificate(options=sources(text)), line(CA, f"cert-authority{options}"))
        is reason
    )


@pytest.mark.parametrize(
    "text",
    [
        "serial: 7", "serial: 0x7", "serial: 5-9", "id: worker", "ID:worker",
        fingerprint(KEY), fingerprint(CA), f"hash: {fingerprint(KEY)}", line(KEY),
        f"key: {line(CA)}",
    ],
)  # fmt: skip
def test_a_revoked_key_or_certificate_is_refused(text: str) -> None:
    revoked, errors = parse_revocations(f"# a comment\n\n{text}\n", source="test")
    assert errors == ()
    assert decide(make_certificate(), AUTHORITY, revoked=revoked) is Reason.REVOKED


@pytest.mark.parametrize(
    "text", ["", "serial: 8", "serial: 1-6", "id: Worker", "id: worker2", line(KEY[:-1] + b"x")]
)
def test_an_unrevoked_key_or_certificate_is_accepted(text: str) -> None:
    revoked, errors = parse_revocations(text, source="test")
    assert errors == ()
    assert decide(make_certificate(), AUTHORITY, revoked=revoked) is Reason.ACCEPTED


@pytest.mark.parametrize(
    "text",
    [
        "serial: 0", "serial: 9-5", "serial: x", "serial:", "serial: 18446744073709551616", "id:",
        "SHA256:short", "hash: MD5:00", "nonsense", "key: nonsense", "SSHKRL\n\0binary",
    ],
)  # fmt: skip
def test_an_unknown_revocation_line_is_an_error(text: str) -> None:
    _, errors = parse_revocations(text, source="keys/revoked_keys")
    assert errors
    assert all(message.startswith("keys/revoked_keys") for message in errors)


def test_the_revocation_list_has_the_syntax_of_ssh_keygen(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key", "ed25519")
    text = f"serial: 7\nserial: 0x10-0x20\nid: worker\nkey: {public_line(key)}\n"
    text += f"sha256: {public_line(key)}\n"
    (tmp_path / "spec").write_text(text)
    subprocess.run(
        ["ssh-keygen", "-q", "-k", "-f", tmp_path / "krl", "-s", f"{key}.pub", tmp_path / "spec"],
        check=True,
    )
    revoked, errors = parse_revocations(text, source="test")
    assert errors == ()
    assert revoked.serials == ((7, 7), (16, 32))
    (message,) = parse_revocations(
        (tmp_path / "krl").read_text("utf-8", errors="replace"), source="krl"
    )[1]
    assert "binary" in message


# Rechecking logins


def test_a_login_is_rechecked_as_of_its_own_time() -> None:
    certificate = read_certificate(make_certificate(after=SECOND, before=SECOND + 60))

    def with_(*lines: str, revoked: str = "", now: datetime = NOW) -> Authenticator:
        return Authenticator(
            [Credentials(user="gvpocr", keys=keys(*lines), password_hash=None)],
            trust=Trust(revoked=parse_revocations(revoked, source="test")[0]),
            clock=lambda: now,
        )

    login = with_(AUTHORITY).check_certificate("gvpocr", certificate, HERE).login
    assert login is not None
    later = NOW + timedelta(days=1)
    assert with_(AUTHORITY, now=later).review(login) is Reason.ACCEPTED
    assert with_(AUTHORITY, revoked="serial: 7", now=later).review(login) is Reason.REVOKED
    assert with_(now=later).review(login) is Reason.AUTHORITY_NOT_TRUSTED
    moved = line(CA, 'cert-authority,from="198.51.100.0/24"')
    assert with_(moved, now=later).review(login) is Reason.ADDRESS_NOT_ALLOWED


def test_a_login_by_key_ends_with_the_key_but_not_at_its_expiry() -> None:
    def with_(*lines: str, revoked: str = "", user: str = "gvpocr") -> Authenticator:
        return Authenticator(
            [Credentials(user=user, keys=keys(*lines), password_hash=None)],
            trust=Trust(revoked=parse_revocations(revoked, source="test")[0]),
            clock=lambda: NOW,
        )

    login = with_(line(KEY)).check_key("gvpocr", KEY, HERE).login
    assert login is not None
    assert with_(line(KEY)).review(login) is Reason.ACCEPTED
    assert with_(line(KEY, 'expiry-time="203006011201Z"')).review(login) is Reason.ACCEPTED
    assert with_(line(KEY, 'expiry-time="203006011159Z"')).review(login) is Reason.KEY_EXPIRED
    assert with_().review(login) is Reason.KEY_NOT_AUTHORIZED
    assert with_(line(KEY, "cert-authority")).review(login) is Reason.KEY_NOT_AUTHORIZED
    assert with_(line(KEY), revoked=fingerprint(KEY)).review(login) is Reason.REVOKED
    assert with_(line(KEY), user="ana").review(login) is Reason.UNKNOWN_USER


def test_a_login_by_password_ends_with_a_new_password() -> None:
    from argon2 import low_level

    def hashed(password: bytes) -> str:
        return low_level.hash_secret(
            password, b"saltsalt", 1, 64, 1, 32, low_level.Type.ID
        ).decode()

    def with_(password_hash: str | None, user: str = "gvpocr") -> Authenticator:
        credentials = Credentials(user=user, keys=keys(), password_hash=password_hash)
        return Authenticator([credentials], clock=lambda: NOW)

    login = with_(hashed(b"one")).check_password("gvpocr", "one", HERE).login
    assert login is not None
    assert with_(hashed(b"one")).review(login) is Reason.ACCEPTED
    assert with_(hashed(b"two")).review(login) is Reason.WRONG_PASSWORD
    assert with_(None).review(login) is Reason.WRONG_PASSWORD
    assert with_(hashed(b"one"), "ana").review(login) is Reason.UNKNOWN_USER
    assert "argon2" not in repr(login)


def test_certificates_can_be_compared() -> None:
    assert read_certificate(make_certificate()) == read_certificate(make_certificate())
    assert isinstance(read_certificate(make_certificate()), Certificate)


def test_a_weak_key_stays_weak_in_a_certificate() -> None:
    key = wire(b"ssh-rsa", b"\x01\x00\x01", b"\x00\x80" + bytes(126) + b"\x01")
    head = wire(b"ssh-rsa-cert-v01@openssh.com", b"nonce", b"\x01\x00\x01")
    modulus = wire(b"\x00\x80" + bytes(126) + b"\x01")
    rest = make_certificate()[len(wire(b"ssh-ed25519-cert-v01@openssh.com", b"nonce", bytes(32))) :]
    certificate = read_certificate(head + modulus + rest)
    assert certificate.key == key
    authenticator = Authenticator(
        [Credentials(user="gvpocr", keys=keys(AUTHORITY), password_hash=None)], clock=lambda: NOW
    )
    decision = authenticator.check_certificate("gvpocr", certificate, HERE)
    assert decision.reason is Reason.KEY_TOO_WEAK
