"""What a gateway that is not root may not read is denied, and does not spoil the rest."""

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
    """A folder each that is closed, that can only be listed, and that can only be passed."""
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


def test_an_unreadable_file_is_shown_and_cannot_be_opened(
    either: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(either, resolver, ("lstat", "private"), ("read", "private")) == [
        stat.S_IFREG,
        DENIED,
    ]


def test_an_unreadable_folder_is_shown_and_cannot_be_listed_or_passed(
    either: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(
        either,
        resolver,
        ("lstat", "closed"),
        ("list", "closed"),
        ("lstat", "closed/file"),
        ("read", "closed/file"),
        ("lstat", "closed/missing"),
        ("readlink", "closed/link"),
    ) == [CLOSED, DENIED, DENIED, DENIED, DENIED, DENIED]


def test_what_cannot_be_read_is_still_listed_in_the_folder_above(
    either: Share, resolver: PathResolver
) -> None:
    (shown,) = use_as_nobody(either, resolver, ("list", ""))
    assert shown == {
        "closed": CLOSED,
        "file": FILE,
        "folder": FOLDER,
        "listed": stat.S_IFDIR | 0o444,
        "passed": stat.S_IFDIR | 0o311,
        "private": stat.S_IFREG,
    }


def test_a_folder_that_can_be_passed_but_not_listed_serves_its_files(
    either: Share, resolver: PathResolver
) -> None:
    assert use_as_nobody(
        either,
        resolver,
        ("list", "passed"),
        ("read", "passed/file"),
        ("read", "passed/link"),
        ("lstat", "passed/sub"),
    ) == [DENIED, "guarded", "guarded", FOLDER]


def test_a_folder_that_can_be_listed_but_not_passed_shows_its_names_and_their_kinds(
    make_share: MakeShare, resolver: PathResolver
) -> None:
    """Nothing but the kind is known; what is hidden elsewhere is hidden here too."""
    shown, file = use_as_nobody(make_share(), resolver, ("list", "listed"), ("read", "listed/file"))
    assert shown == {"file": stat.S_IFREG, "sub": stat.S_IFDIR, "link": stat.S_IFLNK}
    assert file == DENIED


def test_served_dereferenced_it_leaves_out_the_links_that_it_cannot_follow(
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


def test_a_share_whose_folder_cannot_be_read_fails_its_check(
    either: Share, resolver: PathResolver, root: Path
) -> None:
    root.chmod(0o311)
    checked, listed, file = use_as_nobody(
        either, resolver, ("check", ""), ("list", ""), ("read", "file")
    )
    assert checked[0] == "PermissionError"
    assert listed == DENIED
    assert file == "content"
