"""What a read-only export shows of a file's attributes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import NamedTuple


class Attributes(NamedTuple):
    """Attributes of a file as they are shown: size in bytes, times in seconds since 1970.

    A tuple, in the order that SFTP sends them: a listing makes one for each name.
    """

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
        mode, _, _, _, uid, gid, size, atime, mtime, _ = status
        if stat.S_ISREG(mode):
            shown = stat.S_IFREG | 0o444 | (mode & 0o111)
        elif stat.S_ISDIR(mode):
            shown = stat.S_IFDIR | 0o555
        elif stat.S_ISLNK(mode):
            shown = stat.S_IFLNK | 0o777
        else:
            return None
        return Attributes(
            size,
            uid if self.uid is None else self.uid,
            gid if self.gid is None else self.gid,
            shown,
            int(atime),
            int(mtime),
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
