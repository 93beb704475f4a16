"""The tree that one user sees: `/home/<user>/<share>`, with virtual directories in between.

A client's path is matched as text against the tree of virtual directories and shares. The kernel
resolves the rest of it beneath the share, including links before `..`. A share, or a virtual
directory above one, hides an entry of the same name in another share, like a mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sftp_gateway.errors import Denied, FileSystemError, NotFound
from sftp_gateway.vfs.attributes import AttributePolicy, Attributes
from sftp_gateway.vfs.files import Entry, OpenDirectory
from sftp_gateway.vfs.path_resolution import PATH_MAX
from sftp_gateway.vfs.share import Share

#: Maximum number of cached directories, and maximum length of their paths in bytes.
_MAX_CACHED: Final = 64
_MAX_CACHED_LENGTH: Final = 1024


@dataclass(slots=True)
class Node:
    """A directory of the tree: the root of a share, or a virtual one."""

    children: dict[bytes, Node] = field(default_factory=dict)
    share: Share | None = None


class ResolvedPath(NamedTuple):
    """A matched path: `relative` beneath `share`, or a virtual directory if `share` is None.

    `path` is absolute, without `.` and repeated `/`; `node` is set if it is a directory of the tree
    itself. `relative` ends in `/` if the path requires a directory, and keeps `..` that stay in the
    share, because the component before may be a link.
    """

    path: bytes
    share: Share | None
    relative: bytes
    node: Node | None


class Tree:
    """The tree of one user; immutable except for a cache of matched paths."""

    def __init__(
        self,
        *,
        user: str,
        shares: Iterable[Share],
        ungranted: Iterable[str] = (),
        attribute_policy: AttributePolicy,
        time: int,
    ) -> None:
        """`shares` are the user's; `ungranted` names the other shares.

        `time`, in seconds since 1970, is shown as atime and mtime of virtual directories.
        """
        self.home = b"/home/" + user.encode()
        self._shares = tuple(shares)
        self._folder = attribute_policy.virtual_directory(time)
        self._root = Node()
        #: By canonical path of a directory in a share: the share, and the prefix of relative paths.
        self._cache: dict[bytes, tuple[Share, bytes]] = {}
        self._add(_parts(self.home))
        for share in self._shares:
            self._add(_parts(self.home) + _parts(share.name.encode())).share = share
        self._ungranted = tuple(
            tuple(_parts(self.home) + _parts(name.encode())) for name in ungranted
        )

    @property
    def shares(self) -> tuple[Share, ...]:
        """The shares that the user may read."""
        return self._shares

    def canonical(self, path: bytes) -> bytes:
        """`path` as an absolute path without `.`, `..` and repeated `/`.

        Relative paths start at the home directory. Purely textual: the file need not exist. Raises
        NotFound for a path with a NUL byte or longer than PATH_MAX.
        """
        if b"\0" in path:
            raise NotFound("a NUL byte in a path")
        if len(path) >= PATH_MAX:
            raise NotFound(f"a path of {len(path)} bytes")
        kept: list[bytes] = []
        for part in self._absolute(path).split(b"/"):
            if part == b"..":
                del kept[-1:]
            elif part not in (b"", b"."):
                kept.append(part)
        return b"/" + b"/".join(kept)

    def _absolute(self, path: bytes) -> bytes:
        return path if path.startswith(b"/") else self.home + b"/" + path

    def path_of(self, share: Share, relative: bytes) -> bytes | None:
        """The absolute path of `relative` in `share`; None if another share hides it."""
        name = share.name.encode()
        path = b"/".join([self.home, name, relative] if relative else [self.home, name])
        try:
            resolved = self.locate(path)
        except FileSystemError:
            return None
        return path if (resolved.share, resolved.relative) == (share, relative) else None

    def locate(self, path: bytes) -> ResolvedPath:
        """Match `path` against the tree; the file need not exist.

        Raises NotFound, and Denied (hidden) for a path outside the user's shares.
        """
        folder, _, name = path.rpartition(b"/")
        known = self._cache.get(folder)
        if known is None or name in (b"", b".", b"..") or b"\0" in name:
            return self._match(path)
        share, before = known
        return ResolvedPath(path, share, before + name, None)

    def _match(self, path: bytes) -> ResolvedPath:
        canonical = self.canonical(path)
        parts = _parts(canonical)
        node, share, depth = self._root, None, 0
        share_depth = 0
        for part in parts:
            child = node.children.get(part)
            if child is None:
                break
            node, depth = child, depth + 1
            if node.share is not None or share is not None:
                share, share_depth = node.share, depth
        final = b"/" if path.endswith((b"/", b"/.")) else b""
        if share is not None and not node.children and b".." in path:
            behind = self._below(path, share_depth)
            if b".." in behind:
                kept = b"/".join([b"", *parts[:share_depth], *behind])
                return ResolvedPath(kept, share, b"/".join(behind) + final, None)
        if depth == len(parts):
            return ResolvedPath(canonical, node.share, b"", node)
        if share is None:
            raise self._missing(path, parts, depth)
        relative = b"/".join(parts[share_depth:])
        if not node.children or len(parts) > depth + 1:
            self._remember(canonical, share, relative)
        return ResolvedPath(canonical, share, relative + final, None)

    def _below(self, path: bytes, depth: int) -> list[bytes]:
        """The components of `path` after the last one that enters the directory at `depth`."""
        parts = [part for part in _parts(self._absolute(path)) if part != b"."]
        deep = entered = 0
        for number, part in enumerate(parts, 1):
            deep += 1 if part != b".." else -1 if deep else 0
            if deep == depth and part != b"..":
                entered = number
        return parts[entered:]

    def _remember(self, path: bytes, share: Share, relative: bytes) -> None:
        """Cache the directory of `path`, because clients look up many names in one directory.

        The entry never becomes stale: it is purely textual, and the tree has no nodes there.
        """
        folder, _, name = path.rpartition(b"/")
        if len(folder) <= _MAX_CACHED_LENGTH:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            self._cache[folder] = share, relative.removesuffix(name)

    def attributes(self) -> Attributes:
        """The shown attributes of virtual directories."""
        return self._folder

    def open_virtual(
        self, children: Iterable[Entry], *, on_close: Callable[[], None] = lambda: None
    ) -> OpenDirectory:
        """Open a virtual directory with `children`; `on_close` as in `Share.open_file`."""
        dots = [Entry(b".", self._folder), Entry(b"..", self._folder)]
        return OpenDirectory(first=[*dots, *children], on_close=on_close)

    def children_of(self, node: Node) -> Iterator[Entry]:
        """The child directories of `node`, with the attributes that LSTAT shows."""
        for name, child in sorted(node.children.items()):
            share = child.share
            yield Entry(name, (share and share.root_attributes()) or self._folder)

    def _add(self, parts: Iterable[bytes]) -> Node:
        node = self._root
        for part in parts:
            node = node.children.setdefault(part, Node())
        return node

    def _missing(self, path: bytes, parts: list[bytes], depth: int) -> Exception:
        """The error for a path that leaves the tree after its first `depth` components.

        Clients often look up names that do not exist (a desktop environment looks for `.Trash`);
        that is NotFound. A deeper path, one with `..`, or one into another user's share is
        deliberate, and Denied, so that the log has it.
        """
        if any(tuple(parts[: len(name)]) == name for name in self._ungranted):
            return Denied("share_not_granted", hidden=True)
        if b".." in path.split(b"/") or len(parts) > depth + 1:
            return Denied("outside_shares", hidden=True)
        return NotFound("no such folder in the tree")


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part]
