"""Landlock rulesets, each tested in a process of its own."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.errors import ConfigurationError
from sftp_gateway.sandbox import landlock, policy
from sftp_gateway.sandbox.landlock import READ, Rule
from sftp_gateway.settings import AccessLogSettings, Settings, ShareSettings
from tests.support.without_syscalls import LANDLOCK_CREATE_RULESET, refuse

pytestmark = pytest.mark.skipif(landlock.abi() == 0, reason="the kernel has no Landlock")


def in_a_child(work: Callable[[], object]) -> int:
    """The errno with which `work` fails in a child process, or 0."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            work()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def restricted(*rules: Rule, version: int | None = None) -> None:
    found = landlock.abi() if version is None else version
    landlock.restrict(found, handled=landlock.all_accesses(found), rules=rules, scoped=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"content")
    return tmp_path


@pytest.mark.parametrize("version", range(1, landlock.NEWEST_ABI + 1))
def test_access_without_a_rule_is_denied_with_every_version(folder: Path, version: int) -> None:
    if version > landlock.abi():
        pytest.skip(f"the kernel has version {landlock.abi()}")

    def read(name: str) -> Callable[[], object]:
        def work() -> None:
            restricted(Rule(folder / "inside", READ), version=version)
            (folder / name / "file").read_bytes()

        return work

    assert in_a_child(read("inside")) == 0
    assert in_a_child(read("outside")) == errno.EACCES


def test_a_rule_for_a_file_permits_reading_that_file_only(folder: Path) -> None:
    def work() -> None:
        restricted(Rule(folder / "inside/file", READ))
        (folder / "inside/file").read_bytes()
        os.listdir(folder / "inside")

    assert in_a_child(work) == errno.EACCES
    assert in_a_child(lambda: restricted(Rule(folder / "inside/file", READ))) == 0


def test_a_rule_for_a_missing_path_is_ignored(folder: Path) -> None:
    assert in_a_child(lambda: restricted(Rule(folder / "none/at all", READ))) == 0


def test_a_pinned_file_is_opened_only_if_a_rule_permits_it(folder: Path) -> None:
    """Opening through /proc/self/fd requires a rule for the file, not for /proc."""

    def reopen(name: str) -> Callable[[], object]:
        def work() -> None:
            restricted(Rule(folder / "inside", READ))
            pinned = os.open(folder / name / "file", os.O_PATH)
            os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY)

        return work

    assert in_a_child(reopen("inside")) == 0
    assert in_a_child(reopen("outside")) == errno.EACCES


def test_later_threads_are_confined(folder: Path) -> None:
    def work() -> None:
        restricted(Rule(folder / "inside", READ))
        failed: list[OSError] = []

        def read() -> None:
            try:
                (folder / "outside/file").read_bytes()
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        raise failed[0]

    assert in_a_child(work) == errno.EACCES


def test_a_kernel_without_landlock_has_version_0() -> None:
    def work() -> None:
        refuse([LANDLOCK_CREATE_RULESET])
        assert landlock.abi() == 0

    assert in_a_child(work) == 0


# Access of workers


def settings(folder: Path) -> Settings:
    return Settings(
        shares={"a": ShareSettings(path=folder / "inside")},
        keys_dir=folder / "keys",
        access_log=AccessLogSettings(file=folder / "log/access.log"),
    )


def test_a_worker_may_only_read() -> None:
    assert not [rule for rule in policy.worker_rules({}) if rule.access & ~READ]


def test_a_worker_has_no_access_to_folders_of_keys(folder: Path) -> None:
    rules = policy.worker_rules({})
    secrets = folder / "keys/worker_ed25519", folder / "keys/ssh_host_ed25519_key"
    assert not [r for r in rules if any(secret.is_relative_to(r.path) for secret in secrets)]


def test_a_failure_is_logged_or_if_required_raised(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.E2BIG, "Argument list too long")

    monkeypatch.setattr(landlock, "restrict", fail)
    given = settings(folder)
    assert policy.confine_worker(given, folders={}) == 0
    assert "refuses to confine" in caplog.text
    with pytest.raises(ConfigurationError, match="refuses to confine"):
        policy.confine_worker(given.model_copy(update={"landlock": "require"}), folders={})
