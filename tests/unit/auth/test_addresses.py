from __future__ import annotations

import pytest

from sftp_gateway.auth.addresses import AddressPatterns


@pytest.mark.parametrize(
    ("text", "address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("192.0.2.0/24", "192.0.2.255", True),
        ("192.0.2.0/24", "192.0.3.1", False),
        ("0.0.0.0/0", "203.0.113.9", True),
        ("192.0.2.1,198.51.100.0/24", "198.51.100.4", True),
        ("192.0.2.?", "192.0.2.5", True),
        ("192.0.2.?", "192.0.2.55", False),
        ("192.0.2.*", "192.0.2.55", True),
        ("192.0.2.*", "192.0.20.55", False),
        ("*", "192.0.2.55", True),
        ("*", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db8:1::9", True),
        ("2001:db8::/32", "2001:db9::", False),
        ("2001:DB8::1", "2001:db8:0:0:0:0:0:1", True),
        ("2001:DB8:*", "2001:db8::5", True),
        ("2001:db8::*", "192.0.2.1", False),
        ("::/0", "192.0.2.1", False),
        ("fe80::/10", "fe80::1%eth0", True),
    ],
)
def test_an_entry_matches_as_in_sshd(text: str, address: str, expected: bool) -> None:
    assert AddressPatterns.parse(text).matches(address) is expected


@pytest.mark.parametrize("text", ["192.0.2.0/24,!192.0.2.7", "!192.0.2.7,192.0.2.0/24", "!*.7,*"])
def test_a_negated_entry_wins_in_any_position(text: str) -> None:
    patterns = AddressPatterns.parse(text)
    assert patterns.matches("192.0.2.6")
    assert not patterns.matches("192.0.2.7")


@pytest.mark.parametrize("text", ["192.0.2.0/24", "192.0.2.*", "192.0.2.7"])
def test_an_ipv4_peer_on_an_ipv6_socket_matches_as_ipv4(text: str) -> None:
    assert AddressPatterns.parse(text).matches("::ffff:192.0.2.7")


def test_a_refused_ipv4_peer_is_refused_as_ipv6() -> None:
    assert not AddressPatterns.parse("*,!192.0.2.0/24").matches("::ffff:192.0.2.7")


@pytest.mark.parametrize("address", ["", "unknown", "worker.example", "192.0.2", "/run/x", "\x00"])
def test_an_invalid_address_matches_nothing(address: str) -> None:
    assert not AddressPatterns.parse("*").matches(address)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1,",
        "!",
        "worker.example",
        "*.example.com",
        "!*.example.com,*",
        "192.0.2.1, 192.0.2.2",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.0/33",
        "192.0.2.0/-1",
        "192.0.2.0/",
        "192.0.2.0/255.255.255.0",
        "192.0.2.0/0.0.0.255",
        "192.0.2.0/\u0662\u0664",
        "2001:db8::/129",
        "fe80::1%eth0",
        "face*",
        "::ffff:192.0.2.*",
    ],
)
def test_an_entry_that_never_matches_is_an_error_with_a_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.0/24|IPv4 address itself"):
        AddressPatterns.parse(text)


@pytest.mark.parametrize("text", ["::ffff:192.0.2.1", "::ffff:192.0.2.0/120", "::FFFF:c000:*"])
def test_an_ipv4_mapped_entry_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="write the IPv4 address itself"):
        AddressPatterns.parse(text)


@pytest.mark.parametrize(
    ("text", "right"),
    [("192.0.2.7/24", "write 192.0.2.0/24"), ("2001:db8::1/32", "write 2001:db8::/32")],
)
def test_host_bits_set_are_an_error_that_names_the_network(text: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        AddressPatterns.parse(text)


def test_a_list_of_negated_entries_only_is_an_error() -> None:
    with pytest.raises(ValueError, match=r'add ",\*"'):
        AddressPatterns.parse("!192.0.2.1,!192.0.2.2")


def test_a_very_long_entry_is_truncated_in_the_error() -> None:
    with pytest.raises(ValueError, match="host names are not looked up") as raised:
        AddressPatterns.parse("x" * 10_000)
    assert len(str(raised.value)) < 300


def test_many_wildcards_are_matched_without_backtracking() -> None:
    patterns = AddressPatterns.parse("*1" * 500 + "*:")
    assert not patterns.matches("1111:1111:1111:1111:1111:1111:1111:1111")
