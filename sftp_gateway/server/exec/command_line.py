"""Parses a command line into one of the few commands that are answered, without a shell.

Nothing is ever executed. A command is split into words as a shell does. If a shell would run,
redirect or substitute anything, the command is refused: taking it literally would be wrong.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final

#: The answer to any other command, and to a shell request.
REFUSAL: Final = (
    "sftp-gateway: only SFTP is served here (sshfs, sftp, rclone, scp) and checksums of files; "
    "no other commands, no shell, no forwarding.\n"
)

#: Characters of a command (enough for a path of 4,095, each escaped), and of an `echo`, whose words
#: are sent back.
_MAX_COMMAND: Final = 8192
_MAX_ECHO: Final = 4096

#: `echo` and words, quoted or not, without anything that a shell would expand, run or redirect, and
#: without a backslash, even in single quotes: some shells' echo takes it for an escape.
_ECHO: Final = re.compile(
    r"""\ *echo(?:\ +(?:'[^'\\]*'|"[^"$`\\]*"|[^\ '"$`\\;|&<>(){}*?\[\]~\#])+)*\ *""", re.VERBOSE
)

#: How rclone detects the shell, and what a POSIX shell prints for it (ShellId is not set).
_RCLONE_PROBE: Final = "echo ${ShellId}%ComSpec%"
_POSIX_SHELL: Final = "%ComSpec%\n"

#: The algorithms of the commands that print checksums, by the words they begin with.
_CHECKSUMS: Final = {
    ("md5sum",): "md5",
    ("sha1sum",): "sha1",
    ("sha224sum",): "sha224",
    ("sha256sum",): "sha256",
    ("sha384sum",): "sha384",
    ("sha512sum",): "sha512",
    ("rclone", "md5sum"): "md5",
    ("rclone", "sha1sum"): "sha1",
    ("rclone", "hashsum", "md5"): "md5",
    ("rclone", "hashsum", "sha1"): "sha1",
    ("rclone", "hashsum", "sha256"): "sha256",
    ("rclone", "hashsum", "sha512"): "sha512",
}

#: Options of coreutils' commands. The last one decides whether names are marked with `*`.
_CHECKSUM_OPTIONS: Final = {"-b": True, "--binary": True, "-t": False, "--text": False}

