"""Answers what is not SFTP: `echo WORDS` with its words, everything else with a refusal.

Nothing is ever executed. The `echo` is there because the workers' old set-up script runs
`ssh … "echo 'SSH connection successful'"` first, and gives up unless it exits 0.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

#: What is told to whoever asks for a command or a shell.
REFUSAL: Final = (
    "sftp-gateway: only SFTP is served here (sshfs, sftp, rclone, scp without -O); "
    "no commands, no shell, no forwarding.\n"
)
_MAX_COMMAND: Final = 4096

#: `echo` and words, quoted or not, without anything that a shell would expand, run or redirect:
#: printing that as it stands would not be what the shell does, so it is not answered. Nor is a
#: backslash, even in single quotes: some shells' echo reads it as an escape, others' does not.
_ECHO: Final = re.compile(
    r"""\ *echo(?:\ +(?:'[^'\\]*'|"[^"$`\\]*"|[^\ '"$`\\;|&<>(){}*?\[\]~\#])+)*\ *""", re.VERBOSE
)


def answer(command: str) -> str | None:
    """What `echo WORDS` prints, with its newline; None for any other command."""
    if len(command) > _MAX_COMMAND or not command.isprintable() or not _ECHO.fullmatch(command):
        return None
    words = shlex.split(command)[1:]
    if words and words[0].startswith("-"):
        return None  # options: every shell's echo has its own
    return " ".join(words) + "\n"
