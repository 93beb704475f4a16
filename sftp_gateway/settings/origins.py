"""The places where options were set, for error messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.settings.environment import set_by_compose, variable, why_overridden
from sftp_gateway.settings.positions import Path


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file, an environment variable, or a variable set by a line of `.env`."""

    file: str = ""
    line: int = 0
    column: int = 0
    variable: str = ""

    def __str__(self) -> str:
        numbers = [str(number) for number in (self.line, self.column) if number]
        where = ":".join([self.file, *numbers]) if self.file else ""
        return ": ".join(filter(None, (where, self.variable)))


@dataclass(frozen=True, slots=True)
class Layer:
    """The options of one source: nested values, and the place of each path."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[Path, Place] = field(default_factory=dict)

    def under(self, other: Layer) -> Layer:
        """This layer, overridden by `other`."""
        return Layer(_merged(self.values, other.values), {**self.places, **other.places})

    def place(self, path: Path) -> Place | None:
        """The place of the value at `path`, of a part of it, or of the table it belongs to."""
        for length in range(len(path), 0, -1):
            if found := self.places.get(path[:length]):
                return found
            for at, place in self.places.items():
                if at[:length] == path[:length]:
                    return place
        return None


@dataclass(frozen=True, slots=True)
class Origins:
    """Where options were set, and messages about settings without effect."""

    places: Mapping[str, Place] = field(default_factory=dict)
    overridden: tuple[str, ...] = ()

    def located(self, said: Iterable[str]) -> list[str]:
        """Prefix messages that begin with an option's name with the place that set it."""
        return [self._located(sentence) for sentence in said]

    @contextmanager
    def locate_errors(self) -> Iterator[None]:
        """Add the places of options to ConfigurationErrors."""
        try:
            yield
        except ConfigurationError as error:
            raise ConfigurationError(self.located(error.errors)) from error

    def _located(self, sentence: str) -> str:
        option, _, said = sentence.partition(": ")
        name = option
        while name and name not in self.places:
            name = name.rpartition(" " if " " in name else ".")[0]
        if not name:
            return sentence
        place = self.places[name]
        # The name of a variable already contains the option's.
        return f"{place}: {said if place.variable.upper() == variable(option) else sentence}"


def origins(file: Layer, environment: Layer, environ: Mapping[str, str]) -> Origins:
    """The origins of options from `file` and `environment` (from `environ`), which overrides it."""
    both = file.under(environment)
    ignored = [
        f".env: {name}={value} has no effect, {why_overridden(name, environ)}"
        for name, value in set_by_compose(environ).items()
        if value and value != environ.get(name)
    ]
    return Origins(
        {dotted(path): place for path, place in both.places.items()},
        (*ignored, *_overridden(file, environment, environ)),
    )


def dotted(path: Path) -> str:
    """The dotted name of an option, without list indices."""
    return ".".join(part for part in path if isinstance(part, str))


def paths(values: Any, path: Path = ()) -> Iterator[Path]:
    """All paths into nested values from TOML or JSON."""
    members: Iterable[tuple[str | int, Any]] = ()
    if isinstance(values, Mapping):
        members = values.items()
    elif isinstance(values, list):
        members = enumerate(values)
    for name, value in members:
        yield (*path, name)
        yield from paths(value, (*path, name))


def _overridden(file: Layer, environment: Layer, environ: Mapping[str, str]) -> Iterator[str]:
    for path, value in leaves(file.values):
        found: Any = environment.values
        for part in path:
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and str(found) != str(value):
            by = environment.place(path) or Place()
            why = why_overridden(by.variable, environ)
            yield f"{file.place(path)}: {dotted(path)}: has no effect, {why}"


def leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The options that are set, with their values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**under, **over}
    for name in under.keys() & over.keys():
        if isinstance(under[name], Mapping) and isinstance(over[name], Mapping):
            merged[name] = _merged(under[name], over[name])
    return merged
