"""Names that could harm are refused, and limits that make no sense."""

from __future__ import annotations

import json

import pytest

from tests.unit.conftest import Errors, Load

# Names


@pytest.mark.parametrize("name", ["gvpocr", "_", "a", "A-b.c_9", "a" * 32])
def test_a_user_name_is_taken(load: Load, name: str) -> None:
    assert name in load(f"[users.{json.dumps(name)}]\n").users


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a/b", "..", ".a", "-a", "9a", "a" * 33, "a\nb", "a\n", "é", "a:b", "a\0"],
)
def test_a_user_name_that_could_harm_is_refused(errors: Errors, name: str) -> None:
    (said,) = errors(f"[users.{json.dumps(name)}]\n")
    assert f"{name!r} is not a user name: give a letter" in said


@pytest.mark.parametrize(
    "name", ["models", ".cache/huggingface/hub", "a b", "एक", "a.b", "...", "a[b]", "x" * 255]
)
def test_a_share_name_is_taken(load: Load, name: str) -> None:
    assert name in load(f'[shares.{json.dumps(name)}]\npath = "x"\n').shares


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\nb", "a\x1bb", "x" * 256, "a\0"],
)
def test_a_share_name_that_is_no_relative_path_is_refused(errors: Errors, name: str) -> None:
    (said,) = errors(f'[shares.{json.dumps(name)}]\npath = "x"\n')
    assert f"{name!r} is not a share name" in said


@pytest.mark.parametrize("option", ["path", "links"])
def test_a_mistake_in_a_share_has_the_shares_name(errors: Errors, option: str) -> None:
    said = errors('[shares."a[b]/c"]\nlinks = "no"\n')
    assert any(f": shares.a[b]/c.{option}: " in each for each in said)


def test_a_user_cannot_be_given_a_share_that_is_not_there(errors: Errors) -> None:
    (said,) = errors('[users.ana]\nshares = ["models", "modles"]\n')
    assert said.endswith(":2:1: users.ana.shares: there is no share modles; did you mean models?")


@pytest.mark.parametrize("shares", ["modles", "", "**"])
def test_the_shares_of_a_user_are_a_list_or_all(errors: Errors, shares: str) -> None:
    (said,) = errors(f"[users.ana]\nshares = {json.dumps(shares)}\n")
    assert ":2:1: users.ana.shares: " in said


def test_a_bad_name_in_a_list_of_shares_is_told_as_such(errors: Errors) -> None:
    (said,) = errors('[users.ana]\nshares = ["models", "a/../b"]\n')
    assert ":2:21: users.ana.shares: 'a/../b' is not a share name" in said


def test_a_user_may_have_no_shares(load: Load) -> None:
    assert load("[users.ana]\nshares = []\n").users["ana"].shares == ()


# Limits


@pytest.mark.parametrize("text", ["1:30:1", "10:30:100", "5", "1000000:100:1000000"])
def test_startups_are_taken(load: Load, text: str) -> None:
    assert load(SFTP_GATEWAY_MAX_STARTUPS=text).max_startups == text


@pytest.mark.parametrize(
    "text", ["0", "10:30", "10:0:20", "10:101:20", "20:30:10", "-1", "a", "1:1:1:1"]
)
def test_startups_that_make_no_sense_are_refused(errors: Errors, text: str) -> None:
    (said,) = errors(SFTP_GATEWAY_MAX_STARTUPS=text)
    assert said.startswith("SFTP_GATEWAY_MAX_STARTUPS: ")
    assert "start:rate:full" in said


@pytest.mark.parametrize("table", ["", "[users.ana]", "[penalties]"])
@pytest.mark.parametrize(
    "text", ["192.0.2.1/24", "example.org", "", "::ffff:192.0.2.1", "1.2.3.4/33"]
)
def test_what_is_no_network_is_refused(errors: Errors, table: str, text: str) -> None:
    option = "exempt" if table == "[penalties]" else "allow_from"
    (said,) = errors(f"{table}\n{option} = {json.dumps([text])}\n")
    assert option in said
    assert "write" in said


def test_a_minimum_over_the_maximum_is_refused(errors: Errors) -> None:
    (said,) = errors("[penalties]\nminimum = 700\n")
    assert "minimum is more than maximum" in said
