"""Commands and options of sshfs are read as sshfs reads them."""

from __future__ import annotations

import pytest

from sftp_gateway.worker_doctor.sshfs import read_command, split_options
from sftp_gateway.worker_doctor.target import SSH_OPTIONS


@pytest.mark.parametrize(
    ("words", "positional", "options"),
    [
        (
            "-f -p 2222 a@h:/x /mnt -o reconnect,ServerAliveInterval=15 -oIdentityFile=k",
            ["a@h:/x", "/mnt"],
            {"port": "2222", "reconnect": "", "serveraliveinterval": "15", "identityfile": "k"},
        ),
        ("-p2222 h: mnt -C -F cfg", ["h:", "mnt"], {"port": "2222", "-F": "cfg"}),
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
    assert not SSH_OPTIONS & {
        "proxycommand", "localcommand", "knownhostscommand", "ssh_command", "pkcs11provider",
        "securitykeyprovider", "include", "proxyjump", "permitlocalcommand", "match",
    }  # fmt: skip
