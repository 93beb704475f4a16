"""`[shares.NAME]`: the exported folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sftp_gateway.settings.table import Table


class ShareSettings(Table):
    """One exported folder."""

    path: Path = Field(
        description=(
            "The folder on this machine that is served. Links in its path are followed once, when "
            "the gateway starts."
        )
    )
    links: Literal["inside", "dereference"] = Field(
        "inside",
        description=(
            "`inside`: symbolic links are served as links, and followed only inside the share. "
            "`dereference`: they are served as what they lead to. Current sshfs (3.7.6, and "
            "Debian's updates of 3.7.3) refuses to follow links with `..` as a Hugging Face cache "
            "has them, unless it is mounted with `follow_symlinks`."
        ),
    )
    read_errors: Literal["disconnect", "status"] = Field(
        "disconnect",
        description=(
            "What a client gets for a READ that the disk fails. `disconnect`: the session ends, "
            "because sshfs takes an error for the end of the file, and a copy would be short "
            "without an error; clients that are known to report errors get the status all the "
            "same. `status`: every client gets the status. Use it only if nobody mounts the share."
        ),
    )


def default_shares() -> dict[str, ShareSettings]:
    """What is exported where the configuration names nothing."""
    return {
        "Bhushanji": ShareSettings(path=Path("shared/Bhushanji")),
        "newsletters": ShareSettings(path=Path("shared/newsletters")),
        "models": ShareSettings(path=Path("shared/models")),
        ".cache/huggingface/hub": ShareSettings(
            path=Path("shared/huggingface/hub"), links="dereference"
        ),
    }
