"""Each fuzz target passes its corpus and some thousands of new inputs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import TARGETS
from tests.support.gateway import REPOSITORY

CORPUS = REPOSITORY / "fuzz/corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_passes_its_corpus(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())


@pytest.mark.skipif(
    sys.version_info < (3, 13) and importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed",
)
@pytest.mark.parametrize("name", TARGETS if sys.version_info < (3, 13) else [])
def test_a_target_passes_new_inputs(name: str, tmp_path: Path) -> None:
    fuzzed = subprocess.run(
        [
            sys.executable, "-m", "fuzz", name, "-runs=5000", "-seed=1", "-rss_limit_mb=1024",
            str(tmp_path), str(CORPUS / name),
        ],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=150,
    )  # fmt: skip
    assert fuzzed.returncode == 0, fuzzed.stderr[-3000:].decode(errors="replace")
