"""Parsing the file of workers."""

from __future__ import annotations

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.worker_kit.hosts import Host, parse_hosts


def test_a_line_names_a_worker_and_its_setup_options() -> None:
    text = (
        "# the fleet\n\n"
        "worker1\n"
        "root@worker2.example.org:2022 --no-cache --mount '/mnt/a' # the slow one\n"
        "[2001:db8::7]:22\n"
        "2001:db8::8\n"
        "10.0.0.7:23\n"
    )
    assert parse_hosts(text, source="hosts") == [
        Host(name="worker1", address="worker1"),
        Host(
            name="root@worker2.example.org:2022",
            address="worker2.example.org",
            user="root",
            port=2022,
            options=("--no-cache", "--mount", "/mnt/a"),
        ),
        Host(name="[2001:db8::7]:22", address="2001:db8::7", port=22),
        Host(name="2001:db8::8", address="2001:db8::8"),
        Host(name="10.0.0.7:23", address="10.0.0.7", port=23),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-oProxyCommand=x", "'-oProxyCommand=x' is not [user@]host[:port]"),
        ("root@-x", "is not [user@]host[:port]"),
        ("a b", "'b' is not an option of the set-up script, such as --no-cache"),
        ("a:99999", "99999 is not a valid port"),
        ("a:0", "0 is not a valid port"),
        ("a --mount 'x", "No closing quotation"),
        ("good", "good is already in line 1"),
    ],
)
def test_an_error_has_its_line_number(line: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_hosts(f"good\n{line}\n", source="hosts")
    (error,) = raised.value.errors
    assert error.startswith("hosts, line 2: ")
    assert message in error


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as raised:
        parse_hosts("a:0\nb c\n", source="hosts")
    assert [message[:13] for message in raised.value.errors] == ["hosts, line 1", "hosts, line 2"]


def test_a_file_without_workers_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="names no worker"):
        parse_hosts("# nobody\n", source="hosts")
