"""The positions of tables and options in a TOML document, which tomllib does not provide."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, TypeAlias

#: Keys from the top, and the indices of arrays, as they lead through what tomllib makes of a file.
Path: TypeAlias = tuple[str | int, ...]

_SPACE: Final = re.compile(r"[ \t]*")
_SPACE_AND_COMMENTS: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY: Final = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
# A multi-line string may end in two more quotation marks, which belong to it.
_SCALAR: Final = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?!")|\'\'\'.*?\'\'\'(?!\')|"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}#\n]+''',
    re.DOTALL,
)


def positions(text: str) -> dict[Path, tuple[int, int]]:
    """Line and column, from 1, of each key and each item of an array.

    `text` has to be valid TOML with line feeds only, as tomllib has it once it has read a file.
    """
    found = _Scanner(text).document()
    lines = [0, *(match.end() for match in re.finditer("\n", text))]
    placed = {}
    for path, offset in found.items():
        line = bisect_right(lines, offset)
        placed[path] = (line, offset - lines[line - 1] + 1)
    return placed


class _Scanner:
    """Goes through a valid document once; `found` has the offset of each path's first mention."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._arrays: dict[Path, int] = {}
        self.found: dict[Path, int] = {}

    def document(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_SPACE_AND_COMMENTS)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_SPACE_AND_COMMENTS)
        return self.found

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("this is not valid TOML")
        self._at = match.end()
        return match[0]

    def _take(self, wanted: str) -> bool:
        """Whether `wanted` is next, which is then passed over."""
        if not self._text.startswith(wanted, self._at):
            return False
        self._at += len(wanted)
        return True

    def _header(self) -> Path:
        """The path of the table whose `[name]` or `[[name]]` is next."""
        array = self._take("[[")
        if not array:
            self._take("[")
        keys = self._keys()
        self._at += 2 if array else 1
        path: Path = ()
        for number, (key, offset) in enumerate(keys, 1):
            path = self._note((*path, key), offset)
            if array and number == len(keys):
                self._arrays[path] = self._arrays.get(path, -1) + 1
            if path in self._arrays:
                path = self._note((*path, self._arrays[path]), offset)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for key, offset in self._keys():
            path = self._note((*path, key), offset)
        self._take("=")
        self._value(path)

    def _keys(self) -> Sequence[tuple[str, int]]:
        """The parts of a dotted key, with their offsets."""
        keys = []
        while True:
            self._skip(_SPACE)
            offset = self._at
            key = self._skip(_KEY)
            if key[0] in "\"'":
                key = tomllib.loads(f"key = {key}")["key"]
            keys.append((key, offset))
            self._skip(_SPACE)
            if not self._take("."):
                return keys

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        if self._take("["):
            index = 0
            while not self._ends("]"):
                self._note((*path, index), self._at)
                self._value((*path, index))
                index += 1
        elif self._take("{"):
            while not self._ends("}"):
                self._pair(path)
        else:
            self._skip(_SCALAR)

    def _ends(self, bracket: str) -> bool:
        """Whether an array or inline table ends here; otherwise its next member does begin."""
        self._skip(_SPACE_AND_COMMENTS)
        if self._take(","):
            self._skip(_SPACE_AND_COMMENTS)
        return self._take(bracket)

    def _note(self, path: Path, offset: int) -> Path:
        self.found.setdefault(path, offset)
        return path
