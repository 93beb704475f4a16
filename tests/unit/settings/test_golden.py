"""The exact wording of errors: where, what is wrong, what would be right."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.commands import Run, runs

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(unconfigured: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, in an empty folder."""
    return runs(capsys)


def check(name: str, message: str) -> None:
    """Compare with the golden file, which `GOLDEN=1` rewrites."""
    file = GOLDEN / name
    if os.environ.get("GOLDEN"):
        file.write_text(message)
    assert message == file.read_text()


@pytest.mark.parametrize("name", ["ten_errors", "forms", "tables", "secrets"])
def test_errors_in_a_file_match_the_golden_file(run: Run, unconfigured: Path, name: str) -> None:
    shutil.copy(GOLDEN / f"{name}.toml", unconfigured / "sftp-gateway.toml")
    ran = run("check", "--config", "sftp-gateway.toml")
    assert (ran.status, ran.out) == (2, "")
    assert all(line.startswith("error: sftp-gateway.toml:") for line in ran.err.splitlines())
    check(f"{name}.txt", ran.err)


def test_errors_in_the_environment_match_the_golden_file(
    run: Run, unconfigured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(GOLDEN / "environment.env", unconfigured / ".env")
    monkeypatch.setattr(os, "environ", {**os.environ, "SFTP_GATEWAY_MAX_HANDLES": "15"})
    check("environment.txt", run("check").err)


def test_ten_errors_are_ten_messages() -> None:
    assert len((GOLDEN / "ten_errors.txt").read_text().splitlines()) == 10


SYNTAX = {
    "no value": "port =\n",
    "text without quotes": "host = localhost\n",
    "a unit": "idle_timeout = 5m\n",
    "a network without quotes": "allow_from = 192.0.2.0/24\n",
    "capitals": "[access_log]\nstdout = True\n",
    "no equals sign": "[users.ana]\nshares: 5\n",
    "no end of a text": 'host = "localhost\n',
    "no end of a literal text": "host = 'localhost\n",
    "no end of a table's name": "[users\n",
    "no end of a list": 'allow_from = ["192.0.2.7",\n',
    "no end of an inline table": 'status = {token_file = "a"\n',
    "a backslash": 'keys_dir = "C:\\srv"\n',
    "an option twice": "# a\nport = 1\n\nport = 2\n",
    "a table twice": "[users.ana]\n[users.ben]\n[users.ana]\n",
    "two options on one line": "port = 1 host = 'a'\n",
    "a leading zero": "port = 022\n",
    "typographic quotes": "host = “localhost”\n",
    "a byte order mark": "\ufeffport = 1\n",
    "a secret": "[users.ana]\npassword_hash = hunter22\n",
}


def test_syntax_errors_match_the_golden_file(run: Run, unconfigured: Path) -> None:
    message = ""
    for kind, text in SYNTAX.items():
        (unconfigured / "a.toml").write_text(text)
        message += f"{kind}:\n{run('check', '--config', 'a.toml').err}"
    assert "hunter22" not in message
    check("syntax.txt", message)
