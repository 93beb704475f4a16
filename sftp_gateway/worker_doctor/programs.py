"""What a mount needs on the worker: programs, the kernel's FUSE, and being allowed to."""

from __future__ import annotations

import os
import re
import shlex
import shutil

from sftp_gateway.worker_doctor.children import run
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target


def check_programs(target: Target) -> None:
    """What a mount needs to be installed, and of which version it is."""
    missing = [name for name in ("ssh", "sshfs") if not shutil.which(name)]
    fusermount = shutil.which("fusermount3") or shutil.which("fusermount")
    if not fusermount:
        missing.append("fusermount3")
    if missing:
        target.add(
            "programs", PROBLEM, f"{', '.join(missing)} is not installed",
            "Nothing can be mounted without.",
            "apt-get install -y sshfs fuse3 openssh-client    # Debian, Ubuntu",
            "dnf install -y fuse-sshfs                        # Fedora",
            "apk add sshfs fuse3 openssh-client               # Alpine",
        )  # fmt: skip
        return
    versions = run("sshfs", "--version").stdout + run(fusermount or "", "--version").stdout
    sshfs = re.search(r"SSHFS version (\S+)", versions)
    fuse = re.search(r"fusermount3? version: (\S+)", versions)
    ssh = run("ssh", "-V").stderr.split(",")[0].strip()
    found = f"sshfs {sshfs[1] if sshfs else '?'}, fusermount {fuse[1] if fuse else '?'}, {ssh}"
    if sshfs and sshfs[1].startswith("2."):
        target.add(
            "programs", WARNING, found, "sshfs before 3 is slower, and comes back less surely."
        )
    else:
        target.add("programs", OK, found)
    if not os.path.exists("/dev/fuse"):
        target.add(
            "fuse", PROBLEM, "there is no /dev/fuse",
            "The kernel's module is not loaded; a container needs --device /dev/fuse and "
            "--cap-add SYS_ADMIN.",
            "modprobe fuse",
        )  # fmt: skip


def check_allow_other(target: Target) -> None:
    """Who may enter the mount."""
    if not target.mounts:
        return
    if {"allow_other", "allow_root"} & set(target.mounts[-1].options):
        target.add("allow_other", OK, "users and containers other than the mount's may enter")
    else:
        target.add(
            "allow_other", WARNING, "only the user who made the mount may enter",
            "Others, root and containers too, are told 'Permission denied'. Mount again with "
            "allow_other if they should be let in.",
        )  # fmt: skip


def check_fuse_conf(target: Target, fuse_conf: str) -> None:
    """Whether this user may let others in."""
    if os.geteuid() == 0:
        return
    try:
        with open(fuse_conf, encoding="utf-8") as file:
            allowed = any(line.split() == ["user_allow_other"] for line in file)
    except OSError:
        allowed = False
    if allowed:
        target.add("fuse.conf", OK, f"{fuse_conf} has user_allow_other")
    else:
        needed = "allow_other" in target.options and not target.mounts
        target.add(
            "fuse.conf", PROBLEM if needed else WARNING, f"{fuse_conf} has no user_allow_other",
            "Only root may mount with allow_other: for others sshfs says 'option allow_other only "
            "allowed if 'user_allow_other' is set in /etc/fuse.conf', and mounts nothing.",
            f"echo user_allow_other | sudo tee -a {shlex.quote(fuse_conf)}",
        )  # fmt: skip
