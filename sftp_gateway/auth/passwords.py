"""Hashes and verifies passwords with argon2id, at the same cost whatever the result.

Sources: RFC 9106 (argon2), the PHC string format, OWASP's password storage cheat sheet.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from argon2 import low_level
from argon2.exceptions import VerificationError

# RFC 4252 sets no limit; without one, a client could make each attempt arbitrarily expensive.
MAX_PASSWORD_BYTES = 1024
# NIST SP 800-63B §5.1.1.1: memorized secrets have at least eight characters.
MIN_PASSWORD_LENGTH = 8
# Upper bounds of a hash's cost: a few logins at once must not exhaust the machine.
MAX_MEMORY_KIB = 1024 * 1024
MAX_WORK_KIB = 4 * 1024 * 1024
MAX_LANES = 16

_SALT_BYTES = 16
_DIGEST_BYTES = 32
_PHC = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)
_ADVICE = "make one with `sftp-gateway hash-password`"


@dataclass(frozen=True, slots=True, kw_only=True)
class HashCost:
    """argon2id's parameters: memory in KiB, passes over it, and lanes (threads)."""

    memory_kib: int
    passes: int
    lanes: int


# About 50 ms on a core of a small server, and above OWASP's minimum (19 MiB, 2 passes). One lane,
# because concurrent logins already use the other cores.
DEFAULT_COST = HashCost(memory_kib=32 * 1024, passes=2, lanes=1)


def hash_password(password: str) -> str:
    """An argon2id PHC string with a new salt.

    Raises ValueError for a password that could never log in: an empty one, or one over 1,024 bytes
    in UTF-8.
    """
    secret = _encode(password)
    if not 0 < len(secret) <= MAX_PASSWORD_BYTES:
        raise ValueError(f"a password must have 1 to {MAX_PASSWORD_BYTES} bytes")
    return low_level.hash_secret(
        secret,
        os.urandom(_SALT_BYTES),
        time_cost=DEFAULT_COST.passes,
        memory_cost=DEFAULT_COST.memory_kib,
        parallelism=DEFAULT_COST.lanes,
        hash_len=_DIGEST_BYTES,
        type=low_level.Type.ID,
    ).decode("ascii")


def check_hash(text: str) -> HashCost:
    """The cost of a PHC string `$argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$DIGEST`.

    Raises ValueError for any other text and for an excessive cost. The message does not repeat the
    text, which may be a password.
    """
    match = _PHC.fullmatch(text)
    if match is None or not all(_is_base64(field) for field in match.groups()[3:]):
        raise ValueError(
            f"a password hash must be an argon2id string ($argon2id$v=19$...); {_ADVICE}"
        )
    memory_kib, passes, lanes = (int(field) for field in match.groups()[:3])
    # RFC 9106 §3.1: memory is at least 8 KiB a lane.
    if memory_kib > MAX_MEMORY_KIB or memory_kib < 8 * lanes:
        raise ValueError(
            f"a password hash must use 8 KiB per lane to {MAX_MEMORY_KIB} KiB (1 GiB) of memory, "
            f"not {memory_kib}; {_ADVICE}"
        )
    if memory_kib * passes > MAX_WORK_KIB or lanes > MAX_LANES:
        raise ValueError(
            f"a password hash must use at most {MAX_LANES} lanes (p) and at most {MAX_WORK_KIB} "
            f"KiB of memory times passes (m * t); {_ADVICE}"
        )
    return HashCost(memory_kib=memory_kib, passes=passes, lanes=lanes)


#: OWASP's minimum parameters for argon2id (password storage cheat sheet): KiB of memory, and
#: passes.
_MINIMUM = ((47_104, 1), (19_456, 2), (12_288, 3), (9_216, 4), (7_168, 5))


def is_cheap(cost: HashCost) -> bool:
    """Whether the cost is below OWASP's minimum."""
    return not any(cost.memory_kib >= kib and cost.passes >= passes for kib, passes in _MINIMUM)


class PasswordVerifier:
    """Verifies passwords in constant time, so that timing does not reveal which users exist.

    `hashes` are those of all users; raises ValueError for one that `check_hash` rejects. For a user
    without a hash it verifies a dummy hash with the highest cost among them. Users with cheaper
    hashes remain distinguishable, so all hashes should have the same parameters.
    """

    def __init__(self, hashes: Iterable[str] = ()) -> None:
        costs = [check_hash(text) for text in hashes]
        self._dummy = _dummy_hash(
            max(costs, key=lambda cost: (cost.memory_kib * cost.passes, cost.memory_kib))
            if costs
            else DEFAULT_COST
        )

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Whether the password matches the hash; False if `password_hash` is None.

        Takes about 50 ms of CPU time, without the GIL; do not call it on the event loop. Never
        raises.
        """
        secret = _encode(password)
        acceptable = 0 < len(secret) <= MAX_PASSWORD_BYTES
        usable = password_hash if password_hash is not None and _is_hash(password_hash) else None
        # Always do the whole work before returning.
        matched = _matches(usable or self._dummy, secret if acceptable else b"")
        return matched and acceptable and usable is not None


def _encode(password: str) -> bytes:
    # surrogatepass: lone surrogates from a client must not raise here.
    return password.encode("utf-8", "surrogatepass")


def _is_base64(text: str) -> bool:
    """Whether `text` is canonical base64 without padding, as argon2's decoder requires."""
    try:
        decoded = binascii.a2b_base64(text + "=" * (-len(text) % 4))
    except binascii.Error:
        return False
    return base64.b64encode(decoded).decode("ascii").rstrip("=") == text


def _is_hash(text: str) -> bool:
    try:
        check_hash(text)
    except ValueError:
        return False
    return True


def _dummy_hash(cost: HashCost) -> str:
    """A hash with a random digest, which no known password matches."""
    salt, digest = (
        base64.b64encode(os.urandom(size)).decode("ascii").rstrip("=")
        for size in (_SALT_BYTES, _DIGEST_BYTES)
    )
    return f"$argon2id$v=19$m={cost.memory_kib},t={cost.passes},p={cost.lanes}${salt}${digest}"


def _matches(password_hash: str, secret: bytes) -> bool:
    """Verify with argon2, which compares digests in constant time."""
    try:
        return low_level.verify_secret(password_hash.encode("ascii"), secret, low_level.Type.ID)
    except VerificationError:
        # A mismatch, or not enough memory: fail closed.
        return False
