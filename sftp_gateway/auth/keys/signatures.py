"""The accepted signature algorithms of users, host keys and certificate authorities.

SHA-1 (`ssh-rsa`) is not among them, because chosen-prefix collisions are practical ("SHA-1 is a
Shambles", 2020).
"""

from __future__ import annotations

from typing import Final

SIGNATURES: Final = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)

#: Algorithms on NIST curves, enabled by the setting `nist_curves`.
NIST_SIGNATURES: Final = (
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
