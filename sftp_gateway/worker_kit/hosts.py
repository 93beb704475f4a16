"""A file of workers: `[user@]host[:port] [options of the set-up]`, one on a line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sftp_gateway.errors import ConfigurationError

#: `[2001:db8::7]:22`, or a name or IPv4 address with or without a port; a bare IPv6 address has no
#: port. No host begins with a dash, which ssh would take for an option.
_HOST = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]*)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)|(?P<bare>[0-9A-Fa-f:.]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One worker; `options` are given to the set-up there."""

    name: str
    address: str
    user: str | None = None
    port: int | None = None
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result for one worker: `message` is the set-up's last step, or why it failed."""

    host: Host
    ok: bool
    message: str


def parse_hosts(text: str, *, source: str) -> list[Host]:
    """The workers that the file names. Raises ConfigurationError with all errors in it."""
    hosts: list[Host] = []
    errors: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            host = _host(words)
        except ValueError as error:
            errors.append(f"{source}, line {number}: {error}")
            continue
        if host.name in seen:
            errors.append(
                f"{source}, line {number}: {host.name} is already in line {seen[host.name]}"
            )
        seen.setdefault(host.name, number)
        hosts.append(host)
    if not hosts and not errors:
        errors.append(f"{source}: names no worker; write one [user@]host[:port] per line")
    if errors:
        raise ConfigurationError(errors)
    return hosts


def _host(words: Sequence[str]) -> Host:
    name, *options = words
    found = _HOST.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not [user@]host[:port]; an IPv6 address is written [::1]:22")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"{port} is not a valid port")
    if "--uninstall" not in options and options and not options[0].startswith("-"):
        raise ValueError(
            f"{options[0]!r} is not an option of the set-up script, such as --no-cache"
        )
    return Host(
        name=name,
        address=found["v6"] or found["name"] or found["bare"],
        user=found["user"],
        port=port,
        options=tuple(options),
    )
