"""Gateways inside and outside Docker never use the same keys folder at the same time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sftp_gateway.config import folder_lock
from sftp_gateway.errors import ConfigurationError


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path


@contextmanager
def kind(name: str | None) -> Iterator[None]:
    """Pretend to run in such a container, or in none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("container", raising=False)
        if name is not None:
            patch.setenv("container", name)
        yield


@contextmanager
def serving(keys: Path, name: str | None) -> Iterator[None]:
    """Run a gateway of this kind."""
    with kind(name):
        lock = folder_lock.acquire(keys)
    assert lock is not None
    with lock:
        yield


@pytest.mark.parametrize(
    ("runs", "starts", "expected"),
    [
        ("docker", None, "a gateway with Docker serves from this folder, .*docker-compose stop"),
        (None, "docker", "a gateway without Docker serves from this folder, .*scripts/serve"),
        (None, "podman", "a gateway without Docker"),
    ],
)
def test_a_gateway_of_the_other_kind_is_refused_while_one_runs(
    keys: Path, runs: str | None, starts: str | None, expected: str
) -> None:
    with serving(keys, runs):
        before = {path: path.read_bytes() for path in keys.iterdir()}
        for attempt in (folder_lock.check, folder_lock.acquire):
            with kind(starts), pytest.raises(ConfigurationError) as refused:
                attempt(keys)
            (message,) = refused.value.errors
            assert expected.partition(".*")[0] in message
            assert expected.partition(".*")[2] in message
        assert {path: path.read_bytes() for path in keys.iterdir()} == before
    with kind(starts):
        folder_lock.check(keys)
    with serving(keys, starts), kind(runs), pytest.raises(ConfigurationError):
        folder_lock.check(keys)


@pytest.mark.parametrize("name", ["docker", None])
def test_gateways_of_the_same_kind_may_run_together(keys: Path, name: str | None) -> None:
    with serving(keys, name), serving(keys, name), kind(name):
        folder_lock.check(keys)


def test_a_folder_without_a_lock_is_free(keys: Path) -> None:
    folder_lock.check(keys / "missing")
    folder_lock.check(keys)
    assert folder_lock.acquire(keys / "missing") is None
    assert list(keys.iterdir()) == []


def test_a_link_in_place_of_the_lock_is_not_followed(keys: Path, tmp_path: Path) -> None:
    (keys / folder_lock.LOCK).symlink_to(tmp_path / "elsewhere")
    folder_lock.check(keys)
    assert folder_lock.acquire(keys) is None
    assert not (tmp_path / "elsewhere").exists()


def test_a_refused_gateway_releases_the_lock(keys: Path) -> None:
    with serving(keys, "docker"), kind(None), pytest.raises(ConfigurationError):
        folder_lock.acquire(keys)
    descriptor = os.open(keys / folder_lock.LOCK, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)
