"""Escape attempts against a share with a secret beside it.

Each runs with both resolvers and every `links` mode.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, FileSystemError, NotFound
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import FOLLOWING, SECRET, MakeShare, listing, read


def is_escape(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` is denied as an escape."""
    for operation in FOLLOWING:
        with pytest.raises(Denied) as raised:
            operation(share, path)
        assert raised.value.reason == "link_leads_out"
    return True


def is_refused(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` fails with Denied or NotFound."""
    lstat: Callable[[Share, bytes], object] = lambda share, path: share.lstat(path, wait=True)  # noqa: E731
    for operation in (*FOLLOWING, lstat):
        with pytest.raises((Denied, NotFound)):
            operation(share, path)
    return True


def is_missing(share: Share, path: bytes) -> bool:
    """Whether every operation on `path` fails with NotFound."""
    for operation in FOLLOWING:
        with pytest.raises(NotFound):
            operation(share, path)
    with pytest.raises(NotFound):
        share.lstat(path, wait=True)
    with pytest.raises(NotFound):
        share.readlink(path, wait=True)
    return True


# Escaping links


def test_an_absolute_link_is_an_escape(any_share: Share, root: Path, outside: Path) -> None:
    (root / "link").symlink_to(outside / "secret")
    assert is_escape(any_share, b"link")


def test_an_absolute_link_into_the_share_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to(root / "file")
    assert is_escape(any_share, b"link")


def test_a_link_above_the_root_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to("../outside/secret")
    (root / "folder" / "link").symlink_to("../../outside")
    assert is_escape(any_share, b"link")
    assert is_escape(any_share, b"folder/link")
    assert is_escape(any_share, b"folder/link/secret")


def test_a_link_out_of_the_share_and_back_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to("../share/file")
    assert is_escape(any_share, b"link")


def test_a_link_with_more_dot_dots_than_folders_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to("../" * 200 + "etc/passwd")
    assert is_escape(any_share, b"link")


def test_a_chain_that_ends_outside_is_an_escape(
    any_share: Share, root: Path, outside: Path
) -> None:
    (root / "last").symlink_to(outside)
    (root / "folder" / "middle").symlink_to("../last")
    (root / "first").symlink_to("folder/middle")
    assert is_escape(any_share, b"first")
    assert is_escape(any_share, b"first/secret")


def test_a_link_to_the_servers_root_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to("/")
    assert is_escape(any_share, b"link")
    assert is_escape(any_share, b"link/etc/passwd")
    assert is_escape(any_share, b"link/" + os.fsencode(root) + b"/file")


@pytest.mark.parametrize("target", ["root", "cwd", "exe", "fd/0", "task", "environ"])
def test_a_link_into_proc_is_an_escape(any_share: Share, root: Path, target: str) -> None:
    (root / "link").symlink_to(f"/proc/self/{target}")
    assert is_escape(any_share, b"link")
    assert is_escape(any_share, b"link/etc/passwd")


def test_a_link_to_the_gateways_own_descriptor_is_an_escape(
    any_share: Share, root: Path, outside: Path
) -> None:
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        (root / "link").symlink_to(f"/proc/self/fd/{descriptor}")
        (root / "dev").symlink_to(f"/dev/fd/{descriptor}")
        assert is_escape(any_share, b"link/secret")
        assert is_escape(any_share, b"dev/secret")
    finally:
        os.close(descriptor)


def test_a_magic_link_in_a_shared_proc_is_not_followed(
    make_share: MakeShare, links: Links, outside: Path
) -> None:
    share = make_share(Path("/proc"), links=links)
    descriptor = os.open(outside, os.O_RDONLY)
    try:
        for path in (b"self/root/etc/passwd", b"self/cwd/pyproject.toml", b"thread-self/root/etc"):
            assert is_refused(share, path)
        assert is_refused(share, b"self/fd/%d/secret" % descriptor)
    finally:
        os.close(descriptor)


def test_a_path_through_a_link_to_outside_is_an_escape(
    any_share: Share, root: Path, outside: Path
) -> None:
    (outside / "deep").mkdir()
    (outside / "deep" / "file").write_bytes(SECRET)
    (root / "folder" / "way").symlink_to("../../outside")
    assert is_escape(any_share, b"folder/way/deep/file")
    assert is_escape(any_share, b"folder/way/missing")
    with pytest.raises(Denied):
        any_share.lstat(b"folder/way/deep/file", wait=True)
    with pytest.raises(Denied):
        any_share.readlink(b"folder/way/deep/file", wait=True)


def test_a_link_below_a_linked_folder_is_relative_to_the_real_folder(
    any_share: Share, root: Path
) -> None:
    (root / "folder" / "deep").mkdir()
    (root / "folder" / "deep" / "inside").symlink_to("../../file")
    (root / "folder" / "deep" / "out").symlink_to("../../../outside/secret")
    (root / "way").symlink_to("folder/deep")
    assert read(any_share, b"way/inside") == b"content"
    assert is_escape(any_share, b"way/out")


def test_a_link_that_climbs_through_a_linked_folder_is_an_escape(
    any_share: Share, root: Path
) -> None:
    """Lexically `a/b/../../..` stays inside, but `b` is a link."""
    (root / "a").mkdir()
    (root / "a" / "b").symlink_to("..")
    (root / "link").symlink_to("a/b/../outside/secret")
    assert is_escape(any_share, b"link")


def test_an_escaping_link_does_not_reveal_whether_its_target_exists(
    any_share: Share, root: Path
) -> None:
    (root / "there").symlink_to("../outside/secret")
    (root / "missing").symlink_to("../outside/missing")
    (root / "no_folder").symlink_to("../outside/secret/x/y")
    for path in (b"there", b"missing", b"no_folder"):
        assert is_escape(any_share, path)


# Escaping paths


@pytest.mark.parametrize(
    "path", [b"..", b"../outside/secret", b"folder/../../outside/secret", b"../share/file"]
)
def test_dot_dot_above_the_share_root_is_an_escape(any_share: Share, path: bytes) -> None:
    assert is_escape(any_share, path)


def test_dot_dot_after_a_linked_folder_is_an_escape(any_share: Share, root: Path) -> None:
    (root / "link").symlink_to("folder")
    (root / "here").symlink_to(".")
    assert is_escape(any_share, b"link/../../outside/secret")
    assert is_escape(any_share, b"here/here/../outside/secret")


@pytest.mark.parametrize("path", [b"/", b"/etc/passwd", b"//etc/passwd", b"/proc/self/environ"])
def test_an_absolute_path_never_names_a_file_of_the_server(any_share: Share, path: bytes) -> None:
    for operation in FOLLOWING:
        try:
            found = operation(any_share, path)
        except FileSystemError:
            continue
        assert path == b"/"
        assert found is not None
        assert any_share.stat(path, wait=True) == any_share.stat(b"", wait=True)


# Loops


def test_a_loop_of_links_is_missing(any_share: Share, root: Path) -> None:
    (root / "self").symlink_to("self")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("./one")
    for path in (b"self", b"one", b"two", b"self/x", b"one/../file"):
        for operation in FOLLOWING:
            with pytest.raises(NotFound):
                operation(any_share, path)


def test_a_path_through_a_loop_of_folders_ends(any_share: Share, root: Path) -> None:
    (root / "folder" / "up").symlink_to("..")
    assert read(any_share, b"folder/up/" * 40 + b"file") == b"content"
    assert is_missing(any_share, b"folder/up/" * 41 + b"file")


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
def test_a_name_that_resembles_dot_dot_is_an_ordinary_name(
    any_share: Share, root: Path, name: bytes
) -> None:
    assert is_missing(any_share, name)
    assert is_missing(any_share, name + b"/secret")
    os.mkdir(os.path.join(os.fsencode(root), name))
    with open(os.path.join(os.fsencode(root), name, name), "wb") as file:
        file.write(name)
    assert name in listing(any_share)
    assert list(listing(any_share, name)) == [name]
    assert read(any_share, name + b"/" + name) == name


@pytest.mark.parametrize("length", [256, 5_000, 100_000])
def test_an_overlong_name_is_missing(any_share: Share, length: int) -> None:
    assert is_missing(any_share, b"n" * length)
    assert is_missing(any_share, b"folder/" + b"n" * length + b"/x")


@pytest.mark.parametrize("part", [b"folder/", b"missing/", b"folder/../", b"./", b"../", b"/"])
def test_a_path_of_100_000_bytes_is_refused(any_share: Share, part: bytes) -> None:
    path = b"folder/" + part * (100_000 // len(part)) + b"inner"
    assert is_refused(any_share, path)


def test_a_name_of_255_bytes_is_served(any_share: Share, root: Path) -> None:
    name = b"\xe0\xa4\x95" * 85
    (root / os.fsdecode(name)).write_bytes(b"longest")
    assert read(any_share, name) == b"longest"
    assert name in listing(any_share)
