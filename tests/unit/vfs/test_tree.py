"""The tree of one user: virtual directories, shares, and the errors of missing paths."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotFound
from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.tree import ResolvedPath, Tree
from tests.unit.vfs.helpers import MakeShare, entries, read, without_atime

HUB = ".cache/huggingface/hub"

MakeTree = Callable[..., Tree]


@pytest.fixture
def make_tree(make_share: MakeShare, tmp_path: Path) -> MakeTree:
    """Makes a tree of shares with these names, each with its name in a file `name`."""

    def make(*names: str, ungranted: Iterable[str] = (), user: str = "gvpocr") -> Tree:
        shares = []
        for number, name in enumerate(names):
            folder = tmp_path / "shares" / str(number)
            folder.mkdir(parents=True)
            (folder / "name").write_text(name)
            shares.append(make_share(folder, name=name))
        return Tree(
            user=user,
            shares=shares,
            ungranted=ungranted,
            attribute_policy=AttributePolicy(uid=1, gid=2),
            time=1234,
        )

    return make


@pytest.fixture
def tree(make_tree: MakeTree) -> Tree:
    return make_tree("Bhushanji", "models", HUB)


@pytest.fixture
def nested(make_tree: MakeTree) -> Tree:
    return make_tree("data", "data/sub", "data/x/y")


def names(tree: Tree, path: bytes) -> list[bytes]:
    """The names in the virtual directory `path`."""
    resolved = tree.locate(path)
    assert resolved.node is not None
    return [entry.name for entry in tree.children_of(resolved.node)]


def where(resolved: ResolvedPath) -> tuple[str | None, bytes]:
    return (None if resolved.share is None else resolved.share.name), resolved.relative


# Paths


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"", b"/home/gvpocr"),
        (b".", b"/home/gvpocr"),
        (b"./", b"/home/gvpocr"),
        (b"models", b"/home/gvpocr/models"),
        (b"models/", b"/home/gvpocr/models"),
        (b"./models/./a", b"/home/gvpocr/models/a"),
        (b"models//a///b", b"/home/gvpocr/models/a/b"),
        (b"models/../Bhushanji", b"/home/gvpocr/Bhushanji"),
        (b"..", b"/home"),
        (b"../..", b"/"),
        (b"../../../../etc/passwd", b"/etc/passwd"),
        (b"/", b"/"),
        (b"//", b"/"),
        (b"///home//gvpocr", b"/home/gvpocr"),
        (b"/..", b"/"),
        (b"/../../..", b"/"),
        (b"/home/gvpocr/models/../../../../..", b"/"),
        (b"/home/../etc", b"/etc"),
        (b"/a/b/../../c", b"/c"),
        (b"/...", b"/..."),
        (b"/..a/b..", b"/..a/b.."),
        (b"/%2e%2e/x", b"/%2e%2e/x"),
        (b"/a\\..\\b", b"/a\\..\\b"),
        (b"~", b"/home/gvpocr/~"),
        (b"\xff/\xfe", b"/home/gvpocr/\xff/\xfe"),
        (b" ", b"/home/gvpocr/ "),
    ],
)
def test_a_path_is_normalized_lexically(tree: Tree, path: bytes, canonical: bytes) -> None:
    assert tree.canonical(path) == canonical
    assert tree.canonical(canonical) == canonical


@pytest.mark.parametrize("path", [b"\0", b"models/\0", b"models\0/../../etc", b"/\0/..", b"..\0"])
def test_a_path_with_a_nul_byte_is_not_found(tree: Tree, path: bytes) -> None:
    with pytest.raises(NotFound):
        tree.canonical(path)
    with pytest.raises(NotFound):
        tree.locate(path)


def test_a_path_of_path_max_bytes_is_normalized(tree: Tree) -> None:
    assert tree.canonical(b"/" * 4095) == b"/"
    assert tree.canonical(b"../" * 1365) == b"/"
    assert tree.canonical(b"models/../" * 409) == b"/home/gvpocr"
    resolved = tree.locate(b"models/" + b"n/" * 2000)
    assert where(resolved) == ("models", b"n/" * 2000)


def test_an_overlong_path_is_rejected(tree: Tree) -> None:
    with pytest.raises(NotFound):
        tree.canonical(b"/" * 4096)


# Locations


@pytest.mark.parametrize("path", [b"/", b"/home", b"/home/gvpocr", b"", b".cache", b"/home/."])
def test_ancestors_of_a_share_are_virtual(tree: Tree, path: bytes) -> None:
    resolved = tree.locate(path)
    assert where(resolved) == (None, b"")
    assert resolved.node is not None
    assert resolved.path == tree.canonical(path)


@pytest.mark.parametrize(
    ("path", "share", "relative"),
    [
        (b"models", "models", b""),
        (b"models/", "models", b""),
        (b"/home/gvpocr/models", "models", b""),
        (b"models/a/b", "models", b"a/b"),
        (b"models/b//c/.", "models", b"b/c/"),
        (b"models/a/", "models", b"a/"),
        (b"models/a/../b//c/.", "models", b"a/../b/c/"),
        (b"models/a/..", "models", b"a/.."),
        (b"models/a/../../models/b/../c", "models", b"b/../c"),
        (b"Bhushanji/../models/x", "models", b"x"),
        (b"models/models", "models", b"models"),
        (b"models/home/gvpocr/models", "models", b"home/gvpocr/models"),
        (b".cache/huggingface/hub", HUB, b""),
        (b".cache/huggingface/hub/blobs", HUB, b"blobs"),
        (b"../gvpocr/.cache/./huggingface/hub/x", HUB, b"x"),
        (b"models/...", "models", b"..."),
        (b"models/\xff", "models", b"\xff"),
    ],
)
def test_a_path_is_split_into_its_share_and_the_rest(
    tree: Tree, path: bytes, share: str, relative: bytes
) -> None:
    resolved = tree.locate(path)
    assert where(resolved) == (share, relative)
    assert (resolved.node is not None) == (relative == b"")
    behind = b"/" + relative.rstrip(b"/") if relative else b""
    assert resolved.path == b"/home/gvpocr/" + share.encode() + behind


def test_share_names_are_matched_whole_and_case_sensitively(tree: Tree) -> None:
    for path in (b"bhushanji", b"Models", b"model", b"models2", b"models ", b"models\n"):
        with pytest.raises(NotFound):
            tree.locate(path)


def test_the_tree_knows_its_shares_and_its_home(tree: Tree) -> None:
    assert tree.home == b"/home/gvpocr"
    assert [share.name for share in tree.shares] == ["Bhushanji", "models", HUB]


def test_a_user_without_shares_has_an_empty_home(make_tree: MakeTree) -> None:
    tree = make_tree()
    assert names(tree, b"") == []
    assert names(tree, b"/") == [b"home"]
    with pytest.raises(NotFound):
        tree.locate(b"models")


def test_a_devanagari_name_is_found_by_its_utf_8_bytes(make_tree: MakeTree) -> None:
    name = "भूषणजी"
    tree = make_tree(name, user="उपयोगकर्ता")
    assert where(tree.locate(name.encode() + b"/x")) == (name, b"x")
    assert names(tree, b"/home") == ["उपयोगकर्ता".encode()]


# Listings


def test_a_virtual_directory_lists_its_direct_children(tree: Tree) -> None:
    assert names(tree, b"/") == [b"home"]
    assert names(tree, b"/home") == [b"gvpocr"]
    assert names(tree, b"") == [b".cache", b"Bhushanji", b"models"]
    assert names(tree, b".cache") == [b"huggingface"]
    assert names(tree, b".cache/huggingface") == [b"hub"]
    assert names(tree, b"models") == []


def test_a_virtual_directory_lists_dot_entries(tree: Tree) -> None:
    node = tree.locate(b".cache").node
    assert node is not None
    found = entries(tree.open_virtual(tree.children_of(node)))
    assert [entry.name for entry in found] == [b".", b"..", b"huggingface"]
    assert {entry.attributes for entry in found} == {tree.attributes()}


def test_a_virtual_directory_has_the_configured_owner_and_time(tree: Tree) -> None:
    shown = tree.attributes()
    assert shown.mode == stat.S_IFDIR | 0o755
    assert (shown.uid, shown.gid) == (1, 2)
    assert shown.atime == shown.mtime == 1234


# Nested shares


@pytest.mark.parametrize(
    ("path", "share", "relative"),
    [
        (b"data", "data", b""),
        (b"data/name", "data", b"name"),
        (b"data/subx", "data", b"subx"),
        (b"data/sub", "data/sub", b""),
        (b"data/sub/name", "data/sub", b"name"),
        (b"data/sub/sub", "data/sub", b"sub"),
        (b"data/sub/x/y", "data/sub", b"x/y"),
        (b"data/sub/../name", "data", b"name"),
        (b"data/x", None, b""),
        (b"data/x/y", "data/x/y", b""),
        (b"data/x/y/name", "data/x/y", b"name"),
        (b"data/x/../x/y/z/..", "data/x/y", b"z/.."),
        (b"data/z/..", "data", b""),
        (b"data/z/x/y", "data", b"z/x/y"),
    ],
)
def test_a_path_belongs_to_the_deepest_share(
    nested: Tree, path: bytes, share: str | None, relative: bytes
) -> None:
    assert where(nested.locate(path)) == (share, relative)


def test_an_ancestor_of_a_nested_share_hides_the_outer_shares_folder(
    nested: Tree,
) -> None:
    with pytest.raises(NotFound):
        nested.locate(b"data/x/name")
    with pytest.raises(Denied, match="outside_shares"):
        nested.locate(b"data/x/deep/er")


def test_a_listing_starts_with_nested_shares(nested: Tree, tmp_path: Path) -> None:
    data = tmp_path / "shares" / "0"
    (data / "sub").mkdir()
    (data / "sub" / "hidden").touch()
    resolved = nested.locate(b"data")
    assert resolved.node is not None
    assert resolved.share is not None
    extra = nested.children_of(resolved.node)
    found = entries(resolved.share.open_directory(b"", extra=extra, wait=True))
    assert [entry.name for entry in found] == [b".", b"..", b"sub", b"x", b"name"]
    [sub, x] = found[2:4]
    assert without_atime(sub.attributes) == without_atime(nested.shares[1].lstat(b"", wait=True))
    assert x.attributes == nested.attributes()


def test_each_share_serves_its_own_files(nested: Tree) -> None:
    for path in (b"data", b"data/sub", b"data/x/y"):
        resolved = nested.locate(path + b"/name")
        assert resolved.share is not None
        assert read(resolved.share, resolved.relative) == path


def test_the_order_of_shares_does_not_matter(make_tree: MakeTree) -> None:
    tree = make_tree("data/x/y", "data/sub", "data")
    assert where(tree.locate(b"data/sub/a")) == ("data/sub", b"a")
    assert where(tree.locate(b"data/a")) == ("data", b"a")
    assert where(tree.locate(b"data/x/y")) == ("data/x/y", b"")


def test_a_share_below_a_virtual_directory_is_found(make_tree: MakeTree) -> None:
    tree = make_tree("data/sub")
    assert where(tree.locate(b"data")) == (None, b"")
    assert where(tree.locate(b"data/sub/a")) == ("data/sub", b"a")


# Misses


@pytest.mark.parametrize(
    "path",
    [b".Trash", b"autorun.inf", b"/home/.Trash", b"/.Trash", b"/etc", b"/home/root", b".cache/x"],
)
def test_a_missing_name_in_a_virtual_directory_is_not_found(tree: Tree, path: bytes) -> None:
    with pytest.raises(NotFound):
        tree.locate(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/etc/passwd",
        b"/home/root/.ssh",
        b"/home/other/models",
        b".ssh/authorized_keys",
        b"/proc/self/root",
        b"..a/x",
        b"../x",
        b"../../etc",
        b"models/../missing",
        b"/home/../etc",
    ],
)
def test_a_missing_deep_or_dot_dot_path_is_denied(tree: Tree, path: bytes) -> None:
    with pytest.raises(Denied) as raised:
        tree.locate(path)
    assert raised.value.reason == "outside_shares"
    assert raised.value.hidden


@pytest.mark.parametrize(
    "path",
    [
        b"private",
        b"private/",
        b"private/a/b",
        b"/home/gvpocr/private",
        b"models/../private",
        b"a/b",
    ],
)
def test_an_ungranted_share_is_denied_and_looks_missing(make_tree: MakeTree, path: bytes) -> None:
    tree = make_tree("models", ungranted=["private", "a/b"])
    with pytest.raises(Denied) as raised:
        tree.locate(path)
    assert raised.value.reason == "share_not_granted"
    assert raised.value.hidden


def test_an_ungranted_share_is_not_listed(make_tree: MakeTree) -> None:
    tree = make_tree("models", ungranted=["private", "a/b"])
    assert names(tree, b"") == [b"models"]


@pytest.mark.parametrize("path", [b"privat", b"private2", b"Private", b"a", b"/private"])
def test_a_name_similar_to_an_ungranted_share_is_not_found(
    make_tree: MakeTree, path: bytes
) -> None:
    with pytest.raises(NotFound):
        make_tree("models", ungranted=["private", "a/b"]).locate(path)


def test_a_granted_share_inside_an_ungranted_one_is_found(
    make_tree: MakeTree,
) -> None:
    tree = make_tree("data/sub", ungranted=["data"])
    assert where(tree.locate(b"data/sub/a")) == ("data/sub", b"a")
    assert names(tree, b"data") == [b"sub"]
    with pytest.raises(Denied, match="share_not_granted"):
        tree.locate(b"data/other")


def test_an_ungranted_share_inside_a_granted_one_hides_no_folder(
    make_tree: MakeTree,
) -> None:
    tree = make_tree("data", ungranted=["data/sub"])
    assert where(tree.locate(b"data/sub/a")) == ("data", b"sub/a")


def test_two_users_have_separate_trees(make_share: MakeShare, root: Path) -> None:
    share = make_share(root, name="models")
    trees = [
        Tree(user=user, shares=[share], attribute_policy=AttributePolicy(), time=os.getpid())
        for user in ("one", "two")
    ]
    assert [names(tree, b"/home") for tree in trees] == [[b"one"], [b"two"]]
    with pytest.raises(Denied, match="outside_shares"):
        trees[0].locate(b"/home/two/models")


def test_path_of_is_absolute(nested: Tree) -> None:
    data, sub, _ = nested.shares
    assert nested.path_of(data, b"") == b"/home/gvpocr/data"
    assert nested.path_of(data, b"a/b") == b"/home/gvpocr/data/a/b"
    assert nested.path_of(sub, b"a") == b"/home/gvpocr/data/sub/a"


@pytest.mark.parametrize("relative", [b"sub", b"sub/name", b"x", b"x/y", b"x/z", b"x/y/name"])
def test_path_of_does_not_name_a_path_hidden_by_another_share(
    nested: Tree, relative: bytes
) -> None:
    assert nested.path_of(nested.shares[0], relative) is None
