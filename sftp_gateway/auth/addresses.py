"""The address patterns of `from="..."`, as OpenSSH accepts them; host names are not resolved.

Source: sshd(8) AUTHORIZED_KEYS FILE FORMAT, ssh_config(5) PATTERNS; checked against sshd 9.2.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from dataclasses import dataclass

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LENGTH = re.compile(r"[0-9]{1,3}")
_IPV4_WILDCARD = re.compile(r"(?=.*[*?])[0-9.*?]+")
_IPV6_WILDCARD = re.compile(r"(?=.*[*?])[0-9a-f*?]*:[0-9a-f:*?]*")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One entry of the list: a network, or a wildcard pattern for the address as text."""

    negated: bool
    matcher: _Network | re.Pattern[str]

    def matches(self, peer: _Address) -> bool:
        if isinstance(self.matcher, re.Pattern):
            return self.matcher.match(str(peer)) is not None
        return peer in self.matcher


@dataclass(frozen=True, slots=True)
class AddressPatterns:
    """A comma-separated list of addresses, networks and wildcards; `!` negates an entry.

    `text` is the list as written. Use `parse` to create one.
    """

    text: str
    _patterns: tuple[_Pattern, ...]

    @classmethod
    def parse(cls, text: str) -> AddressPatterns:
        """Read a list such as `192.0.2.0/24,!192.0.2.7,2001:db8::*`.

        Raises ValueError with a remedy for an entry that can never match (a host name, or bits
        beyond the prefix length): sshd refuses such a list too, or silently locks its user out.
        """
        patterns = tuple(_parse_pattern(entry) for entry in text.split(","))
        if all(pattern.negated for pattern in patterns):
            raise ValueError(f'{_shown(text)} has only negated entries; add ",*" to it')
        return cls(text, patterns)

    def matches(self, address: str) -> bool:
        """Whether the list matches a peer's address, given as text as by getpeername(3).

        A matching negated entry wins, regardless of order. Text that is not an IP address never
        matches.
        """
        peer = parse_peer(address)
        if peer is None:
            return False
        hits = [pattern.negated for pattern in self._patterns if pattern.matches(peer)]
        return bool(hits) and not any(hits)


def unmapped(address: str) -> str:
    """A peer's address as text, an IPv4-mapped one as plain IPv4 (RFC 4291 §2.5.5.2)."""
    return address.removeprefix("::ffff:") if "." in address else address


def parse_peer(address: str) -> _Address | None:
    """The peer's address without its zone, an IPv4-mapped one as IPv4; None for other text."""
    try:
        peer = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        return peer.ipv4_mapped
    return peer


def _parse_pattern(entry: str) -> _Pattern:
    text = entry.removeprefix("!").lower()
    network = _parse_network(text)
    if network is not None:
        return _Pattern(entry.startswith("!"), network)
    if text.startswith("::ffff:"):
        raise _mapped_mistake(entry)
    if _IPV4_WILDCARD.fullmatch(text) or _IPV6_WILDCARD.fullmatch(text):
        # fnmatch.translate never backtracks, however many stars the pattern has.
        return _Pattern(entry.startswith("!"), re.compile(fnmatch.translate(text)))
    raise ValueError(
        f"{_shown(entry)} is not an IP address, a network such as 192.0.2.0/24 or an address "
        "with * and ?, separated by commas without spaces; host names are not looked up"
    )


def _parse_network(text: str) -> _Network | None:
    address, slash, length = text.partition("/")
    # ipaddress also accepts netmasks and zones, which sshd interprets differently.
    if "%" in text or (slash and not _LENGTH.fullmatch(length)):
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise _mapped_mistake(text)
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(f"{_shown(text)} has bits beyond its prefix length; write {network}")
    return network


def _mapped_mistake(text: str) -> ValueError:
    return ValueError(f"{_shown(text)} is IPv4 mapped into IPv6; write the IPv4 address itself")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
