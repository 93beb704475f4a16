"""Grants the gateway's user the access that it needs to files of other users, and no more.

Files are checked and changed through open descriptors (`dirfd`), so that a name that is replaced by
a link meanwhile has no effect on other files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sftp_gateway.system.dirfd import Folder, Held, Owner

_READ, _WRITE, _SEARCH = 0o4, 0o2, 0o1

#: Suffixes after the name of a written file: rotated logs, and SQLite's files next to a database.
_SUFFIXES: Final = (".", "-")


class Handover:
    """Grants access to the gateway's user, replacing a `former` gateway user if any.

    `report` gets a line for each change, and for each failure.
    """

    def __init__(
        self, *, gateway: Owner, former: Owner | None, report: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._former = former
        self._say = report

    def own(self, held: Held | None) -> None:
        """Make the gateway's user the owner of a private file."""
        if held is not None and _owner_of(held.status) != self._gateway:
            held.change(owner=self._gateway)
            self._say(
                f"changed the owner of {held.path} to the gateway's user, {self._gateway.uid}"
            )

    def let_read(self, held: Held | None, *, public: bool, ours: bool = False) -> None:
        """Grant permission to read a file, or to search a folder.

        It is granted to the gateway's group if the file's group has no permissions, or is that of
        the former gateway; otherwise, if the file is `public`, to all. `ours` is a file that the
        gateway has created itself, and whose group it may change.
        """
        if held is None:
            return
        mode = stat.S_IMODE(held.status.st_mode)
        right = _SEARCH if isinstance(held, Folder) else _READ
        if self._may(held.status, right):
            return
        if ours or not mode & 0o070 or self._was_former_group(held.status):
            held.change(owner=Owner(-1, self._gateway.gid), mode=mode | right << 3)
        elif public:
            held.change(mode=mode | right << 3 | right)
        else:
            self._say(
                f"warning: the gateway's user, {self._gateway.uid}, cannot read {held.path}; its "
                f"group was not changed, because group {held.status.st_gid} would lose access; to "
                f"change it, run: chgrp {self._gateway.gid} {held.path} && chmod g+r {held.path}"
            )
            return
        self._say(f"granted the gateway's user, {self._gateway.uid}, read access to {held.path}")

    def let_write(self, file: Path, *, beside: Collection[str] = ()) -> None:
        """Make the gateway's user the owner of a written file, related files and their folder.

        The owner of the folder is changed only if the folder has no other files than these and
        those that begin with a name in `beside`. Failures are only reported, because serving does
        not depend on these files.
        """
        try:
            with Folder.open(file.parent, make=True) as folder:
                names = [name for name in folder.names() if name != "lost+found"]
                ours = [name for name in names if self._is_ours(folder, name, (file.name, *beside))]
                self._let_write_entries(folder, ours)
                alone = ours == names
                if self._may(folder.status, _WRITE | _SEARCH):
                    return
                if alone or self._former == _owner_of(folder.status):
                    mode = stat.S_IMODE(folder.status.st_mode)
                    folder.change(owner=self._gateway, mode=mode | stat.S_IRWXU)
                    self._say(
                        f"changed the owner of {folder.path} to the gateway's user, "
                        f"{self._gateway.uid}"
                    )
                else:
                    self._say(
                        f"warning: the gateway's user, {self._gateway.uid}, cannot write to "
                        f"{folder.path}, which has other files in it; choose a separate folder, or "
                        f"run: chown {self._gateway.uid} {folder.path}"
                    )
        except OSError as error:
            self._say(f"warning: {error.filename}: cannot change owner: {error.strerror}")

    def _let_write_entries(self, folder: Folder, names: Collection[str]) -> None:
        """Change the owner of existing files; skip what is not a regular file."""
        for name in names:
            try:
                status = folder.lstat(name)
                if status is None or self._has(status):
                    continue
                if stat.S_ISSOCK(status.st_mode):  # stale; the gateway creates a new one
                    folder.remove(name)
                    continue
                held = folder.entry(name)
                if held is None:
                    continue
                with held:
                    mode = stat.S_IMODE(held.status.st_mode)
                    held.change(owner=self._gateway, mode=mode | stat.S_IRUSR | stat.S_IWUSR)
                    self._say(
                        f"changed the owner of {held.path} to the gateway's user, "
                        f"{self._gateway.uid}"
                    )
            except OSError as error:
                self._say(f"warning: {error.filename}: cannot change owner: {error.strerror}")

    def _is_ours(self, folder: Folder, name: str, ours: Collection[str]) -> bool:
        """Whether an entry is one of these files, related to one, or a socket of the gateway."""
        beside = tuple(each + suffix for each in ours for suffix in _SUFFIXES)
        if name in ours or name.startswith(beside):
            return True
        status = folder.lstat(name)
        users = {owner.uid for owner in (self._gateway, self._former) if owner is not None}
        return status is not None and stat.S_ISSOCK(status.st_mode) and status.st_uid in users

    def _has(self, status: os.stat_result) -> bool:
        """Whether the gateway's user and group already own the file."""
        return status.st_uid == self._gateway.uid and not self._was_former_group(status)

    def _was_former_group(self, status: os.stat_result) -> bool:
        """Whether the file's group is that of the former gateway only."""
        return (
            self._former is not None
            and status.st_gid == self._former.gid
            and status.st_gid != self._gateway.gid
        )

    def _may(self, status: os.stat_result, rights: int) -> bool:
        """Whether the mode grants these permissions to the gateway's user."""
        gateway = self._gateway
        shift = 6 if status.st_uid == gateway.uid else 3 if status.st_gid == gateway.gid else 0
        return gateway.uid == 0 or status.st_mode >> shift & rights == rights


def _owner_of(status: os.stat_result) -> Owner:
    return Owner(status.st_uid, status.st_gid)
