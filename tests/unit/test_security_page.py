"""The table of promises in docs/security.md names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY

PAGE = (REPOSITORY / "docs/security.md").read_text()
TABLE = PAGE.partition("## Promises")[2].partition("\n## ")[0]
ROWS = [line.strip("|").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")][1:]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def functions_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("promise", "named"), [(row[0].strip(), row[1]) for row in ROWS])
def test_every_promise_names_a_test_and_every_named_test_exists(promise: str, named: str) -> None:
    tests = NAMED.findall(named)
    assert tests
    assert NAMED.sub("", named).strip(" ,|") == ""  # nothing but names
    for path, name in tests:
        assert name in functions_of(REPOSITORY / path)


def test_the_table_is_there() -> None:
    assert len(ROWS) > 20
