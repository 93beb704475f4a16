"""Nothing is ever found outside a share, for any tree of folders and links."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import posixpath
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sftp_gateway.errors import Denied, FileSystemError, NotFound
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.path_resolution import ManualResolver, Openat2Resolver, PathResolver
from sftp_gateway.vfs.share import Links, Share
from sftp_gateway.vfs.tree import Tree
from tests.unit.vfs.helpers import entries, without_atime

Identity = tuple[int, int]

#: Few names, so that random paths often exist.
NAMES = ("a", "b", "c", "\udcff")
PARTS = st.sampled_from((*NAMES, *NAMES, "..", "..", ".", ""))
RELATIVE = st.lists(PARTS, min_size=1, max_size=6).map("/".join)
#: Absolute ones: `{top}` is the folder that holds the tree, `{root}` the tree itself.
PREFIX = st.sampled_from(("",) * 6 + ("/", "{top}/", "{root}/", "../", "/proc/self/cwd/"))


@dataclass(frozen=True)
class Made:
    """An entry `name` to create in the folder `parent`; a link if it has a target."""

    parent: tuple[str, ...]
    name: str
    kind: str
    target: str


ENTRIES = st.lists(
    st.builds(
        Made,
        parent=st.lists(st.sampled_from(NAMES), max_size=3).map(tuple),
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(("file", "folder", "link", "link", "link")),
        target=st.builds(str.__add__, PREFIX, RELATIVE),
    ),
    max_size=14,
)
PATHS = st.lists(RELATIVE, min_size=1, max_size=12)
#: What a client may send: any bytes, mostly path-like.
CLIENT_PATHS = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from([b"..", b".", b"", b"home", b"u", b"data", b"sub", b"x", b"...", b"\xff"]),
        max_size=12,
    ).map(b"/".join),
)


def make(top: Path, entries: list[Made]) -> Path:
    """Create the tree and a copy of all its names outside, so that escapes are detected."""
    for folder in ("root", "a", "b"):
        (top / folder).mkdir()
    for folder in ("a", "b"):
        for name in NAMES:
            (top / folder / name).write_bytes(b"secret")
    (top / "c").write_bytes(b"secret")
    root = top / "root"
    for made in entries:
        parent = root
        for part in made.parent:
            parent = parent / part
            if parent.is_symlink() or parent.is_file():
                break
            parent.mkdir(exist_ok=True)
        place = parent / made.name
        if parent.is_symlink() or not parent.is_dir() or os.path.lexists(place):
            continue
        if made.kind == "link":
            place.symlink_to(made.target.format(top=top, root=root) or ".")
        elif made.kind == "folder":
            place.mkdir()
        else:
            place.write_bytes(b"public")
    return root


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def below(root: Path) -> set[Identity]:
    """`root` and everything below, without following links."""
    found = {identity(root.lstat())}
    for folder, folders, files in os.walk(root):
        found |= {identity(os.lstat(os.path.join(folder, name))) for name in (*folders, *files)}
    return found


def look(
    resolver: PathResolver, root: int, path: bytes, *, follow: bool, wait: bool
) -> Identity | str:
    """The result, or the name of the errno."""
    try:
        pinned = resolver.resolve(root, path, follow=follow, wait=wait)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        return identity(os.fstat(pinned))
    finally:
        os.close(pinned)


@contextlib.contextmanager
def made(entries: list[Made]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as top:
        yield make(Path(top), entries)


def usable(path: str) -> bytes:
    """`path` as the resolvers expect it: relative."""
    return os.fsencode(path.lstrip("/"))


@settings(deadline=None, max_examples=250)
@given(entries=ENTRIES, paths=PATHS)
def test_both_resolvers_agree_and_never_leave_the_root(
    entries: list[Made], paths: list[str]
) -> None:
    resolvers = (Openat2Resolver(), ManualResolver())
    with made(entries) as root:
        inside = below(root)
        held = os.open(root, os.O_PATH | os.O_DIRECTORY)
        try:
            for path in map(usable, paths):
                for follow in (False, True):
                    first, second = (
                        look(resolver, held, path, follow=follow, wait=True)
                        for resolver in resolvers
                    )
                    assert first == second, (path, follow)
                    assert isinstance(first, str) or first in inside, (path, follow)
                    cached = look(resolvers[0], held, path, follow=follow, wait=False)
                    assert cached in {first, "EAGAIN"}, (path, follow)
        finally:
            os.close(held)


@settings(deadline=None, max_examples=100)
@given(entries=ENTRIES, paths=PATHS)
@pytest.mark.parametrize("links", Links)
def test_a_share_exposes_only_its_own_folder(
    links: Links, entries: list[Made], paths: list[str]
) -> None:
    with made(entries) as root:
        seen = [
            use(resolver, root, links, paths) for resolver in (Openat2Resolver(), ManualResolver())
        ]
    assert seen[0] == seen[1]


def use(resolver: PathResolver, root: Path, links: Links, paths: list[str]) -> list[object]:
    """Send every request about `paths` to a share of `root`, and check the replies."""
    share = Share(
        name="share", root=root, links=links, attribute_policy=AttributePolicy(), resolver=resolver
    )
    answers: list[object] = []
    try:
        for path in map(usable, paths):
            for ask in (ask_attributes, ask_content, ask_names, ask_target):
                try:
                    answers.append(ask(share, path))
                except FileSystemError as error:
                    answers.append((type(error), str(error)))
        return answers
    finally:
        share.close()


def ask_attributes(share: Share, path: bytes) -> object:
    return without_atime(share.lstat(path, wait=True))


def ask_content(share: Share, path: bytes) -> object:
    file = share.open_file(path, wait=True)
    try:
        buffer = bytearray(100)
        content = bytes(buffer[: file.read([memoryview(buffer)], 0)])
        assert content == b"public"
        return content
    finally:
        file.close()


def ask_names(share: Share, path: bytes) -> object:
    """A folder's names; each has the attributes that LSTAT gives."""
    found = entries(share.open_directory(path, wait=True))
    for entry in found[2:]:
        inner = path + b"/" + entry.name if path else entry.name
        assert without_atime(share.lstat(inner, wait=True)) == without_atime(entry.attributes)
    return sorted(entry.name for entry in found)


