"""What a configuration takes away is told by name and number."""

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


def test_the_same_takes_nothing_away() -> None:
    assert removed_grants(BEFORE, BEFORE, {("gvpocr", "SHA256:a"): 3}).sentences() == []


def test_a_user_is_told_with_its_keys_and_sessions() -> None:
    after = without(shares={"ana": ("models", "letters")}, keys={"ana": {PASSWORD: ""}})
    sessions = {("gvpocr", "SHA256:a"): 2, ("gvpocr", "SHA256:b"): 1, ("ana", PASSWORD): 4}
    found = removed_grants(BEFORE, after, sessions)
    assert found.users == "gvpocr (2 keys, 3 sessions)"
    assert (found.keys, found.shares, found.sessions) == ("", "", 3)
    assert found.sentences() == [
        "users no longer served: gvpocr (2 keys, 3 sessions)",
        "live sessions that lose their login: 3",
    ]


def test_a_key_and_a_password_are_told_with_their_sessions() -> None:
    after = without(keys={"gvpocr": {"SHA256:b": ""}, "ana": {}})
    found = removed_grants(BEFORE, after, {("gvpocr", "SHA256:a"): 1, ("gvpocr", "SHA256:b"): 5})
    assert found.keys == "gvpocr SHA256:a worker7 (1 session), ana password (0 sessions)"
    assert found.sessions == 1


def test_an_authority_for_all_takes_the_sessions_of_everybody() -> None:
    before = without(keys={**BEFORE.keys, EVERYBODY: {"SHA256:ca": "ours"}})
    found = removed_grants(before, BEFORE, {("gvpocr", "SHA256:ca"): 1, ("ana", "SHA256:ca"): 2})
    assert (found.keys, found.sessions) == ("* SHA256:ca ours (3 sessions)", 3)


def test_a_share_is_told_with_those_who_lose_it_if_others_keep_it() -> None:
    after = without(shares={"gvpocr": ("models",), "ana": ("letters",)})
    found = removed_grants(BEFORE, after, {})
    assert found.shares == "letters (for gvpocr), models (for ana)"
    gone = without(shares={"gvpocr": ("models",), "ana": ("models",)})
    assert removed_grants(BEFORE, gone, {}).shares == "letters"


def test_many_names_are_counted() -> None:
    many = Grants(shares={f"u{n}": () for n in range(23)}, keys={})
    told = removed_grants(many, Grants(shares={}, keys={}), {}).users
    assert told.startswith("u0 (0 keys, 0 sessions), u1 ")
    assert told.endswith("u19 (0 keys, 0 sessions), and 3 more")


def test_it_goes_through_json() -> None:
    assert Grants.from_json(json.loads(json.dumps(BEFORE.as_json()))) == BEFORE


@pytest.mark.parametrize("told", [None, {}, {"shares": 1, "keys": 2}, {"shares": {}, "keys": []}])
def test_what_is_something_else_is_refused(told: object) -> None:
    with pytest.raises(ValueError, match="not grants"):
        Grants.from_json(told)
