"""The ciphers and MACs that a client is offered, by its version string and its KEXINIT.

RFC 4253 §7.1 lets the client's order decide, so a cipher is never offered to a client that would
choose it over a better one that it also supports. With `ciphers = "fast"`:

| client                             | offer                                                       |
|------------------------------------|-------------------------------------------------------------|
| OpenSSH, by its version string     | the preferred ciphers, at once                              |
| supports a preferred cipher        | the preferred ciphers                                       |
| supports none                      | AES-CTR as well; encrypt-then-MAC, or plain HMAC if the     |
|                                    | client has nothing else                                     |
| waits for the server's KEXINIT     | all of these                                                |

With any other choice all clients get the same offer. RFC 4253 does not say which side sends its
KEXINIT first. The host key signs version strings and both KEXINITs (§8), so an attacker who alters
them to get another offer breaks the key exchange.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from asyncssh.packet import SSHPacket

from sftp_gateway.server.ssh import algorithms

#: All its versions with curve25519 have AES-GCM too, but prefer other ciphers.
_OPENSSH: Final = b"SSH-2.0-OpenSSH_"

#: Bytes before the name-lists: the message's number and the cookie.
_PREAMBLE: Final = 17

_UPDATE: Final = "update the client"


@dataclass(frozen=True, slots=True)
class KexInit:
    """The name-lists of a client's KEXINIT (RFC 4253 §7.1); pairs are (to server, to client)."""

    key_exchanges: Sequence[str]
    host_keys: Sequence[str]
    ciphers: tuple[Sequence[str], Sequence[str]]
    macs: tuple[Sequence[str], Sequence[str]]


def read_kexinit(payload: bytes) -> KexInit:
    """Parse a KEXINIT; raises ValueError if it is malformed."""
    packet = SSHPacket(payload)
    packet.get_bytes(_PREAMBLE)
    lists = [
        tuple(name.decode("ascii", "replace") for name in packet.get_namelist()) for _ in range(6)
    ]
    return KexInit(lists[0], lists[1], (lists[2], lists[3]), (lists[4], lists[5]))


@dataclass(frozen=True, slots=True)
class Offer:
    """Ciphers, and MACs for those without authentication."""

    ciphers: tuple[str, ...]
    macs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a key exchange failed: the server supports nothing in `their_offer`."""

    algorithm: str  # "key_exchange", "host_key", "cipher" or "mac"
    their_offer: str
    remedy: str


class Offers:
    """The offers to clients for the setting `ciphers`."""

    def __init__(self, choice: str | tuple[str, ...], *, has_aes: bool) -> None:
        """Raises ConfigurationError for a cipher that cannot be offered."""
        ciphers = algorithms.ciphers(choice, has_aes=has_aes)
        self.preferred = Offer(ciphers, algorithms.macs(choice))
        self._fallback: Offer | None = None
        if choice == "fast":
            self._fallback = Offer(ciphers + algorithms.AES_CTR, algorithms.macs("compatible"))

    def depends_on_kexinit(self, version: bytes) -> bool:
        """Whether the offer to a client of this version string depends on its KEXINIT."""
        return self._fallback is not None and not version.startswith(_OPENSSH)

    def to(self, client: KexInit | None) -> Offer:
        """The offer to a client with this KEXINIT, or None for one that waits for the server's."""
        if self._fallback is None:
            return self.preferred
        if client is None:
            return self._fallback
        if _common(self.preferred.ciphers, client.ciphers):
            return self.preferred
        etm = self.preferred.macs
        return Offer(
            self._fallback.ciphers, etm if _common(etm, client.macs) else self._fallback.macs
        )


def mismatch(
    client: KexInit, host_keys: Sequence[str], ciphers: Sequence[str], macs: Sequence[str]
) -> Mismatch | None:
    """The first kind of algorithm that client and offer have nothing in common of, or None."""
    if not _common(algorithms.KEY_EXCHANGES, [client.key_exchanges]):
        return _mismatch("key_exchange", client.key_exchanges, _UPDATE)
    if not _common(host_keys, [client.host_keys]):
        return _mismatch("host_key", client.host_keys, _host_key_remedy(client.host_keys))
    if not _common(ciphers, client.ciphers):
        known = _common(algorithms.ciphers("compatible", has_aes=True), client.ciphers)
        return _mismatch("cipher", client.ciphers[1], _remedy(known))
    for their_ciphers, their_macs in zip(client.ciphers, client.macs, strict=True):
        chosen = next(name for name in their_ciphers if name in ciphers)
        if chosen in algorithms.AES_CTR and not _common(macs, [their_macs]):
            known = _common(algorithms.macs("compatible"), [their_macs])
            return _mismatch("mac", their_macs, _remedy(known))
    return None


def _common(ours: Iterable[str], theirs: Iterable[Sequence[str]]) -> bool:
    """Whether each of their lists has one of our names."""
    names = frozenset(ours)
    return all(not names.isdisjoint(each) for each in theirs)


def _mismatch(algorithm: str, offer: Sequence[str], remedy: str) -> Mismatch:
    return Mismatch(algorithm, ",".join(offer), remedy)


def _remedy(known: bool) -> str:
    return 'ciphers = "compatible"' if known else _UPDATE


def _host_key_remedy(theirs: Sequence[str]) -> str:
    if any(name.startswith("rsa-sha2-") for name in theirs):
        return "an RSA host key: keys/ssh_host_rsa_key"
    if any(name.startswith("ecdsa-sha2-") for name in theirs):
        return "an ECDSA host key: keys/ssh_host_ecdsa_key and nist_curves = true"
    return _UPDATE
