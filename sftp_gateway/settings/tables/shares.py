"""`[shares.NAME]`: the exported folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from sftp_gateway.settings.tables.base import Table

#: The default share for a Hugging Face cache.
HUB_SHARE: Final = ".cache/huggingface/hub"


class ShareSettings(Table):
    """One exported folder."""

    path: Path = Field(
        description=(
            "The served folder on this machine. Links in its path are resolved once, when the "
            "gateway starts."
        )
    )
    links: Literal["auto", "keep", "dereference", "inside"] = Field(
        "auto",
        description=(
            "How symbolic links that stay inside the share are served; none leads out of it. "
            "`auto`: relative ones without `..` as links, which the client follows; others as "
            "their targets, because current sshfs (3.7.6, and Debian's updates of 3.7.3) "
            "follows none with `..`. `keep` (formerly `inside`): all as links. `dereference`: "
            "all as their targets. Except with `keep`, listings omit `blobs` of a Hugging Face "
            "cache."
        ),
    )
    read_errors: Literal["disconnect", "status"] = Field(
        "disconnect",
        description=(
            "What a client gets for a READ that fails on the disk. `disconnect`: the session "
            "ends, because sshfs takes an error for the end of the file, and a copy would be "
            "silently truncated; clients known to report errors still get the status. `status`: "
            "every client gets the status. Use it only if nobody mounts the share."
        ),
    )


def default_shares() -> dict[str, ShareSettings]:
    """The shares without any configuration."""
    return {
        "Bhushanji": ShareSettings(path=Path("shared/Bhushanji")),
        "newsletters": ShareSettings(path=Path("shared/newsletters")),
        "models": ShareSettings(path=Path("shared/models")),
        HUB_SHARE: ShareSettings(path=Path("shared/huggingface/hub"), links="dereference"),
    }


#: The variables of the compose file that name the folders of the default shares on the host.
FOLDER_VARIABLES: Final[Mapping[Path, str]] = {
    Path("shared/Bhushanji"): "BHUSHANJI_DIR",
    Path("shared/newsletters"): "NEWSLETTERS_DIR",
    Path("shared/models"): "MODELS_DIR",
    Path("shared/huggingface/hub"): "HUGGINGFACE_HUB_DIR",
}
