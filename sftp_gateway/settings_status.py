"""Options of the status page and the history behind it, a part of settings.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class HistorySettings(BaseModel):
    """What is kept of the access log for the status page and `sftp-gateway logs`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        True, description="Keep a history. Without one the status page shows the present only."
    )
    file: Path = Field(
        Path("state/history.sqlite3"),
        description=(
            "The database. Where its folder can be neither made nor written, the gateway warns, "
            "and keeps the history among its temporary files until it is stopped."
        ),
    )
    max_age: float = Field(
        30.0, gt=0, le=3660, description="Days after which what was logged is forgotten."
    )
    max_size: int = Field(
        512,
        ge=1,
        le=1_048_576,
        description=(
            "Megabytes (MiB) that the database may have; the oldest makes room. An access to a "
            "file takes about 1 KiB."
        ),
    )


#: A token that could be guessed would be worse than none: it looks safe.
SHORTEST_TOKEN: Final = 16

_Token = Annotated[SecretStr, Field(min_length=SHORTEST_TOKEN, max_length=200)]


class StatusSettings(BaseModel):
    """The status page, which is served beside the metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Serve the status page, at `metrics_port`.")
    token: _Token | None = Field(
        None,
        description=(
            "What a browser has to show to see the page. Without one the page is shown on the "
            "machine itself only (`metrics_host` is 127.0.0.1 or ::1)."
        ),
    )
    token_file: Path | None = Field(
        None,
        description=(
            "A file that holds the token instead. By default `keys_dir`/status_token, where there "
            "is one; the first start makes it where `metrics_host` is not 127.0.0.1 or ::1."
        ),
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        return self
