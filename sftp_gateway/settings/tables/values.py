"""The types of options with a syntax of their own, and their error messages."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

_USER_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_STARTUPS: Final = re.compile(r"([0-9]{1,7})(?::([0-9]{1,3}):([0-9]{1,7}))?")
#: More workers than CPUs only take memory.
_MAX_WORKERS: Final = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a number, for documentation and error messages."""

    name: str


def _user_name(name: str) -> str:
    if not _USER_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a user name: give a letter or _ and then at most 31 letters, "
            "digits, _, - or ."
        )
    return name


def _share_name(name: str) -> str:
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError(
            f"{name!r} is not a share name: give a relative path such as models or "
            ".cache/huggingface/hub, without empty parts, . and .."
        )
    if not name.isprintable():
        raise ValueError(f"{name!r} is not a share name: it has unprintable characters")
    return name


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address or a network: write 192.0.2.7, 192.0.2.0/24 or "
            "2001:db8::/32"
        ) from None
    if "/" in text and ipaddress.ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(
            f"{text!r} has bits beyond its prefix length: write {network} for the network, or "
            f"{text.partition('/')[0]} for the address"
        )
    if network.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96")):
        raise ValueError(f"{text!r} is IPv4 mapped into IPv6; write the IPv4 address itself")
    return text


def _startups(text: str) -> str:
    found = _STARTUPS.fullmatch(text)
    if found is not None:
        start, rate, full = (int(part) for part in found.groups(default="1"))
        if found[3] is None:
            full = start
        if 1 <= start <= full and 1 <= rate <= 100:
            return text
    raise ValueError(
        f"{text!r} is not start:rate:full, such as 1000:30:1500, with start at most full and rate "
        "from 1 to 100; nor a single number"
    )


UserName = Annotated[str, AfterValidator(_user_name)]
ShareName = Annotated[str, AfterValidator(_share_name)]
Seconds = Annotated[float, Unit("seconds")]
Days = Annotated[float, Unit("days")]
Bytes = Annotated[int, Unit("bytes")]
Mebibytes = Annotated[int, Unit("MiB")]
Port = Annotated[int, Field(ge=0, le=65535)]
Workers = Literal["auto"] | Annotated[int, Field(ge=1, le=_MAX_WORKERS)]
#: Not empty, because asyncssh would take its default then.
CipherNames = Annotated[tuple[str, ...], Field(min_length=1)]
NetworkText = Annotated[str, AfterValidator(_network)]
StartupsText = Annotated[str, AfterValidator(_startups)]
