"""Every promise of docs/security.md has tests, and mutations prove them."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache

import pytest

from tests.support.promises import REPOSITORY, Mutation, Promise, mutations, promises

HOLDING_TESTS = {test for promise in promises() for test in promise.tests}


@cache
def functions_of(path: str) -> set[str]:
    return {
        node.name
        for node in ast.parse((REPOSITORY / path).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.id)
def test_every_promise_has_tests_that_exist(promise: Promise) -> None:
    assert promise.tests
    for test in promise.tests:
        path, _, name = test.partition("::")
        assert name in functions_of(path), f"tests/promises.toml: {promise.id}: no test {test}"


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.id)
def test_every_promise_has_a_mutation_or_a_reason(promise: Promise) -> None:
    proved = any({*mutation.tests} & {*promise.tests} for mutation in mutations())
    assert proved != bool(promise.unproved)


def test_every_promise_has_a_unique_id() -> None:
    assert len(promises()) > 20
    assert Counter(promise.id for promise in promises()).most_common(1)[0][1] == 1


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.without)
def test_every_mutation_applies(mutation: Mutation) -> None:
    for name, text in mutation.texts().items():
        assert name.startswith("sftp_gateway/")
        assert text != (REPOSITORY / name).read_text()
        if name.endswith(".py"):
            compile(text, name, "exec")  # invalid Python would fail any test


@pytest.mark.parametrize("mutation", mutations(), ids=lambda mutation: mutation.without)
def test_every_mutation_names_tests_of_promises(mutation: Mutation) -> None:
    assert mutation.tests
    for test in mutation.tests:
        assert test in HOLDING_TESTS, f"tests/mutations: {test} is not in tests/promises.toml"


def test_tests_that_the_page_names_exist() -> None:
    tests = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    page = (REPOSITORY / "docs/security.md").read_text()
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in tests, f"docs/security.md: there is no test {name}"
