"""The mount: whether it answers, and the options that keep it alive and quick."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from shlex import quote

from sftp_gateway.worker_doctor.children import PATIENCE, TOUCH, in_child
from sftp_gateway.worker_doctor.target import OK, PROBLEM, WARNING, Target

#: What a link needs in flight is its rate times its round trip; the kernel's own 128 KiB are
#: enough below this.
FAR_SECONDS = 0.005
ENOUGH_READ_AHEAD = 1024


def check_mount(target: Target) -> bool:
    """Whether the mount answers."""
    if not target.mounts:
        target.add(
            "mount", PROBLEM, f"nothing is mounted at {target.mount}",
            "What is seen there is the worker's own folder, usually an empty one."
            + (f" An sshfs for it runs, though (pid {target.pid})." if target.pid else ""),
            "systemctl status sshfs-main-server    # where it is a service",
        )  # fmt: skip
        return False
    kind = target.mounts[-1].kind
    if kind != "fuse.sshfs":
        target.add("mount", PROBLEM, f"{target.mount} is a mount of type {kind}", "Not sshfs.")
        return False
    if len(target.mounts) > 1:
        target.add(
            "mount", WARNING, f"{len(target.mounts)} mounts lie upon another at {target.mount}",
            "Mounted twice: only the last one is seen.", f"fusermount3 -u {quote(target.mount)}",
        )  # fmt: skip
    unmount = f"fusermount3 -uz {quote(target.mount)}    # then mount it again as it was"
    try:
        names, target.round_trip = in_child(lambda: ask(target.mount), TOUCH)
    except TimeoutError:
        _add_hung(target, unmount)
        return False
    except OSError as error:
        _add_failing(target, error, unmount)
        return False
    if not names:
        target.add(
            "mount", WARNING, f"{target.mount} answers and is empty",
            "The wrong folder is mounted, or the share's folder is empty on the server.",
        )  # fmt: skip
        return True
    took = f"{target.round_trip * 1000:.1f} ms"
    target.add("mount", OK, f"{target.mount} answers in {took}: {', '.join(names)}")
    return True


def ask(mount: str) -> tuple[list[str], float]:
    """A few names in a mount, and the seconds of the quickest of some requests to the server.

    sshfs has an answer of its own for what it has seen, but not for names that are not there.
    """
    quickest = PATIENCE
    for number in range(5):
        began = time.monotonic()
        with contextlib.suppress(FileNotFoundError):
            os.lstat(os.path.join(mount, f".sshfs-doctor-{os.getpid()}-{number}"))
        quickest = min(quickest, time.monotonic() - began)
    return sorted(os.listdir(mount))[:6], quickest


def _add_hung(target: Target, unmount: str) -> None:
    state = ""
    with contextlib.suppress(OSError), open(f"/proc/{target.pid}/stat", encoding="utf-8") as file:
        state = file.read().rpartition(")")[2].split()[0]
    do = [unmount]
    means = (
        "The server does not answer, or what is asked waits for its disk. With reconnect and "
        "keep-alives it comes back, or fails, after ServerAliveInterval x ServerAliveCountMax "
        "seconds. Whoever asks meanwhile waits, and cannot be ended; to end the waiting:"
    )
    if state in ("T", "t"):
        means = f"Its sshfs (pid {target.pid}) is stopped, as by Ctrl-Z."
        do = [f"kill -CONT {target.pid}", *do]
    elif target.pid:
        do.append(f"kill -9 {target.pid}")
    minor = target.mounts[-1].device.partition(":")[2]
    do.append(f"echo 1 > /sys/fs/fuse/connections/{minor}/abort    # if even that hangs")
    target.add("mount", PROBLEM, f"{target.mount} hangs: no answer in {TOUCH:.0f} s", means, *do)


def _add_failing(target: Target, error: OSError, unmount: str) -> None:
    means = "The server is away or was when it was asked; a mount with reconnect comes back."
    if error.errno == errno.ENOTCONN:
        means = (
            "Its sshfs has ended (killed, or the connection was lost without reconnect) and the "
            "mount was left behind."
        )
    elif error.errno == errno.EACCES:
        means = (
            "This user may not enter: without allow_other only who mounted may, not even root; or "
            "the server shows modes that let nobody else in."
        )
        owner = re.search(r"user_id=(\d+)", " ".join(target.mounts[-1].options))
        unmount = f"sudo -u '#{owner[1] if owner else 0}' ls {quote(target.mount)}"
    target.add("mount", PROBLEM, f"{target.mount}: {error.strerror}", means, unmount)


def check_options(target: Target) -> None:
    """Options without which a mount is not coming back, or slow."""
    if not target.options:
        target.add("options", OK, "not looked at: its sshfs cannot be seen (run this as root)")
        return
    missing = []
    if "reconnect" not in target.options:
        missing.append("reconnect")
    if target.configured("serveraliveinterval", "0") == "0":
        missing.append("ServerAliveInterval=15,ServerAliveCountMax=3")
    if missing:
        target.add(
            "options", WARNING, f"the mount has no {' and no '.join(missing)}",
            "Without reconnect it is gone for good when the link is cut; without keep-alives it "
            "hangs for many minutes before it notices.",
            f"sshfs -o {','.join(missing)} ...",
        )  # fmt: skip
    else:
        target.add("options", OK, "reconnect, and keep-alives")
    if target.round_trip > FAR_SECONDS and int(target.options.get("max_read") or 0) < 65536:
        target.add(
            "max_read", WARNING, "the mount has no max_read=65536",
            "Each READ takes half of what it could; over a far link that is slower.",
            "sshfs -o max_read=65536 ...",
        )  # fmt: skip


def check_read_ahead(target: Target) -> None:
    """How far the kernel reads ahead: what is in flight on the link for one file."""
    path = f"/sys/class/bdi/{target.mounts[-1].device}/read_ahead_kb"
    try:
        with open(path, encoding="ascii") as file:
            amount = int(file.read())
    except (OSError, ValueError):
        return
    found = f"the kernel reads {amount} KiB ahead"
    if target.round_trip > FAR_SECONDS and amount < ENOUGH_READ_AHEAD:
        limit = amount * 1024 / target.round_trip / 1e6
        target.add(
            "read-ahead", WARNING,
            f"{found}, and the server is {target.round_trip * 1000:.0f} ms away",
            f"One reader of one file gets no more than about {limit:.1f} MB/s. (As root, and after "
            "each mount:)",
            f"echo 4096 > {path}",
        )  # fmt: skip
    else:
        target.add("read-ahead", OK, found)
