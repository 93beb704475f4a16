from enum import StrEnum

from sftp_gateway.observability.vocabulary import OTHER, known


def test_a_known_word_is_itself_and_any_other_is_other():
    assert known("read", {"read"}) == "read"
    assert known("READ", {"read"}) == OTHER
    assert known("", {"read"}) == OTHER


def test_members_of_an_enumeration_of_words_are_words():
    class Reason(StrEnum):
        EXPIRED = "key_expired"

    assert known(Reason.EXPIRED, {"key_expired"}) == "key_expired"
    assert known("key_expired", frozenset(Reason)) == "key_expired"
    assert type(known(Reason.EXPIRED, frozenset(Reason))) is str
