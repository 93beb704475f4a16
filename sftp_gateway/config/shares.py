"""The folders that shares name, as they are found: where they really are, and what they contain."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Final

from sftp_gateway.config import detached
from sftp_gateway.settings import FOLDER_VARIABLES, Settings
from sftp_gateway.system.containers import in_container
from sftp_gateway.vfs.path_resolution import open_no_symlinks

#: Seconds that a share's disk has to answer: at the start, when it may have to spin up, and while
#: the gateway runs and changes of keys wait for it.
AT_START: Final = 15.0
RUNNING: Final = 3.0

_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

#: Where the image has the gateway.
_IMAGES_FOLDER: Final = Path("/opt/sftp-gateway")

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file or folder is: by its path without links, by device and inode, and by the path
    in its file system, which is the same for whatever it is mounted as."""

    path: Path
    identity: tuple[int, int] | None = None
    above: frozenset[tuple[int, int]] = frozenset()
    mounted: tuple[str, PurePosixPath] | None = None

    @classmethod
    def of(cls, path: Path) -> Place:
        """Look it up; it need not exist. May wait for its disk."""
        real = Path(os.path.realpath(path))
        identity, *above = (_identity(each) for each in (real, *real.parents))
        return cls(real, identity, frozenset(filter(None, above)), _mounted(real))

    def is_same(self, other: Place) -> bool:
        """Whether the other is this folder, by any path."""
        return self.path == other.path or (
            self.identity is not None and self.identity == other.identity
        )

    def contains(self, other: Place) -> bool:
        """Whether the other is this folder or is in it, by any path, link or mount."""
        if other.path.is_relative_to(self.path):
            return True
        if self.identity is not None and self.identity in {other.identity, *other.above}:
            return True
        if self.mounted is None or other.mounted is None:
            return False
        (file_system, path), (its, its_path) = self.mounted, other.mounted
        return file_system == its and its_path.is_relative_to(path)


@dataclass(frozen=True, slots=True)
class Look:
    """A share's folder as it was found, and what is wrong with it; "" if nothing is."""

    place: Place
    problem: str = ""


def look(
    shares: Mapping[str, Path],
    *,
    known: Mapping[Path, Path],
    seconds: float,
    hanging: Collection[str] = (),
) -> dict[str, Look]:
    """Look at the folders of all shares, for so many seconds at most.

    Links in their paths are followed, unless it is `known` what they led to before. Those that are
    `hanging` are not looked at. To be called in a process of one thread.
    """
    answers = detached.ask(
        lambda name: look_at(shares[name], known.get(shares[name])),
        [name for name in shares if name not in hanging],
        seconds=seconds,
    )
    return {
        name: answers.get(name) or _no_answer(known.get(path, path))
        for name, path in shares.items()
    }


def hanging(shares: Mapping[str, Path]) -> set[str]:
    """The shares whose disks do not answer in time. To be called as `look` is."""
    answers = detached.ask(
        lambda name: os.path.exists(shares[name]) and os.statvfs(shares[name]).f_bsize,
        list(shares),
        seconds=AT_START,
    )
    return shares.keys() - answers.keys()


@dataclass(frozen=True, slots=True)
class Own:
    """A file of the gateway's own, or a folder of which everything is, and the option's name."""

    option: str
    path: Path
    of_folder: bool = False


def mixed_up(looks: Mapping[str, Look], owned: Sequence[Own]) -> list[str]:
    """Sentences about shares that have files of the gateway's own in them, or are among those."""
    here = Place.of(Path.cwd())
    places = [(own, Place.of(own.path)) for own in owned]
    said = []
    for name, look in looks.items():
        place = look.place
        if has := [own for own, its in places if place.contains(its)]:
            what = ", ".join(f"{own.option} ({own.path})" for own in has)
            said.append(
                f"shares.{name}.path: {place.path} contains {what}, which would be served; name a "
                "folder that has nothing of the gateway's own, or move what is"
            )
            continue
        # What the working folder is in has more than the gateway's own, such as the shares.
        among = [
            own
            for own, its in places
            if own.of_folder and its.contains(place) and not its.contains(here)
        ]
        if among:
            what = ", ".join(f"{own.option} ({own.path})" for own in among)
            said.append(
                f"shares.{name}.path: {place.path} is in the gateway's own {what}; move either to "
                "a folder of its own"
            )
    return said


