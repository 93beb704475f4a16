"""Checks the folders of shares: access, location and overlap."""

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

from sftp_gateway.settings import FOLDER_VARIABLES, Settings
from sftp_gateway.system import detached
from sftp_gateway.system.containers import in_container
from sftp_gateway.vfs.path_resolution import open_no_symlinks

#: Seconds to wait for a share's disk: at the start, when it may have to spin up, and at a reload,
#: which changed keys are waiting for.
STARTUP_TIMEOUT: Final = 15.0
RELOAD_TIMEOUT: Final = 3.0

_NO_FOLDER: Final = frozenset({errno.ENOENT, errno.ENOTDIR})

#: The installation folder in the gateway's container image.
_IMAGES_FOLDER: Final = Path("/opt/sftp-gateway")

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a file or folder, to compare it with others.

    `path` is without links; `identity` is (st_dev, st_ino), `above` those of its parents; `mounted`
    is the file system and the path in it, independent of the mount point.
    """

    path: Path
    identity: tuple[int, int] | None = None
    above: frozenset[tuple[int, int]] = frozenset()
    mounted: tuple[str, PurePosixPath] | None = None

    @classmethod
    def of(cls, path: Path) -> Location:
        """The location of a path, which need not exist. May block."""
        real = Path(os.path.realpath(path))
        identity, *above = (_identity(each) for each in (real, *real.parents))
        return cls(real, identity, frozenset(filter(None, above)), _mounted(real))

    def is_same(self, other: Location) -> bool:
        """Whether `other` is this folder, also by another path."""
        return self.path == other.path or (
            self.identity is not None and self.identity == other.identity
        )

    def contains(self, other: Location) -> bool:
        """Whether `other` is this folder or in it, also through links and mounts."""
        if other.path.is_relative_to(self.path):
            return True
        if self.identity is not None and self.identity in {other.identity, *other.above}:
            return True
        if self.mounted is None or other.mounted is None:
            return False
        (file_system, path), (its, its_path) = self.mounted, other.mounted
        return file_system == its and its_path.is_relative_to(path)


@dataclass(frozen=True, slots=True)
class ShareProbe:
    """The location of a share's folder, and why it cannot be read ("" if it can)."""

    location: Location
    problem: str = ""


def probe_shares(
    shares: Mapping[str, Path],
    *,
    known: Mapping[Path, Path],
    timeout: float,
    unresponsive: Collection[str] = (),
) -> dict[str, ShareProbe]:
    """Probe the folders of all shares, within `timeout` seconds.

    Links in their paths are resolved, unless `known` has the earlier result. `unresponsive` shares
    are not probed. Must be called in a single-threaded process.
    """
    answers = detached.run_detached(
        lambda name: probe_share(shares[name], known.get(shares[name])),
        [name for name in shares if name not in unresponsive],
        timeout=timeout,
    )
    return {
        name: answers.get(name) or _unresponsive(known.get(path, path))
        for name, path in shares.items()
    }


def open_folders(paths: Mapping[str, Path]) -> dict[str, int]:
    """O_PATH descriptors, by share, of the folders whose disks respond in time.

    Must be called in a single-threaded process.
    """

    def opened(name: str) -> tuple[None, Sequence[int]]:
        try:
            folder = open_no_symlinks(paths[name])
            os.fstatvfs(folder)  # never answered from a cache
        except OSError:
            return None, ()
        return None, (folder,)

    answers = detached.run_with_descriptors(opened, list(paths), timeout=RELOAD_TIMEOUT)
    return {name: received[0] for name, (_, received) in answers.items() if received}


def unresponsive_shares(shares: Mapping[str, Path]) -> set[str]:
    """The shares whose disks do not respond in time. For single-threaded processes only."""
    answers = detached.run_detached(
        lambda name: os.path.exists(shares[name]) and os.statvfs(shares[name]).f_bsize,
        list(shares),
        timeout=STARTUP_TIMEOUT,
    )
    return shares.keys() - answers.keys()


@dataclass(frozen=True, slots=True)
class OwnedPath:
    """A file of the gateway, or a folder with all its contents, and the option that names it."""

    option: str
    path: Path
    is_folder: bool = False


def containing_own_files(probes: Mapping[str, ShareProbe], owned: Sequence[OwnedPath]) -> list[str]:
    """Errors about shares that contain the gateway's own files, or are inside them."""
    here = Location.of(Path.cwd())
    places = [(own, Location.of(own.path)) for own in owned]
    said = []
    for name, probe in probes.items():
        location = probe.location
        if has := [own for own, its in places if location.contains(its)]:
            what = ", ".join(f"{own.option} ({own.path})" for own in has)
            said.append(
                f"shares.{name}.path: {location.path} contains {what}, which would be served; "
                "choose a folder without files of the gateway, or move them"
            )
            continue
        # A folder above the working folder also contains the shares.
        among = [
            own
            for own, its in places
            if own.is_folder and its.contains(location) and not its.contains(here)
        ]
        if among:
            what = ", ".join(f"{own.option} ({own.path})" for own in among)
            said.append(
                f"shares.{name}.path: {location.path} is in the gateway's own {what}; "
                "move one of them"
            )
    return said


