"""A share: a directory of the server, served read-only."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from sftp_gateway.errors import (
    Denied,
    IsADirectory,
    NotADirectory,
    NotALink,
    NotFound,
)
from sftp_gateway.vfs.attributes import (
    LINK_MODE,
    OTHERS_READ,
    AttributePolicy,
    Attributes,
    make_readable,
)
from sftp_gateway.vfs.blocking import would_block
from sftp_gateway.vfs.files import Entry, OpenDirectory, OpenFile
from sftp_gateway.vfs.path_resolution import PathResolver, mount_id, open_no_symlinks, reopen

#: statfs(2) `f_type` of file systems on which a look-up in the dentry cache never blocks. On others
#: (NFS, CIFS, FUSE, 9p), even fstat(2) may contact a server.
_LOCAL_FILE_SYSTEMS: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # XFS
        0x9123683E,  # Btrfs
        0x2FC12FC1,  # ZFS
        0xCA451A4E,  # bcachefs
        0xF2F52010,  # F2FS
        0x01021994,  # tmpfs
        0x73717368,  # SquashFS
        0xE0F5E1E2,  # EROFS
    }
)

_NOT_FOUND: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV}
)


#: Maximum depth of a link to a directory that is shown as that directory.
_MAX_DEPTH: Final = 40

#: The directory of a model, dataset or space in the cache of huggingface_hub.
_HUB_REPOSITORY: Final = re.compile(rb"(?:^|/)(?:model|dataset|space)s--[^/]+/?\Z")

_NOTHING: Final[frozenset[bytes]] = frozenset()

#: Stands in for the descriptor of an unavailable share: every look-up fails with EBADF.
NO_DESCRIPTOR: Final = -1


class Links(StrEnum):
    """How a share serves its symbolic links. None leads out of the share."""

    #: Links that every client follows are served as links, others as their targets.
    AUTO = "auto"
    #: As links, followed by the client, or by the server on request.
    KEEP = "keep"
    #: As their targets.
    DEREFERENCE = "dereference"


class Share:
    """A directory of the server as clients see it. Thread-safe.

    Paths are bytes relative to the share, without NUL. An empty path is the share itself; a final
    `/` requires a directory.

    Methods raise NotFound, Denied, NotADirectory, IsADirectory and NotALink; OSError for errors of
    the disk, such as EIO; and BlockingIOError as described in the package's docstring.
    """

    def __init__(
        self,
        *,
        name: str,
        root: Path,
        links: Links,
        attribute_policy: AttributePolicy,
        resolver: PathResolver,
        folder: int | None = None,
    ) -> None:
        """`name` as clients see it, such as `.cache/huggingface/hub`.

        The path `root` must not contain links, which others may be able to change. `folder` is its
        O_PATH descriptor, owned by the share from now on; None opens it. If it is NO_DESCRIPTOR, or
        cannot be opened, all requests for this share fail with OSError until `check` succeeds.
        """
        self.name = name
        self.links = links
        self._dereferenced = links is Links.DEREFERENCE
        self.path = root
        self._attribute_policy = attribute_policy
        self._resolver = resolver
        self._root = NO_DESCRIPTOR
        self._checked_mount = 0  # the id of the mount
        #: st_dev of the share's directory.
        self.device = 0
        self._local = False
        #: The last fstat(2) result of the share's directory.
        self._last_status: os.stat_result | None = None
        with suppress(OSError):
            self._replace_root(open_no_symlinks(root) if folder is None else folder)
        #: Whether the path now leads to another directory, which cannot be read.
        self.moved = False

    def close(self) -> None:
        """Close the share's descriptor; no method may be called afterwards."""
        if self._root != NO_DESCRIPTOR:
            os.close(self._root)

    def check(self) -> os.statvfs_result:
        """Check that the directory can be read, and return statvfs(3) of it. May block.

        If the path leads to another directory now (a disk was remounted), the share serves that
        one. Raises OSError if the directory is missing or cannot be read; sets `moved` if it is
        another one without read permission.
        """
        there = open_no_symlinks(self.path)
        try:
            self._checked_mount = mount_id(there)
            found = os.fstatvfs(there)  # no cache answers for a disk that is dead
            try:
                os.close(reopen(there, os.O_RDONLY | os.O_DIRECTORY))
            except PermissionError:
                self.moved = not self._is_served(os.fstat(there))
                raise
            self._last_status = os.fstat(there)
            if not self._is_served(self._last_status):
                self._replace_root(os.dup(there))
            return found
        finally:
            os.close(there)

    def left_behind(self) -> bool:
        """Whether another file system has been mounted at the path since the last `check` began.

        For use while `check` hangs: accesses only the disks of the directories above.
        """
        there = open_no_symlinks(self.path)
        try:
            return mount_id(there) != self._checked_mount
        finally:
            os.close(there)

    def _is_served(self, found: os.stat_result) -> bool:
        """Whether `found` is the directory that is served now."""
        try:
            return os.path.samestat(found, os.fstat(self._root))
        except OSError:  # NO_DESCRIPTOR, or a dead file system
            return False

    def _replace_root(self, folder: int) -> None:
        """Serve the directory `folder` from now on; the share owns the descriptor."""
        if self._root == NO_DESCRIPTOR:
            self._root = folder
        else:
            # dup2 is atomic and keeps the number: other threads use either the old directory or the
            # new one.
            os.dup2(folder, self._root, inheritable=False)
            os.close(folder)
        self._last_status = os.fstat(self._root)
        self.device = self._last_status.st_dev
        self._local = _is_local(self._root)

    def root_attributes(self) -> Attributes | None:
        """Attributes of the share's directory; None if it was never available. Never blocks.

        On a network file system, they are those of the last `check`.
        """
        if self._root == NO_DESCRIPTOR or self._last_status is None:
            return None
        return self.show(os.fstat(self._root) if self._local else self._last_status)

    def lstat(self, path: bytes, *, wait: bool) -> Attributes:
        """Attributes of `path`, or of the link itself if it is served as a link."""
        if self._dereferenced:
            return self.stat(path, wait=wait)
        pinned = self._resolve(path, follow=False, wait=wait)
        try:
            shown = self._show(pinned, os.fstat(pinned), wait=wait)
            if shown.mode != LINK_MODE or self.links is Links.KEEP:
                return shown
            target = self._target(path, pinned, wait=wait)
        except OSError as error:
            _translate(error)
            raise
        finally:
            os.close(pinned)
        return self._substitute(path, target, wait=wait) or shown

    def stat(self, path: bytes, *, wait: bool) -> Attributes:
        """Attributes of `path`, following links."""
        pinned = self._resolve(path, follow=True, wait=wait)
        try:
            return self._show(pinned, os.fstat(pinned), wait=wait)
        except OSError as error:
            _translate(error)
            raise
        finally:
            os.close(pinned)

    def show(self, status: os.stat_result) -> Attributes:
        """The shown attributes for the fstat(2) result of an open file."""
        attributes = self._attribute_policy.show(status)
        if attributes is None:
            raise NotFound("special file")
        return attributes if attributes.mode & OTHERS_READ else make_readable(attributes)

    def open_file(
        self, path: bytes, *, wait: bool, on_close: Callable[[], None] = lambda: None
    ) -> OpenFile:
        """Open the regular file `path`; fifos, sockets and devices are never opened.

        `on_close` is called after the file is closed, by the thread that closes it.
        """
        with self._pin(path, follow=True, wait=wait) as pinned:
            status = os.fstat(pinned)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectory("a folder")
            if not stat.S_ISREG(status.st_mode):
                raise Denied("special_file", hidden=True)
            # Without O_NONBLOCK, a lease (Samba's, for example) could delay open(2) for 45 seconds.
            descriptor = reopen(pinned, os.O_RDONLY | (0 if wait else os.O_NONBLOCK))
            if not wait:
                os.set_blocking(descriptor, True)  # only open(2) must not block
        local = self._local and status.st_dev == self.device
        return OpenFile(descriptor=descriptor, size=status.st_size, local=local, on_close=on_close)

    def open_directory(
        self,
        path: bytes,
        *,
        extra: Iterable[Entry] = (),
        wait: bool,
        on_close: Callable[[], None] = lambda: None,
    ) -> OpenDirectory:
        """Open the directory `path` for listing; entries `extra` come first.

        They hide entries of the same name, like mounts. `on_close` as in `open_file`.
        """
        with self._pin(path, follow=True, wait=wait) as pinned:
            status = os.fstat(pinned)
            here = self._show(pinned, status, wait=wait)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectory("not a folder")
            descriptor = reopen(pinned, os.O_RDONLY | os.O_DIRECTORY)
        try:
            extra = tuple(extra)
            hidden = frozenset(entry.name for entry in extra) if extra else _NOTHING
            if b"s--" in path and self.links is not Links.KEEP:
                hidden |= _hidden_names(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise

        # `..` has the attributes of the directory itself, to disclose nothing about the one above.
        return OpenDirectory(
            first=[Entry(b".", here), Entry(b"..", here), *extra],
            descriptor=descriptor,
            show=partial(self._show_entry, path, descriptor),
            hidden=hidden,
            on_close=on_close,
            status=status,
        )

    def readlink(self, path: bytes, *, wait: bool) -> bytes:
        """The target of the link `path`, if it is relative and stays inside the share.

        A target that does not exist is returned too, if its text stays inside.
        """
        if self.links is Links.DEREFERENCE:
            self.stat(path, wait=wait)
            raise NotALink("served dereferenced")
        with self._pin(path, follow=False, wait=wait) as pinned:
            status = os.fstat(pinned)
            if not stat.S_ISLNK(status.st_mode):
                self.show(status)  # raises for what is hidden
                raise NotALink("not a link")
            target = self._target(path, pinned, wait=wait)
        if self.links is Links.AUTO and self._substitute(path, target, wait=wait):
            raise NotALink("served as what it leads to")
        if target.startswith(b"/") or _escapes(path, target):
            raise Denied("link_leads_out")
        try:
            # Let the kernel decide, because a directory in the path may be a link.
            with self._pin(path, follow=True, wait=wait):
                pass
        except NotFound:
            pass
        return target

    def statvfs(self, path: bytes, *, wait: bool) -> os.statvfs_result:
        """statvfs(3) of the file system that `path` is on."""
        with self._pin(path, follow=True, wait=wait) as pinned:
            return os.fstatvfs(pinned)

    def realpath(self, path: bytes, *, wait: bool) -> bytes | None:
        """`path` without links and `..`; its last component need not exist.

        None if another component does not exist, leads out or cannot be accessed, without
        distinction.
        """
        try:
            return self._realpath(path, wait=wait)
        except BlockingIOError:
            raise
        except NotFound:
            folder, _, name = path.rstrip(b"/").rpartition(b"/")
        except (Denied, OSError):
            return None
        if name in (b"", b".."):
            return None
        try:
            above = self._realpath(folder + b"/" if folder else b"", wait=wait)
        except BlockingIOError:
            raise
        except (NotFound, Denied, OSError):
            return None
        return None if above is None else (above + b"/" + name).lstrip(b"/")

    def _realpath(self, path: bytes, *, wait: bool) -> bytes | None:
        with self._pin(path, follow=True, wait=wait) as pinned:
            root, real = (os.readlink(b"/proc/self/fd/%d" % held) for held in (self._root, pinned))
            if real == root:
                return b""
            root = root.rstrip(b"/") + b"/"
            if not real.startswith(root):
                return None
            # proc(5) gives the current name, or appends " (deleted)": verify that it is the same
            # file.
            relative = real[len(root) :]
            with self._pin(relative, follow=False, wait=wait) as named:
                if not os.path.samestat(os.fstat(named), os.fstat(pinned)):
                    return None
        return relative

    def _show(self, pinned: int, status: os.stat_result, *, wait: bool) -> Attributes:
        """The shown attributes of `pinned`; `status` is its fstat(2) result."""
        attributes = self._attribute_policy.show(status)
        if attributes is None:
            raise NotFound("special file")
        if not attributes.mode & OTHERS_READ:
            # An ACL may grant access; reading it may block.
            if not wait:
                raise would_block()
            needed = os.R_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK
            if os.access(b"/proc/self/fd/%d" % pinned, needed, effective_ids=True):
                return make_readable(attributes)
        return attributes

    def _show_entry(self, path: bytes, folder: int, entry: os.DirEntry[str]) -> Attributes | None:
        """The shown attributes of an entry of `folder`, at `path`; None if hidden or deleted."""
        try:
            if self._dereferenced and entry.is_symlink():
                return self.stat(_join(path, entry), wait=True)
            shown = self._attribute_policy.show(entry.stat(follow_symlinks=False))
            if shown is None:
                return None
            if shown.mode == LINK_MODE:
                if self.links is Links.KEEP:
                    return shown
                target = os.fsencode(os.readlink(entry.name, dir_fd=folder))
                return self._substitute(_join(path, entry), target, wait=True) or shown
            if not shown.mode & OTHERS_READ:
                return self.lstat(_join(path, entry), wait=True)
            return shown
        except (NotFound, Denied, FileNotFoundError):
            return None
        except OSError as error:
            # One bad entry (an inaccessible directory, a dead mount) must not end the listing.
            return _attributes_by_type(entry, error)

    def _target(self, path: bytes, link: int, *, wait: bool) -> bytes:
        """The text of the link at `path`, which is pinned as `link`."""
        if not wait:
            # Raises BlockingIOError unless the kernel can follow the link from its caches.
            with suppress(NotFound, Denied), self._pin(path, follow=True, wait=False):
                pass
        return os.readlink(b"", dir_fd=link)

    def _substitute(self, path: bytes, target: bytes, *, wait: bool) -> Attributes | None:
        """The attributes to show instead of the link at `path`; None if it is served as a link.

        Clients follow links themselves, but current sshfs (`contain_symlinks`) only relative ones
        without `..`. Others are served as their targets, except for a link that leads out of the
        share, or to a directory that contains it, which would be an endless loop. Raises NotFound
        for a dangling link.
        """
        if not target.startswith(b"/") and b".." not in target.split(b"/"):
            return None
        try:
            with self._pin(path, follow=True, wait=wait) as pinned:
                status = os.fstat(pinned)
                if stat.S_ISDIR(status.st_mode) and self._is_ancestor(status, path, wait=wait):
                    return None
                return self._show(pinned, status, wait=wait)
        except Denied:
            return None

    def _is_ancestor(self, folder: os.stat_result, path: bytes, *, wait: bool) -> bool:
        """Whether `folder` is, or may be, a parent directory in the text of `path`."""
        if not wait:
            raise would_block()  # too many look-ups for the event loop
        names = [name for name in path.split(b"/") if name]
        if len(names) > _MAX_DEPTH:
            return True
        for depth in range(len(names)):
            with self._pin(b"/".join(names[:depth]), follow=True, wait=wait) as pinned:
                if os.path.samestat(folder, os.fstat(pinned)):
                    return True
        return False

    def _pin(self, path: bytes, *, follow: bool, wait: bool) -> _Pinned:
        """Pin `path`. The caller must enter the returned context immediately."""
        return _Pinned(self._resolve(path, follow=follow, wait=wait))

    def _resolve(self, path: bytes, *, follow: bool, wait: bool) -> int:
        """Pin `path`; return the descriptor, which the caller has to close."""
        if not wait and not self._local:
            raise would_block()
        try:
            return self._resolver.resolve(self._root, path, follow=follow, wait=wait)
        except OSError as error:
            _translate(error)
            raise


class _Pinned:
    """A context with an O_PATH descriptor that translates OSError; see `_translate`."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            _translate(error)


def _translate(error: OSError) -> None:
    """Raise NotFound or Denied for the OSError of a look-up, if one applies."""
    if error.errno in _NOT_FOUND:
        raise NotFound(os.strerror(error.errno)) from error
    if error.errno == errno.EXDEV:
        raise Denied("link_leads_out") from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise Denied("unreadable") from error


def _hidden_names(path: bytes, folder: int) -> frozenset[bytes]:
    """Names that a listing of `folder` omits; they can still be opened.

    A Hugging Face cache has each file in `blobs`, and a link to it in `snapshots`. If links are
    served as their targets, programs that walk the cache would find each file twice.
    """
    if _HUB_REPOSITORY.search(path):
        with suppress(OSError):
            if stat.S_ISDIR(os.lstat("snapshots", dir_fd=folder).st_mode):
                return frozenset({b"blobs"})
    return frozenset()


def _join(folder: bytes, entry: os.DirEntry[str]) -> bytes:
    return (folder + b"/" + os.fsencode(entry.name)).lstrip(b"/")


def _attributes_by_type(entry: os.DirEntry[str], error: OSError) -> Attributes | None:
    """The attributes to show for an entry whose look-up has failed with `error`.

    Only its type is known. For a regular file with a temporary error the mode is 0, which makes
    sshfs ask again; otherwise sshfs would take the size of 0 as the file's and read it as empty.
    """
    unknown = Attributes(0, 0, 0, 0, 0, 0)
    try:
        if entry.is_dir(follow_symlinks=False):
            return unknown._replace(mode=stat.S_IFDIR)
        if entry.is_symlink():
            kind = stat.S_IFLNK
        elif entry.is_file(follow_symlinks=False):
            kind = stat.S_IFREG
        else:
            return None
    except OSError:  # the file system has no types in directory entries
        return unknown
    return unknown._replace(mode=kind) if isinstance(error, PermissionError) else unknown


def _escapes(path: bytes, target: bytes) -> bool:
    """Whether the target of a link at `path`, as text, climbs above the share."""
    depth = 0
    for part in path.split(b"/")[:-1] + target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


def _is_local(descriptor: int) -> bool:
    """Whether the file system is one of _LOCAL_FILE_SYSTEMS."""
    libc = ctypes.CDLL(None, use_errno=True)
    # struct statfs is smaller than this everywhere; f_type is its first word.
    buffer = (ctypes.c_long * 64)()
    if libc.fstatfs(descriptor, ctypes.byref(buffer)) != 0:
        return False
    return (buffer[0] & 0xFFFFFFFF) in _LOCAL_FILE_SYSTEMS
