"""Gives the gateway's user the rights that it needs to the files of others, and no more.

Files are judged and changed as they are held open (`dirfd`), so that a name which is swapped for a
link meanwhile changes nothing else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from sftp_gateway.system.dirfd import Folder, Held, Owner

_READ, _WRITE, _SEARCH = 0o4, 0o2, 0o1

#: What follows the name of a file that is written: old logs, and what SQLite has beside a database.
_SUFFIXES: Final = (".", "-")


class Handover:
    """Hands files over to the gateway's user, from the `former` one if there was one.

    `report` gets a line for each change, and for each right that cannot be given.
    """

    def __init__(
        self, *, gateway: Owner, former: Owner | None, report: Callable[[str], None]
    ) -> None:
        self._gateway = gateway
        self._former = former
        self._say = report

    def own(self, held: Held | None) -> None:
        """Make the gateway's user the owner of a file that nobody else may have."""
        if held is not None and _owner_of(held.status) != self._gateway:
            held.change(owner=self._gateway)
            self._say(f"gave {held.path} to the gateway's user {self._gateway.uid}")

    def let_read(self, held: Held | None, *, public: bool, ours: bool = False) -> None:
        """Give the one right that it takes to read a file, or to pass a folder.

        By way of the group if that has no rights to lose, or had them for the former gateway, so
        that nobody else gets any; otherwise, for what is no secret, by way of everybody. `ours` is
        a file that the gateway made itself, whose group is for nobody else.
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
                f"warning: the gateway's user {self._gateway.uid} cannot read {held.path}, whose "
                f"group {held.status.st_gid} would lose its access; run: chgrp "
                f"{self._gateway.gid} {held.path} && chmod g+r {held.path}"
            )
            return
        self._say(f"let the gateway's user {self._gateway.uid} read {held.path}")

    def let_write(self, file: Path, *, beside: Collection[str] = ()) -> None:
        """Give the gateway's user a file that it writes, those that belong to it, and their folder.

        The folder changes its owner only if there is nothing else in it but files `beside`, by the
        names that they begin with. Nothing of this is needed to serve files, so that what cannot
        be handed over is only said.
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
                    self._say(f"gave {folder.path} to the gateway's user {self._gateway.uid}")
                else:
                    self._say(
                        f"warning: the gateway's user {self._gateway.uid} cannot write to "
                        f"{folder.path}, which has other files in it; name a folder of its own, or "
                        f"run: chown {self._gateway.uid} {folder.path}"
                    )
        except OSError as error:
            self._say(f"warning: {error.filename}: cannot be handed over: {error.strerror}")

    def _let_write_entries(self, folder: Folder, names: Collection[str]) -> None:
        """Hand over what has been written; a name that is no regular file is left alone."""
        for name in names:
            try:
                status = folder.lstat(name)
                if status is None or self._has(status):
                    continue
                if stat.S_ISSOCK(status.st_mode):  # of a gateway that is gone; it is made again
                    folder.remove(name)
                    continue
                held = folder.entry(name)
                if held is None:
                    continue
                with held:
                    mode = stat.S_IMODE(held.status.st_mode)
                    held.change(owner=self._gateway, mode=mode | stat.S_IRUSR | stat.S_IWUSR)
                    self._say(f"gave {held.path} to the gateway's user {self._gateway.uid}")
            except OSError as error:
                self._say(f"warning: {error.filename}: cannot be handed over: {error.strerror}")

    def _is_ours(self, folder: Folder, name: str, ours: Collection[str]) -> bool:
        """Whether an entry is one of these files, or belongs to one; or a socket of the gateway's,
        now or before."""
        beside = tuple(each + suffix for each in ours for suffix in _SUFFIXES)
        if name in ours or name.startswith(beside):
            return True
        status = folder.lstat(name)
        users = {owner.uid for owner in (self._gateway, self._former) if owner is not None}
        return status is not None and stat.S_ISSOCK(status.st_mode) and status.st_uid in users

    def _has(self, status: os.stat_result) -> bool:
        """Whether a file is the gateway's already, for its group too."""
        return status.st_uid == self._gateway.uid and not self._was_former_group(status)

    def _was_former_group(self, status: os.stat_result) -> bool:
        """Whether the file's group is the former gateway's, and no more this one's."""
        return (
            self._former is not None
            and status.st_gid == self._former.gid
            and status.st_gid != self._gateway.gid
        )

    def _may(self, status: os.stat_result, rights: int) -> bool:
        """Whether the gateway's user has these rights by the mode."""
        gateway = self._gateway
        shift = 6 if status.st_uid == gateway.uid else 3 if status.st_gid == gateway.gid else 0
        return gateway.uid == 0 or status.st_mode >> shift & rights == rights


def _owner_of(status: os.stat_result) -> Owner:
    return Owner(status.st_uid, status.st_gid)