def nested_shares(probes: Mapping[str, ShareProbe], settings: Settings) -> list[str]:
    """Errors about shares that are the same folder, or inside a share with other readers."""
    readers = {
        share: {
            name
            for name, user in settings.users.items()
            if user.shares == "*" or share in user.shares
        }
        for share in probes
    }
    said = []
    for one, other in combinations(probes, 2):
        if readers[one] == readers[other]:
            if probes[one].location.is_same(probes[other].location):
                said.append(
                    f"shares.{other}.path: is the same folder as shares.{one}.path, "
                    f"{probes[one].location.path}; choose another, or remove one of them"
                )
            continue
        outer, inner = one, other
        if not probes[one].location.contains(probes[other].location):
            outer, inner = other, one
            if not probes[outer].location.contains(probes[inner].location):
                continue
        same = probes[inner].location.contains(probes[outer].location)
        who = "; ".join(
            f"{share} is granted to {', '.join(sorted(readers[share])) or 'nobody'}"
            for share in (outer, inner)
        )
        where = "the same folder as" if same else "in"
        said.append(
            f"shares.{inner}.path: is {where} shares.{outer}.path, so users of {outer} can read "
            f"{inner} too: {who}; grant both to the same users, or separate them"
        )
    return said


def probe_share(path: Path, known: Path | None = None) -> ShareProbe:
    """Probe one folder. May block indefinitely."""
    real = known or path
    try:
        os.statvfs(real)  # never answered from a cache
        if not os.path.isdir(real):
            return _unavailable(real, f"there is no folder {real}; create it, or choose another")
        if known is None:
            real = Path(os.path.realpath(path))
        if not os.access(real, os.R_OK | os.X_OK):
            return _unavailable(real, unreadable(real))
        os.close(open_no_symlinks(real))
        return ShareProbe(Location.of(real))
    except OSError as error:
        # The path without links, as it will be served once it is readable.
        real = known or Path(os.path.realpath(path))
        return _unavailable(
            real,
            unreadable(real)
            if error.errno == errno.EACCES
            else _os_error_problem(known or path, error),
        )


def unreadable(path: Path) -> str:
    """Why this process cannot read the folder `path`, and the remedy. May block.

    The cause may be a folder above it.
    """
    above = reversed(path.absolute().parents)
    folder = next((each for each in above if not os.access(each, os.X_OK)), path)
    try:
        status = os.stat(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    right, bits = ("rx", 0o5) if folder == path else ("x", 0o1)
    mode = stat.S_IMODE(status.st_mode)
    in_container = _in_our_image()
    remedies = [f"chmod o+{right} {_name_on_host(folder) if in_container else folder}"]
    # The least intrusive remedy first; never to run the gateway as root.
    if mode >> 3 & bits == bits and status.st_gid:
        remedies.insert(0, _run_as("GID", "group", status.st_gid, in_container=in_container))
    elif mode >> 6 & bits == bits and status.st_uid:
        remedies.insert(0, _run_as("UID", "user", status.st_uid, in_container=in_container))
    if mode & bits == bits:
        remedies = ["its mode allows it; check its ACL, SELinux and AppArmor"]
    return (
        f"{folder} cannot be read by the gateway, which runs as {os.geteuid()}:{os.getegid()}: it "
        f"belongs to {status.st_uid}:{status.st_gid}, mode {mode:04o}: {', or '.join(remedies)}"
    )


def _in_our_image() -> bool:
    """Whether this process runs in a container of the gateway's image."""
    return Path(__file__).is_relative_to(_IMAGES_FOLDER) and in_container()


def _run_as(variable: str, kind: str, number: int, *, in_container: bool) -> str:
    if in_container:
        return f"set GATEWAY_{variable}={number} in .env"
    return f"run the gateway as {kind} {number}"


def _name_on_host(folder: Path) -> str:
    """How to refer to a container's folder on the host."""
    for default, variable in FOLDER_VARIABLES.items():
        if folder == default.absolute():
            return f"the folder that {variable} in .env names (./{default} by default)"
    return "that folder on the host"


def _os_error_problem(path: Path, error: OSError) -> str:
    if error.errno in _NO_FOLDER:
        return f"there is no folder {path}; create it, or choose another"
    if error.errno == errno.ELOOP:
        return (
            f"{path}: {error.strerror}; links are followed only when the gateway starts; restart "
            "it if this change is intended"
        )
    return f"{path}: {error.strerror}; remount its disk, or remove the share"


def _unresponsive(path: Path) -> ShareProbe:
    return _unavailable(
        path,
        f"the disk of {path} does not answer; repair or unmount it, or remove the share",
    )


def _unavailable(path: Path, problem: str) -> ShareProbe:
    return ShareProbe(Location(Path(os.path.abspath(path))), problem)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _mounted(path: Path) -> tuple[str, PurePosixPath] | None:
    """The file system of a path without links, and the path in it, from proc(5).

    For a missing path, based on its nearest existing parent.
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
        pass  # without proc(5), compare paths and inodes only
    finally:
        os.close(descriptor)
    return None


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)
