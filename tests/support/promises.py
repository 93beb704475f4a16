"""The table of promises in docs/security.md, and the mutations that show what its tests are worth.

A mutation takes a check out of the product: in tests/mutations/*.toml,

    [[mutation]]
    without = "what is missing then"
    file = "sftp_gateway/..."
    old = "the text that does it, which occurs once"
    new = "the text without"
    tests = ["tests/...::test_..."]     # of the table; each of them has to fail

Where two checks hold one promise, the others are taken out with it: `[[mutation.also]]`, with
`file`, `old` and `new`. A promise that no mutation can break has an `[[exempt]]`, with `promise`,
as the table words it, and `why`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.gateway import REPOSITORY

MUTATIONS: Final = REPOSITORY / "tests/mutations"

#: A cell of the table has names and nothing else.
NAMED: Final = re.compile(r"`(tests/[\w/]+\.py::test_\w+)`")


@dataclass(frozen=True)
class Promise:
    """A row of the table."""

    text: str
    cell: str

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that hold it, as pytest takes them."""
        return tuple(NAMED.findall(self.cell))


@dataclass(frozen=True)
class Edit:
    """One place that a mutation changes."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """The product without a check, and the tests that have to notice."""

    without: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]

    def texts(self, repository: Path = REPOSITORY) -> dict[str, str]:
        """What the changed files are then. Raises ValueError where a text is not there once."""
        changed: dict[str, str] = {}
        for edit in self.edits:
            text = changed.get(edit.file) or (repository / edit.file).read_text()
            if text.count(edit.old) != 1:
                raise ValueError(f"{edit.file} has {text.count(edit.old)} times: {edit.old!r}")
            changed[edit.file] = text.replace(edit.old, edit.new)
        return changed


def promises() -> list[Promise]:
    """Every row of the table."""
    page = (REPOSITORY / "docs/security.md").read_text()
    table = page.partition("## Promises")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    cells = [line.strip("|").split(" | ") for line in lines]
    return [Promise(text.strip(), cell) for text, cell in cells]


def mutations() -> list[Mutation]:
    """Every mutation, file by file."""
    return [
        Mutation(
            without=each["without"],
            edits=tuple(_edit(place) for place in (each, *each.get("also", ()))),
            tests=tuple(each["tests"]),
        )
        for each in _entries("mutation")
    ]


def exemptions() -> dict[str, str]:
    """The promises that no mutation can break, and why that is."""
    return {each["promise"]: each["why"] for each in _entries("exempt")}


def _edit(place: Mapping[str, str]) -> Edit:
    return Edit(place["file"], place["old"], place["new"])


def _entries(kind: str) -> Iterator[Any]:
    for path in sorted(MUTATIONS.glob("*.toml")):
        yield from tomllib.loads(path.read_text()).get(kind, ())
