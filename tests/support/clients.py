"""The clients that tests mount with: each sshfs that is there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.gateway import Gateway, unmount, wait_for

#: A folder with a Debian 13 that has sshfs.
TRIXIE_ROOT: Final = "TEST_TRIXIE_ROOT"


def _found() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {"3.7.3": ("sshfs",)}
    if root := os.environ.get(TRIXIE_ROOT):
        # Its program with its libraries; the kernel, `ssh` and fusermount3 are this machine's.
        libraries = f"{root}/usr/lib/x86_64-linux-gnu"
        loader = f"{root}/usr/lib64/ld-linux-x86-64.so.2"
        found["3.7.6"] = (loader, "--library-path", libraries, f"{root}/usr/bin/sshfs")
    return found


#: The commands by version.
SSHFS: Final = _found()


@contextmanager
def mounted_by(sshfs: Sequence[str], gateway: Gateway, at: Path, *options: str) -> Iterator[Path]:
    """The home folder, mounted with this sshfs."""
    at.mkdir(parents=True, exist_ok=True)
    ssh = [part.removeprefix("-o") for part in gateway.ssh_options() if part.startswith("-o")]
    process = subprocess.Popen(
        [
            *sshfs, "-f", "-p", str(gateway.port), "gvpocr@127.0.0.1:/home/gvpocr", str(at),
            *(f"-o{option}" for option in (*ssh, *options)),
        ],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None, f"sshfs ended with status {process.returncode}"
        return os.path.ismount(at)

    try:
        wait_for(ready, f"{at} to be mounted")
        yield at
    finally:
        unmount(at, process)
        subprocess.run(["fusermount3", "-uzq", str(at)], stderr=subprocess.DEVNULL, check=False)
