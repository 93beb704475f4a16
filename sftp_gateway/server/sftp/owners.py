"""Names of the owners of files (users-groups-by-id@openssh.com).

A client learns a name only for an owner that its own session has been shown in a listing: whom else
the server knows is outside the shares. The names are those of /etc/passwd and /etc/group, read once
before a worker is confined, so that no request waits for a directory service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

#: Entries that are read of each file, and bytes of the longest name: useradd(8) takes 32.
_MAX_ENTRIES: Final = 65_536
_MAX_NAME: Final = 64

_UINT32_MAX: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class OwnerNames:
    """Names of users and groups, by id."""

    users: Mapping[int, bytes] = field(default_factory=dict)
    groups: Mapping[int, bytes] = field(default_factory=dict)


def read(folder: Path = Path("/etc")) -> OwnerNames:
    """The names that the files `passwd` and `group` have; none where a file cannot be read."""
    return OwnerNames(_names(folder / "passwd"), _names(folder / "group"))


def _names(path: Path) -> dict[int, bytes]:
    names: dict[int, bytes] = {}
    try:
        with path.open("rb") as lines:
            for line, _ in zip(lines, range(_MAX_ENTRIES), strict=False):
                name, _, number, *_ = [*line.rstrip(b"\n").split(b":"), b"", b""]
                if 0 < len(name) <= _MAX_NAME and number.isdigit():
                    names.setdefault(int(number), name)  # getpwuid(3) gives the first
    except OSError:
        pass
    return names


class Owners:
    """The owners that one session has been shown."""

    def __init__(self, known: OwnerNames) -> None:
        self._known = known
        self._users: set[int] = set()
        self._groups: set[int] = set()

    def show(self, uid: int, gid: int) -> None:
        """The client is shown these; from any thread."""
        self._users.add(uid & _UINT32_MAX)
        self._groups.add(gid & _UINT32_MAX)

    def names(
        self, uids: Iterable[int], gids: Iterable[int]
    ) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """Names of users and of groups; empty ones for those that were not shown or have none."""
        users, groups = self._known.users, self._known.groups
        return (
            [users.get(uid, b"") if uid in self._users else b"" for uid in uids],
            [groups.get(gid, b"") if gid in self._groups else b"" for gid in gids],
        )
