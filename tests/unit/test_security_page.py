"""The table of promises in docs/security.md names tests that there are; mutations prove them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY
from tests.support.promises import NAMED, Mutation, Promise, exemptions, mutations, promises

NAMED_TESTS = {test for promise in promises() for test in promise.tests}


def functions_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.text)
def test_every_promise_names_a_test_and_every_named_test_exists(promise: Promise) -> None:
    assert promise.tests
    assert NAMED.sub("", promise.cell).strip(" ,|") == ""  # nothing but names
    for test in promise.tests:
        path, _, name = test.partition("::")
        assert name in functions_of(REPOSITORY / path)


def test_the_table_is_there() -> None:
    assert len(promises()) > 20


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.without)
def test_every_mutation_still_finds_what_it_changes(mutation: Mutation) -> None:
    for name, text in mutation.texts().items():
        assert name.startswith("sftp_gateway/")
        assert text != (REPOSITORY / name).read_text()
        if name.endswith(".py"):
            compile(text, name, "exec")  # one that is no Python would fail any test


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.without)
def test_every_mutation_is_for_tests_of_the_table(mutation: Mutation) -> None:
    assert mutation.tests
    assert set(mutation.tests) <= NAMED_TESTS


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.text)
def test_every_promise_has_a_mutation_or_a_reason_why_it_has_none(promise: Promise) -> None:
    proved = any(set(mutation.tests) & set(promise.tests) for mutation in mutations())
    assert proved != (promise.text in exemptions())


def test_what_is_excused_is_a_promise() -> None:
    assert exemptions().keys() <= {promise.text for promise in promises()}
    assert all(exemptions().values())
