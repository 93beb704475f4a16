from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from sftp_gateway.auth.keys.authorized_keys import (
    AuthorizedKeys,
    fingerprint,
    parse_authorized_keys,
)


def wire(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def encoded(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")


def ed25519(seed: int) -> bytes:
    return wire(b"ssh-ed25519", bytes([seed]) * 32)


BLOB = ed25519(1)
KEY = f"ssh-ed25519 {encoded(BLOB)}"
OTHER = f"ssh-ed25519 {encoded(ed25519(2))}"


def parse(text: str) -> AuthorizedKeys:
    return parse_authorized_keys(text, source="keys/authorized_keys/gvpocr")


def only_error(text: str) -> str:
    parsed = parse(text)
    assert parsed.keys == ()
    (message,) = parsed.errors
    return message


@pytest.mark.parametrize(
    "arguments",
    [
        ("-t", "ed25519"),
        ("-t", "ecdsa", "-b", "256"),
        ("-t", "ecdsa", "-b", "384"),
        ("-t", "ecdsa", "-b", "521"),
        ("-t", "rsa", "-b", "2048"),
    ],
)
def test_a_pub_file_of_ssh_keygen_is_accepted(
    keygen: Callable[..., str], listed: Callable[[str], list[str]], arguments: tuple[str, ...]
) -> None:
    line = keygen(*arguments, comment="worker 7 @ home")
    (key,) = parse(line + "\n").keys
    assert f"{key.key_type} {encoded(key.blob)} {key.comment}" == line
    assert key.fingerprint == listed(line)[1]
    assert key.sources is None
    assert key.expires is None


def test_an_rsa_key_below_2048_bits_is_an_error(keygen: Callable[..., str]) -> None:
    message = only_error(keygen("-t", "rsa", "-b", "1024"))
    assert "1024 bits and is too weak; use one with at least 2048 bits" in message


def test_options_come_before_the_key() -> None:
    (key,) = parse(f'restrict,from="192.0.2.0/24",expiry-time="20300102Z" {KEY} me').keys
    assert key.blob == BLOB
    assert key.comment == "me"
    assert key.sources is not None
    assert key.sources.text == "192.0.2.0/24"
    assert key.expires == datetime(2030, 1, 2, tzinfo=UTC)


def test_an_option_may_hold_blanks_and_a_key_type_in_its_value() -> None:
    (key,) = parse(f'environment="A= ssh-rsa \\" x"   \t {KEY}').keys
    assert key.blob == BLOB


@pytest.mark.parametrize(
    "text",
    [
        f"{KEY} me\n{OTHER}\n",
        f"{KEY} me\r\n{OTHER}\r\n",
        f"\ufeff{KEY} me\n\n  \t\n# a comment\n   # another\n\t{OTHER}",
        f"{KEY}\t me  \n{OTHER}\t",
    ],
)
def test_crlf_blank_lines_and_comments_are_accepted(text: str) -> None:
    parsed = parse(text)
    assert [key.comment for key in parsed.keys] == ["me", ""]
    assert parsed.errors == ()


def test_only_a_line_feed_ends_a_line() -> None:
    assert parse(f"# note\u2028{KEY}\n# note\x85{KEY}\n# note\x0b{KEY}").keys == ()
    (key,) = parse(f"{KEY} one\u2028{OTHER}").keys
    assert key.blob == BLOB


def test_invalid_lines_are_reported_and_the_others_loaded() -> None:
    parsed = parse(f"{KEY}\nnonsense\n\n{OTHER}\nno-ptty {OTHER}\n")
    assert [key.blob for key in parsed.keys] == [BLOB, ed25519(2)]
    assert [message.partition(": ")[0] for message in parsed.errors] == [
        "keys/authorized_keys/gvpocr, line 2",
        "keys/authorized_keys/gvpocr, line 5",
    ]


def test_a_key_listed_twice_is_kept_twice() -> None:
    assert [key.comment for key in parse(f"{KEY} a\n{KEY} b").keys] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("ssh-dss AAAAB3NzaC1kc3M=", "type ssh-dss are not accepted; use one of ssh-ed25519"),
        (f"restrict ssh-dss {encoded(BLOB)}", "type ssh-dss are not accepted"),
        (f"ssh-ed25519-cert-v01@openssh.com {encoded(BLOB)}", "use one of ssh-ed25519"),
        (f"SSH-ED25519 {encoded(BLOB)}", "write [OPTIONS] TYPE BASE64 [COMMENT]"),
        (encoded(BLOB), "write [OPTIONS] TYPE BASE64 [COMMENT]"),
        ("1024 65537 123456789", "write [OPTIONS] TYPE BASE64 [COMMENT]"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "write [OPTIONS] TYPE BASE64 [COMMENT]"),
        (f"restrict, pty {KEY}", "write [OPTIONS] TYPE BASE64 [COMMENT]"),
        (f'from="192.0.2.1 {KEY}', "quote is not closed"),
        (f"ssh-rsa {encoded(BLOB)}", "says ssh-rsa but the key is of type ssh-ed25519"),
        (f"ssh-ed25519 {encoded(BLOB + b'x')}", "1 bytes too many"),
        (f"ssh-ed25519 {encoded(BLOB[:-2])}", "cut short"),
        ("ssh-ed25519", "not complete base64"),
        (KEY[:-1], "not complete base64"),
        (KEY[:-3], "not complete base64"),
        (KEY + "=", "not complete base64"),
        (KEY + "\u20ac", "not complete base64"),
        (KEY.replace("AAAA", "AA!AAA", 1), "not complete base64"),
        (f"{KEY} nul\x00here", "control character"),
        (f"{KEY} a\r{OTHER}", "control character"),
        (f"{KEY} {'x' * 16 * 1024}", "longer than 16384"),
        (f"ssh-rsa {'A' * 8192}", "the key is too large"),
        (f'principals="a" {KEY}', "requires cert-authority; add it"),
        (f'from="10.0.0.0/8",from="10.1.0.0/16" {KEY}', "write one with the whole list"),
    ],
)
def test_an_error_names_the_remedy_without_key_material(line: str, right: str) -> None:
    message = only_error(line)
    assert message.startswith("keys/authorized_keys/gvpocr, line 1: ")
    assert right in message
    assert encoded(BLOB)[:24] not in message


def test_non_canonical_base64_is_an_error() -> None:
    text = encoded(wire(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:ab"))
    assert text.endswith("=")
    stray = text.rstrip("=")[:-1] + chr(ord(text.rstrip("=")[-1]) + 1)
    stray += "=" * (len(text) - len(stray))
    assert parse(f"sk-ssh-ed25519@openssh.com {text}").errors == ()
    assert "not complete base64" in only_error(f"sk-ssh-ed25519@openssh.com {stray}")


def test_security_keys_are_accepted() -> None:
    blob = wire(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:")
    (key,) = parse(f"sk-ssh-ed25519@openssh.com {encoded(blob)} token").keys
    assert key.fingerprint == fingerprint(blob)


@pytest.mark.parametrize("text", ["", "\n", "\ufeff", "# nothing here\n"])
def test_an_empty_file_has_no_keys_and_no_errors(text: str) -> None:
    assert parse(text) == AuthorizedKeys((), ())
