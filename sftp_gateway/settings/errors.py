"""Error messages about the configuration: where, what is wrong, and the remedy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, time
from difflib import get_close_matches
from tomllib import TOMLDecodeError
from typing import Any, Final

from pydantic import ValidationError

from sftp_gateway.settings.environment import CONFIG_VARIABLE, ENV_PREFIX, variable
from sftp_gateway.settings.expected import Expected, Kind, below, expected, options_of
from sftp_gateway.settings.options import Settings, default_tables
from sftp_gateway.settings.origins import Layer, Place, dotted, leaves
from sftp_gateway.settings.positions import Path, positions

#: Options with parts, which follow `__` in variables.
_WITH_PARTS: Final = frozenset({"access_log", "history", "penalties", "shares", "status", "users"})

#: Tables in which any value may be a misplaced password or token.
_SECRETS: Final = frozenset({"users", "status"})

#: Up to this many options, a message about an unknown option lists them all.
_FEW: Final = 8

#: A number with a unit, which options do not accept.
_AMOUNT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([A-Za-z]+)")
_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FACTORS: Final[Mapping[str, Mapping[str, float]]] = {
    "seconds": _SECONDS,
    "days": {unit: seconds / 86_400 for unit, seconds in _SECONDS.items()},
    "bytes": {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40},
    "MiB": {"m": 1, "g": 1 << 10, "t": 1 << 20},
}

#: Remedies for tomllib's messages, by their beginnings.
_ADVICE: Final = (
    ("Expected '='", "an option is set by NAME = VALUE"),
    ("Expected ']'", "a table begins with [NAME]"),
    ("Illegal character '\\n'", "text ends with the quote that it begins with, on the same line"),
    ("Unescaped '\\'", "write text with backslashes in single quotes: 'C:\\x'"),
    ("Unclosed", "close it: [1, 2] or {a = 1}"),
    ("Invalid", "text is in quotes; numbers, true and false are not"),
    ("Expected newline", "text is in quotes, and each option has a line of its own"),
)
_AT: Final = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_HEADER: Final = re.compile(r"^[ \t]*\[+([^\[\]\n]+)\]", re.MULTILINE)
_SET: Final = re.compile(r"[ \t]*([A-Za-z0-9_.\"'-]+)[ \t]*=")


@dataclass(frozen=True, slots=True, order=True)
class Diagnostic:
    """An error and its place."""

    place: Place
    text: str

    def __str__(self) -> str:
        where = str(self.place)
        return f"{where}: {self.text}" if where else self.text


# The environment


def unknown_variable(name: str, place: Place) -> Diagnostic | None:
    """An error for a variable with the prefix of options that is not one; None for options."""
    option, nested, _ = name[len(ENV_PREFIX) :].lower().partition("__")
    if option in Settings.model_fields and (not nested or option in _WITH_PARTS):
        return None
    known = [CONFIG_VARIABLE, *_variables()]
    # Compared without the common prefix.
    endings = [each.removeprefix(ENV_PREFIX) for each in known]
    close = get_close_matches(name[len(ENV_PREFIX) :].upper(), endings, n=1, cutoff=0.7)
    suggested = _did_you_mean(f"{ENV_PREFIX}{ending}" for ending in close)
    return Diagnostic(place, f"unknown option; {suggested}")


def not_json(name: str, value: str, place: Place) -> Diagnostic:
    """An error for a variable whose value is not valid JSON."""
    path = tuple(name[len(ENV_PREFIX) :].lower().split("__"))
    if expected(_kind(path)).table:
        right = 'an object in JSON, such as {"NAME": {"OPTION": "VALUE"}}'
    else:
        example = "a" if path[0] in _SECRETS else value.strip("[] ")[:80]
        right = f"a list in JSON, such as {json.dumps([example])}"
    return Diagnostic(place, f"must be {right}")


def _variables() -> Iterator[str]:
    for name in Settings.model_fields:
        yield variable(name)
        for option in options_of(below(Settings, name)):
            yield variable(f"{name}.{option}")


# The file


def not_toml(file: str, text: str, error: TOMLDecodeError | RecursionError) -> Diagnostic:
    """An error for a file that is not valid TOML, without any value of it."""
    if isinstance(error, RecursionError):
        return Diagnostic(Place(file), "lists or tables are nested too deeply")
    message = str(error)
    at = _AT.search(message)
    lines = text.split("\n")
    if text.startswith("\ufeff"):
        return Diagnostic(
            Place(file, 1, 1), "starts with a byte order mark; save it as UTF-8 without one"
        )
    line = int(at[1]) if at and at[1] else len(text.rstrip("\n").split("\n"))
    column = int(at[2]) if at and at[2] else len(lines[line - 1]) + 1
    place = Place(file, line, column)
    message = _AT.sub("", message)
    before = "\n".join(lines[: line - 1])
    path = _path_of(before, lines[line - 1])
    if message.startswith("Cannot overwrite"):
        return Diagnostic(
            place, f"{dotted(path)}: duplicate option{_first(before, path)}; keep one"
        )
    if message.startswith("Cannot declare"):
        name = ".".join(re.findall(r"'([^']*)'", message))
        return Diagnostic(place, f"duplicate table [{name}]; put all its options into one")
    if at and not at[1]:
        return Diagnostic(
            place, "not valid TOML: the file ends inside a list, table or string; close it"
        )
    kind = _kind(path)
    if kind is not None and message.startswith(("Invalid value", "Expected newline")):
        alone = ", and alone in its line" if message.startswith("Expected") else ""
        wanted = _needed(expected(kind), dotted(path))
        return Diagnostic(place, f"{dotted(path)}: must be {wanted}{alone}")
    advice = next((advice for begin, advice in _ADVICE if message.startswith(begin)), "")
    said = f"not valid TOML: {message[:1].lower()}{message[1:]}"
    return Diagnostic(place, f"{said}; {advice}" if advice else said)


def _path_of(before: str, line: str) -> Path:
    """The option that `line` sets, if the text `before` precedes it."""
    found = _SET.match(line)
    if found is None:
        return ()
    headers = _HEADER.findall(before)
    names = f"{headers[-1]}.{found[1]}" if headers else found[1]
    return tuple(name.strip(" \t\"'") for name in names.split("."))


def _first(before: str, path: Path) -> str:
    with suppress(ValueError):
        return (
            f", already set in line {positions(before)[path][0]}"
            if path in positions(before)
            else ""
        )
    return ""


# Options


def wrong_options(error: ValidationError, layer: Layer, *, alone: bool) -> list[Diagnostic]:
    """Errors for invalid and unknown options in `layer`.

    With `alone`, other layers may provide missing options or resolve conflicts.
    """
    wrong: dict[Path, list[Any]] = {}
    for detail in error.errors(include_url=False):
        path = _real(detail["loc"], layer.values, missing=detail["type"] == "missing")
        if alone and (detail["type"] == "missing" or _is_joint(detail)):
            continue
        # One error per option; in a list, one per item with its own message.
        whole = detail["type"] != "value_error"
        wrong.setdefault(_named(path) if whole else path, []).append(detail)
    for path in [path for path, details in wrong.items() if _is_echo(path, details, wrong)]:
        del wrong[path]
    return [_diagnostic(path, details[0], layer) for path, details in wrong.items()]


def unnoticed(layer: Layer) -> list[Diagnostic]:
    """Errors that pydantic does not report: booleans as numbers, and null characters in paths."""
    found = []
    for path, value in leaves(layer.values):
        if isinstance(value, bool) and expected(_kind(path)).numeric:
            found.append(_diagnostic(path, {"type": "int_type", "input": value}, layer))
        elif isinstance(value, str) and "\0" in value:
            detail = {"type": "value_error", "msg": "has a null character; write it without"}
            found.append(_diagnostic(path, detail, layer))
    return found


def _is_joint(detail: Any) -> bool:
    """Whether the error is a conflict between options."""
    return detail["type"] == "value_error" and isinstance(detail["input"], Mapping)


def _is_echo(path: Path, details: Sequence[Any], wrong: Mapping[Path, Sequence[Any]]) -> bool:
    """Whether it only follows from another error."""
    if details[0]["type"] == "missing":
        # The option is present, but misspelt.
        return any(
            other[:-1] == path[:-1]
            and each[0]["type"] == "extra_forbidden"
            and close_to(str(other[-1]), [str(path[-1])])
            for other, each in wrong.items()
        )
    return details[0]["type"] != "value_error" and any(
        other != path and _named(other) == path for other in wrong
    )


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`; None if there is none."""
    return next(iter(get_close_matches(name, list(known), n=1)), None)


