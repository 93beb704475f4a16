"""What a read-only export shows of a file's attributes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a file as they are shown: size in bytes, times in seconds since 1970."""

    size: int
    uid: int
    gid: int
    mode: int
    atime: int
    mtime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Presentation:
    """Owner and group to show instead of the real ones; None shows the real ones."""

    uid: int | None = None
    gid: int | None = None

    def show(self, status: os.stat_result) -> Attributes | None:
        """What is shown for `status`, or None for what is hidden: fifos, sockets and devices.

        sshfs mounts with `default_permissions` make the worker's kernel enforce these bits, so
        they say what is true here: folders and files can be read by all, nothing can be written,
        and what is executable stays so.
        """
        mode = status.st_mode
        if stat.S_ISREG(mode):
            shown = stat.S_IFREG | 0o444 | (mode & 0o111)
        elif stat.S_ISDIR(mode):
            shown = stat.S_IFDIR | 0o555
        elif stat.S_ISLNK(mode):
            shown = stat.S_IFLNK | 0o777
        else:
            return None
        return Attributes(
            status.st_size,
            status.st_uid if self.uid is None else self.uid,
            status.st_gid if self.gid is None else self.gid,
            shown,
            int(status.st_atime),
            int(status.st_mtime),
        )

    def folder(self, time: int) -> Attributes:
        """What is shown for a folder that the gateway makes up, with `time` as its times."""
        return Attributes(
            4096,
            os.getuid() if self.uid is None else self.uid,
            os.getgid() if self.gid is None else self.gid,
            stat.S_IFDIR | 0o555,
            time,
            time,
        )
