"""`[users.NAME]`: the users, their credentials and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.values import Bytes, NetworkText, ShareName


class UserSettings(Table):
    """A user. The public keys are in `keys_dir`/authorized_keys/NAME."""

    shares: Literal["*"] | tuple[ShareName, ...] = Field(
        "*", description='The names of the shares that the user sees, or "*" for all.'
    )
    password_hash: SecretStr | None = Field(
        None,
        description=(
            "An argon2id hash, as printed by `sftp-gateway hash-password`. Without one, the "
            "user can only log in with a key."
        ),
    )
    password_hash_file: Path | None = Field(
        None, description="A file with the hash instead, such as a Docker secret."
    )
    allow_from: tuple[NetworkText, ...] = Field(
        (),
        description=(
            "Addresses and networks from which the user may log in; empty allows all. From "
            "elsewhere, it looks as if the key or password were wrong."
        ),
    )
    max_sessions: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Connections of this user at once, instead of `max_sessions_per_user`.",
    )
    bandwidth_limit: Bytes | None = Field(
        None,
        ge=65_536,
        le=1 << 40,
        description=(
            "Bytes per second for all sessions of the user together, in all workers. Without "
            "it, there is no limit."
        ),
    )

    @model_validator(mode="after")
    def _one_hash(self) -> Self:
        if self.password_hash is not None and self.password_hash_file is not None:
            raise ValueError("give password_hash or password_hash_file, not both")
        return self


def default_users() -> dict[str, UserSettings]:
    """The users without any configuration."""
    return {"gvpocr": UserSettings()}
