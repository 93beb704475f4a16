"""`[status]`: the status page and its token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, model_validator

from sftp_gateway.settings.tables.base import Table

#: A token that can be guessed is worse than none, because it looks safe.
SHORTEST_TOKEN: Final = 16

_Token = Annotated[SecretStr, Field(min_length=SHORTEST_TOKEN, max_length=200)]


class StatusSettings(Table):
    """The status page, which is served beside the metrics."""

    enabled: bool = Field(True, description="Serve the status page, at `metrics_port`.")
    token: _Token | None = Field(
        None,
        description=(
            "The token that a browser has to present to see the page. Without one, the page is "
            "shown only on this machine (`metrics_host` is 127.0.0.1 or ::1)."
        ),
    )
    token_file: Path | None = Field(
        None,
        description=(
            "A file with the token instead. The default is `keys_dir`/status_token if that "
            "exists; the first start creates it unless `metrics_host` is 127.0.0.1 or ::1."
        ),
    )

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("give token or token_file, not both")
        return self
