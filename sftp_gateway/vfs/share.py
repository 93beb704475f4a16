"""One share: a folder of the server, served read-only and never left."""

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

#: statfs(2) `f_type` of file systems on which a look-up that the dentry cache answers never
#: waits. On any other (NFS, CIFS, FUSE, 9p) even fstat(2) may ask a server.
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


#: The longest path, in names, of a link to a folder that is shown as that folder.
_MAX_DEPTH: Final = 40

#: The folder of a model, data set or space in huggingface_hub's cache.
_HUB_REPOSITORY: Final = re.compile(rb"(?:^|/)(?:model|dataset|space)s--[^/]+/?\Z")

_NOTHING: Final[frozenset[bytes]] = frozenset()

#: In the place of a folder's descriptor: every look-up below it fails (EBADF).
NO_DESCRIPTOR: Final = -1


class Links(StrEnum):
    """How a share serves its symbolic links; none ever leads out of the share."""

    #: As links those that every client follows; the others as what they lead to.
    AUTO = "auto"
    #: As links, to be followed by the client or, where it asks us to, by us.
    KEEP = "keep"
    #: As what they lead to: the client never sees a link.
    DEREFERENCE = "dereference"


class Share:
    """A folder of the server as clients see it; safe to use from several threads.

    Paths are relative to the share, bytes, without NUL; empty means the share's own folder, and a
    final `/` that the path has to be a folder.

    Methods raise NotFound, Denied, NotADirectory, IsADirectory and NotALink as their names say,
    OSError for what the disk reports (EIO and the like), and BlockingIOError as the package's
    docstring tells.
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

        No link may be in the path of `root`: who can write in a folder above could change what
        it leads to. `folder` is its O_PATH descriptor, which the share takes over; None has it
        opened here. If it is NO_DESCRIPTOR, or cannot be opened, every request for the share fails
        with OSError until `check` has found it; other shares are not affected.
        """
        self.name = name
        self.links = links
        self._dereferenced = links is Links.DEREFERENCE
        self.path = root
        self._attribute_policy = attribute_policy
        self._resolver = resolver
        self._root = NO_DESCRIPTOR
        self._checked_mount = 0  # the mount's number
        #: st_dev of the file system that the share's folder is on.
        self.device = 0
        self._local = False
        #: What fstat(2) said of the folder last.
        self._last_status: os.stat_result | None = None
        with suppress(OSError):
            self._replace_root(open_no_symlinks(root) if folder is None else folder)
        #: Whether `check` found a folder at the path that is another, and may not be read.
        self.moved = False

    def close(self) -> None:
        """Let go of the share's folder; no method may be called afterwards."""
        if self._root != NO_DESCRIPTOR:
            os.close(self._root)

    def check(self) -> os.statvfs_result:
        """See whether the folder can be read, and return statvfs(3) of it; waits for the disk.

        Where another folder has come to the share's path (a disk mounted again), it is taken
        over. Raises OSError where the folder is gone or cannot be read; and sets `moved` where
        another has come that this process must not read.
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
        """Whether another mount has come to the share's path since the last `check` began.

        To be asked while that hangs: asks no disk but those of the folders above.
        """
        there = open_no_symlinks(self.path)
        try:
            return mount_id(there) != self._checked_mount
        finally:
            os.close(there)

    def _is_served(self, found: os.stat_result) -> bool:
        """Whether that is the folder which is served now."""
        try:
            return os.path.samestat(found, os.fstat(self._root))
        except OSError:  # it is NO_DESCRIPTOR, or of a file system that has died
            return False

    def _replace_root(self, folder: int) -> None:
        """Serve this folder from now on; the descriptor is the share's."""
        if self._root == NO_DESCRIPTOR:
            self._root = folder
        else:
            # dup2 keeps the descriptor's number: a thread that uses it meanwhile is in the old
            # folder or in the new one, never in a third.
            os.dup2(folder, self._root, inheritable=False)
            os.close(folder)
        self._last_status = os.fstat(self._root)
        self.device = self._last_status.st_dev
        self._local = _is_local(self._root)

    def root_attributes(self) -> Attributes | None:
        """Attributes of the share's folder, if it has ever been there; never waits for a disk.

        On a network's file system they are those that `check` has seen last.
        """
        if self._root == NO_DESCRIPTOR or self._last_status is None:
            return None
        return self.show(os.fstat(self._root) if self._local else self._last_status)

    def lstat(self, path: bytes, *, wait: bool) -> Attributes:
        """Attributes of `path`; of a link itself, if it is served as one."""
        if self._dereferenced:
            return self.stat(path, wait=wait)
        with self._pin(path, follow=False, wait=wait) as pinned:
            shown = self._show(pinned, os.fstat(pinned), wait=wait)
            if shown.mode != LINK_MODE or self.links is Links.KEEP:
                return shown
            target = self._target(path, pinned, wait=wait)
        return self._substitute(path, target, wait=wait) or shown

    def stat(self, path: bytes, *, wait: bool) -> Attributes:
        """Attributes of `path`, or of what it leads to."""
        with self._pin(path, follow=True, wait=wait) as pinned:
            return self._show(pinned, os.fstat(pinned), wait=wait)

    def show(self, status: os.stat_result) -> Attributes:
        """What is shown for the stat(2) result of an open file of this share."""
        attributes = self._attribute_policy.show(status)
        if attributes is None:
            raise NotFound("special file")
        return attributes if attributes.mode & OTHERS_READ else make_readable(attributes)

    def open_file(
        self, path: bytes, *, wait: bool, on_close: Callable[[], None] = lambda: None
    ) -> OpenFile:
        """Open the regular file `path`. A fifo, socket or device is never opened, only found.

        `on_close` is called behind the close of what this returns, by whichever thread closes it.
        """
        with self._pin(path, follow=True, wait=wait) as pinned:
            status = os.fstat(pinned)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectory("a folder")
            if not stat.S_ISREG(status.st_mode):
                raise Denied("special_file", hidden=True)
            # Another program's lease (Samba's, say) would hold up the open for 45 seconds.
            descriptor = reopen(pinned, os.O_RDONLY | (0 if wait else os.O_NONBLOCK))
            if not wait:
                os.set_blocking(descriptor, True)  # that was for the open alone
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
        """Open the folder `path` for listing; entries `extra` are shown first.

        What has the name of one of `extra` is hidden behind it, as by a mount. `on_close` is called
        as by `open_file`.
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
            scan = os.scandir(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

        # `..` shows the folder itself: what is above a share is nobody's business.
        return OpenDirectory(
            first=[Entry(b".", here), Entry(b"..", here), *extra],
            scan=scan,
            show=partial(self._show_entry, path, descriptor),
            hidden=hidden,
            close=partial(_close_folder, scan, descriptor, on_close),
            status=status,
        )

    def readlink(self, path: bytes, *, wait: bool) -> bytes:
        """The target of the link `path`, if it is relative and stays inside the share.

        A target that does not exist is given all the same, as long as its text stays inside.
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
            # The kernel's word counts: a folder on the way may be a link itself.
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
        """`path` without links and `..`; the last name of it need not be there.

        None where it is not, leads out or cannot be looked at: nobody learns which.
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
            # proc(5) has it by the names of now, and adds " (deleted)": look whether it is there.
            relative = real[len(root) :]
            with self._pin(relative, follow=False, wait=wait) as named:
                if not os.path.samestat(os.fstat(named), os.fstat(pinned)):
                    return None
        return relative

    def _show(self, pinned: int, status: os.stat_result, *, wait: bool) -> Attributes:
        """What is shown for `status`, which fstat(2) has said of `pinned`."""
        attributes = self._attribute_policy.show(status)
        if attributes is None:
            raise NotFound("special file")
        if not attributes.mode & OTHERS_READ:
            # An access-control list may let the gateway in; it may be on the disk.
            if not wait:
                raise would_block()
            needed = os.R_OK | os.X_OK if stat.S_ISDIR(status.st_mode) else os.R_OK
            if os.access(b"/proc/self/fd/%d" % pinned, needed, effective_ids=True):
                return make_readable(attributes)
        return attributes

    def _show_entry(self, path: bytes, folder: int, entry: os.DirEntry[str]) -> Attributes | None:
        """What is shown for an entry of `folder`, at `path`; None if it is hidden or gone."""
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
            # One bad entry (a folder not to be searched, a dead mount) hides no other.
            return _attributes_by_type(entry, error)

    def _target(self, path: bytes, link: int, *, wait: bool) -> bytes:
        """The text of the link at `path`, which is pinned as `link`."""
        if not wait:
            # It may be on the disk. It is not if the kernel can follow it by its caches alone.
            with suppress(NotFound, Denied), self._pin(path, follow=True, wait=False):
                pass
        return os.readlink(b"", dir_fd=link)

    def _substitute(self, path: bytes, target: bytes, *, wait: bool) -> Attributes | None:
        """What is shown instead of the link at `path`; None if it is served as a link.

        A client follows a link itself, and current sshfs only what has no `..` and is relative
        (its option `contain_symlinks`). So the others are shown as what they lead to, but for a
        link that leads out, or to a folder that it is in: programs could walk down that without
        end. Raises NotFound for one that leads nowhere.
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
        """Whether `folder` is one of those that the text of `path` goes through, or that may be."""
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
        """`path`, pinned; to be entered, as a context, at once."""
        if not wait and not self._local:
            raise would_block()
        try:
            return _Pinned(self._resolver.resolve(self._root, path, follow=follow, wait=wait))
        except OSError as error:
            _translate(error)
            raise


