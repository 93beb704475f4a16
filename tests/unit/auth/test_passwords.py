from __future__ import annotations

import pytest
from argon2 import PasswordHasher, low_level

from sftp_gateway.auth.passwords import (
    DEFAULT_COST,
    HashCost,
    PasswordVerifier,
    check_hash,
    hash_password,
)

PASSWORD = "correct horse \u092d\u093e\u0930\u0924"
SALT, DIGEST = "c2FsdHNhbHRzYWx0c2FsdA", "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE"


def cheap_hash(password: str | bytes, *, memory: int = 64, passes: int = 1) -> str:
    secret = password if isinstance(password, bytes) else password.encode()
    return low_level.hash_secret(
        secret, b"saltsalt", passes, memory, 1, 32, low_level.Type.ID
    ).decode()


def phc(parameters: str = "m=32768,t=2,p=1", *, salt: str = SALT, digest: str = DIGEST) -> str:
    return f"$argon2id$v=19${parameters}${salt}${digest}"


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[HashCost]:
    """The cost of each argon2 verification, which is still performed."""
    seen: list[HashCost] = []
    verify_secret = low_level.verify_secret

    def spy(password_hash: bytes, secret: bytes, type: low_level.Type) -> bool:
        seen.append(check_hash(password_hash.decode()))
        return verify_secret(password_hash, secret, type)

    monkeypatch.setattr(low_level, "verify_secret", spy)
    return seen


def test_a_password_matches_its_own_hash_only() -> None:
    password_hash = hash_password(PASSWORD)
    verifier = PasswordVerifier([password_hash])
    assert verifier.verify(password_hash, PASSWORD)
    assert not verifier.verify(password_hash, PASSWORD + " ")
    assert check_hash(password_hash) == DEFAULT_COST


def test_argon2_cffi_verifies_the_hash() -> None:
    assert PasswordHasher().verify(hash_password(PASSWORD), PASSWORD)


def test_two_hashes_of_one_password_differ() -> None:
    assert hash_password(PASSWORD) != hash_password(PASSWORD)


def test_the_default_cost_suits_a_server() -> None:
    assert 19 * 1024 <= DEFAULT_COST.memory_kib <= 64 * 1024


@pytest.mark.parametrize("password", ["", "x" * 1025, "\u20ac" * 342])
def test_an_unusable_password_is_not_hashed(password: str) -> None:
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        hash_password(password)


def test_a_password_has_at_most_1024_bytes() -> None:
    longest = "x" * 1024
    assert PasswordVerifier().verify(cheap_hash(longest), longest)
    assert not PasswordVerifier().verify(cheap_hash(longest + "x"), longest + "x")


def test_an_empty_password_never_matches() -> None:
    assert not PasswordVerifier().verify(cheap_hash(""), "")


def test_every_check_costs_the_same(costs: list[HashCost]) -> None:
    password_hash = cheap_hash(PASSWORD, memory=256, passes=3)
    verifier = PasswordVerifier([password_hash, cheap_hash("other", memory=128)])
    answers = [
        verifier.verify(password_hash, PASSWORD),
        verifier.verify(password_hash, "wrong"),
        verifier.verify(password_hash, ""),
        verifier.verify(password_hash, "x" * 100_000),
        verifier.verify(None, PASSWORD),
        verifier.verify(None, "x" * 100_000),
        verifier.verify("not a hash", PASSWORD),
    ]
    assert answers == [True] + [False] * 6
    assert costs == [HashCost(memory_kib=256, passes=3, lanes=1)] * 7


def test_a_check_without_hashes_costs_as_much_as_a_new_hash(costs: list[HashCost]) -> None:
    assert not PasswordVerifier().verify(None, PASSWORD)
    assert costs == [DEFAULT_COST]


@pytest.mark.parametrize("password", ["\ud800", "\x00", "a\x00b", "\U0010ffff" * 300, " "])
def test_a_check_never_raises(password: str) -> None:
    verifier = PasswordVerifier([cheap_hash(PASSWORD)])
    assert not verifier.verify(cheap_hash(PASSWORD), password)
    assert not verifier.verify(None, password)


def test_bytes_after_a_nul_are_significant() -> None:
    assert not PasswordVerifier().verify(cheap_hash("a\x00b"), "a\x00c")
    assert PasswordVerifier().verify(cheap_hash("a\x00b"), "a\x00b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuuAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        phc().replace("argon2id", "argon2i"),
        phc().replace("argon2id", "argon2d"),
        phc().replace("v=19", "v=16"),
        phc() + "\n",
        " " + phc(),
        phc(salt="c2Fs"),
        phc(digest="YWFh"),
        phc(salt=SALT[:-1]),
        phc(salt=SALT[:-1] + "R"),
        phc(digest=DIGEST + "="),
        phc("m=32768,t=2"),
        phc("t=2,m=32768,p=1"),
        phc("m=-1,t=2,p=1"),
        phc("m=32768,t=0,p=1"),
        phc("m=1048577,t=1,p=1"),
        phc("m=99999999999,t=1,p=1"),
        phc("m=4294967296,t=1,p=1"),
        phc("m=8,t=1,p=2"),
        phc("m=1048576,t=5,p=1"),
        phc("m=8,t=4294967295,p=1"),
        phc("m=32768,t=2,p=17"),
    ],
)
def test_an_invalid_or_excessive_argon2id_hash_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="sftp-gateway hash-password") as raised:
        check_hash(text)
    assert not text or text not in str(raised.value)
    with pytest.raises(ValueError, match="sftp-gateway hash-password"):
        PasswordVerifier([text])
    assert not PasswordVerifier([cheap_hash("x")]).verify(text, PASSWORD)


def test_a_hash_with_other_reasonable_parameters_is_accepted() -> None:
    expected = HashCost(memory_kib=1048576, passes=4, lanes=16)
    assert check_hash(phc("m=1048576,t=4,p=16")) == expected
