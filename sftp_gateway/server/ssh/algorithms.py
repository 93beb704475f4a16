"""Which SSH algorithms are offered, and why those."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sftp_gateway.errors import ConfigurationError

KEY_EXCHANGES: Final = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
)

#: For ciphers that do not authenticate by themselves: of what is encrypted, as stock clients
#: prefer it.
_MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")

#: Of what is not encrypted yet. It is all that some old clients have (libssh2 before 1.11, so
#: curl), and weaker in principle only: no attack on it with AES-CTR is known.
_OLD_MACS: Final = ("hmac-sha2-256", "hmac-sha2-512")

#: What clients and the server itself may sign with; SHA-1 is not among it.
_SIGNATURES: Final = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
_NIST_SIGNATURES: Final = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_CERTIFICATE: Final = "-cert-v01@openssh.com"

_GCM: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHACHA: Final = ("chacha20-poly1305@openssh.com",)
#: What clients without AES-GCM know.
AES_CTR: Final = ("aes256-ctr", "aes192-ctr", "aes128-ctr")


def ciphers(choice: str | tuple[str, ...], *, has_aes: bool) -> tuple[str, ...]:
    """The preferred ciphers for the setting `ciphers`; negotiation.py has what else is offered.

    RFC 4253 §7.1 lets the client's order decide, and stock clients put chacha20-poly1305 first:
    the only way to the faster AES-GCM is not to offer anything that the client would put before.

    Raises ConfigurationError for a name that is none of those that may be offered.
    """
    if isinstance(choice, tuple):
        allowed = _GCM + _CHACHA + AES_CTR
        unknown = [name for name in choice if name not in allowed]
        if unknown:
            raise ConfigurationError(
                [f"ciphers: {', '.join(unknown)} cannot be offered; choose of {', '.join(allowed)}"]
            )
        return choice
    if choice == "fast":
        return _GCM if has_aes else _CHACHA + _GCM
    return _GCM + _CHACHA + AES_CTR


def macs(choice: str | tuple[str, ...]) -> tuple[str, ...]:
    """The preferred message authentication codes for the setting `ciphers`."""
    return _MACS + _OLD_MACS if choice == "compatible" else _MACS


def signatures(*, nist_curves: bool) -> tuple[str, ...]:
    """What may be signed with, by clients and by the server, for the setting `nist_curves`."""
    return _SIGNATURES + _NIST_SIGNATURES if nist_curves else _SIGNATURES


def on_nist_curve(key_type: str) -> bool:
    """Whether keys of this type are on a NIST curve."""
    return key_type in _NIST_SIGNATURES


def may_sign(algorithm: bytes, allowed: Sequence[str]) -> bool:
    """Whether a host key may be offered with this algorithm, or its certificate.

    asyncssh offers an RSA key with every hash that it knows, SHA-1 among them.
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
