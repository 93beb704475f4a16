"""A share with a secret beside it, on a real file system, once per path resolver."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftp_gateway.vfs.attributes import AttributePolicy
from sftp_gateway.vfs.path_resolution import PathResolver
from sftp_gateway.vfs.share import Links, Share
from tests.unit.vfs.helpers import RESOLVERS, SECRET, MakeShare


@pytest.fixture(params=RESOLVERS, ids=lambda resolver: resolver.__name__)
def resolver(request: pytest.FixtureRequest) -> PathResolver:
    made: PathResolver = request.param()
    return made


@pytest.fixture(params=Links, ids=str)
def links(request: pytest.FixtureRequest) -> Links:
    made: Links = request.param
    return made


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    """The share's folder; `outside` is its sibling."""
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")
    (folder / "folder").mkdir()
    (folder / "folder" / "inner").write_bytes(b"inner content")
    return folder


@pytest.fixture
def make_share(root: Path, resolver: PathResolver) -> Iterator[MakeShare]:
    made: list[Share] = []
    default = root

    def make(root: Path | None = None, *, links: Links = Links.KEEP, name: str = "share") -> Share:
        share = Share(
            name=name,
            root=default if root is None else root,
            links=links,
            attribute_policy=AttributePolicy(),
            resolver=resolver,
        )
        made.append(share)
        return share

    yield make
    for share in made:
        share.close()


@pytest.fixture
def share(make_share: MakeShare) -> Share:
    """A share of `root` with `links = "keep"`."""
    return make_share()


@pytest.fixture
def any_share(make_share: MakeShare, links: Links) -> Share:
    """A share of `root`, once per `links` mode."""
    return make_share(links=links)


@pytest.fixture
def tmpfs() -> Iterator[Path]:
    """A folder on tmpfs, where lookups never block."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