def _real(location: Sequence[str | int], values: Any, *, missing: bool) -> Path:
    """The path in the values from pydantic's location, which also names types."""
    path: Path = ()
    for number, part in enumerate(location, 1):
        in_list = isinstance(values, list) and isinstance(part, int)
        if in_list or (isinstance(values, Mapping) and part in values):
            values = values[part]
        elif not (missing and number == len(location)):
            continue
        path = (*path, part)
    return path


def _named(path: Path) -> Path:
    return tuple(part for part in path if isinstance(part, str))


def _kind(path: Path) -> Kind:
    kind: Kind = Settings
    for part in _named(path):
        kind = below(kind, str(part))
    return kind


def _diagnostic(path: Path, detail: Any, layer: Layer) -> Diagnostic:
    name, place = dotted(path), layer.place(path) or Place()
    if detail["type"] == "extra_forbidden":
        text = _unknown(_named(path), detail["input"], in_file=not place.variable)
    else:
        text = _text(path, detail)
    if not path:  # a conflict between options; the message begins with the first of them
        name, _, text = text.partition(": ")
        place = next((at for path, at in layer.places.items() if dotted(path) == name), place)
    if place.variable.upper() == variable(name):
        return Diagnostic(place, text)
    return Diagnostic(place, f"{name}: {text}")


