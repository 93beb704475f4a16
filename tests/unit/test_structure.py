"""Imports within the product have no cycles, even for type checking."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sftp_gateway

PACKAGE = Path(sftp_gateway.__file__).parent


def modules(package: Path) -> Mapping[str, Path]:
    """The file of each module, by its dotted name."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, known: Set[str]) -> set[str]:
    """The modules among `known` that a source file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= submodules
            if len(submodules) < len(node.names):
                found.add(node.module)
    return found & known


def test_no_module_is_in_an_import_cycle() -> None:
    files = modules(PACKAGE)
    graph = {name: imports(path.read_text(), files.keys()) - {name} for name, path in files.items()}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()


def test_imports_for_type_checking_are_included() -> None:
    sources = {
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from b import B",
        "b": "import a",
    }
    graph = {name: imports(source, sources.keys()) for name, source in sources.items()}
    with pytest.raises(CycleError):
        TopologicalSorter(graph).prepare()
