"""Clients installed by scripts/clients, in the versions that users have."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Final

#: The repository that the virtual environment is in: a copy, as scripts/mutate makes them, has
#: neither that nor the clients.
_HOME: Final = Path(sys.prefix).parent

#: sshfs of each Debian release, which brings the ssh of that release with it.
_SSHFS: Final = {
    "3.7.1": "bullseye",
    "3.7.3": "bookworm",
    "3.7.3 on FUSE 3.17": "trixie",
}


@functools.cache
def installed() -> Path:
    """The clients' folder, after scripts/clients has installed missing ones."""
    ran = subprocess.run(["scripts/clients"], cwd=_HOME, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 0, ran.stderr
    return _HOME / ".clients"


def debian(suite: str, program: str) -> Path:
    """A wrapper that runs a program of a Debian release."""
    return installed() / suite / "bin" / program


def sshfs_versions() -> dict[str, Path]:
    """The program of each version of sshfs: to be handed to `Gateway.mounted(sshfs=...)`.

    Names for tests, such as "3.7.1"; parametrize by `SSHFS_VERSIONS`, which installs nothing.
    """
    return {version: debian(suite, "sshfs") for version, suite in _SSHFS.items()}


SSHFS_VERSIONS: Final = tuple(_SSHFS)