#: The tokens of a simple command. A newline, and unquoted ; & | < > ( ) $ ` { }, match none of
#: them: a shell would do more than split such a command.
_TOKEN: Final = re.compile(
    r"""
    (?P<blank>[ \t]+)
    | '(?P<single>[^']*)'
    | "(?P<double>[^"$`\\]*(?:\\[^\n][^"$`\\]*)*)"
    | \\(?P<escaped>[^\n])
    | (?P<wild>[*?\[])
    | (?P<plain>[^ \t\n'"\\*?\[;&|<>()$`{}]+)
    """,
    re.VERBOSE,
)
_ESCAPED_IN_QUOTES: Final = re.compile(r'\\([$`"\\])')
_WILDCARD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command, with surrogate escapes for bytes that are not UTF-8.

    `pattern` is the word as an fnmatch pattern, if it has wildcards that a shell would expand.
    With `home`, the word was `~` or began with `~/`, which `text` and `pattern` leave out.
    """

    text: str
    pattern: str | None = None
    home: bool = False

    def path(self, home: bytes) -> bytes:
        """The word as a path; `home` replaces a `~`."""
        path = self.text.encode("utf-8", "surrogateescape")
        return home + path if self.home else path


@dataclass(frozen=True, slots=True)
class Text:
    """Text to be printed literally."""

    text: str


@dataclass(frozen=True, slots=True)
class ScpSource:
    """`scp -f`: the client downloads `paths`."""

    paths: tuple[Word, ...]
    recursive: bool
    times: bool


@dataclass(frozen=True, slots=True)
class ScpSink:
    """`scp -t`: the client uploads to `path`."""

    path: Word


@dataclass(frozen=True, slots=True)
class Checksum:
    """`sha256sum` and the like; of standard input without paths, or for `-`.

    `binary` marks the names with `*`, as coreutils' option does.
    """

    program: str
    algorithm: str
    paths: tuple[Word, ...]
    binary: bool


Command = Text | ScpSource | ScpSink | Checksum


def parse(command: str) -> Command | None:
    """Parse `command`; None if it is not answered."""
    if command == _RCLONE_PROBE:
        return Text(_POSIX_SHELL)
    printed = _echo(command)
    if printed is not None:
        return Text(printed)
    words = split(command) if len(command) <= _MAX_COMMAND else None
    if not words or words[0].pattern is not None:
        return None
    if words[0].text == "scp":
        return _scp(words[1:])
    return _checksum(words)


def _echo(command: str) -> str | None:
    """What `echo WORDS` prints, with its newline; None for any other command."""
    if len(command) > _MAX_ECHO or not command.isprintable() or not _ECHO.fullmatch(command):
        return None
    words = shlex.split(command)[1:]
    if words and words[0].startswith("-"):
        return None  # the options of echo differ between shells
    return " ".join(words) + "\n"


def _scp(words: list[Word]) -> ScpSource | ScpSink | None:
    options, paths = _options(words)
    letters = set()
    for option in options:
        if option.startswith("--") or not set(option[1:]) <= set("ftrpvdq"):
            return None
        letters |= set(option[1:])
    if "f" in letters and "t" not in letters and paths:
        return ScpSource(paths, recursive="r" in letters, times="p" in letters)
    if "t" in letters and "f" not in letters and len(paths) == 1:
        return ScpSink(paths[0])
    return None


def _checksum(words: list[Word]) -> Checksum | None:
    for length in (1, 2, 3):
        begin = tuple(word.text for word in words[:length])
        if (algorithm := _CHECKSUMS.get(begin)) is not None:
            options, paths = _options(words[length:])
            if not _CHECKSUM_OPTIONS.keys() >= set(options):
                return None
            binary = bool(options) and _CHECKSUM_OPTIONS[options[-1]]
            return Checksum(" ".join(begin), algorithm, paths, binary)
    return None


def _options(words: list[Word]) -> tuple[list[str], tuple[Word, ...]]:
    """Options and operands. As with GNU getopt, options may follow operands, until `--`."""
    options, operands = [], []
    for number, word in enumerate(words):
        if word.text == "--":
            operands += words[number + 1 :]
            break
        if word.text.startswith("-") and word.text != "-" and not word.home:
            options.append(word.text)
        else:
            operands.append(word)
    return options, tuple(operands)


def split(command: str) -> list[Word] | None:
    """The words of a simple command; None if a shell would do more than split it."""
    words: list[Word] = []
    word = _WordBuilder()
    at, end = 0, len(command)
    while at < end:
        token = _TOKEN.match(command, at)
        if token is None:
            return None
        at = token.end()
        match token.lastgroup:
            case "blank":
                words += word.built()
                word = _WordBuilder()
            case "plain":
                if not word.add_plain(token["plain"]):
                    return None
            case "wild":
                word.add_wildcard(token["wild"])
            case "double":
                word.add_quoted(_ESCAPED_IN_QUOTES.sub(r"\1", token["double"]))
            case kind:
                word.add_quoted(token[kind or "single"])
    return words + word.built()


class _WordBuilder:
    """Builds a word from its parts."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._pattern: list[str] = []
        self._wild = self._home_possible = False

    def add_plain(self, text: str) -> bool:
        """Add literal characters; False if they begin a comment."""
        if not self._text and text.startswith("#"):
            return False
        if not self._text and text.startswith("~"):
            self._home_possible = True
        self._text.append(text)
        # A shell has `[^a]` beside fnmatch's `[!a]`.
        inverts = text.startswith("^") and self._pattern[-1:] == ["["]
        self._pattern.append("!" + text[1:] if inverts else text)
        return True

    def add_wildcard(self, text: str) -> None:
        """Add a character that a shell would expand."""
        self._text.append(text)
        self._pattern.append(text)
        self._wild = True

    def add_quoted(self, text: str) -> None:
        """Add quoted characters: wildcards among them are literal."""
        self._text.append(text)
        self._pattern.append(_WILDCARD.sub(r"[\g<0>]", text))

    def built(self) -> list[Word]:
        """The word, if there is one."""
        if not self._text:
            return []
        text, pattern = "".join(self._text), "".join(self._pattern)
        # `~/` and `~`, but not `~"/"`, which begins with the same text.
        home = self._home_possible and (
            self._text[0].startswith("~/") or (self._text[0] == "~" and not self._text[1:])
        )
        return [Word(text[home:], pattern[home:] if self._wild else None, home)]
