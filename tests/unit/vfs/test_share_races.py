"""Paths swapped for links or fifos during lookups never leak a byte from outside the share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sftp_gateway.errors import Denied, NotFound
from sftp_gateway.vfs.share import Share
from tests.unit.vfs.helpers import (
    DEADLINE,
    SECRET,
    descriptors,
    listing,
    read,
    without_blocking,
)


@contextmanager
def keeps_swapping(swap: Callable[[], None]) -> Iterator[None]:
    """Call `swap` repeatedly on a thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            swap()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()


ATTEMPTS = 1_500


@pytest.mark.parametrize("target", ["../outside", "absolute"])
def test_a_folder_swapped_for_a_link_leaks_no_byte(
    any_share: Share, root: Path, outside: Path, target: str
) -> None:
    (root / "swapped").mkdir()
    (root / "swapped" / "secret").write_bytes(b"public")
    (outside / "only outside").mkdir()
    (root / "link").symlink_to(outside if target == "absolute" else target)

    def swap() -> None:
        for old, new in (("swapped", "aside"), ("link", "swapped")):
            (root / old).rename(root / new)
        for old, new in (("swapped", "link"), ("aside", "swapped")):
            (root / old).rename(root / new)

    before = descriptors()
    with keeps_swapping(swap):
        for _ in range(ATTEMPTS):
            try:
                assert read(any_share, b"swapped/secret") == b"public"
                assert set(listing(any_share, b"swapped")) <= {b"secret"}
                assert any_share.lstat(b"swapped/secret", wait=True).size == len(b"public")
            except (NotFound, Denied):
                continue
    assert descriptors() == before


def test_a_file_swapped_for_a_link_leaks_no_byte(
    any_share: Share, root: Path, outside: Path
) -> None:
    (root / "public").write_bytes(b"public")

    def swap() -> None:
        for target in (outside / "secret", "public", "../outside/secret"):
            (root / "new").symlink_to(target)
            (root / "new").rename(root / "swapped")
        (root / "new").write_bytes(b"public")
        (root / "new").rename(root / "swapped")

    swap()
    with keeps_swapping(swap):
        for _ in range(ATTEMPTS):
            try:
                assert read(any_share, b"swapped") == b"public"
                assert any_share.stat(b"swapped", wait=True).size == len(b"public")
            except (NotFound, Denied):
                continue


def test_a_file_swapped_for_a_fifo_is_not_opened(any_share: Share, root: Path) -> None:
    """Opening the fifo would block, since it has no writer."""

    def swap() -> None:
        os.mkfifo(root / "new")
        (root / "new").rename(root / "swapped")
        (root / "new").write_bytes(b"public")
        (root / "new").rename(root / "swapped")

    contents: set[bytes] = set()
    reasons: set[str] = set()

    def look() -> None:
        for _ in range(ATTEMPTS):
            try:
                contents.add(read(any_share, b"swapped"))
            except Denied as error:
                reasons.add(error.reason)

    swap()
    with keeps_swapping(swap):
        without_blocking(look)
    assert contents <= {b"public"}
    assert reasons <= {"special_file"}


def test_dot_dot_while_folders_move_never_escapes(
    any_share: Share, root: Path, outside: Path
) -> None:
    """If `c` moves up after it was entered, its three `..` end above the share."""
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "outside").mkdir()
    (root / "outside" / "secret").write_bytes(b"public")
    (root / "a" / "b" / "c" / "link").symlink_to("../../../outside/secret")

    def swap() -> None:
        (root / "a" / "b" / "c").rename(root / "a" / "c")
        (root / "a" / "c").rename(root / "a" / "b" / "c")

    with keeps_swapping(swap):
        for path in (b"a/b/c/link", b"a/c/link"):
            for _ in range(ATTEMPTS):
                try:
                    assert read(any_share, path) == b"public"
                except (NotFound, Denied):
                    continue
    assert (outside / "secret").read_bytes() == SECRET