def ask_target(share: Share, path: bytes) -> object:
    """A link's target; joined to the link's folder, it stays in the share."""
    target = share.readlink(path, wait=True)
    assert not target.startswith(b"/")
    folder = posixpath.dirname(path)
    if b".." not in path.split(b"/"):
        assert not posixpath.normpath(posixpath.join(folder, target)).startswith(b"..")
    return target


# The tree: lexical operations


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    folder = tmp_path_factory.mktemp("share")
    shares = [
        Share(
            name=name,
            root=folder,
            links=Links.KEEP,
            attribute_policy=AttributePolicy(),
            resolver=ManualResolver(),
        )
        for name in ("data", "data/sub", "data/x/y", "x/x")
    ]
    yield Tree(
        user="u", shares=shares, ungranted=["sub"], attribute_policy=AttributePolicy(), time=0
    )
    for share in shares:
        share.close()


@given(path=CLIENT_PATHS)
def test_a_canonical_path_never_leaves_the_root_and_is_stable(tree: Tree, path: bytes) -> None:
    if b"\0" in path:
        with pytest.raises(NotFound):
            tree.canonical(path)
        return
    canonical = tree.canonical(path)
    assert canonical.startswith(b"/")
    assert not {b"", b".", b".."} & set(canonical[1:].split(b"/")) or canonical == b"/"
    assert tree.canonical(canonical) == canonical
    assert canonical == b"/" + posixpath.normpath(posixpath.join(b"/home/u", path)).lstrip(b"/")


@given(path=CLIENT_PATHS)
def test_a_resolved_path_is_below_its_share(tree: Tree, path: bytes) -> None:
    assume(b"\0" not in path)
    try:
        place = tree.locate(path)
    except (NotFound, Denied):
        return
    assert tree.canonical(place.path) == tree.canonical(path)
    parts = place.relative.rstrip(b"/").split(b"/") if place.relative else []
    assert not {b"", b"."} & set(parts)
    depths = list(itertools.accumulate(-1 if part == b".." else 1 for part in parts))
    assert min(depths, default=0) >= 0
    if place.share is None:
        assert place.relative == b""
        assert place.node is not None
        return
    name = place.share.name.encode()
    assert place.path == b"/".join([tree.home, name, *parts])
    deeper = [s for s in tree.shares if s.name.startswith(place.share.name + "/")]
    for other in deeper:
        assert not (place.path + b"/").startswith(tree.home + b"/" + other.name.encode() + b"/")


@given(first=CLIENT_PATHS, second=CLIENT_PATHS)
def test_appending_to_a_canonical_path_resolves_alike(
    tree: Tree, first: bytes, second: bytes
) -> None:
    assume(b"\0" not in first + second)
    behind = tree.canonical(first) + b"/" + second
    # An empty first path is the home folder; joined to `/` it would be the root.
    assume(first)
    assert tree.canonical(first + b"/" + second) == tree.canonical(behind)


#: Paths with few names below the home folder, so that many share a folder.
HOME_PATHS = st.lists(
    st.sampled_from([b"data", b"sub", b"x", b"y", b"a", b"..", b".", b"", b"n\0", b"\xff"]),
    max_size=6,
).map(lambda parts: b"/".join([b"/home/u", *parts]))


def place_in(tree: Tree, path: bytes) -> object:
    """The resolved path, or the exception raised."""
    try:
        return tree.locate(path)
    except (NotFound, Denied) as error:
        return type(error), str(error)


@settings(deadline=None)
@given(paths=st.lists(HOME_PATHS | CLIENT_PATHS, max_size=30))
def test_cached_folders_do_not_change_answers(tree: Tree, paths: list[bytes]) -> None:
    for path in paths:
        fresh = Tree(
            user="u",
            shares=tree.shares,
            ungranted=["sub"],
            attribute_policy=AttributePolicy(),
            time=0,
        )
        assert place_in(tree, path) == place_in(fresh, path)
