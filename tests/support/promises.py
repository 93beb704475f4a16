"""The promises of tests/promises.toml, and the mutations that prove their tests.

A mutation removes a check from the product. In tests/mutations/*.toml:

    [[mutation]]
    without = "the check that is missing then"
    file = "sftp_gateway/..."
    old = "the text of the check, which occurs once"
    new = "the text without it"
    tests = ["tests/...::test_..."]     # of a promise; each of them has to fail

If several checks hold one promise, `[[mutation.also]]` removes the others with it; it has `file`,
`old` and `new`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
PROMISES: Final = REPOSITORY / "tests/promises.toml"
MUTATIONS: Final = REPOSITORY / "tests/mutations"

_APPENDIX: Final = """\
# Security tests

<!-- Written by scripts/generate from tests/promises.toml and tests/mutations; change it there. -->

Each [promise](security.md#promises) with the tests that hold it. A mutation removes the check
behind a promise from a copy of the gateway; the tests must then fail. `scripts/mutate` runs all.
"""


@dataclass(frozen=True)
class Promise:
    """What the gateway promises, and the tests that hold it, as pytest takes them."""

    id: str
    section: str
    how: str
    text: str
    tests: tuple[str, ...]
    unproved: str | None


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
        """The changed files' texts. Raises ValueError if an edit's `old` does not occur once."""
        changed: dict[str, str] = {}
        for edit in self.edits:
            text = changed.get(edit.file) or (repository / edit.file).read_text()
            if text.count(edit.old) != 1:
                raise ValueError(f"{edit.file} has {text.count(edit.old)} times: {edit.old!r}")
            changed[edit.file] = text.replace(edit.old, edit.new)
        return changed


@cache
def promises() -> tuple[Promise, ...]:
    """Every promise, in the order of the page."""
    return tuple(
        Promise(
            id=each["id"],
            section=section["title"],
            how=section["how"],
            text=each["text"],
            tests=tuple(each["tests"]),
            unproved=each.get("unproved"),
        )
        for section in tomllib.loads(PROMISES.read_text())["section"]
        for each in section["promise"]
    )


@cache
def mutations() -> tuple[Mutation, ...]:
    """Every mutation, file by file."""
    return tuple(
        Mutation(
            without=each["without"],
            edits=tuple(_edit(place) for place in (each, *each.get("also", ()))),
            tests=tuple(each["tests"]),
        )
        for path in sorted(MUTATIONS.glob("*.toml"))
        for each in tomllib.loads(path.read_text())["mutation"]
    )


def _edit(place: Mapping[str, Any]) -> Edit:
    return Edit(place["file"], place["old"], place["new"])


def promise_list() -> str:
    """The promises as docs/security.md lists them."""
    return "\n".join(_promise_list())


def _promise_list() -> Iterator[str]:
    for section, found in _sections():
        yield f"\n### {section}\n\n{found[0].how}\n"
        for promise in found:
            yield f"- {promise.text}. ([tests](security-tests.md#{promise.id}))"
    yield ""


def appendix() -> str:
    """docs/security-tests.md: the tests and mutations of each promise."""
    return "\n".join([_APPENDIX, *_appendix()])


def _appendix() -> Iterator[str]:
    for section, found in _sections():
        yield f"## {section}\n"
        for promise in found:
            yield from _proofs(promise)


def _proofs(promise: Promise) -> Iterator[str]:
    yield f"### {promise.id}\n\n{promise.text}.\n"
    yield from (f"- `{test}`" for test in promise.tests)
    proofs = [each.without for each in mutations() if {*each.tests} & {*promise.tests}]
    if proofs:
        yield "\nThese tests notice the gateway without:\n"
        yield from (f"- {without}" for without in proofs)
    elif promise.unproved:
        yield f"\nNo mutation: {promise.unproved}"
    yield ""


def _sections() -> Iterator[tuple[str, list[Promise]]]:
    for section, found in groupby(promises(), key=attrgetter("section")):
        yield section, list(found)
