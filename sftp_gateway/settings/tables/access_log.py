"""`[access_log]`: the level and the outputs of the access log."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.values import Bytes, Days


class AccessLogSettings(Table):
    """The access log: one line of JSON per event."""

    level: Literal["files", "requests"] = Field(
        "files",
        description=(
            "`files` logs logins, files, folders and refusals; `requests` also every SFTP request."
        ),
    )
    stdout: bool = Field(True, description="Write the log to standard output.")
    file: Path | None = Field(
        None, description="Also write it to this file; logrotate may move it at any time."
    )
    file_max_bytes: Bytes | None = Field(
        None,
        ge=1 << 16,
        le=1 << 40,
        description=(
            "Bytes after which the file is renamed to `FILE.1`, an older one to `FILE.2` and so "
            "on, and a new file is started. Without it, the file grows until logrotate moves "
            "it."
        ),
    )
    file_keep: int = Field(
        20,
        ge=1,
        le=1000,
        description="With `file_max_bytes`: old files to keep; the oldest is deleted.",
    )
    file_max_age: Days = Field(
        365.0,
        gt=0,
        le=3660,
        description="With `file_max_bytes`: days after which an old file is deleted.",
    )
    overflow: Literal["block", "drop"] = Field(
        "block",
        description=(
            "What happens if the log cannot be written fast enough: `block` makes clients wait "
            "and loses nothing, `drop` continues serving and counts lost lines."
        ),
    )
    capacity: int = Field(
        10_000, ge=100, le=1_000_000, description="Events that may wait to be written."
    )
