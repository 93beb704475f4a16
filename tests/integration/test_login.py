"""Logins by key: key types and options, users, and their shares."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.support.gateway import TIMEOUT, Gateway, fill, wait_for
from tests.support.keys import TOUCHED, SecurityKey, Sha1Signer, make_key, public_line

pytestmark = pytest.mark.integration

KINDS = {
    "ed25519": ("ed25519", None),
    "ecdsa256": ("ecdsa", 256),
    "ecdsa384": ("ecdsa", 384),
    "ecdsa521": ("ecdsa", 521),
    "rsa3072": ("rsa", 3072),
    "rsa2048": ("rsa", 2048),
    "rsa1024": ("rsa", 1024),
}
_NOW = datetime.now(UTC)
#: Keys of one type with different options.
OPTIONS = {
    "from_here": 'from="127.0.0.1"',
    "from_here_too": 'from="10.0.0.0/8,127.0.0.0/8"',
    "from_elsewhere": 'from="10.0.0.0/8"',
    "from_anywhere_but_here": 'from="*,!127.0.0.1"',
    "good_until_tomorrow": f'expiry-time="{_NOW + timedelta(days=1):%Y%m%d%H%MZ}"',
    "good_until_yesterday": f'expiry-time="{_NOW - timedelta(days=1):%Y%m%d%H%MZ}"',
    "restricted": "restrict,no-pty",
    "for_certificates": "cert-authority",
}
SECURITY_KEYS = {
    "sk-ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
    "sk-ecdsa": ec.generate_private_key(ec.SECP256R1()),
}
CONFIG = """
nist_curves = true
[users.gvpocr]
[users.reader]
shares = ["newsletters"]
[users.locked]
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    made = {name: make_key(folder / name, *kind) for name, kind in KINDS.items()}
    for name in [*OPTIONS, "reader", "stranger"]:
        made[name] = make_key(folder / name, "ed25519")
    return made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Path]) -> Iterator[Gateway]:
    """A gateway with two users, many keys and no passwords."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), CONFIG)
    plain = [public_line(keys[name]) for name in KINDS]
    limited = [f"{options} {public_line(keys[name])}" for name, options in OPTIONS.items()]
    tokens = [SecurityKey(key, flags=TOUCHED).public_line for key in SECURITY_KEYS.values()]
    gateway.authorize("gvpocr", "# everyone's", *plain, *limited, "", *tokens)
    gateway.authorize("reader", public_line(keys["reader"]))
    fill(gateway.folder / "shared", {"newsletters/letter.txt": b"Dear reader,\n"})
    try:
        yield gateway.start()
    finally:
        gateway.close()


def _log_in(
    gateway: Gateway, key: Path, user: str = "gvpocr", **options: str
) -> subprocess.CompletedProcess[str]:
    return gateway.ssh("echo in", user=user, options=gateway.ssh_options(key=key, **options))


def _fingerprint(key: Path) -> str:
    ran = subprocess.run(
        ["ssh-keygen", "-l", "-f", f"{key}.pub"], capture_output=True, text=True, check=True
    )
    return ran.stdout.split()[1]


async def _log_in_with(gateway: Gateway, pair: asyncssh.SSHKeyPair, **options: object) -> None:
    """Log in by asyncssh; raises PermissionDenied."""
    async with asyncssh.connect(
        "127.0.0.1", gateway.port, username="gvpocr", client_keys=[pair], agent_path=None,
        known_hosts=str(gateway.known_hosts), config=None, **options,
    ) as connection:  # fmt: skip
        ran = await connection.run("echo in")
        assert ran.stdout == "in\n"


# Key types


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rsa1024"])
def test_a_valid_key_can_log_in(gateway: Gateway, keys: dict[str, Path], kind: str) -> None:
    assert _log_in(gateway, keys[kind]).stdout == "in\n"
    accepted = gateway.wait_event("login_accepted", key=_fingerprint(keys[kind]))
    assert (accepted["user"], accepted["auth"]) == ("gvpocr", "publickey")


@pytest.mark.parametrize("algorithm", ["rsa-sha2-512", "rsa-sha2-256"])
def test_rsa_signs_with_sha_2(gateway: Gateway, keys: dict[str, Path], algorithm: str) -> None:
    ran = _log_in(gateway, keys["rsa3072"], PubkeyAcceptedAlgorithms=algorithm)
    assert ran.stdout == "in\n"


def test_openssh_does_not_try_to_sign_with_sha_1(gateway: Gateway, keys: dict[str, Path]) -> None:
    ran = _log_in(gateway, keys["rsa3072"], PubkeyAcceptedAlgorithms="ssh-rsa")
    assert ran.returncode == 255
    assert "Permission denied (publickey)" in ran.stderr


async def test_a_sha_1_signature_is_refused_and_logged(
    gateway: Gateway, keys: dict[str, Path]
) -> None:
    pair = Sha1Signer(asyncssh.read_private_key(keys["rsa3072"]))
    with pytest.raises(asyncssh.PermissionDenied):
        await _log_in_with(gateway, pair, signature_algs=["ssh-ed25519", "ssh-rsa"])
    refused = gateway.wait_event("login_refused", reason="signature_algorithm")
    assert refused["key"] == _fingerprint(keys["rsa3072"])


def test_a_listed_short_rsa_key_is_refused(gateway: Gateway, keys: dict[str, Path]) -> None:
    ran = _log_in(gateway, keys["rsa1024"], RequiredRSASize="1024")
    assert ran.returncode == 255
    refused = gateway.wait_event("login_refused", key=_fingerprint(keys["rsa1024"]))
    assert (refused["reason"], refused["user_tried"]) == ("key_too_weak", "gvpocr")
    assert "has 1024 bits and is too weak" in gateway.stderr


@pytest.mark.parametrize("kind", list(SECURITY_KEYS))
async def test_a_touched_security_key_can_log_in(gateway: Gateway, kind: str) -> None:
    pair = SecurityKey(SECURITY_KEYS[kind], flags=TOUCHED)
    await _log_in_with(gateway, pair)


@pytest.mark.parametrize("kind", list(SECURITY_KEYS))
async def test_an_untouched_security_key_is_refused(gateway: Gateway, kind: str) -> None:
    pair = SecurityKey(SECURITY_KEYS[kind], flags=0)
    before = len(gateway.events("login_refused", reason="bad_signature"))
    with pytest.raises(asyncssh.PermissionDenied):
        await _log_in_with(gateway, pair)
    wait_for(
        lambda: gateway.events("login_refused", reason="bad_signature")[before:], "the refusal"
    )


# Key options


@pytest.mark.parametrize(
    "name", ["from_here", "from_here_too", "good_until_tomorrow", "restricted"]
)
def test_a_key_whose_options_allow_it_can_log_in(
    gateway: Gateway, keys: dict[str, Path], name: str
) -> None:
    assert _log_in(gateway, keys[name]).stdout == "in\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("from_elsewhere", "address_not_allowed"),
        ("from_anywhere_but_here", "address_not_allowed"),
        ("good_until_yesterday", "key_expired"),
        ("for_certificates", "key_not_authorized"),
        ("stranger", "key_not_authorized"),
        ("reader", "key_not_authorized"),
    ],
)
def test_a_key_that_is_not_allowed_is_refused_with_the_reason_logged(
    gateway: Gateway, keys: dict[str, Path], name: str, reason: str
) -> None:
    ran = _log_in(gateway, keys[name])
    assert (ran.returncode, ran.stdout) == (255, "")
    # The client gets the same message for every reason.
    assert ran.stderr.strip() == "gvpocr@127.0.0.1: Permission denied (publickey)."
    refused = gateway.wait_event("login_refused", key=_fingerprint(keys[name]))
    assert refused["reason"] == reason
    assert refused["user_tried"] == "gvpocr"
    assert "user" not in refused


# Users


def test_an_unknown_user_is_refused_and_logged(gateway: Gateway, keys: dict[str, Path]) -> None:
    ran = _log_in(gateway, keys["ed25519"], user="nobody")
    assert ran.returncode == 255
    refused = gateway.wait_event("login_refused", user_tried="nobody")
    assert (refused["reason"], refused["method"]) == ("unknown_user", "publickey")
    assert refused["key"] == _fingerprint(keys["ed25519"])


def test_a_user_without_any_key_is_refused(gateway: Gateway, keys: dict[str, Path]) -> None:
    assert _log_in(gateway, keys["ed25519"], user="locked").returncode == 255
    refused = gateway.wait_event("login_refused", user_tried="locked")
    assert refused["reason"] == "key_not_authorized"


def test_each_user_sees_only_granted_shares(
    gateway: Gateway, keys: dict[str, Path], tmp_path: Path
) -> None:
    options = gateway.ssh_options(key=keys["reader"])

    def sftp(*commands: str) -> subprocess.CompletedProcess[bytes]:
        return gateway.sftp(*commands, user="reader", options=options)

    listed = sftp("pwd", "ls -1a", "ls -1 newsletters")
    assert listed.stdout.splitlines()[1] == b"Remote working directory: /home/reader"
    assert {*listed.stdout.split()} & {b"newsletters", b"Bhushanji", b".cache", b"models"} == {
        b"newsletters"
    }
    got = sftp(f"get newsletters/letter.txt {tmp_path}")
    assert got.returncode == 0
    assert (tmp_path / "letter.txt").read_bytes() == b"Dear reader,\n"
    for path in ("models", "models/README.txt", ".cache/huggingface/hub"):
        ran = sftp(f"ls {path}")
        assert ran.returncode == 1
        assert b"not found" in ran.stderr
        denied = gateway.wait_event("denied", path=f"/home/reader/{path}")
        assert (denied["reason"], denied["user"]) == ("share_not_granted", "reader")
    others = sftp("ls /home/gvpocr/newsletters")
    assert others.returncode == 1
    assert gateway.wait_event("denied", user="reader", reason="outside_shares")


# Attempts and timeouts


def test_six_refused_keys_end_the_connection(gateway: Gateway, tmp_path: Path) -> None:
    wrong = [make_key(tmp_path / f"wrong{number}", "ed25519") for number in range(7)]
    more = [option for key in wrong[1:] for option in ("-i", str(key))]
    ran = gateway.ssh("echo in", options=[*gateway.ssh_options(key=wrong[0]), *more])
    assert ran.returncode == 255
    assert "Too many authentication failures" in ran.stderr
    ended = gateway.wait_event("session_end", reason="too_many_login_attempts")
    refused = gateway.events("login_refused", session=ended["session"])
    assert len(refused) == 6
    assert len({event["key"] for event in refused}) == 6


def test_a_silent_client_is_disconnected(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(SFTP_GATEWAY_LOGIN_GRACE_TIME="1").start()
    with socket.create_connection(("127.0.0.1", gateway.port), TIMEOUT) as silent:
        heard = b""
        while piece := silent.recv(4096):
            heard += piece
    assert heard.startswith(b"SSH-2.0-")
    assert gateway.ssh("echo in").stdout == "in\n"


async def test_an_unfinished_login_is_disconnected(
    make_gateway: Callable[..., Gateway],
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_LOGIN_GRACE_TIME="1").start()
    stranger = asyncssh.generate_private_key("ssh-ed25519")

    lost = asyncio.Event()

    class Undecided(asyncssh.SSHClient):
        """Offers one key and then stops responding."""

        def __init__(self) -> None:
            self._offered = False

        async def public_key_auth_requested(self) -> asyncssh.SSHKey:
            if self._offered:
                await lost.wait()
            self._offered = True
            return stranger

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    with pytest.raises((asyncssh.Error, OSError)):
        await asyncssh.connect(
            "127.0.0.1", gateway.port, username="gvpocr", client_factory=Undecided,
            client_keys=None, known_hosts=str(gateway.known_hosts), config=None,
        )  # fmt: skip
    assert gateway.wait_event("session_end")["reason"] == "login_timeout"
