"""Gateways for the tests with real clients."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway
from tests.support.worker import Worker, make_root, with_sshfs


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Creates gateways that end with the test; takes Gateway's arguments except the folder."""
    made: list[Gateway] = []

    def make(config: str = "", **options: str) -> Gateway:
        folder = tmp_path / f"gateway{len(made)}"
        folder.mkdir()
        made.append(Gateway(folder, config, options))
        return made[-1]

    yield make
    for gateway in made:
        gateway.close()


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A running gateway with the default configuration."""
    return make_gateway().start()


@pytest.fixture(scope="session")
def bare_root() -> Iterator[Path]:
    """A Debian root for workers, with sshfs in apt's cache but not installed."""
    with tempfile.TemporaryDirectory(prefix="worker-root-", dir="/var/tmp") as folder:
        yield make_root(Path(folder) / "bare")


@pytest.fixture(scope="session")
def worker_root(bare_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with sshfs installed."""
    return with_sshfs(bare_root, tmp_path_factory.mktemp("worker") / "equipped")


@pytest.fixture
def make_worker(tmp_path: Path, worker_root: Path) -> Iterator[Callable[..., Worker]]:
    """Boots workers that end with the test; `root` and `systemd` are Worker's."""
    made: list[Worker] = []

    def make(*, root: Path = worker_root, systemd: bool = True) -> Worker:
        made.append(Worker(root, tmp_path / f"worker{len(made)}", systemd=systemd))
        return made[-1].start()

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def far_gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A running gateway that workers with their own address can reach."""
    return make_gateway(SFTP_GATEWAY_HOST="0.0.0.0").start()
