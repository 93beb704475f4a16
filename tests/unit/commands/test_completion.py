"""Tab completion, as requested by the shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Run, runs
from tests.support.gateway import environment

BASH = r"""
eval "$(sftp-gateway completion bash)"
COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ $1 != *" " ]] || { COMP_WORDS+=(""); COMP_CWORD=$((COMP_CWORD + 1)); }
_python_argcomplete sftp-gateway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
FISH = """
sftp-gateway completion fish | source
complete --do-complete $argv[1]
"""


@pytest.fixture
def folder(unconfigured: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    (unconfigured / "config").mkdir(exist_ok=True)
    (unconfigured / "config/sftp-gateway.toml").write_text(
        "[users.ana]\nshares = ['letters']\n[shares.letters]\npath = 'letters'\n"
    )
    (unconfigured / "letters").mkdir()
    assert runs(capsys)("init").status == 0
    return unconfigured


def completed(shell: list[str], line: str, cwd: Path) -> set[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        [*shell, line], cwd=cwd, env=environment(PATH=path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {word.split("\t")[0].strip() for word in done.stdout.splitlines()} - {""}


CASES = [
    ("sftp-gateway ke", {"keys"}),
    ("sftp-gateway keys r", {"remove", "rotate", "rotate-host"}),
    ("sftp-gateway logs --fo", {"--follow"}),
    ("sftp-gateway logs --share ", {"models", "letters"}),
    ("sftp-gateway keys list --js", {"--json"}),
    ("sftp-gateway keys add ", {"gvpocr", "ana"}),
]


@pytest.mark.parametrize(("line", "words"), CASES)
def test_bash_completes(folder: Path, line: str, words: set[str]) -> None:
    assert words <= completed(["bash", "-c", BASH, "bash"], line, folder)


def test_bash_completes_a_label(folder: Path) -> None:
    words = completed(["bash", "-c", BASH, "bash"], "sftp-gateway keys remove gvpocr ", folder)
    assert any("worker" in word for word in words)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(folder: Path) -> None:
    assert {"remove", "rotate"} <= completed(["fish", "-c", FISH], "sftp-gateway keys r", folder)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(run: Run, shell: str) -> None:
    ran = run("completion", shell)
    assert (ran.status, ran.err) == (0, "")
    assert "sftp-gateway" in ran.out


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runs(capsys)
