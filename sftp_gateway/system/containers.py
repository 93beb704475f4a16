"""Whether this process runs in a container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

#: There is one of these in every container of Docker and Podman.
_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))


def in_container() -> bool:
    """Whether this is a container of Docker or Podman, whatever its image."""
    return any(mark.exists() for mark in _MARKS)


def with_docker() -> bool:
    """Whether this is a container of the gateway's image, which sets `container`; podman does so
    itself."""
    return os.environ.get("container") in ("docker", "podman")  # noqa: SIM112
