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
    """Makes gateways that are ended with the test; arguments are Gateway's, but the folder."""
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
    """A running gateway with nothing configured, as its first start makes it."""
    return make_gateway().start()


@pytest.fixture(scope="session")
def bare_root() -> Iterator[Path]:
    """A Debian that workers are made of; sshfs is not installed, but in apt's cache."""
    with tempfile.TemporaryDirectory(prefix="worker-root-", dir="/var/tmp") as folder:
        yield make_root(Path(folder) / "bare")


@pytest.fixture(scope="session")
def worker_root(bare_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with sshfs."""
    return with_sshfs(bare_root, tmp_path_factory.mktemp("worker") / "equipped")


@pytest.fixture
def make_worker(tmp_path: Path, worker_root: Path) -> Iterator[Callable[..., Worker]]:
    """Makes and boots workers that are ended with the test; `root` and `systemd` as Worker has."""
    made: list[Worker] = []

    def make(*, root: Path = worker_root, systemd: bool = True) -> Worker:
        made.append(Worker(root, tmp_path / f"worker{len(made)}", systemd=systemd))
        return made[-1].start()

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def far_gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    """A running gateway that workers with an address of their own can reach."""
    return make_gateway(SFTP_GATEWAY_HOST="0.0.0.0").start()
