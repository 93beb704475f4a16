from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Keygen = Callable[..., str]


@pytest.fixture
def keygen(tmp_path: Path) -> Keygen:
    """Makes a key with ssh-keygen and returns its public line."""

    def make(*arguments: str, comment: str = "worker@example") -> str:
        path = tmp_path / f"key{len(list(tmp_path.iterdir()))}"
        command = ["ssh-keygen", "-q", "-N", "", "-C", comment, "-f", str(path), *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return path.with_name(path.name + ".pub").read_text().rstrip("\n")

    return make


@pytest.fixture
def listed(tmp_path: Path) -> Callable[[str], list[str]]:
    """The fields of `ssh-keygen -l` for a public line: bits, fingerprint, comment, type."""

    def run(line: str) -> list[str]:
        path = tmp_path / "listed.pub"
        path.write_text(line + "\n")
        command = ["ssh-keygen", "-l", "-f", str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    return run
