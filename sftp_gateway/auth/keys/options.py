"""Parses the options before a key in authorized_keys.

Source: sshd(8), AUTHORIZED_KEYS FILE FORMAT; quoting, repetition and order of checks were verified
against sshd 9.2. A restriction that the gateway cannot enforce is an error, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sftp_gateway.auth.addresses import AddressPatterns

# The grammar is unambiguous, so these cannot backtrack. As in sshd, a backslash escapes only a
# following quote, and is literal otherwise.
_QUOTED = r'"((?:\\"|[^"\\]|\\(?!"))*)"'
_FIELD = re.compile(rf'((?:\\"|{_QUOTED}|[^ \t"\\]|\\(?!"))*)(?:[ \t]+|\Z)')
_OPTION = re.compile(rf"(?:([A-Za-z0-9-]+)(?:={_QUOTED})?)?(?:,|\Z)")
_EXPIRY = re.compile(r"([0-9]{8})(?:([0-9]{4})([0-9]{2})?)?(Z|UTC)?", re.IGNORECASE)
_INTERNAL_SFTP = re.compile(r"internal-sftp(?![^ \t])")
# An option name that may be quoted in a message. Base64 of a key has upper-case letters too.
_NAME_TO_SHOW = re.compile(r"[a-z0-9-]{1,32}")

# These concern features that the gateway never grants.
_FLAGS_WITHOUT_EFFECT = frozenset(
    {"restrict"}
    | {
        prefix + name
        for prefix in ("", "no-")
        for name in ("pty", "port-forwarding", "agent-forwarding", "x11-forwarding", "user-rc")
    }
)
_VALUES_WITHOUT_EFFECT = frozenset({"environment", "permitopen", "permitlisten", "tunnel"})
_WITH_VALUE = frozenset({"from", "expiry-time", "command", "principals"}) | _VALUES_WITHOUT_EFFECT

_REFUSED = {
    "verify-required": "the gateway cannot require a security key's PIN; remove the option or key",
    "no-touch-required": "the gateway requires a touch of the security key; remove the option",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """The options with an effect; `expires` is an aware datetime in UTC.

    With `authority`, the key signs certificates, which must name one of `principals`, or the user
    if that is None.
    """

    sources: AddressPatterns | None = None
    expires: datetime | None = None
    authority: bool = False
    principals: tuple[str, ...] | None = None


def split_field(line: str) -> tuple[str, str]:
    """Split off the first field, which may contain blanks inside quotes.

    Raises ValueError for an unclosed quote.
    """
    match = _FIELD.match(line)
    if match is None:
        raise ValueError('a quote is not closed; write options as NAME="VALUE"')
    return match[1], line[match.end() :]


def parse_options(field: str) -> KeyOptions:
    """Parse a comma-separated list of options. Raises ValueError with a remedy."""
    sources: AddressPatterns | None = None
    expires: datetime | None = None
    command: str | None = None
    principals: tuple[str, ...] | None = None
    authority = False
    for name, value in _split_options(field):
        match name.lower(), value:
            case "cert-authority", None:
                authority = True
            case "principals", str():
                if principals is not None:
                    raise ValueError("duplicate principals=; write one with all names")
                principals = _parse_principals(value)
            case "from", str():
                if sources is not None:
                    raise ValueError("duplicate from=; write one with the whole list")
                sources = _parse_sources(value)
            case "expiry-time", str():
                # As in sshd, the earliest of several applies.
                moment = parse_expiry(value)
                expires = moment if expires is None else min(expires, moment)
            case "command", str():
                if command is not None:
                    raise ValueError("duplicate command=; remove one")
                command = value
                _check_command(command)
            case _:
                _check_without_effect(name, value)
    if principals is not None and not authority:
        raise ValueError("principals= requires cert-authority; add it")
    return KeyOptions(sources=sources, expires=expires, authority=authority, principals=principals)


def parse_expiry(text: str) -> datetime:
    """The time, in UTC, after which a key with `expiry-time="text"` is refused.

    Without a final Z (or UTC, which sshd also accepts) it is in the system's time zone. (During
    daylight saving time sshd is an hour late, because it takes it for standard time.) Raises
    ValueError.
    """
    match = _EXPIRY.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        digits = match[1] + (match[2] or "0000") + (match[3] or "00")
        moment = datetime.strptime(digits, "%Y%m%d%H%M%S")
        moment = moment.replace(tzinfo=UTC) if match[4] else moment.astimezone(UTC)
        if moment.timestamp() <= 0:
            raise ValueError
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            "expiry-time= is not a date and time after 1970; write YYYYMMDD, YYYYMMDDHHMM or "
            "YYYYMMDDHHMMSS, with Z at the end for UTC"
        ) from None
    return moment


def _split_options(field: str) -> Iterator[tuple[str, str | None]]:
    """The names and unquoted values; empty options are skipped, as in sshd."""
    position = 0
    number = 0
    while position < len(field):
        number += 1
        match = _OPTION.match(field, position)
        if match is None:
            raise ValueError(
                f'option {number} is not NAME or NAME="VALUE"; separate options with commas only'
            )
        position = match.end()
        name, value = match[1], match[2]
        if name is not None:
            yield name, None if value is None else value.replace('\\"', '"')


def _parse_sources(value: str) -> AddressPatterns:
    try:
        return AddressPatterns.parse(value)
    except ValueError as error:
        raise ValueError(f"from=: {error}") from None


def _parse_principals(value: str) -> tuple[str, ...]:
    principals = tuple(value.split(","))
    if not all(principals):
        raise ValueError('principals= has an empty name; write principals="NAME,NAME"')
    return principals


def _check_command(command: str) -> None:
    """Accept only `internal-sftp`, which this gateway replaces."""
    if not _INTERNAL_SFTP.match(command):
        raise ValueError(
            'the gateway runs no commands; write command="internal-sftp" or remove the option'
        )
    # Quotes and escapes do not hide an option.
    words = (word.lstrip("\"'\\") for word in command.lower().split())
    if any(word.startswith("-") and "p" in word for word in words):
        raise ValueError(
            "lists of SFTP requests (internal-sftp -P, -p) are not supported; remove them, since "
            "the gateway is read-only"
        )


def _check_without_effect(name: str, value: str | None) -> None:
    known = name.lower()
    if known in _REFUSED:
        raise ValueError(f"{known}: {_REFUSED[known]}")
    if known in _FLAGS_WITHOUT_EFFECT or known == "cert-authority":
        if value is not None:
            raise ValueError(f"{name} takes no value; write {name} alone")
    elif known in _WITH_VALUE:
        if value is None:
            raise ValueError(f'{name} needs a value; write {name}="VALUE"')
    else:
        shown = f" {name}" if _NAME_TO_SHOW.fullmatch(name) else ""
        raise ValueError(f"unknown option{shown}; remove it or correct its name")
