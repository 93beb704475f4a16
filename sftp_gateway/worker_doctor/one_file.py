"""The doctor as one file that `python3 FILE` runs.

    python3 -m sftp_gateway.worker_doctor.one_file > sshfs-doctor

It is a zip archive of these modules, as Python's own zipapp makes them, but the same one whenever
it is made. Nothing in it is compressed: who is to run it as root can read it.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path


def one_file() -> bytes:
    """The whole program."""
    here = Path(__file__)
    modules = [path for path in sorted(here.parent.glob("*.py")) if path != here]
    made = io.BytesIO()
    made.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(made, "w") as archive:
        _add(archive, "__main__.py", here.with_name("__main__.py"))
        for path in (here.parents[1] / "__init__.py", *modules):
            _add(archive, path.relative_to(here.parents[2]).as_posix(), path)
    return made.getvalue()


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    archive.writestr(zipfile.ZipInfo(name), path.read_bytes())  # without a time


if __name__ == "__main__":
    sys.stdout.buffer.write(one_file())
