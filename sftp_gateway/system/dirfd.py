"""Folders and files held open by descriptor, so that what was judged is what is changed.

Whoever can write in a folder can replace any entry of it by a link, at any moment. What runs as
root there must not look an entry up twice, nor through a link: it opens the folder once, finds
entries below that descriptor (openat(2) with O_NOFOLLOW), and judges and changes what it has open
(fstat(2), fchmod(2), fchown(2)).

Methods raise OSError with the whole path of what they could not do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_PIN: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

#: As many links as the kernel follows in one path (path_resolution(7)).
_MAX_LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a file is given to: numbers of user and group."""

    uid: int
    gid: int


class Held:
    """A file or folder that is open; a context that closes it. `path` is for messages."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    @property
    def status(self) -> os.stat_result:
        """Its attributes now."""
        return os.fstat(self.descriptor)

    @property
    def owner(self) -> Owner | None:
        """Its owner, if this process may give files away."""
        status = self.status
        return Owner(status.st_uid, status.st_gid) if os.geteuid() == 0 else None

    def change(self, *, owner: Owner | None = None, mode: int | None = None) -> None:
        """Change owner and mode. Raises OSError, too, for a file with several names (hard links):
        the others may be anywhere."""
        status = self.status
        with _naming(self.path):
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                raise OSError(
                    errno.EMLINK,
                    f"has {status.st_nlink} names (hard links), and each would change with it; "
                    "make it a file of its own (copy it, and move the copy to its place)",
                )
            if owner is not None:
                os.fchown(self.descriptor, owner.uid, owner.gid)
            if mode is not None:
                os.fchmod(self.descriptor, mode)

    def read(self) -> bytes:
        """The whole content of a file."""
        with _naming(self.path), open(self.descriptor, "rb", closefd=False) as file:
            return file.read()


class Folder(Held):
    """A folder that is open; names are those of its entries, never paths."""

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Folder:
        """Open the folder `path`, and `make` what is missing of it.

        A link on the way is followed only if nobody but root and this process's user could have put
        it there.
        """
        folder = cls._descend(path, make=make)
        try:
            readable = os.open(".", _READ | os.O_DIRECTORY, dir_fd=folder)
        except PermissionError:  # entries can be found and made all the same
            return cls(path, folder)
        os.close(folder)
        return cls(path, readable)

    @classmethod
    def above(cls, path: Path) -> tuple[Folder, str]:
        """The folder that the file `path` is in, and its name there.

        Where `path` is a link, that of what it leads to; links are followed as by `open`.
        """
        for _ in range(_MAX_LINKS):
            folder = cls.open(path.parent)
            target = folder._link(path.name)
            if target is None:
                return folder, path.name
            with folder:
                path = path.parent / target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))

    @staticmethod
    def _descend(path: Path, *, make: bool) -> int:
        """An O_PATH descriptor of the folder `path`."""
        here = os.open(path.anchor or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        pending, links = list(reversed(path.parts[1 if path.anchor else 0 :])), 0
        try:
            while pending:
                name = pending.pop()
                with _naming(path):
                    found = _pin(here, name, make=make)
                above, here = here, found
                try:
                    status = os.fstat(here)
                    if stat.S_ISLNK(status.st_mode):
                        links += 1
                        if links > _MAX_LINKS:
                            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                        _check_trusted(os.fstat(above), status, path)
                        target = Path(os.readlink("", dir_fd=here))
                        os.close(here)
                        here = -1
                        here = (
                            os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                            if target.is_absolute()
                            else os.dup(above)
                        )
                        pending += reversed(target.parts[1 if target.anchor else 0 :])
                    elif not stat.S_ISDIR(status.st_mode):
                        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
                finally:
                    os.close(above)
        except BaseException:
            if here >= 0:
                os.close(here)
            raise
        return here

    def names(self) -> list[str]:
        """The names of all entries, sorted."""
        return sorted(os.listdir(self.descriptor))

    def lstat(self, name: str) -> os.stat_result | None:
        """Attributes of an entry, of a link itself; None if there is none of that name."""
        with _naming(self.path / name):
            try:
                return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def entry(self, name: str) -> Held | None:
        """Open an entry, a regular file or a folder; None if there is none of that name."""
        try:
            with _naming(self.path / name):
                pinned = os.open(name, _PIN, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        try:
            with _naming(self.path / name):
                kind = stat.S_IFMT(os.fstat(pinned).st_mode)
                if kind == stat.S_IFLNK:
                    raise OSError(
                        errno.ELOOP,
                        "is a symbolic link, which is not followed here, because it may lead to "
                        "anybody's file; put what it leads to in its place",
                    )
                if kind not in (stat.S_IFREG, stat.S_IFDIR):
                    raise OSError(errno.EINVAL, "is neither a regular file nor a folder; remove it")
                # The pinned file itself, whatever is at its name by now.
                descriptor = os.open(f"/proc/self/fd/{pinned}", _READ)
        finally:
            os.close(pinned)
        return (Folder if kind == stat.S_IFDIR else Held)(self.path / name, descriptor)

    def owner_of(self, name: str) -> Owner | None:
        """The owner of an entry, if there is one and this process may give files away."""
        held = self.entry(name)
        if held is None:
            return None
        with held:
            return held.owner

    def make_folder(self, name: str) -> Folder:
        """Open a folder in this one, which is made if it is missing.

        Raises OSError where it is a link, or no folder.
        """
        path = self.path / name
        with _naming(path):
            os.close(_pin(self.descriptor, name, make=True))
        held = self.entry(name)
        if isinstance(held, Folder):
            return held
        if held is not None:
            os.close(held.descriptor)
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))

    def write_new(self, name: str, content: bytes, *, mode: int, owner: Owner | None) -> None:
        """Make a file, which has its mode and owner before it has its content.

        Raises OSError where there is one.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _naming(self.path / name):
            descriptor = os.open(name, flags, mode, dir_fd=self.descriptor)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(descriptor, mode)
                    if owner is not None:
                        os.fchown(descriptor, owner.uid, owner.gid)
                    file.write(content)
                    file.flush()
                    os.fsync(descriptor)
            except BaseException:
                os.unlink(name, dir_fd=self.descriptor)
                raise

    def remove(self, name: str, *, missing_ok: bool = False) -> None:
        """Remove a file's name."""
        with _naming(self.path / name):
            try:
                os.unlink(name, dir_fd=self.descriptor)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def rename(self, old: str, new: str) -> None:
        """Give an entry another name; a file that has it is replaced."""
        with _naming(self.path / old):
            os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def _link(self, name: str) -> Path | None:
        """Where the entry leads if it is a link; raises OSError if others could have made it."""
        try:
            link = os.open(name, _PIN, dir_fd=self.descriptor)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(link)
            if not stat.S_ISLNK(status.st_mode):
                return None
            _check_trusted(self.status, status, self.path / name)
            return Path(os.readlink("", dir_fd=link))
        finally:
            os.close(link)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors have the path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _pin(above: int, name: str, *, make: bool) -> int:
    """An O_PATH descriptor of an entry; `make` one that is missing, for everybody to look into."""
    try:
        return os.open(name, _PIN, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    os.mkdir(name, 0o700, dir_fd=above)
    descriptor = os.open(name, _READ | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    with Held(Path(name), descriptor) as made, Held(Path(), os.dup(above)) as parent:
        # Unless it is another one by now, which was moved there: that is left as it is.
        if made.status.st_uid == os.geteuid() and not os.listdir(descriptor):
            made.change(owner=parent.owner, mode=0o755)
    return os.open(name, _PIN, dir_fd=above)


def _check_trusted(folder: os.stat_result, link: os.stat_result, path: Path) -> None:
    """Raises OSError if others than root and this process's user could have put a link there."""
    writable = 0o002 if folder.st_gid in (0, os.getegid()) else 0o022
    closed = folder.st_mode & stat.S_ISVTX or not folder.st_mode & writable
    if closed and {folder.st_uid, link.st_uid} <= {0, os.geteuid()}:
        return
    raise OSError(
        errno.ELOOP,
        f"a symbolic link is in its path, which others than user {os.geteuid()} can change (it is "
        f"user {link.st_uid}'s, in a folder of user {folder.st_uid}'s); name the file or folder "
        "that it leads to",
        str(path),
    )
