"""Which values an option takes, as its type and bounds say it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from sftp_gateway.settings.tables.values import NetworkText, Unit

#: The type of an option, or of what is in it, which a name leads to.
Kind: TypeAlias = Any

_NAMES: typing.Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "text",
    Path: "path",
}
_NETWORKS: typing.Final = "a list of networks"
_TEXTS: typing.Final = "a list of names"


@dataclass(slots=True)
class Expected:
    """The words that an option takes, and what else by name; a number's bounds and unit."""

    words: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    low: float | None = None
    high: float | None = None
    above_low: bool = False
    unit: str = ""
    min_length: int = 0
    max_length: int = 0
    table: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it takes a number."""
        return bool({_NAMES[int], _NAMES[float]} & {*self.others})

    @property
    def lists(self) -> bool:
        """Whether it takes a list."""
        return bool({_NETWORKS, _TEXTS} & {*self.others})

    def __str__(self) -> str:
        *most, last = [*(f'"{word}"' for word in self.words), *map(self._in_full, self.others)]
        return f"{', '.join(most)} or {last}" if most else last

    def _in_full(self, name: str) -> str:
        if name in (_NAMES[int], _NAMES[float]):
            return f"{name}{f' of {self.unit}' if self.unit else ''}{self._between()}"
        if name == _NETWORKS:
            return f'{name}, such as ["192.0.2.0/24"]'
        if name == _NAMES[str] and self.max_length:
            return f"text of {self.min_length} to {self.max_length} characters"
        if name == _NAMES[Path]:
            return "a path in quotes"
        return f"{name} in quotes" if name in (_NAMES[str], _TEXTS) else name

    def _between(self) -> str:
        if self.low is None or self.high is None:
            return ""
        low, high = f"{self.low:.15g}", f"{self.high:.15g}"
        return f" above {low} and up to {high}" if self.above_low else f" from {low} to {high}"


def expected(kind: Kind) -> Expected:
    """What `kind`, an option or a type, takes."""
    found = Expected()
    if isinstance(kind, FieldInfo):
        _bound(found, kind.metadata)
    for part in _parts(kind):
        origin: Any = typing.get_origin(part)
        if origin is typing.Literal:
            found.words += [word for word in typing.get_args(part) if isinstance(word, str)]
        elif origin is dict or _is_table(part):
            found.table = True
        elif origin is tuple:
            networks = typing.get_args(part)[0] == NetworkText
            found.others.append(_NETWORKS if networks else _TEXTS)
        elif origin is typing.Annotated:
            inner, *metadata = typing.get_args(part)
            _bound(found, metadata)
            found.others += [name for name in expected(inner).others if name not in found.others]
        else:
            found.others.append(_NAMES[part])
    return found


def below(kind: Kind, name: str) -> Kind | None:
    """What `name` leads to in a table of this kind; None if the table has no such option."""
    for part in _parts(kind):
        if _is_table(part):
            return part.model_fields.get(name)
        origin: Any = typing.get_origin(part)
        if origin is dict:
            return typing.get_args(part)[1]
    return None


def options_of(kind: Kind) -> Sequence[str]:
    """The options of a table of this kind; none if its names are people's own."""
    return [name for part in _parts(kind) if _is_table(part) for name in part.model_fields]


def _is_table(kind: Kind) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _parts(kind: Kind) -> Iterator[Kind]:
    """The types of an option or a union, or the one that is none."""
    kind = kind.annotation if isinstance(kind, FieldInfo) else kind
    origin: Any = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(kind):
            yield from _parts(part)
    elif kind not in (None, type(None)):
        yield kind


def _bound(found: Expected, metadata: Sequence[Any]) -> None:
    for each in metadata:
        match each:
            case Ge(low):
                found.low = low  # type: ignore[assignment]
            case Gt(low):
                found.low, found.above_low = low, True  # type: ignore[assignment]
            case Le(high) | Lt(high):
                found.high = high  # type: ignore[assignment]
            case MinLen(length):
                found.min_length = length
            case MaxLen(length):
                found.max_length = length
            case Unit(name):
                found.unit = name
            case FieldInfo():
                _bound(found, each.metadata)