def _text(path: Path, detail: Any) -> str:
    """What is wrong with the value of an option; never repeats a secret."""
    kind, name = _kind(path), dotted(path)
    if detail["type"] == "missing":
        return f"is missing; set it to {expected(kind)}"
    if detail["type"] == "value_error":
        return str(detail["msg"]).removeprefix("Value error, ")
    wanted, given = expected(kind), detail["input"]
    if given is False and len(path) == 2 and (defaults := default_tables().get(str(path[0]))):
        close = get_close_matches(str(path[1]), list(defaults), n=1)
        return f"has nothing to switch off: there is no {name}; {_did_you_mean(close)}"
    said = f"must be {_needed(wanted, name)}"
    if name.partition(".")[0] in _SECRETS or (isinstance(given, list) and wanted.lists):
        return said
    return f"{said}, not {_shown(given)}{_converted(given, wanted)}"


def _needed(wanted: Expected, name: str) -> str:
    if not wanted.table:
        return str(wanted)
    table = f"{name}.NAME" if name in ("users", "shares") else name
    return f"a table: write [{table}] and its options in the lines below it"


def _shown(given: Any) -> str:
    match given:
        case Mapping():
            return "a table"
        case list() | tuple():
            return "a list"
        case date() | time():
            return "a date or time"
        case str() | bool():
            return json.dumps(given, ensure_ascii=False)
    return str(given)


def _converted(given: Any, wanted: Expected) -> str:
    """The value in the unit of the option, if it was written in another; a list of one."""
    if not isinstance(given, str):
        return ""
    if wanted.lists:
        return f"; write {json.dumps([given], ensure_ascii=False)}"
    amount = _AMOUNT.fullmatch(given.strip())
    if amount is None or wanted.unit not in _FACTORS:
        return ""
    units = _FACTORS[wanted.unit]
    name = amount[2].lower()
    name = name if name in units else name.removesuffix("b").removesuffix("i")
    name = name if name in units else name[:1]
    if name not in units:
        return ""
    value = float(amount[1]) * units[name]
    return f"; write {value:.15g}" if wanted.low is None or value >= wanted.low else ""


def _unknown(path: Path, value: Any, *, in_file: bool) -> str:
    name, table = str(path[-1]), path[:-1]
    options = options_of(_kind(table))
    joined = [f"{name}_{each}" for each in value] if isinstance(value, Mapping) else []
    joined += ["_".join(map(str, path))]
    close = [each for each in joined if each in Settings.model_fields]
    if not close:
        near = get_close_matches(name, options, n=1)
        close = near if in_file else [dotted((*table, each)) for each in near]
    if not close and in_file and table and name in Settings.model_fields:
        return f"unknown option in [{dotted(table)}]; move it above the first [table]"
    if not close:
        close = [
            f"{other}.{name}"
            for other in Settings.model_fields
            if name in options_of(below(Settings, other))
        ]
    if not close and table and len(options) <= _FEW:
        return f"unknown option in [{dotted(table)}], which has {', '.join(options)}"
    return f"unknown option; {_did_you_mean(close if in_file else map(variable, close))}"


def _did_you_mean(options: Iterable[str]) -> str:
    close = " or ".join(options)
    return f"did you mean {close}?" if close else "see docs/configuration.md"
