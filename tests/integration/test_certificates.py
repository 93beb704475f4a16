"""Logins with certificates signed by ssh-keygen: accepted, refused and revoked."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.integration.test_key_rotation import reading
from tests.integration.test_workers import content
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import AnyCertificate, certify, make_key

pytestmark = pytest.mark.integration

#: Authorities, by where they are configured.
AUTHORITIES = {
    "trusted": "ed25519",  # in user_ca_keys
    "rsa": "rsa",  # there too
    "own": "ed25519",  # a line of the user
    "named": "ed25519",  # a line with principals=
    "here": "ed25519",  # a line with from= this machine
    "elsewhere": "ed25519",
    "over": "ed25519",  # a line that has expired
    "stranger": "ed25519",
}


def _public(path: Path) -> str:
    return Path(f"{path}.pub").read_text().strip()


def _fingerprint(path: Path) -> str:
    listed = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{path}.pub"], capture_output=True, text=True, check=True
    )
    return listed.stdout.split()[1]


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("authorities")
    return {name: make_key(folder / name, kind) for name, kind in AUTHORITIES.items()}


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, authorities: dict[str, Path]
) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), "[users.gvpocr]\n[users.ana]\n")
    public = {name: _public(path) for name, path in authorities.items()}
    gateway.authorize(
        "gvpocr",
        f"cert-authority {public['own']}",
        f'cert-authority,principals="fleet,spare" {public["named"]}',
        f'cert-authority,from="127.0.0.1" {public["here"]}',
        f'cert-authority,from="192.0.2.1" {public["elsewhere"]}',
        f'cert-authority,expiry-time="20200101Z" {public["over"]}',
    )
    (gateway.folder / "keys/user_ca_keys").write_text(
        f"# ours\n{public['trusted']}\n{public['rsa']}\n"
    )
    (gateway.folder / "keys/revoked_keys").write_text(
        "serial: 666\nserial: 0x100-0x1ff\nid: stolen\n# none\n"
    )
    assert gateway.run("init").returncode == 0
    try:
        yield gateway.start()
    finally:
        gateway.close()


def _log_in(gateway: Gateway, key: Path, user: str = "gvpocr") -> bool:
    """Log in with the certificate only: trying the key too would add a refusal."""
    options = gateway.ssh_options(key=key, CertificateFile=f"{key}-cert.pub")
    return gateway.ssh("echo in", user=user, options=options).stdout == "in\n"


def _refusal(gateway: Gateway, key: Path) -> dict[str, Any]:
    """The certificate's refusal; the key itself, tried too, is not authorized."""
    events = wait_for(
        lambda: [
            event
            for event in gateway.events("login_refused", key=_fingerprint(key))
            if event["reason"] != "key_not_authorized"
        ],
        "the refusal",
    )
    return events[-1]


@pytest.mark.parametrize(
    "kind", ["ed25519", "rsa"], ids=lambda kind: f"certificate of an {kind} key"
)
@pytest.mark.parametrize("authority", ["trusted", "rsa", "own", "here"])
def test_a_certificate_logs_its_user_in_and_is_logged(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path, authority: str, kind: str
) -> None:
    key = make_key(tmp_path / f"{authority}-{kind}", kind)
    certify(authorities[authority], key, "-z", "4711", "-V", "-1m:+5m")
    assert _log_in(gateway, key)
    accepted = gateway.wait_event("login_accepted", key=_fingerprint(key))
    assert accepted["ca"] == _fingerprint(authorities[authority])
    assert (accepted["certificate"], accepted["serial"]) == (key.name, 4711)
    assert (accepted["user"], accepted["auth"]) == ("gvpocr", "publickey")


def test_a_certificate_for_a_nist_curve_key_is_refused(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "ecdsa", "ecdsa")
    certify(authorities["trusted"], key)
    assert not _log_in(gateway, key)