def nested(looks: Mapping[str, Look], settings: Settings) -> list[str]:
    """Sentences about shares that are the same folder, or in others that other users may read."""
    readers = {
        share: {
            name
            for name, user in settings.users.items()
            if user.shares == "*" or share in user.shares
        }
        for share in looks
    }
    said = []
    for one, other in combinations(looks, 2):
        if readers[one] == readers[other]:
            if looks[one].place.is_same(looks[other].place):
                said.append(
                    f"shares.{other}.path: is the same folder as shares.{one}.path, "
                    f"{looks[one].place.path}; name another, or remove one of the two"
                )
            continue
        outer, inner = one, other
        if not looks[one].place.contains(looks[other].place):
            outer, inner = other, one
            if not looks[outer].place.contains(looks[inner].place):
                continue
        same = looks[inner].place.contains(looks[outer].place)
        who = "; ".join(
            f"{share} is granted to {', '.join(sorted(readers[share])) or 'nobody'}"
            for share in (outer, inner)
        )
        where = "the same folder as" if same else "in"
        said.append(
            f"shares.{inner}.path: is {where} shares.{outer}.path, so whoever may read {outer} "
            f"reads {inner} too: {who}; grant both to the same users, or keep them apart"
        )
    return said


def look_at(path: Path, known: Path | None = None) -> Look:
    """Look at one folder as `look` does, however long it takes."""
    real = known or path
    try:
        os.statvfs(real)  # which no cache answers
        if not os.path.isdir(real):
            return _away(real, f"there is no folder {real}; make it, or name another")
        if known is None:
            real = Path(os.path.realpath(path))
        if not os.access(real, os.R_OK | os.X_OK):
            return _away(real, unreadable(real))
        os.close(open_no_symlinks(real))
        return Look(Place.of(real))
    except OSError as error:
        # By its path without links, as it is served once it can be read.
        real = known or Path(os.path.realpath(path))
        return _away(
            real,
            unreadable(real) if error.errno == errno.EACCES else _why_not(known or path, error),
        )


def unreadable(path: Path) -> str:
    """Why this process may not read the folder `path`, and what to do about it.

    What is in the way may be a folder above it. May wait for the disk.
    """
    above = reversed(path.absolute().parents)
    folder = next((each for each in above if not os.access(each, os.X_OK)), path)
    try:
        status = os.stat(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    right, bits = ("rx", 0o5) if folder == path else ("x", 0o1)
    mode = stat.S_IMODE(status.st_mode)
    in_container = _is_in_image()
    remedies = [f"chmod o+{right} {_name_on_host(folder) if in_container else folder}"]
    # The smaller change of the two; and nobody is told to run the gateway as root.
    if mode >> 3 & bits == bits and status.st_gid:
        remedies.insert(0, _run_as("GID", "group", status.st_gid, in_container=in_container))
    elif mode >> 6 & bits == bits and status.st_uid:
        remedies.insert(0, _run_as("UID", "user", status.st_uid, in_container=in_container))
    if mode & bits == bits:
        remedies = ["everybody may by its mode, so look at its ACL, and at SELinux or AppArmor"]
    return (
        f"{folder} cannot be read by the gateway, which runs as {os.geteuid()}:{os.getegid()}: it "
        f"belongs to {status.st_uid}:{status.st_gid}, mode {mode:04o}: {', or '.join(remedies)}"
    )


def _is_in_image() -> bool:
    """Whether this is the container of the compose file, or one of its image."""
    return Path(__file__).is_relative_to(_IMAGES_FOLDER) and in_container()


def _run_as(variable: str, kind: str, number: int, *, in_container: bool) -> str:
    if in_container:
        return f"set GATEWAY_{variable}={number} in .env"
    return f"run the gateway as {kind} {number}"


def _name_on_host(folder: Path) -> str:
    """What the folder of a container is called outside of it."""
    for default, variable in FOLDER_VARIABLES.items():
        if folder == default.absolute():
            return f"the folder that {variable} in .env names (./{default} by default)"
    return "that folder on the host"


def _why_not(path: Path, error: OSError) -> str:
    if error.errno in _NO_FOLDER:
        return f"there is no folder {path}; make it, or name another"
    if error.errno == errno.ELOOP:
        return (
            f"{path}: {error.strerror}; links are followed at the start of the gateway only, so "
            "start it anew if that is meant"
        )
    return f"{path}: {error.strerror}; mount its disk again, or take it out of the configuration"


def _no_answer(path: Path) -> Look:
    return _away(
        path,
        f"the disk of {path} does not answer; repair or unmount it, or take it out of the "
        "configuration",
    )


def _away(path: Path, problem: str) -> Look:
    return Look(Place(Path(os.path.abspath(path))), problem)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _mounted(path: Path) -> tuple[str, PurePosixPath] | None:
    """The file system that a path without links is in, and its path there, by proc(5).

    What is not there is where the nearest folder before it is.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        above = _mounted(path.parent) if path != path.parent else None
        return above and (above[0], above[1] / path.name)
    try:
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        number = facts.partition("mnt_id:")[2].split()[0]
        for line in os.fsdecode(Path("/proc/self/mountinfo").read_bytes()).splitlines():
            mount, _, file_system, root, point, *_ = line.split(" ")
            if mount == number:
                below = path.relative_to(_unescaped(point))
                return file_system, PurePosixPath(_unescaped(root)) / below
    except (OSError, ValueError, IndexError):
        pass  # no proc(5) that tells: paths and inodes have to do
    finally:
        os.close(descriptor)
    return None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
