"""Another version of this project, to measure beside the one that is checked out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.peers import REPOSITORY


def checkout(what: str, folder: Path) -> Path:
    """Where the code of `what` is: a folder with a checkout, or a git revision.

    The files of a revision are written to `folder`. Raises CalledProcessError if git knows no such
    revision.
    """
    if Path(what).is_dir():
        return Path(what).resolve()
    folder.mkdir()
    packed = folder / "archive.zip"
    command = ["git", "-C", str(REPOSITORY), "archive", f"--output={packed}", what, "sftp_gateway"]
    subprocess.run(command, check=True)
    shutil.unpack_archive(packed, folder)
    return folder
