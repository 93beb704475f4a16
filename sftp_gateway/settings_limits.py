"""Options against abuse, a part of settings.py: what a source is refused for, and value types."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_STARTUPS: Final = re.compile(r"([0-9]{1,7})(?::([0-9]{1,3}):([0-9]{1,7}))?")


def _network(text: str) -> str:
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address or a network: write 192.0.2.7, 192.0.2.0/24 or "
            "2001:db8::/32, without bits beyond the prefix length"
        ) from None
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


NetworkText = Annotated[str, AfterValidator(_network)]
StartupsText = Annotated[str, AfterValidator(_startups)]
_Seconds = Annotated[float, Field(ge=0, le=86_400)]


class PenaltySettings(BaseModel):
    """What costs a source how many seconds, and when it is banned for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Ban sources for what they do wrong.")
    failed_login: _Seconds = Field(
        5.0, description="Seconds for a connection that ends without a login, after a wrong one."
    )
    unknown_user: _Seconds = Field(5.0, description="The same, where a user was unknown.")
    no_attempt: _Seconds = Field(
        1.0, description="Seconds for a connection that ends without an attempt to log in."
    )
    grace_exceeded: _Seconds = Field(
        20.0, description="Seconds for one that is not logged in after `login_grace_time`."
    )
    protocol_error: _Seconds = Field(
        10.0, description="Seconds for one that does not speak SSH as it should, before its login."
    )
    crash: _Seconds = Field(
        90.0, description="Seconds for one that ends with an error of the gateway's own."
    )
    minimum: float = Field(
        30.0, gt=0, le=86_400, description="Seconds from which on a source is banned for them."
    )
    maximum: float = Field(
        600.0,
        gt=0,
        le=604_800,
        description=(
            "The longest ban. Each ban is twice as long as the one before, unless the source gave "
            "no cause for this long after it."
        ),
    )
    exempt: tuple[NetworkText, ...] = Field(
        ("127.0.0.1/32", "::1/128"),
        description="Addresses and networks that get no penalties: health checks, your office.",
    )
    trust: float = Field(
        86_400.0,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds that a source stays trusted after its last session has ended. A trusted one "
            "is throttled where another one would be banned, so that a worker with a wrong key "
            "does not lock out all that share its address."
        ),
    )
    trusted_rate: float = Field(
        5.0,
        gt=0,
        le=10_000,
        description=(
            "Connections a second that may come to nothing from a throttled source, 20 seconds' "
            "worth of them at once. Those that log in do not count."
        ),
    )
    max_sources: int = Field(
        65_536, ge=1, le=1_000_000, description="Sources that are kept in mind at once."
    )
    overflow: Literal["permissive", "deny-all"] = Field(
        "permissive",
        description=(
            "When more are to be kept in mind: `permissive` forgets the one whose time is up "
            "first, `deny-all` refuses everyone who is not known, neither trusted nor exempt."
        ),
    )

    @model_validator(mode="after")
    def _minimum_below_maximum(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError("minimum is more than maximum, so nothing would ever be banned")
        return self
