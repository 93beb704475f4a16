"""`links = "keep"`: the targets of links inside the share are shown, even dangling ones."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotALink
from sftp_gateway.vfs.share import Share
from tests.unit.vfs.helpers import listing, read


def test_a_link_is_shown_as_a_link_and_followed_on_request(share: Share, root: Path) -> None:
    (root / "link").symlink_to("folder/inner")
    assert share.lstat(b"link", wait=True).mode == stat.S_IFLNK | 0o777
    assert share.lstat(b"link", wait=True).size == len("folder/inner")
    assert listing(share)[b"link"].attributes == share.lstat(b"link", wait=True)
    assert share.stat(b"link", wait=True) == share.stat(b"folder/inner", wait=True)
    assert share.readlink(b"link", wait=True) == b"folder/inner"
    assert read(share, b"link") == b"inner content"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("link", "file"),
        ("link", "./folder/../file"),
        ("link", "."),
        ("folder/link", ".."),
        ("folder/link", "../file"),
        ("folder/link", "../folder/inner"),
        ("link", "missing"),
        ("link", "missing/deeper"),
        ("link", "link"),
        ("link", "file/not a folder"),
        ("link", "...//..a"),
    ],
)
def test_a_dangling_link_inside_the_share_shows_its_target(
    share: Share, root: Path, path: str, target: str
) -> None:
    (root / path).symlink_to(target)
    assert share.readlink(path.encode(), wait=True) == target.encode()


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("link", "/"),
        ("link", "/etc/passwd"),
        ("link", "/missing"),
        ("link", ".."),
        ("link", "../missing"),
        ("link", "../share/file"),
        ("link", "folder/../.."),
        ("link", "missing/../.."),
        ("link", "folder/../../share"),
        ("folder/link", "../.."),
        ("folder/link", "../../outside/secret"),
        ("link", "out/secret"),
        ("link", "out"),
        ("link", "climb/../file"),
    ],
)
def test_the_target_of_an_escaping_link_is_not_shown(
    share: Share, root: Path, outside: Path, path: str, target: str
) -> None:
    (root / "out").symlink_to(outside)
    (root / "climb").symlink_to(".")
    (root / path).symlink_to(target)
    with pytest.raises(Denied) as raised:
        share.readlink(path.encode(), wait=True)
    assert raised.value.reason == "link_leads_out"


def test_only_a_link_has_a_target(share: Share) -> None:
    for path in (b"", b"file", b"folder"):
        with pytest.raises(NotALink):
            share.readlink(path, wait=True)


def test_escaping_and_dangling_links_are_listed_as_links(
    share: Share, root: Path, outside: Path
) -> None:
    (root / "dead").symlink_to("missing")
    (root / "out").symlink_to(outside)
    shown = listing(share)
    for name in (b"dead", b"out"):
        assert shown[name].attributes == share.lstat(name, wait=True)
        assert stat.S_ISLNK(shown[name].attributes.mode)
