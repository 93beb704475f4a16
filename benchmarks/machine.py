"""What the numbers were measured on: machine, kernel, versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import REPOSITORY, program
from sftp_gateway import __version__

_LIBRARIES = ("asyncssh", "cryptography", "uvloop")


def machine() -> dict[str, str | int | float]:
    """Processor, usable cores, memory and kernel; nothing that names the machine."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "system": _field(Path("/etc/os-release"), "PRETTY_NAME", "=").strip('"'),
    }


def versions() -> dict[str, str]:
    """Versions of everything that may take part; "unknown" for what is missing."""
    return {
        "sftp-gateway": _commit() or __version__,
        "sshfs": _said(r"SSHFS version (\S+)", "sshfs", "--version"),
        "OpenSSH client": _said(r"(OpenSSH_[^,]+)", "ssh", "-V"),
        # An sshd that does not know -V says its version before its usage.
        "OpenSSH server": _said(r"(OpenSSH_[^,]+)", "sshd", "-V"),
        "rclone": _said(r"rclone v?(\S+)", "rclone", "version"),
        "ProFTPD": _said(r"ProFTPD Version (\S+)", "proftpd", "-v"),
        "Python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
    }


def load_average() -> list[float]:
    """Over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _field(file: Path, name: str, separator: str = ":") -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(separator) for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def _said(pattern: str, name: str, *options: str) -> str:
    if (path := program(name)) is None:
        return "unknown"
    done = subprocess.run(
        [path, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1].strip() if found else "unknown"


def _commit() -> str:
    """The commit that is checked out, with `-dirty` where files were changed since."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
