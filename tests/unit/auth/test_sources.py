"""Source blocks and lists of networks."""

from __future__ import annotations

import pytest

from sftp_gateway.auth.sources import Networks, SourceBlocks


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1:2:3:4:5", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("nowhere", "nowhere"),
    ],
)
def test_an_address_belongs_to_its_block(address: str, block: str) -> None:
    assert SourceBlocks().of(address) == block


def test_prefixes_may_be_of_any_length() -> None:
    assert SourceBlocks(ipv4_prefix=0, ipv6_prefix=128).of("192.0.2.7") == "0.0.0.0/0"
    assert SourceBlocks(ipv4_prefix=0, ipv6_prefix=128).of("2001:db8::7") == "2001:db8::7"


def test_a_list_contains_addresses_of_its_own_family_only() -> None:
    networks = Networks.parse(["192.0.2.0/24", "2001:db8::/32"])
    assert networks.contains("192.0.2.255")
    assert networks.contains("::ffff:192.0.2.1")
    assert networks.contains("2001:db8::1%eth0")
    assert not networks.contains("192.0.3.0")
    assert not networks.contains("2001:db9::1")
    assert not networks.contains("nowhere")
    assert not Networks.parse(["::/0"]).contains("192.0.2.1")
    assert not Networks.parse([]).contains("192.0.2.1")


def test_a_list_contains_blocks_within_one_of_its_networks() -> None:
    networks = Networks.parse(["192.0.2.0/24", "2001:db8::/32"])
    assert networks.contains_network("192.0.2.0/25")
    assert networks.contains_network("2001:db8:1::/64")
    assert not networks.contains_network("192.0.0.0/16")
    assert not networks.contains_network("nowhere")
