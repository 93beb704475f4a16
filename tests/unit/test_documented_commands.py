"""Commands in the documentation exist, with their options."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.commands.main import build_parser
from tests.support.gateway import REPOSITORY

PAGES = (
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / name for name in ("README.md", "keys/README.md", "config/README.md")),
)

#: The program itself, or a service of the compose file that runs it.
PROGRAM = re.compile(
    r"(?:^|[\s/`])(?:sftp-gateway|docker-compose run (?:-\S+ (?:\"[^\"]*\" )?)*init"
    r"|docker run (?:-\S+ )*sftp-gateway)[ ]+(?=[a-z-])"
)
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")

#: The end of a command: another program or a file follows.
END = re.compile(r" [|<>#]|&&|;|\$\(|[|]")

#: Placeholders in the documentation.
MEANT = {"N": "1", "WHEN": "now", "STEP": "prepare"}


def commands(page: Path) -> Iterator[tuple[str, bool]]:
    """The arguments of each documented command, and whether it is to be pasted."""
    text = page.read_text().replace("\\\n", " ")
    for language, block in FENCED.findall(text):
        for line in block.splitlines() if language in ("sh", "console") else ():
            yield from ((arguments, True) for arguments in _in(line))
    for piece in INLINE.findall(FENCED.sub("", text)):
        yield from ((arguments, False) for arguments in _in(" ".join(piece.split())))


def _in(line: str) -> Iterator[str]:
    for match in PROGRAM.finditer(line):
        rest = line[match.end() :].removeprefix("sftp-gateway ")
        if rest != "sftp-gateway":  # the service's name, at the end of docker-compose's command
            yield END.split(rest, maxsplit=1)[0].strip()


FOUND = sorted(
    {(page.relative_to(REPOSITORY), *found) for page in PAGES for found in commands(page)}
)


def parses(arguments: list[str]) -> None:
    """Parse a command; raises for an invalid one."""
    if arguments[:1] == ["doctor"] and {"--worker", "--mount"} & {*arguments}:
        doctor = REPOSITORY / "sftp_gateway/worker_kit/files/sshfs-doctor"
        subprocess.run(["sh", doctor, *arguments[1:], "--help"], check=True, capture_output=True)
    else:
        build_parser().parse_args(arguments)


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(found.choices)


@pytest.mark.parametrize(("page", "text"), [(page, text) for page, text, paste in FOUND if paste])
def test_documented_commands_to_paste_are_valid(page: Path, text: str) -> None:
    arguments = [MEANT.get(word, word) for word in shlex.split(text, comments=True)]
    parses(arguments)


@pytest.mark.parametrize(
    ("page", "text"), [(page, text) for page, text, paste in FOUND if not paste]
)
def test_documented_command_names_exist(page: Path, text: str) -> None:
    words = [MEANT.get(word, word) for word in shlex.split(text)]
    known = choices(build_parser())
    assert words[0] in known or words[0].startswith("--")
    if len(words) > 1 and words[0] not in ("doctor", "keys"):
        parses(words)
    elif len(words) > 1 and words[0] == "keys":
        assert words[1] in choices(known["keys"])


def test_documented_commands_are_found() -> None:
    assert len(FOUND) > 30
    pages = {str(page) for page, _, _ in FOUND}
    assert {"README.md", "keys/README.md", "docs/operations.md"} <= pages
    assert "docs/migrate-from-openssh.md" in pages
    texts = {text for _, text, _ in FOUND}
    assert "keys rotate gvpocr worker7 worker7_new" in texts
    assert "import-host-key /old/ssh" in texts
    assert "hash-password" in texts
