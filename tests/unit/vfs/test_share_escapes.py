"""Every escape trick that we could think of, against a share with a secret beside it.

Each is tried with both resolvers and with both ways to serve links.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, FileSystemError, NotFound
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import FOLLOWING, SECRET, MakeShare, listing, read


def leads_out(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` is denied as one that leads out."""
    for operation in FOLLOWING:
        with pytest.raises(Denied) as raised:
            operation(share, path)
        assert raised.value.reason == "link_leads_out"
    return True


def leads_nowhere(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` is refused, with either of the two errors."""
    lstat: Callable[[Share, bytes], object] = lambda share, path: share.lstat(path, wait=True)  # noqa: E731
    for operation in (*FOLLOWING, lstat):
        with pytest.raises((Denied, NotFound)):
            operation(share, path)
    return True


def is_missing(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` says that nothing is there."""
    for operation in FOLLOWING:
        with pytest.raises(NotFound):
            operation(share, path)
    with pytest.raises(NotFound):
        share.lstat(path, wait=True)
    with pytest.raises(NotFound):
        share.readlink(path, wait=True)
    return True


# Links that lead out


def test_an_absolute_link_leads_out(either: Share, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "secret")
    assert leads_out(either, b"link")


def test_an_absolute_link_leads_out_even_when_it_points_back_into_the_share(
    either: Share, root: Path
) -> None:
    (root / "link").symlink_to(root / "file")
    assert leads_out(either, b"link")


def test_a_climbing_link_leads_out(either: Share, root: Path) -> None:
    (root / "link").symlink_to("../outside/secret")
    (root / "folder" / "link").symlink_to("../../outside")
    assert leads_out(either, b"link")
    assert leads_out(either, b"folder/link")
    assert leads_out(either, b"folder/link/secret")


def test_a_link_that_climbs_out_and_comes_back_leads_out(either: Share, root: Path) -> None:
    (root / "link").symlink_to("../share/file")
    assert leads_out(either, b"link")


def test_a_link_that_climbs_more_often_than_there_are_folders_leads_out(
    either: Share, root: Path
) -> None:
    (root / "link").symlink_to("../" * 200 + "etc/passwd")
    assert leads_out(either, b"link")


def test_a_chain_of_links_leads_out_where_its_last_link_does(
    either: Share, root: Path, outside: Path
) -> None:
    (root / "last").symlink_to(outside)
    (root / "folder" / "middle").symlink_to("../last")
    (root / "first").symlink_to("folder/middle")
    assert leads_out(either, b"first")
    assert leads_out(either, b"first/secret")


def test_a_link_to_the_root_of_the_server_leads_out(either: Share, root: Path) -> None:
    (root / "link").symlink_to("/")
    assert leads_out(either, b"link")
    assert leads_out(either, b"link/etc/passwd")
    assert leads_out(either, b"link/" + os.fsencode(root) + b"/file")


@pytest.mark.parametrize("target", ["root", "cwd", "exe", "fd/0", "task", "environ"])
def test_a_link_into_proc_leads_out(either: Share, root: Path, target: str) -> None:
    (root / "link").symlink_to(f"/proc/self/{target}")
    assert leads_out(either, b"link")
    assert leads_out(either, b"link/etc/passwd")


def test_a_link_to_an_open_descriptor_of_ours_leads_out(
    either: Share, root: Path, outside: Path
) -> None:
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        (root / "link").symlink_to(f"/proc/self/fd/{descriptor}")
        (root / "dev").symlink_to(f"/dev/fd/{descriptor}")
        assert leads_out(either, b"link/secret")
        assert leads_out(either, b"dev/secret")
    finally:
        os.close(descriptor)


def test_a_magic_link_of_a_proc_that_is_served_leads_nowhere(
    make_share: MakeShare, links: Links, outside: Path
) -> None:
    share = make_share(Path("/proc"), links=links)
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        for path in (b"self/root/etc/passwd", b"self/cwd/pyproject.toml", b"thread-self/root/etc"):
            assert leads_nowhere(share, path)
        assert leads_nowhere(share, b"self/fd/%d/secret" % descriptor)
    finally:
        os.close(descriptor)


def test_a_folder_on_the_way_that_is_a_link_out_leads_out(
    either: Share, root: Path, outside: Path
) -> None:
    (outside / "deep").mkdir()
    (outside / "deep" / "file").write_bytes(SECRET)
    (root / "folder" / "way").symlink_to("../../outside")
    assert leads_out(either, b"folder/way/deep/file")
    assert leads_out(either, b"folder/way/missing")
    with pytest.raises(Denied):
        either.lstat(b"folder/way/deep/file", wait=True)
    with pytest.raises(Denied):
        either.readlink(b"folder/way/deep/file", wait=True)


def test_a_link_behind_a_linked_folder_climbs_from_the_real_folder(
    either: Share, root: Path
) -> None:
    (root / "folder" / "deep").mkdir()
    (root / "folder" / "deep" / "inside").symlink_to("../../file")
    (root / "folder" / "deep" / "out").symlink_to("../../../outside/secret")
    (root / "way").symlink_to("folder/deep")
    assert read(either, b"way/inside") == b"content"
    assert leads_out(either, b"way/out")


def test_a_link_through_a_linked_folder_cannot_climb_out_unseen(either: Share, root: Path) -> None:
    """The text `a/b/../../..` looks as if it stayed inside; `b` being a link, it does not."""
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to("..")
    (root / "link").symlink_to("a/b/../outside/secret")
    assert leads_out(either, b"link")


def test_a_link_to_what_is_outside_tells_nothing_about_whether_it_exists(
    either: Share, root: Path
) -> None:
    (root / "there").symlink_to("../outside/secret")
    (root / "missing").symlink_to("../outside/missing")
    (root / "no_folder").symlink_to("../outside/secret/x/y")
    for path in (b"there", b"missing", b"no_folder"):
        assert leads_out(either, path)


# Paths that lead out


@pytest.mark.parametrize(
    "path", [b"..", b"../outside/secret", b"folder/../../outside/secret", b"../share/file"]
)
def test_dot_dot_of_a_path_leads_out_even_if_the_tree_let_it_through(
    either: Share, path: bytes
) -> None:
    assert leads_out(either, path)


def test_dot_dot_behind_a_linked_folder_leads_out(either: Share, root: Path) -> None:
    (root / "link").symlink_to("folder")
    (root / "here").symlink_to(".")
    assert leads_out(either, b"link/../../outside/secret")
    assert leads_out(either, b"here/here/../outside/secret")


@pytest.mark.parametrize("path", [b"/", b"/etc/passwd", b"//etc/passwd", b"/proc/self/environ"])
def test_an_absolute_path_never_means_the_servers_own(either: Share, path: bytes) -> None:
    for operation in FOLLOWING:
        try:
            found = operation(either, path)
        except FileSystemError:
            continue
        assert path == b"/"
        assert found is not None
        assert either.stat(path, wait=True) == either.stat(b"", wait=True)


# Links without an end


def test_a_loop_of_links_is_missing(either: Share, root: Path) -> None:
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("./one")
    for path in (b"self", b"one", b"two", b"self/x", b"one/../file"):
        for operation in FOLLOWING:
            with pytest.raises(NotFound):
                operation(either, path)


def test_a_loop_through_folders_ends(either: Share, root: Path) -> None:
    (root / "folder" / "up").symlink_to("..")
    assert read(either, b"folder/up/" * 40 + b"file") == b"content"
    assert is_missing(either, b"folder/up/" * 41 + b"file")


# Names


@pytest.mark.parametrize(
    "name",
    [
        b"...",
        b"....",
        b"..a",
        b"a..",
        b".. ",
        b" ..",
        b"..\\",
        b"..;",
        b".hidden",
        b"trailing.",
        b"%2e%2e",
        b"%2e%2e%2foutside",
        b"..%00",
        b"..%c0%af",
        b"\xc0\xae\xc0\xae",
        b"\xe2\x80\xa4\xe2\x80\xa4",
        b"..\n",
        b"~",
        b"~root",
        b"$HOME",
        b"*",
        b"-rf",
        b"C:",
    ],
)
def test_a_name_that_looks_like_traversal_is_only_a_name(
    either: Share, root: Path, name: bytes
) -> None:
    assert is_missing(either, name)
    assert is_missing(either, name + b"/secret")
    os.mkdir(os.path.join(os.fsencode(root), name))
    with open(os.path.join(os.fsencode(root), name, name), "wb") as file:
        file.write(name)
    assert name in listing(either)
    assert list(listing(either, name)) == [name]
    assert read(either, name + b"/" + name) == name


@pytest.mark.parametrize("length", [256, 5_000, 100_000])
def test_a_name_longer_than_names_are_is_missing(either: Share, length: int) -> None:
    assert is_missing(either, b"n" * length)
    assert is_missing(either, b"folder/" + b"n" * length + b"/x")


@pytest.mark.parametrize("part", [b"folder/", b"missing/", b"folder/../", b"./", b"../", b"/"])
def test_a_path_of_100_000_bytes_is_refused(either: Share, part: bytes) -> None:
    path = b"folder/" + part * (100_000 // len(part)) + b"inner"
    assert leads_nowhere(either, path)


def test_a_name_of_255_bytes_is_served(either: Share, root: Path) -> None:
    name = b"\xe0\xa4\x95" * 85
    (root / os.fsdecode(name)).write_bytes(b"longest")
    assert read(either, name) == b"longest"
    assert name in listing(either)
