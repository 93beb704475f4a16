"""`links = "auto"`: links with `..` are shown as their target, others as links."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotALink, NotFound
from sftp_gateway.vfs.attributes import LINK_MODE, AttributePolicy
from sftp_gateway.vfs.path_resolution import Openat2Resolver
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import (
    MakeShare,
    entries,
    listing,
    mark_recently_followed,
    read,
    without_atime,
)


@pytest.fixture
def auto(make_share: MakeShare) -> Share:
    return make_share(links=Links.AUTO)


def walk(share: Share, path: bytes = b"") -> list[bytes]:
    """All names found by a recursive walk that follows no links."""
    found = []
    for name, entry in listing(share, path).items():
        below = path + b"/" + name if path else name
        found.append(below)
        assert without_atime(entry.attributes) == without_atime(share.lstat(below, wait=True)), (
            below
        )
        if stat.S_ISDIR(entry.attributes.mode):
            found += walk(share, below)
    return found


@pytest.mark.parametrize("target", ["inner", "./inner", "missing", "inner/", "..a", "a..b"])
def test_a_link_without_dot_dot_stays_a_link(auto: Share, root: Path, target: str) -> None:
    (root / "folder/link").symlink_to(target)
    assert auto.lstat(b"folder/link", wait=True).mode == LINK_MODE
    assert listing(auto, b"folder")[b"link"].attributes.mode == LINK_MODE
    assert auto.readlink(b"folder/link", wait=True) == target.encode()


@pytest.mark.parametrize("target", ["../file", "./../folder/../file", "../plain"])
def test_a_link_with_dot_dot_to_a_file_is_shown_as_the_file(
    auto: Share, root: Path, target: str
) -> None:
    (root / "plain").symlink_to("file")
    (root / "folder/link").symlink_to(target)
    shown = auto.lstat(b"folder/link", wait=True)
    assert without_atime(shown) == without_atime(auto.stat(b"file", wait=True))
    assert without_atime(listing(auto, b"folder")[b"link"].attributes) == without_atime(shown)
    assert read(auto, b"folder/link") == b"content"
    with pytest.raises(NotALink):
        auto.readlink(b"folder/link", wait=True)


def test_a_link_with_dot_dot_to_a_folder_is_shown_as_the_folder(auto: Share, root: Path) -> None:
    (root / "other").mkdir()
    (root / "other/latest").symlink_to("../folder")
    assert stat.S_ISDIR(auto.lstat(b"other/latest", wait=True).mode)
    assert walk(auto, b"other") == [b"other/latest", b"other/latest/inner"]


def test_a_link_to_an_ancestor_folder_stays_a_link(auto: Share, root: Path) -> None:
    (root / "folder/up").symlink_to("..")
    (root / "folder/self").symlink_to("../folder")
    for name in (b"folder/up", b"folder/self"):
        assert auto.lstat(name, wait=True).mode == LINK_MODE
    assert auto.readlink(b"folder/up", wait=True) == b".."


def test_folders_linked_to_each_other_are_walked_once(auto: Share, root: Path) -> None:
    for name, target in (("a", "../b"), ("b", "../c"), ("c", "../a")):
        (root / name).mkdir()
        (root / name / "next").symlink_to(target)
    assert sorted(walk(auto, b"a")) == [b"a/next", b"a/next/next", b"a/next/next/next"]
    assert auto.lstat(b"a/next/next/next", wait=True).mode == LINK_MODE


def test_a_deeply_nested_link_to_a_folder_stays_a_link(auto: Share, root: Path) -> None:
    far = root.joinpath(*["d"] * 40)
    far.mkdir(parents=True)
    (far / "e").mkdir()
    (far / "link").symlink_to("../d/e")
    (far.parent / "link").symlink_to("../e")
    (far.parents[1] / "e").mkdir()
    assert auto.lstat(b"d/" * 40 + b"link", wait=True).mode == LINK_MODE
    assert stat.S_ISDIR(auto.lstat(b"d/" * 39 + b"link", wait=True).mode)


@pytest.mark.parametrize("target", ["../outside/secret", "/etc/passwd", "folder/../../outside"])
def test_an_escaping_link_is_listed_without_its_target(
    auto: Share, root: Path, target: str
) -> None:
    (root / "link").symlink_to(target)
    assert auto.lstat(b"link", wait=True).mode == LINK_MODE
    assert listing(auto)[b"link"].attributes.mode == LINK_MODE
    with pytest.raises(Denied, match="link_leads_out"):
        auto.readlink(b"link", wait=True)


def test_a_dangling_link_with_dot_dot_is_missing(auto: Share, root: Path) -> None:
    os.mkfifo(root / "fifo")
    for name, target in (("dead", "../missing"), ("loop", "../folder/loop"), ("to", "../fifo")):
        (root / "folder" / name).symlink_to(target)
        for ask in (auto.lstat, auto.readlink):
            with pytest.raises(NotFound):
                ask(b"folder/" + name.encode(), wait=True)
    assert set(listing(auto, b"folder")) == {b"inner"}


def test_a_link_with_an_uncached_target_needs_a_thread(
    tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmpfs / "folder").mkdir()
    (tmpfs / "file").touch()
    (tmpfs / "folder/link").symlink_to("../file")
    mark_recently_followed(tmpfs / "folder/link")
    resolver = Openat2Resolver()
    share = Share(
        name="share",
        root=tmpfs,
        links=Links.AUTO,
        attribute_policy=AttributePolicy(),
        resolver=resolver,
    )
    assert stat.S_ISREG(share.lstat(b"folder/link", wait=False).mode)
    resolve = resolver.resolve

    def cold(root: int, path: bytes, *, follow: bool, wait: bool) -> int:
        if follow and not wait:
            raise BlockingIOError
        return resolve(root, path, follow=follow, wait=wait)

    monkeypatch.setattr(resolver, "resolve", cold)
    for ask in (share.lstat, share.readlink):
        with pytest.raises(BlockingIOError):
            ask(b"folder/link", wait=False)
    assert stat.S_ISREG(share.lstat(b"folder/link", wait=True).mode)
    share.close()


# A Hugging Face cache


@pytest.mark.parametrize("links", [Links.AUTO, Links.DEREFERENCE])
@pytest.mark.parametrize("name", ["models--a--b", "datasets--a", "spaces--a--b--c"])
def test_blobs_of_a_hugging_face_cache_are_unlisted_but_readable(
    make_share: MakeShare, root: Path, links: Links, name: str
) -> None:
    for folder in ("blobs", "snapshots/rev"):
        (root / name / folder).mkdir(parents=True)
    (root / name / "blobs/hash").write_bytes(b"weights")
    (root / name / "snapshots/rev/model").symlink_to("../../blobs/hash")
    share = make_share(links=links)
    path = name.encode()
    assert walk(share, path) == [
        path + below for below in (b"/snapshots", b"/snapshots/rev", b"/snapshots/rev/model")
    ]
    assert set(listing(share, path + b"/")) == {b"snapshots"}
    assert read(share, path + b"/snapshots/rev/model") == b"weights"
    assert read(share, path + b"/blobs/hash") == b"weights"
    assert set(listing(share, path + b"/blobs")) == {b"hash"}


def test_other_blobs_folders_are_listed(make_share: MakeShare, root: Path) -> None:
    for folder in ("folder", "models--a", "models--b/deeper"):
        (root / folder / "blobs").mkdir(parents=True)
    (root / "folder/snapshots").mkdir()
    (root / "models--b/deeper/snapshots").mkdir()
    (root / "models--kept/blobs").mkdir(parents=True)
    (root / "models--kept/snapshots").mkdir()
    share = make_share(links=Links.AUTO)
    for path in (b"folder", b"models--a", b"models--b/deeper"):
        assert b"blobs" in listing(share, path)
    assert b"blobs" in listing(make_share(links=Links.KEEP), b"models--kept")


# Paths without links


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        (b"", b""),
        (b"file", b"file"),
        (b"latest", b"folder"),
        (b"latest/", b"folder"),
        (b"latest/inner", b"folder/inner"),
        (b"latest/missing", b"folder/missing"),
        (b"folder/up", b""),
        (b"folder/up/latest/up/file", b"file"),
        (b"latest/..", b""),
        (b"gone", b"gone"),
        (b"missing", b"missing"),
        (b"missing/deeper", None),
        (b"missing/..", None),
        (b"out", None),
        (b"out/secret", None),
        (b"absolute", None),
        (b"loop", b"loop"),
    ],
)
def test_a_path_is_resolved_inside_the_share(
    any_share: Share, root: Path, path: bytes, resolved: bytes | None
) -> None:
    links = {
        "latest": "folder",
        "folder/up": "..",
        "gone": "missing",
        "out": "../outside",
        "absolute": str(root / "file"),
        "loop": "loop",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    assert any_share.realpath(path, wait=True) == resolved


def test_a_name_with_the_suffix_deleted_is_resolved(share: Share, root: Path) -> None:
    (root / "a (deleted)").touch()
    (root / "link").symlink_to("a (deleted)")
    assert share.realpath(b"link", wait=True) == b"a (deleted)"


def test_a_moved_share_resolves_paths_below_its_new_location(share: Share, root: Path) -> None:
    (root / "link").symlink_to("folder")
    root.rename(root.parent / "moved")
    try:
        assert share.realpath(b"link", wait=True) == b"folder"
    finally:
        (root.parent / "moved").rename(root)


def test_a_file_moved_during_realpath_is_not_resolved_to_another(
    share: Share, root: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path from /proc is resolved again and must name the same file."""
    real = os.readlink

    def elsewhere(path: bytes, **more: int) -> bytes:
        found = os.fsencode(real(path, **more))
        return found if found.endswith(b"/share") else os.fsencode(root / "folder")

    monkeypatch.setattr(os, "readlink", elsewhere)
    assert share._realpath(b"file", wait=True) is None
    monkeypatch.setattr(
        os,
        "readlink",
        lambda path, **_: os.fsencode(root if path.endswith(b"%d" % share._root) else outside),
    )
    assert share._realpath(b"file", wait=True) is None


def test_an_unavailable_share_resolves_nothing(any_share: Share, root: Path) -> None:
    gone = Share(
        name="gone",
        root=root / "missing",
        links=any_share.links,
        attribute_policy=any_share._attribute_policy,
        resolver=any_share._resolver,
    )
    assert gone.realpath(b"file", wait=True) is None
    assert gone.root_attributes() is None


def test_links_leave_no_descriptor_open(auto: Share, root: Path) -> None:
    (root / "folder/link").symlink_to("../file")
    before = os.listdir("/proc/self/fd")
    auto.lstat(b"folder/link", wait=True)
    auto.realpath(b"folder/link", wait=True)
    entries(auto.open_directory(b"folder", wait=True))
    assert os.listdir("/proc/self/fd") == before
