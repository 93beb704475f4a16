"""What is said of a configuration that is wrong: a sentence for each mistake."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError

from sftp_gateway.settings.environment import CONFIG_VARIABLE, ENV_PREFIX, variable
from sftp_gateway.settings.options import Settings
from sftp_gateway.settings.shares import default_shares
from sftp_gateway.settings.users import default_users

#: Options that have parts of their own, behind `__`.
_WITH_PARTS: Final = frozenset({"access_log", "history", "penalties", "shares", "status", "users"})


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like an option and is none."""
    return [
        f"{name}: there is no such option; see docs/configuration.md"
        for name in sorted(environ)
        if name.upper().startswith(ENV_PREFIX)
        and name.upper() != CONFIG_VARIABLE
        and not _is_option(name[len(ENV_PREFIX) :].lower())
    ]


def wrong_options(error: ValidationError) -> list[str]:
    """A sentence for each option that is wrong or unknown."""
    return [_sentence(detail) for detail in error.errors() if not _is_echo(detail)]


def close_to(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is probably meant to be; None if there is none like it."""
    return next(iter(get_close_matches(name, known, n=1)), None)


def _is_option(name: str) -> bool:
    """Whether `name` begins with an option; what is in one with parts, pydantic looks at."""
    option, nested, _ = name.partition("__")
    return option in Settings.model_fields and (not nested or option in _WITH_PARTS)


def _is_echo(detail: Any) -> bool:
    """Whether pydantic says it a second time: once for each type that an option may have."""
    if isinstance(detail["input"], list | tuple):
        return any(str(part).startswith("literal[") for part in detail["loc"])
    return bool(detail["type"] == "tuple_type")


def _is_of_pydantic(part: Any) -> bool:
    """Whether a part of a location is no name of an option, but which type or item it is about."""
    return isinstance(part, int) or part.startswith(("literal[", "tuple[")) or part == "[key]"


def _sentence(detail: Any) -> str:
    """What is wrong with one option, from pydantic's account of it; never a secret's value."""
    location = [part for part in detail["loc"] if not _is_of_pydantic(part)]
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    option = ".".join(location)
    if detail["type"] == "extra_forbidden":
        return f"{option}: there is no such option; see docs/configuration.md"
    if detail.get("input") is False and location[0] in ("users", "shares") and len(location) == 2:
        kind, name = location
        defaults = default_users() if kind == "users" else default_shares()
        return (
            f"{option}: false switches off nothing: there is no {kind[:-1]} {name}; did you mean "
            f"{close_to(name, defaults)}?"
        )
    if location[0] not in ("users", "shares"):
        option += f" (environment: {variable(option)})"
    given = detail.get("input")
    # Whatever stands below `users` may be a password at the wrong place.
    if location[0] == "users" or not isinstance(given, str | int | float) or repr(given) in message:
        return f"{option}: {message}"
    return f"{option}: {message} (it is {given!r})"
