"""The doctor is one file for old Pythons, and is nothing of a server."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from sftp_gateway.worker_doctor.one_file import one_file
from tests.support.gateway import REPOSITORY, environment

MODULES = sorted((REPOSITORY / "sftp_gateway/worker_doctor").glob("*.py"))
CARRIED = {path.name for path in MODULES} - {"one_file.py"}


def names(tree: ast.AST) -> set[str]:
    """Everything that is imported, called or looked up."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.parametrize(
    "path", [REPOSITORY / "sftp_gateway/__init__.py", *MODULES], ids=lambda path: path.name
)
def test_it_is_python_3_8_with_nothing_but_its_library(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    own = {f"sftp_gateway.worker_doctor.{Path(name).stem}" for name in CARRIED}
    assert imported <= sys.stdlib_module_names | {"__future__"} | own
    # What strings and mappings learnt later.
    assert not names(tree) & {"removeprefix", "removesuffix", "StrEnum", "batched", "UTC"}


def test_the_one_file_has_every_module_as_it_is() -> None:
    with zipfile.ZipFile(BytesIO(one_file())) as archive:
        inside = {name: archive.read(name) for name in archive.namelist()}
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
    expected = {f"sftp_gateway/worker_doctor/{name}" for name in CARRIED}
    assert inside.keys() == expected | {"__main__.py", "sftp_gateway/__init__.py"}
    for name, content in inside.items():
        at = "sftp_gateway/worker_doctor/__main__.py" if name == "__main__.py" else name
        assert content == (REPOSITORY / at).read_bytes()


def test_the_documented_command_makes_the_same_file_whenever_it_is_made(tmp_path: Path) -> None:
    command = "python3 -m sftp_gateway.worker_doctor.one_file"
    assert command in (REPOSITORY / "docs/operations.md").read_text()
    copy = tmp_path / "sftp_gateway"
    (copy / "worker_doctor").mkdir(parents=True)
    for path in [REPOSITORY / "sftp_gateway/__init__.py", *MODULES]:
        to = tmp_path / path.relative_to(REPOSITORY)
        to.write_bytes(path.read_bytes())
        os.utime(to, (1_000_000_000, 1_000_000_000))
    made = subprocess.run(
        [sys.executable, *command.split()[1:]], cwd=tmp_path, capture_output=True, check=True
    )
    assert made.stdout == one_file()


def test_the_gateway_does_not_load_what_starts_processes() -> None:
    script = (
        "import sys, sftp_gateway.cli\n"
        "print([name for name in sys.modules if name.startswith('sftp_gateway.worker_doctor')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert ran.stdout == ("['sftp_gateway.worker_doctor', 'sftp_gateway.worker_doctor.one_file']\n")
