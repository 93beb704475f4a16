"""Grafana starts without a well-known password."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.gateway import REPOSITORY


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Replaces the image's entrypoint and prints the password it gets."""
    script = tmp_path / "run.sh"
    script.write_text('#!/bin/sh\necho "password=$GF_SECURITY_ADMIN_PASSWORD arguments=$*"\n')
    script.chmod(0o755)
    return script


def _start(run: Path, password: str = "", *arguments: str) -> str:
    done = subprocess.run(
        ["/bin/sh", REPOSITORY / "monitoring/grafana/start", *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "GF_PATHS_DATA": str(run.parent),
            "GRAFANA_RUN": str(run),
            "GF_SECURITY_ADMIN_PASSWORD": password,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_password_is_generated_once_and_not_printed(run: Path) -> None:
    output, again = _start(run), _start(run)
    file = run.parent / "admin-password"
    password = file.read_text().strip()
    assert len(password) >= 24
    assert file.stat().st_mode & 0o777 == 0o600
    for printed in (output, again):
        hint, started = printed.splitlines()
        assert f"exec grafana cat {file}" in hint
        assert password not in hint
        assert started == f"password={password} arguments="


def test_every_installation_has_its_own_password(run: Path) -> None:
    first = _start(run)
    (run.parent / "admin-password").unlink()
    assert _start(run) != first


def test_a_given_password_and_arguments_are_used(run: Path) -> None:
    assert _start(run, "given", "--a", "b") == "password=given arguments=--a b\n"
    assert not (run.parent / "admin-password").exists()