class _Pinned:
    """A context with an O_PATH descriptor, in which errors are turned into the gateway's own."""

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
    """Raise the gateway's own error for one of a look-up, if there is one."""
    if error.errno in _NOT_FOUND:
        raise NotFound(os.strerror(error.errno)) from error
    if error.errno == errno.EXDEV:
        raise Denied("link_leads_out") from error
    if error.errno in (errno.EACCES, errno.EPERM):
        raise Denied("unreadable") from error


def _close_folder(
    scan: os._ScandirIterator[str], descriptor: int, on_close: Callable[[], None]
) -> None:
    scan.close()
    os.close(descriptor)
    on_close()


def _hidden_names(path: bytes, folder: int) -> frozenset[bytes]:
    """Names that a listing of `folder` leaves out; whoever asks for them gets them.

    A Hugging Face cache has each file in `blobs` and, by links, in `snapshots`. Where those are
    served as what they lead to, programs that walk the cache would find each file twice.
    """
    if _HUB_REPOSITORY.search(path):
        with suppress(OSError):
            if stat.S_ISDIR(os.lstat("snapshots", dir_fd=folder).st_mode):
                return frozenset({b"blobs"})
    return frozenset()


def _join(folder: bytes, entry: os.DirEntry[str]) -> bytes:
    return (folder + b"/" + os.fsencode(entry.name)).lstrip(b"/")


def _attributes_by_type(entry: os.DirEntry[str], error: OSError) -> Attributes | None:
    """What is shown of an entry that cannot be looked at, because of `error`.

    Only its kind is known. Of a file that cannot be read now, but may be later, not even that is
    said: to sshfs, a mode of 0 means to ask again, where it would take the size of 0 of any other
    for the truth, and read the file as empty.
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
    except OSError:  # its file system does not tell kinds in listings
        return unknown
    return unknown._replace(mode=kind) if isinstance(error, PermissionError) else unknown


def _escapes(path: bytes, target: bytes) -> bool:
    """Whether the text of a link at `path` climbs above the share."""
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
    """Whether statfs(2) names a file system on which cached look-ups never wait."""
    libc = ctypes.CDLL(None, use_errno=True)
    # struct statfs is smaller than this everywhere; f_type is its first word.
    buffer = (ctypes.c_long * 64)()
    if libc.fstatfs(descriptor, ctypes.byref(buffer)) != 0:
        return False
    return (buffer[0] & 0xFFFFFFFF) in _LOCAL_FILE_SYSTEMS
