from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sftp_gateway.auth.keys.authorized_keys import AuthorizedKey, parse_authorized_keys


def wire(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def mpint(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def point(secret: int) -> bytes:
    public = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


seeds = st.binary(min_size=32, max_size=32)
points = st.integers(1, 2**200).map(point)
moduli = st.builds(
    lambda bits, low: mpint((1 << (bits - 1)) + 2 * low + 1),
    st.sampled_from([1024, 2047, 2048, 3072]),
    st.integers(0, 2**900),
)
names = st.binary(max_size=12)
blobs = st.one_of(
    st.builds(lambda key: wire(b"ssh-ed25519", key), seeds),
    st.builds(lambda key: wire(b"ecdsa-sha2-nistp256", b"nistp256", key), points),
    st.builds(lambda modulus: wire(b"ssh-rsa", mpint(65537), modulus), moduli),
    st.builds(lambda key, name: wire(b"sk-ssh-ed25519@openssh.com", key, name), seeds, names),
    st.builds(
        lambda key, name: wire(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", key, name),
        points,
        names,
    ),
)
blanks = st.sampled_from([" ", "\t", "  ", " \t "])
comments = st.one_of(
    st.text(st.characters(exclude_categories=["Cc"]), max_size=20),
    st.text(st.characters(exclude_characters="\n"), max_size=20),
)
options = st.lists(
    st.sampled_from(
        [
            "restrict",
            "No-Pty",
            'from="192.0.2.0/24,!192.0.2.7"',
            'from="2001:db8::*"',
            'FROM="*"',
            'expiry-time="20300102"',
            'expiry-time="203001021530Z"',
            'environment="A=\\"b c\\""',
            'command="internal-sftp"',
            "cert-authority",
            "nonsense",
            'from="',
            "",
        ]
    ),
    max_size=3,
).map(",".join)


def encoded(blob: bytes) -> str:
    return base64.b64encode(blob).decode("ascii")


@st.composite
def good_lines(draw: st.DrawFn) -> tuple[str, bytes, str]:
    """A valid line, its key blob and its comment."""
    blob = draw(blobs.filter(lambda blob: not blob.startswith(wire(b"ssh-rsa"))))
    key_type = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode()
    before = draw(
        st.sampled_from(["", "restrict ", 'from="*" ', ' no-pty,expiry-time="20300101"\t'])
    )
    words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), max_size=8)
    comment = " ".join(draw(st.lists(words.filter(bool), max_size=3)))
    line = f"{before}{key_type}{draw(blanks)}{encoded(blob)}{draw(blanks)}{comment}"
    return line, blob, comment


@st.composite
def any_lines(draw: st.DrawFn) -> str:
    """A line that is a key, almost a key, or something else."""
    blob = draw(blobs)
    key_type = blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode()
    text = encoded(blob)
    cut = draw(st.integers(0, len(text)))
    fields = [
        draw(options),
        draw(st.sampled_from([key_type, key_type, key_type, "ssh-ed25519", "ssh-dss", ""])),
        draw(st.sampled_from([text, text, text[:cut], text + "=", text[:cut] + "A" + text[cut:]])),
        draw(comments),
    ]
    return draw(blanks).join(fields)


def one_line(key: AuthorizedKey) -> str:
    """The key as ssh-keygen writes it, after its options."""
    written = []
    if key.authority:
        written.append("cert-authority")
    if key.principals is not None:
        written.append('principals="{}"'.format(",".join(key.principals).replace('"', '\\"')))
    if key.sources is not None:
        written.append(f'from="{key.sources.text}"')
    if key.expires is not None:
        written.append(f'expiry-time="{key.expires:%Y%m%d%H%M%S}Z"')
    before = ",".join(written) + " " if written else ""
    return f"{before}{key.key_type} {encoded(key.blob)} {key.comment}"


def check_round_trip(text: str) -> None:
    parsed = parse_authorized_keys(text, source="f")
    lines = [line.strip(" \t\r") for line in text.removeprefix("\ufeff").split("\n")]
    meant = [line for line in lines if line and not line.startswith("#")]
    assert len(parsed.keys) + len(parsed.errors) == len(meant)
    for key in parsed.keys:
        again = parse_authorized_keys(one_line(key), source="f")
        assert again.errors == ()
        assert again.keys == (key,)


@given(st.text())
@settings(deadline=None)
def test_arbitrary_text_never_raises_and_accepted_keys_round_trip(text: str) -> None:
    check_round_trip(text)


@given(
    st.lists(st.one_of(any_lines(), st.text(max_size=30)), max_size=4),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff"]),
)
@settings(deadline=None)
def test_files_of_valid_and_invalid_lines_never_raise(
    lines: list[str], end: str, start: str
) -> None:
    check_round_trip(start + end.join(lines))


@given(good_lines())
@settings(deadline=None)
def test_a_valid_line_is_accepted_with_key_and_comment(line: tuple[str, bytes, str]) -> None:
    text, blob, comment = line
    parsed = parse_authorized_keys(text, source="f")
    assert parsed.errors == ()
    assert [(key.blob, key.comment) for key in parsed.keys] == [(blob, comment)]


@given(any_lines())
@settings(deadline=None)
def test_an_error_never_repeats_part_of_a_key(line: str) -> None:
    for message in parse_authorized_keys(line, source="f").errors:
        pieces = {line[start : start + 20] for start in range(len(line) - 20)}
        keys = {piece for piece in pieces if piece.isalnum() and not piece.islower()}
        assert not any(piece in message for piece in keys)
