"""Confinement of the history thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sftp_gateway.observability.history.store import Store
from sftp_gateway.sandbox import landlock, policy
from sftp_gateway.settings import Settings

pytestmark = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")


def in_a_thread(work: Callable[[], None]) -> None:
    """Run the function on a thread that is confined, and raise its error."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    if raised:
        raise raised[0]


def test_the_history_thread_has_access_to_its_folder_only(tmp_path: Path) -> None:
    history, secret = (tmp_path / name for name in ("state", "secret"))
    for folder in (history, secret):
        folder.mkdir()
    (secret / "key").write_text("secret")

    def work() -> None:
        policy.confine_history(Settings(), history)
        store = Store(history / "history.sqlite3", max_age=1e9, max_size=1 << 20)
        store.add([], {(1, "share", "models"): 1})
        store.delete_older(0.0)
        store.close()
        (history / "history.sqlite3").rename(history / "history.sqlite3.broken")
        for forbidden in (
            (secret / "key").read_text,
            lambda: (secret / "new").write_text("x"),
            (secret / "key").unlink,
            (tmp_path / "new").mkdir,
        ):
            with pytest.raises(PermissionError):
                forbidden()

    in_a_thread(work)
    assert (history / "history.sqlite3.broken").exists()
    assert (secret / "key").read_text() == "secret"  # other threads are not confined


def test_without_landlock_the_thread_is_not_confined(tmp_path: Path) -> None:
    def work() -> None:
        settings = Settings(landlock="off")
        policy.confine_history(settings, tmp_path)
        Path("/proc/self/status").read_text()

    in_a_thread(work)
