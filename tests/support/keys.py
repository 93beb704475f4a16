"""Keys to log in with: made by ssh-keygen, or by a software security key."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import asyncssh
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.sftp_wire import string, uint32

#: PROTOCOL.u2f: "SSH_SK_USER_PRESENCE_REQD": the key was touched.
TOUCHED = 0x01

_APPLICATION = b"ssh:"


def make_key(path: Path, kind: str, bits: int | None = None, *options: str) -> Path:
    """A new private key of `kind` (ssh-keygen -t) at `path`, its public half beside it.

    `options` are ssh-keygen's and override the default ones.
    """
    size = [] if bits is None else ["-b", str(bits)]
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", path.name, "-f", path, *options],
        check=True,
    )
    return path


def public_line(private: Path) -> str:
    return Path(f"{private}.pub").read_text().strip()


class SecurityKey(asyncssh.SSHKeyPair):
    """A security key in software, which signs as PROTOCOL.u2f specifies."""

    def __init__(
        self, private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey, *, flags: int
    ) -> None:
        """`flags` are what the key vouches for with each signature, such as TOUCHED."""
        self._private = private
        self._flags = flags
        if isinstance(private, ed25519.Ed25519PrivateKey):
            self._name = b"sk-ssh-ed25519@openssh.com"
            public = string(private.public_key().public_bytes_raw())
        else:
            self._name = b"sk-ecdsa-sha2-nistp256@openssh.com"
            point = private.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            public = string(b"nistp256") + string(point)
        blob = string(self._name) + public + string(_APPLICATION)
        super().__init__(self._name, self._name, (self._name,), (self._name,), blob, None)

    @property
    def public_line(self) -> str:
        key = asyncssh.public_key.decode_ssh_public_key(self.public_data)
        return key.export_public_key().decode().strip()

    def sign(self, data: bytes) -> bytes:
        """ "byte[32] SHA256(application) | byte flags | uint32 counter | byte[32] SHA256(message)"
        is what the key signs; the signature is followed by flags and counter."""
        vouched = bytes([self._flags]) + uint32(7)
        signed = hashlib.sha256(_APPLICATION).digest() + vouched + hashlib.sha256(data).digest()
        if isinstance(self._private, ed25519.Ed25519PrivateKey):
            signature = self._private.sign(signed)
        else:
            numbers = decode_dss_signature(self._private.sign(signed, ec.ECDSA(hashes.SHA256())))
            signature = b"".join(string(_mpint(number)) for number in numbers)
        return string(self._name) + string(signature) + vouched


class Sha1Signer(asyncssh.SSHKeyPair):
    """An RSA key pair that signs with SHA-1, which RFC 4253 named `ssh-rsa`, and nothing else."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self._key = key
        name = b"ssh-rsa"
        super().__init__(name, name, (name,), (name,), key.public_data, None)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, b"ssh-rsa")


def _mpint(number: int) -> bytes:
    """RFC 4251 §5: big-endian, two's complement."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def certify(authority: Path, key: Path, *options: str, principals: str = "gvpocr") -> Path:
    """A certificate of `key` that `authority` signs (ssh-keygen -s), where ssh looks for it.

    `options` are further ones of ssh-keygen, such as `-V` or `-O`.
    """
    names = ["-n", principals] if principals else []
    subprocess.run(
        ["ssh-keygen", "-q", "-s", authority, *names, "-I", key.name, *options, f"{key}.pub"],
        check=True,
    )
    return Path(f"{key}-cert.pub")


class AnyCertificate(asyncssh.SSHKeyPair):
    """Offers these bytes as a certificate, whatever they are, and signs with this ed25519 key.

    Stock clients, and asyncssh's, do not offer what they find wrong themselves.
    """

    def __init__(self, blob: bytes, key: asyncssh.SSHKey) -> None:
        self._key = key
        name = b"ssh-ed25519-cert-v01@openssh.com"
        super().__init__(name, b"ssh-ed25519", (b"ssh-ed25519",), (name,), blob, None)

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, b"ssh-ed25519")
