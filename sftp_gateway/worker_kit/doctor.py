"""`sftp-gateway doctor --worker`: runs the doctor of the kit, a shell script, on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from importlib.resources import as_file, files


def run_doctor(arguments: Sequence[str]) -> int:
    """Run it with `arguments`; return its exit status."""
    with as_file(files("sftp_gateway.worker_kit") / "files/sshfs-doctor") as script:
        return subprocess.run(
            ["sh", str(script), *arguments],
            env={**os.environ, "SSHFS_DOCTOR_NAME": "sftp-gateway doctor --worker"},
            check=False,
        ).returncode
