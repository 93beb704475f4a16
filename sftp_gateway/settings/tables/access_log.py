"""`[access_log]`: what is logged, and where to."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sftp_gateway.settings.tables.base import Table
from sftp_gateway.settings.tables.values import Bytes, Days


class AccessLogSettings(Table):
    """The access log: JSON lines, one for each event."""

    level: Literal["files", "requests"] = Field(
        "files",
        description=(
            "`files` logs logins, files, folders and refusals; `requests` every SFTP request too."
        ),
    )
    stdout: bool = Field(True, description="Write the log to standard output.")
    file: Path | None = Field(
        None, description="Write it to this file too; logrotate may move it away at any time."
    )
    file_max_bytes: Bytes | None = Field(
        None,
        ge=1 << 16,
        le=1 << 40,
        description=(
            "Bytes after which the file is renamed to `FILE.1`, an older one to `FILE.2` and so "
            "on, and a new file is begun. Without it the file grows until logrotate moves it away."
        ),
    )
    file_keep: int = Field(
        20,
        ge=1,
        le=1000,
        description="With `file_max_bytes`: old files that are kept; the oldest is deleted.",
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
            "When the log cannot be written fast enough: `block` lets clients wait so that no "
            "line is lost, `drop` goes on serving and counts the lines that are lost."
        ),
    )
    capacity: int = Field(
        10_000, ge=100, le=1_000_000, description="Events that may wait to be written."
    )
