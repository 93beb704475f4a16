"""Files unreadable to an unprivileged gateway are denied without affecting others."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.vfs.path_resolution import PathResolver
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.as_nobody import use_as_nobody
from tests.unit.vfs.helpers import MakeShare

DENIED = ["Denied", "unreadable"]
FILE = stat.S_IFREG | 0o644
FOLDER = stat.S_IFDIR | 0o755
CLOSED = stat.S_IFDIR
LINK_MODE = stat.S_IFLNK | 0o777


@pytest.fixture
def guarded(root: Path) -> Iterator[Path]:
    """Three folders: without permissions, with read only, and with search only."""
    for name in ("closed", "listed", "passed"):
        folder = root / name
        folder.mkdir()
        (folder / "file").write_bytes(b"guarded")
        (folder / "sub").mkdir()
        (folder / "link").symlink_to("file")
        os.mkfifo(folder / "fifo")
    (root / "private").write_bytes(b"private")
    for name, mode in (("closed", 0), ("listed", 0o444), ("passed", 0o311), ("private", 0)):
        (root / name).chmod(mode)
    root.chmod(0o755)
    yield root
    for name in ("closed", "listed", "passed"):
        (root / name).chmod(0o755)


pytestmark = pytest.mark.usefixtures("guarded")


def test_an_unreadable_file_is_listed_but_cannot_be_opened(
    any_share: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(any_share, resolver, ("lstat", "private"), ("read", "private")) == [
        stat.S_IFREG,
        DENIED,
    ]


def test_an_unreadable_folder_is_listed_but_cannot_be_opened(
    any_share: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(
        any_share,
        resolver,
        ("lstat", "closed"),
        ("list", "closed"),
        ("lstat", "closed/file"),
        ("read", "closed/file"),
        ("lstat", "closed/missing"),
        ("readlink", "closed/link"),
    ) == [CLOSED, DENIED, DENIED, DENIED, DENIED, DENIED]


def test_unreadable_entries_are_listed(any_share: Share, resolver: PathResolver) -> None:
    (shown,) = use_as_nobody(any_share, resolver, ("list", ""))
    assert shown == {
        "closed": CLOSED,
        "file": FILE,
        "folder": FOLDER,
        "listed": stat.S_IFDIR | 0o444,
        "passed": stat.S_IFDIR | 0o311,
        "private": stat.S_IFREG,
    }


def test_a_folder_with_search_permission_only_serves_its_files(
    any_share: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(
        any_share,
        resolver,
        ("list", "passed"),
        ("read", "passed/file"),
        ("read", "passed/link"),
        ("lstat", "passed/sub"),
    ) == [DENIED, "guarded", "guarded", FOLDER]


def test_a_folder_with_read_permission_only_lists_names_and_types(
    make_share: MakeShare, resolver: PathResolver
) -> None:
    """Only the file types are known; hidden types stay hidden."""
    shown, file = use_as_nobody(make_share(), resolver, ("list", "listed"), ("read", "listed/file"))
    assert shown == {"file": stat.S_IFREG, "sub": stat.S_IFDIR, "link": stat.S_IFLNK}
    assert file == DENIED


def test_a_dereferenced_listing_omits_links_that_cannot_be_followed(
    make_share: MakeShare, resolver: PathResolver
) -> None:
    share = make_share(links=Links.DEREFERENCE)
    (shown,) = use_as_nobody(share, resolver, ("list", "listed"))
    assert shown == {"file": stat.S_IFREG, "sub": stat.S_IFDIR}


def test_a_link_into_an_unreadable_folder_is_denied(
    make_share: MakeShare, resolver: PathResolver, links: Links, root: Path
) -> None:
    (root / "link").symlink_to("closed/file")
    share = make_share(links=links)
    shown, *denied = use_as_nobody(
        share, resolver, ("list", ""), ("stat", "link"), ("read", "link"), ("readlink", "link")
    )
    assert denied == [DENIED] * 3
    assert ("link" in shown) == (links is not Links.DEREFERENCE)


def test_an_unreadable_share_fails_its_check(
    any_share: Share, resolver: PathResolver, root: Path
) -> None:
    root.chmod(0o311)
    checked, listed, file = use_as_nobody(
        any_share, resolver, ("check", ""), ("list", ""), ("read", "file")
    )
    assert checked[0] == "PermissionError"
    assert listed == DENIED
    assert file == "content"
