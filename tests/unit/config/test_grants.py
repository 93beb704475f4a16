"""Removed grants are listed by name and number."""

from __future__ import annotations

import json

import pytest

from sftp_gateway.config.grants import EVERYBODY, PASSWORD, Grants, removed_grants

BEFORE = Grants(
    shares={"gvpocr": ("models", "letters"), "ana": ("models", "letters")},
    keys={"gvpocr": {"SHA256:a": "worker7", "SHA256:b": ""}, "ana": {PASSWORD: ""}, EVERYBODY: {}},
)


def without(**changed: object) -> Grants:
    return Grants(
        **{"shares": BEFORE.shares, "keys": BEFORE.keys, **changed}  # type: ignore[arg-type]
    )


def test_unchanged_grants_remove_nothing() -> None:
    assert removed_grants(BEFORE, BEFORE, {("gvpocr", "SHA256:a"): 3}).sentences() == []


def test_a_removed_user_is_listed_with_keys_and_sessions() -> None:
    after = without(shares={"ana": ("models", "letters")}, keys={"ana": {PASSWORD: ""}})
    sessions = {("gvpocr", "SHA256:a"): 2, ("gvpocr", "SHA256:b"): 1, ("ana", PASSWORD): 4}
    found = removed_grants(BEFORE, after, sessions)
    assert found.users == "gvpocr (2 keys, 3 sessions)"
    assert (found.keys, found.shares, found.sessions) == ("", "", 3)
    assert found.sentences() == [
        "users no longer served: gvpocr (2 keys, 3 sessions)",
        "live sessions that lose their login: 3",
    ]


def test_removed_credentials_are_listed_with_their_sessions() -> None:
    after = without(keys={"gvpocr": {"SHA256:b": ""}, "ana": {}})
    found = removed_grants(BEFORE, after, {("gvpocr", "SHA256:a"): 1, ("gvpocr", "SHA256:b"): 5})
    assert found.keys == "gvpocr SHA256:a worker7 (1 session), ana password (0 sessions)"
    assert found.sessions == 1


def test_removing_a_global_authority_ends_all_its_sessions() -> None:
    before = without(keys={**BEFORE.keys, EVERYBODY: {"SHA256:ca": "ours"}})
    found = removed_grants(before, BEFORE, {("gvpocr", "SHA256:ca"): 1, ("ana", "SHA256:ca"): 2})
    assert (found.keys, found.sessions) == ("* SHA256:ca ours (3 sessions)", 3)


def test_a_partly_removed_share_is_listed_with_its_losers() -> None:
    after = without(shares={"gvpocr": ("models",), "ana": ("letters",)})
    found = removed_grants(BEFORE, after, {})
    assert found.shares == "letters (for gvpocr), models (for ana)"
    gone = without(shares={"gvpocr": ("models",), "ana": ("models",)})
    assert removed_grants(BEFORE, gone, {}).shares == "letters"


def test_many_names_are_counted() -> None:
    many = Grants(shares={f"u{n}": () for n in range(23)}, keys={})
    value = removed_grants(many, Grants(shares={}, keys={}), {}).users
    assert value.startswith("u0 (0 keys, 0 sessions), u1 ")
    assert value.endswith("u19 (0 keys, 0 sessions), and 3 more")


def test_grants_round_trip_through_json() -> None:
    assert Grants.from_json(json.loads(json.dumps(BEFORE.as_json()))) == BEFORE


@pytest.mark.parametrize("value", [None, {}, {"shares": 1, "keys": 2}, {"shares": {}, "keys": []}])
def test_json_that_is_not_grants_is_rejected(value: object) -> None:
    with pytest.raises(ValueError, match="not grants"):
        Grants.from_json(value)
