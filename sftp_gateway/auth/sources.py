"""Sources of connections: address blocks and lists of networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from sftp_gateway.auth.addresses import parse_peer

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBlocks:
    """Maps addresses to sources: addresses with the same prefix are one source.

    An IPv6 host usually has a whole /64, so single addresses would not identify hosts.
    """

    ipv4_prefix: int = 32
    ipv6_prefix: int = 64

    def of(self, address: str) -> str:
        """The block of an address (text), as text: `192.0.2.7` or `2001:db8::/64`.

        Text that is not an address is its own block.
        """
        return _block(address, self.ipv4_prefix, self.ipv6_prefix)


@lru_cache(maxsize=4096)
def _block(address: str, ipv4_prefix: int, ipv6_prefix: int) -> str:
    peer = parse_peer(address)
    if peer is None:
        return address
    prefix = ipv4_prefix if peer.version == 4 else ipv6_prefix
    if prefix == peer.max_prefixlen:
        return str(peer)
    return str(ipaddress.ip_network((peer, prefix), strict=False))


@dataclass(frozen=True, slots=True)
class Networks:
    """A list of networks. Use `parse` to create one."""

    _networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Networks:
        """Parse addresses and networks such as `192.0.2.0/24`. Raises ValueError."""
        return cls(tuple(ipaddress.ip_network(text) for text in texts))

    def __bool__(self) -> bool:
        return bool(self._networks)

    def contains(self, address: str) -> bool:
        """Whether the address (text) is in one of the networks; False for other text."""
        peer = parse_peer(address)
        return peer is not None and any(peer in network for network in self._networks)

    def contains_network(self, block: str) -> bool:
        """Whether one of the networks contains a whole block, named as by SourceBlocks."""
        try:
            network = ipaddress.ip_network(block)
        except ValueError:
            return False
        return any(
            network.version == each.version and network.subnet_of(each)  # type: ignore[arg-type]
            for each in self._networks
        )
