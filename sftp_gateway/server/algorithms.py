"""Which SSH algorithms are offered, and why those."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sftp_gateway.errors import ConfigurationError

KEY_EXCHANGES: Final = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
)

#: For ciphers that do not authenticate by themselves. Encrypt-then-MAC is what stock clients
#: prefer; the plain ones are all that some old clients have (libssh2 before 1.11, so curl).
MACS: Final = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

#: What clients may sign with; SHA-1 is not among it.
SIGNATURES: Final = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)

_GCM: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_CHACHA: Final = ("chacha20-poly1305@openssh.com",)
_CTR: Final = ("aes256-ctr", "aes192-ctr", "aes128-ctr")


def ciphers(choice: str | tuple[str, ...], *, has_aes: bool) -> tuple[str, ...]:
    """The ciphers to offer for the setting `ciphers`.

    RFC 4253 §7.1 lets the client's order decide, and stock clients put chacha20-poly1305 first:
    the only way to the faster AES-GCM is not to offer anything that the client would put before.

    Raises ConfigurationError for a name that is none of those that may be offered.
    """
    if isinstance(choice, tuple):
        allowed = _GCM + _CHACHA + _CTR
        unknown = [name for name in choice if name not in allowed]
        if unknown:
            raise ConfigurationError(
                [f"ciphers: {', '.join(unknown)} cannot be offered; choose of {', '.join(allowed)}"]
            )
        return choice
    if choice == "fast":
        return _GCM if has_aes else _CHACHA + _GCM
    return _GCM + _CHACHA + _CTR


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