def test_principals_option_names_accepted_principals(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", "ed25519")
    certify(authorities["named"], key, principals="other,spare")
    assert _log_in(gateway, key)
    certify(authorities["named"], key)  # gvpocr is not among them
    assert not _log_in(gateway, key)
    name = _fingerprint(key)
    assert gateway.wait_event("login_refused", key=name, reason="principal_not_listed")


@pytest.mark.parametrize(
    ("authority", "options", "reason"),
    [
        ("trusted", ("-V", "-2d:-1d"), "certificate_expired"),
        ("trusted", ("-V", "+1d:+2d"), "certificate_not_yet_valid"),
        ("trusted", ("-n", "ana"), "principal_not_listed"),
        ("trusted", ("-n", ""), "principal_not_listed"),
        ("own", ("-n", ""), "principal_not_listed"),
        ("trusted", ("-O", "source-address=192.0.2.0/24"), "address_not_allowed"),
        ("elsewhere", (), "address_not_allowed"),
        ("over", (), "key_expired"),
        ("trusted", ("-z", "666"), "revoked"),
        ("trusted", ("-z", "300"), "revoked"),
        ("trusted", ("-I", "stolen"), "revoked"),
        ("stranger", (), "authority_not_trusted"),
        ("trusted", ("-O", "force-command=/bin/true"), "certificate_invalid"),
        ("trusted", ("-O", "critical:made-up@example=x"), "certificate_invalid"),
        ("rsa", ("-t", "ssh-rsa"), "certificate_invalid"),  # SHA-1
    ],
)
def test_an_invalid_certificate_is_refused_with_the_reason_logged(
    *,
    gateway: Gateway,
    authorities: dict[str, Path],
    tmp_path: Path,
    authority: str,
    options: tuple[str, ...],
    reason: str,
) -> None:
    key = make_key(tmp_path / "key", "ed25519")
    if options[:1] == ("-n",):
        certify(authorities[authority], key, principals=options[1])
    else:
        certify(authorities[authority], key, *options)
    before = len(gateway.events("login_refused", reason=reason))
    assert not _log_in(gateway, key)
    refused = wait_for(
        lambda: gateway.events("login_refused", reason=reason)[before:], "the refusal"
    )[-1]
    # A malformed certificate has no readable key; all its bytes identify it.
    assert (refused["key"] == _fingerprint(key)) == (reason != "certificate_invalid")
    assert refused["reason"] == reason
    assert ("ca" in refused) == (reason not in ("authority_not_trusted", "certificate_invalid"))


def test_a_certificate_is_accepted_from_its_source_addresses(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", "ed25519")
    certify(authorities["trusted"], key, "-O", "source-address=192.0.2.0/24,127.0.0.0/8")
    assert _log_in(gateway, key)


def test_a_users_own_authority_is_not_trusted_for_other_users(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "key", "ed25519")
    certify(authorities["own"], key, principals="ana,gvpocr")
    assert _log_in(gateway, key)
    assert not _log_in(gateway, key, "ana")
    assert _refusal(gateway, key)["reason"] == "authority_not_trusted"
    certify(authorities["trusted"], key, principals="ana")
    assert _log_in(gateway, key, "ana")


def test_a_certificate_authority_key_cannot_log_in(
    gateway: Gateway, authorities: dict[str, Path]
) -> None:
    for name in ("trusted", "own"):
        options = gateway.ssh_options(key=authorities[name])
        assert gateway.ssh("echo in", options=options).returncode == 255


def test_revoking_a_certificate_ends_its_mount(
    make_gateway: Callable[..., Gateway], authorities: dict[str, Path], tmp_path: Path
) -> None:
    gateway = make_gateway()
    (gateway.folder / "keys").mkdir()
    (gateway.folder / "keys/user_ca_keys").write_text(_public(authorities["trusted"]) + "\n")
    gateway.start()
    fill(gateway.folder / "shared/models", {"0.bin": content(0)})
    revoked = gateway.folder / "keys/revoked_keys"
    for number, revocation in enumerate(("serial: 7", "id: key1", "key")):
        key = make_key(tmp_path / f"key{number}", "ed25519")
        certify(authorities["trusted"], key, "-z", "7" if number == 0 else "8", "-V", "-1m:+1h")
        text = _fingerprint(key) if revocation == "key" else revocation
        with reading(gateway, tmp_path / f"mnt{number}", key) as reader:
            with open(revoked, "a") as file:
                file.write(f"{text}\n")
            wait_for(lambda reader=reader: reader.errors, "the mount to fail")  # type: ignore[misc]
        removed = gateway.wait_event("credentials_removed", certificate=key.name)
        assert removed["reason"] == "revoked"
        assert not _log_in(gateway, key)
    # With a missing or unreadable list, the previous one stays in effect.
    revoked.rename(tmp_path / "aside")
    assert "is gone" in gateway.wait_event("configuration_refused")["mistakes"]
    assert not _log_in(gateway, key)
    revoked.write_text("nonsense\n")
    wait_for(lambda: len(gateway.events("configuration_refused")) == 2, "the list to be refused")
    assert not _log_in(gateway, key)


def test_a_revoked_key_or_authority_is_refused(
    make_gateway: Callable[..., Gateway], authorities: dict[str, Path], tmp_path: Path
) -> None:
    gateway = make_gateway()
    listed, spare, certified = (
        make_key(tmp_path / name, "ed25519") for name in ("listed", "spare", "certified")
    )
    gateway.authorize("gvpocr", *map(_public, (listed, spare)))
    (gateway.folder / "keys/user_ca_keys").write_text(_public(authorities["trusted"]) + "\n")
    gateway.start()
    certify(authorities["trusted"], certified)
    assert _log_in(gateway, certified)

    def by_key(key: Path) -> bool:
        options = gateway.ssh_options(key=key)
        return gateway.ssh("echo in", options=options).stdout == "in\n"

    assert by_key(listed)
    (gateway.folder / "keys/revoked_keys").write_text(
        f"{_fingerprint(listed)}\nkey: {_public(authorities['trusted'])}\n"
    )
    gateway.wait_event("configuration_reloaded")
    assert not by_key(listed)
    assert _refusal(gateway, listed)["reason"] == "revoked"
    assert not _log_in(gateway, certified)
    assert _refusal(gateway, certified)["reason"] == "revoked"
    assert by_key(spare)


def test_a_certificate_for_a_short_rsa_key_is_refused(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "short", "rsa", 1024)
    certify(authorities["trusted"], key)
    options = gateway.ssh_options(
        key=key, CertificateFile=f"{key}-cert.pub", RequiredRSASize="1024"
    )
    assert gateway.ssh("echo in", options=options).returncode == 255
    refused = gateway.wait_event("login_refused", certificate=key.name)
    assert refused["reason"] == "key_too_weak"


# Certificates that stock clients would not offer


async def _offer(gateway: Gateway, blob: bytes, key: Path) -> bool:
    pair = AnyCertificate(blob, asyncssh.read_private_key(key))
    try:
        async with asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_keys=[pair], known_hosts=None,
            config=None, agent_path=None,
        ):  # fmt: skip
            return True
    except asyncssh.PermissionDenied:
        return False


def _blob(certificate: Path) -> bytes:
    return base64.b64decode(certificate.read_text().split()[1])


async def test_an_altered_certificate_is_refused(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "tampered", "ed25519")
    blob = _blob(certify(authorities["trusted"], key, principals="gvpoc0"))
    assert not await _offer(gateway, blob, key)
    assert _refusal(gateway, key)["reason"] == "principal_not_listed"
    assert not await _offer(gateway, blob.replace(b"gvpoc0", b"gvpocr"), key)
    name = _fingerprint(key)
    refused = gateway.wait_event("login_refused", key=name, reason="certificate_invalid")
    assert "certificate" not in refused  # it is the forger who says what its key id is
    # The unaltered certificate is accepted.
    assert await _offer(gateway, _blob(certify(authorities["trusted"], key)), key)


async def test_a_certificate_without_its_private_key_is_refused(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key, thief = (make_key(tmp_path / name, "ed25519") for name in ("owner", "thief"))
    blob = _blob(certify(authorities["trusted"], key))
    assert not await _offer(gateway, blob, thief)
    name = _fingerprint(key)
    refused = gateway.wait_event("login_refused", key=name, reason="bad_signature")
    assert refused["certificate"] == "owner"


async def test_a_host_certificate_is_refused(
    gateway: Gateway, authorities: dict[str, Path], tmp_path: Path
) -> None:
    key = make_key(tmp_path / "host", "ed25519")
    before = len(gateway.events("login_refused", reason="certificate_invalid"))
    assert not await _offer(gateway, _blob(certify(authorities["trusted"], key, "-h")), key)
    wait_for(
        lambda: gateway.events("login_refused", reason="certificate_invalid")[before:],
        "the refusal",
    )
