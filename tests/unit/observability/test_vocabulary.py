from enum import StrEnum

from sftp_gateway.observability.vocabulary import OTHER, known


def test_an_unknown_word_becomes_other():
    assert known("read", {"read"}) == "read"
    assert known("READ", {"read"}) == OTHER
    assert known("", {"read"}) == OTHER


def test_members_of_an_enumeration_are_words():
    class Reason(StrEnum):
        EXPIRED = "key_expired"

    assert known(Reason.EXPIRED, {"key_expired"}) == "key_expired"
    assert known("key_expired", frozenset(Reason)) == "key_expired"
    assert type(known(Reason.EXPIRED, frozenset(Reason))) is str
