"""`[history]`: the history of the status page and `sftp-gateway logs`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.values import Days, Mebibytes


class HistorySettings(Table):
    """The lines of the access log kept for the status page and `sftp-gateway logs`."""

    enabled: bool = Field(
        True, description="Keep a history. Without one, the status page shows only the present."
    )
    file: Path = Field(
        Path("state/history.sqlite3"),
        description=(
            "The database. If its folder cannot be created or written, the gateway warns and "
            "keeps the history in a folder of `TMPDIR`."
        ),
    )
    max_age: Days = Field(
        30.0, gt=0, le=3660, description="Days after which log lines are deleted."
    )
    max_size: Mebibytes = Field(
        512,
        ge=1,
        le=1_048_576,
        description=(
            "Maximum size of the database in megabytes (MiB); the oldest lines of the user with "
            "the most lines make room. A file access takes about 1 KiB."
        ),
    )
