"""A session, and a share whose disk is slow on demand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.session import GatedShare, Served, served
from tests.unit.vfs.helpers import descriptors as all_descriptors

CONTENT = os.urandom(100_000)

MakeShare = Callable[[str], GatedShare]


@pytest.fixture
def make_share(tmp_path: Path) -> Iterator[MakeShare]:
    """Makes a share of a new folder with the share's name."""
    made: list[GatedShare] = []

    def make(name: str) -> GatedShare:
        folder = tmp_path / name
        folder.mkdir()
        made.append(GatedShare(folder, name))
        return made[-1]

    yield make
    for share in made:
        share.close()


@pytest.fixture
def share(make_share: MakeShare) -> GatedShare:
    return make_share("share")


@pytest.fixture
def root(share: GatedShare, tmp_path: Path) -> Path:
    """The folder of `share`."""
    return tmp_path / "share"


@pytest.fixture
def at(share: GatedShare, root: Path) -> Iterator[Served]:
    """A started session on `share` with the file `file` of CONTENT."""
    (root / "file").write_bytes(CONTENT)
    with served(share) as session:
        yield session


@pytest.fixture
def descriptors(tmp_path: Path) -> Callable[[], int]:
    """Counts the descriptors of files and folders of the test."""

    def count() -> int:
        return sum(target.startswith(str(tmp_path)) for target in all_descriptors().values())

    return count
