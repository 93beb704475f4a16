"""Unsafe names and invalid limits are rejected."""

from __future__ import annotations

import json

import pytest

from tests.unit.conftest import Errors, Load

# Names


@pytest.mark.parametrize("name", ["gvpocr", "_", "a", "A-b.c_9", "a" * 32])
def test_a_valid_user_name_is_accepted(load: Load, name: str) -> None:
    assert name in load(f"[users.{json.dumps(name)}]\n").users


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a/b", "..", ".a", "-a", "9a", "a" * 33, "a\nb", "a\n", "é", "a:b", "a\0"],
)
def test_an_unsafe_user_name_is_rejected(errors: Errors, name: str) -> None:
    (message,) = errors(f"[users.{json.dumps(name)}]\n")
    assert f"{name!r} is not a user name: give a letter" in message


@pytest.mark.parametrize(
    "name", ["models", ".cache/huggingface/hub", "a b", "एक", "a.b", "...", "a[b]", "x" * 255]
)
def test_a_valid_share_name_is_accepted(load: Load, name: str) -> None:
    assert name in load(f'[shares.{json.dumps(name)}]\npath = "x"\n').shares


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\nb", "a\x1bb", "x" * 256, "a\0"],
)
def test_a_share_name_must_be_a_relative_path(errors: Errors, name: str) -> None:
    (message,) = errors(f'[shares.{json.dumps(name)}]\npath = "x"\n')
    assert f"{name!r} is not a share name" in message


@pytest.mark.parametrize("option", ["path", "links"])
def test_an_error_in_a_share_names_the_share(errors: Errors, option: str) -> None:
    messages = errors('[shares."a[b]/c"]\nlinks = "no"\n')
    assert any(f": shares.a[b]/c.{option}: " in each for each in messages)


def test_a_user_cannot_be_granted_an_unknown_share(errors: Errors) -> None:
    (message,) = errors('[users.ana]\nshares = ["models", "modles"]\n')
    assert message.endswith(
        ":2:1: users.ana.shares: there is no share modles; did you mean models?"
    )


@pytest.mark.parametrize("shares", ["modles", "", "**"])
def test_the_shares_of_a_user_are_a_list_or_all(errors: Errors, shares: str) -> None:
    (message,) = errors(f"[users.ana]\nshares = {json.dumps(shares)}\n")
    assert ":2:1: users.ana.shares: " in message


def test_an_invalid_name_in_a_list_of_shares_is_reported(errors: Errors) -> None:
    (message,) = errors('[users.ana]\nshares = ["models", "a/../b"]\n')
    assert ":2:21: users.ana.shares: 'a/../b' is not a share name" in message


def test_a_user_may_have_no_shares(load: Load) -> None:
    assert load("[users.ana]\nshares = []\n").users["ana"].shares == ()


# Limits


@pytest.mark.parametrize("text", ["1:30:1", "10:30:100", "5", "1000000:100:1000000"])
def test_valid_startups_are_accepted(load: Load, text: str) -> None:
    assert load(SFTP_GATEWAY_MAX_STARTUPS=text).max_startups == text


@pytest.mark.parametrize(
    "text", ["0", "10:30", "10:0:20", "10:101:20", "20:30:10", "-1", "a", "1:1:1:1"]
)
def test_invalid_startups_are_rejected(errors: Errors, text: str) -> None:
    (message,) = errors(SFTP_GATEWAY_MAX_STARTUPS=text)
    assert message.startswith("SFTP_GATEWAY_MAX_STARTUPS: ")
    assert "start:rate:full" in message


@pytest.mark.parametrize("table", ["", "[users.ana]", "[penalties]"])
@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "example.org", "", "::ffff:192.0.2.1", "1.2.3.4/33"]
)
def test_an_invalid_network_is_rejected(errors: Errors, table: str, text: str) -> None:
    option = "exempt" if table == "[penalties]" else "allow_from"
    (message,) = errors(f"{table}\n{option} = {json.dumps([text])}\n")
    assert option in message
    assert "write" in message


def test_a_minimum_above_the_maximum_is_rejected(errors: Errors) -> None:
    (message,) = errors("[penalties]\nminimum = 700\n")
    assert "minimum is more than maximum" in message
