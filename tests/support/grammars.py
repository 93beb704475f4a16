"""Grafana's grammar of LogQL and the Compose Specification's schema, which are npm packages.

They are installed once, by the lock file in tests/grammars.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
from typing import Any

from tests.support.gateway import REPOSITORY

_FOLDER = REPOSITORY / "tests/grammars"


def analyze(expressions: list[str]) -> list[dict[str, Any]]:
    """Names in LogQL expressions, and syntax errors: see analyze.mjs."""
    found: list[dict[str, Any]] = _run("analyze.mjs", expressions)
    return found


def compose_errors(content: Any) -> list[dict[str, Any]]:
    """Schema errors of a compose file: see compose.mjs."""
    found: list[dict[str, Any]] = _run("compose.mjs", content)
    return found


def _run(script: str, data: Any) -> Any:
    _install()
    done = subprocess.run(
        ["node", script], cwd=_FOLDER, input=json.dumps(data), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _install() -> None:
    stamp = _FOLDER / "node_modules/.installed-from"
    lock = (_FOLDER / "package-lock.json").read_text()
    with open(_FOLDER / "package.json") as turnstile:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == lock:
            return
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(command, cwd=_FOLDER, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        stamp.write_text(lock)
