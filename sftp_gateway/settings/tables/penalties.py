"""`[penalties]`: offences, and how long they ban a source."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.values import NetworkText, Seconds

_Penalty = Annotated[Seconds, Field(ge=0, le=86_400)]


class PenaltySettings(Table):
    """The penalties of offences in seconds, and the thresholds of bans."""

    enabled: bool = Field(True, description="Ban sources that commit offences.")
    failed_login: _Penalty = Field(
        5.0,
        description="Seconds for a connection that ends without a login, after a failed attempt.",
    )
    unknown_user: _Penalty = Field(5.0, description="The same, if a user name was unknown.")
    no_attempt: _Penalty = Field(
        1.0, description="Seconds for a connection that ends without a login attempt."
    )
    grace_exceeded: _Penalty = Field(
        20.0,
        description="Seconds for a connection that has not logged in within `login_grace_time`.",
    )
    protocol_error: _Penalty = Field(
        10.0,
        description="Seconds for a connection that violates the SSH protocol before its login.",
    )
    crash: _Penalty = Field(
        90.0,
        description="Seconds for a connection that ends with an internal error of the gateway.",
    )
    minimum: Seconds = Field(
        30.0,
        gt=0,
        le=86_400,
        description="Seconds of accumulated penalties from which a source is banned for that time.",
    )
    maximum: Seconds = Field(
        600.0,
        gt=0,
        le=604_800,
        description=(
            "The longest ban. Each ban is twice as long as the previous one, unless the source "
            "commits no offence for this long after it."
        ),
    )
    exempt: tuple[NetworkText, ...] = Field(
        ("127.0.0.1/32", "::1/128"),
        description="Addresses and networks without penalties: health checks, your office.",
    )
    trust: Seconds = Field(
        86_400.0,
        ge=0,
        le=31_536_000,
        description=(
            "Seconds for which a source stays trusted after its last session has ended. A "
            "trusted source is throttled instead of banned, so that a worker with a wrong key "
            "does not lock out all others behind its address."
        ),
    )
    trusted_rate: float = Field(
        5.0,
        gt=0,
        le=10_000,
        description=(
            "Connections without a login that a throttled source may open per second, with a "
            "burst of 20 seconds' worth. Connections that log in are not counted."
        ),
    )
    max_sources: int = Field(
        65_536, ge=1, le=1_000_000, description="Sources that are tracked at once."
    )
    overflow: Literal["permissive", "deny-all"] = Field(
        "permissive",
        description=(
            "If more sources would have to be tracked: `permissive` drops the one that expires "
            "first, `deny-all` refuses all unknown sources that are neither trusted nor exempt."
        ),
    )

    @model_validator(mode="after")
    def _minimum_below_maximum(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError("minimum is more than maximum, so nothing would ever be banned")
        return self
