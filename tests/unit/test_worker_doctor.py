"""The doctor is one file for old Pythons, reads sshfs's commands, and is nothing of a server."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sftp_gateway import worker_doctor
from sftp_gateway.worker_doctor import in_child, read_command, split_options
from tests.support.gateway import REPOSITORY, environment

FILE = REPOSITORY / "sftp_gateway/worker_doctor.py"


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


def test_it_is_python_3_8_with_nothing_but_its_library() -> None:
    tree = ast.parse(FILE.read_text(), feature_version=(3, 8))
    imported = {
        alias.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= sys.stdlib_module_names | {"__future__"}
    # What strings and mappings learnt later.
    assert not names(tree) & {"removeprefix", "removesuffix", "StrEnum", "batched", "UTC"}


def test_the_gateway_does_not_load_it() -> None:
    script = "import sys, sftp_gateway.cli; print('sftp_gateway.worker_doctor' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )
    assert ran.stdout == "False\n"


@pytest.mark.parametrize(
    ("words", "positional", "options"),
    [
        (
            "-f -p 2222 a@h:/x /mnt -o reconnect,ServerAliveInterval=15 -oIdentityFile=k",
            ["a@h:/x", "/mnt"],
            {"port": "2222", "reconnect": "", "serveraliveinterval": "15", "identityfile": "k"},
        ),
        ("-p2222 h: mnt -C -F cfg", ["h:", "mnt"], {"port": "2222", "-f": "cfg"}),
        ("h: /mnt -o", ["h:", "/mnt"], {}),
    ],
)
def test_commands_of_sshfs_are_read(
    words: str, positional: list[str], options: dict[str, str]
) -> None:
    assert read_command(words.split()) == (positional, options)


def test_a_comma_behind_a_backslash_is_in_the_value() -> None:
    assert split_options(r"Ciphers=a\,b,ro,allow_other") == {
        "ciphers": "a,b", "ro": "", "allow_other": "",
    }  # fmt: skip


def test_no_option_that_runs_a_program_is_taken_from_a_mount() -> None:
    assert not worker_doctor.SSH_OPTIONS & {
        "proxycommand", "localcommand", "knownhostscommand", "ssh_command", "pkcs11provider",
        "securitykeyprovider", "include", "proxyjump", "permitlocalcommand", "match",
    }  # fmt: skip


def test_what_a_child_finds_or_fails_with_comes_back() -> None:
    assert in_child(lambda: [1, "a" * 100_000], 10) == [1, "a" * 100_000]

    def fail() -> None:
        raise OSError(errno.ENOTCONN, "x")

    with pytest.raises(OSError, match="not connected") as raised:
        in_child(fail, 10)
    assert raised.value.errno == errno.ENOTCONN
    with pytest.raises(OSError, match="Input/output"):
        in_child(lambda: os._exit(1), 10)


def test_a_child_that_the_kernel_keeps_is_left_behind_and_holds_no_output(tmp_path: Path) -> None:
    end = tmp_path / "end"
    script = (
        "import os, time; from sftp_gateway.worker_doctor import in_child\n"
        "def touch():\n"
        f"    while not os.path.exists({str(end)!r}): time.sleep(0.05)\n"
        "os.kill = lambda *_: None\n"
        "try: in_child(touch, 0.1)\n"
        "except TimeoutError: print('left')\n"
    )
    try:
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment(), capture_output=True, timeout=30
        )
    finally:
        end.touch()
    assert ran.stdout == b"left\n"
