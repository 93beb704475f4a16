"""The SSH algorithms that can be offered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sftp_gateway.auth.keys.signatures import NIST_SIGNATURES, SIGNATURES
from sftp_gateway.errors import ConfigurationError

KEY_EXCHANGES: Final = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
)

#: For ciphers without authentication: encrypt-then-MAC, as stock clients prefer it.
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")

#: MAC-then-encrypt, the only kind that some old clients have (libssh2 before 1.11, so curl). Weaker
#: in principle, but no attack on it with AES-CTR is known.
_OLD_MACS: Final = ("hmac-sha2-256", "hmac-sha2-512")

_CERTIFICATE: Final = "-cert-v01@openssh.com"

_GCM: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHACHA: Final = ("chacha20-poly1305@openssh.com",)
#: For clients without AES-GCM.
AES_CTR: Final = ("aes256-ctr", "aes192-ctr", "aes128-ctr")


def ciphers(choice: str | tuple[str, ...], *, has_aes: bool) -> tuple[str, ...]:
    """The preferred ciphers for the setting `ciphers`; negotiation.py adds others if need be.

    RFC 4253 §7.1 lets the client's order decide, and stock clients prefer chacha20-poly1305. To get
    the faster AES-GCM, nothing that the client would prefer may be offered.

    Raises ConfigurationError for a cipher that cannot be offered.
    """
    if isinstance(choice, tuple):
        allowed = _GCM + _CHACHA + AES_CTR
        unknown = [name for name in choice if name not in allowed]
        if unknown:
            names, possible = ", ".join(unknown), ", ".join(allowed)
            raise ConfigurationError(
                [f"ciphers: {names} cannot be offered; choose from {possible}"]
            )
        return choice
    if choice == "fast":
        return _GCM if has_aes else _CHACHA + _GCM
    return _GCM + _CHACHA + AES_CTR


def macs(choice: str | tuple[str, ...]) -> tuple[str, ...]:
    """The preferred message authentication codes for the setting `ciphers`."""
    return _MACS + _OLD_MACS if choice == "compatible" else _MACS


def signatures(*, nist_curves: bool) -> tuple[str, ...]:
    """The signature algorithms of clients and host keys for the setting `nist_curves`."""
    return SIGNATURES + NIST_SIGNATURES if nist_curves else SIGNATURES


def on_nist_curve(key_type: str) -> bool:
    """Whether keys of this type are on a NIST curve."""
    return key_type in NIST_SIGNATURES


def may_sign(algorithm: bytes, allowed: Sequence[str]) -> bool:
    """Whether a host key, or its certificate, may sign with this algorithm.

    asyncssh offers an RSA key with every hash that it knows, even SHA-1.
    """
    return algorithm.decode("ascii").removesuffix(_CERTIFICATE) in allowed


def processor_has_aes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has AES instructions (x86 `aes`, Arm `aes`)."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return any(
        "aes" in line.split()
        for line in text.splitlines()
        if line.lower().startswith(("flags", "features"))
    )
