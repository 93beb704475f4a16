"""Who may log in does not depend on shares: one that is dead, frozen or missing fails alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.test_key_rotation import authorize_also, lets_in, reloaded
from tests.integration.test_workers import workers
from tests.support.gateway import PATIENCE, Gateway, fill, wait_for
from tests.support.keys import make_key, public_line
from tests.support.slow_disk import Disk, failing_disk

pytestmark = pytest.mark.integration

FAULTS = ("missing", "dead", "stopped", "frozen")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    fill(tmp_path / "behind", {"folder/file": b"bad"})
    with failing_disk(tmp_path / "behind", tmp_path / "bad", tmp_path / "gate") as disk:
        yield disk


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway], tmp_path: Path, disk: Disk) -> Iterator[Gateway]:
    """Two workers with a share `bad` on a disk that fails, and a share `good`; not started."""
    fill(tmp_path / "good", {"file": b"good"})
    gateway = make_gateway(
        f'[shares.bad]\npath = "{tmp_path}/bad/folder"\n[shares.good]\npath = "{tmp_path}/good"\n',
        SFTP_GATEWAY_WORKERS="2",
        SFTP_GATEWAY_DISK_TIMEOUT="1",
    )
    yield gateway
    disk.go_on()  # the kernel keeps a process until its requests have ended
    gateway.close()


def break_share(disk: Disk, tmp_path: Path, fault: str) -> None:
    if fault == "missing":
        (tmp_path / "behind/folder").rename(tmp_path / "behind/aside")
    else:
        {"dead": disk.die, "stopped": disk.hang, "frozen": disk.freeze}[fault]()


def session(gateway: Gateway, key: Path) -> subprocess.Popen[bytes]:
    """A client that is logged in and asks for nothing."""
    before = len(gateway.events("login_accepted"))
    client = subprocess.Popen(
        [
            "ssh", *gateway.ssh_options(key=key), "-p", str(gateway.port), "-s",
            "gvpocr@127.0.0.1", "sftp",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(lambda: len(gateway.events("login_accepted")) > before, "the client to log in")
    return client


@pytest.mark.parametrize("fault", FAULTS)
def test_a_removed_key_is_refused_and_its_sessions_end_while_a_share_is_away(
    gateway: Gateway, tmp_path: Path, disk: Disk, fault: str
) -> None:
    gateway.start()
    kept = (gateway.folder / "keys/authorized_keys/gvpocr").read_text()
    lost = make_key(tmp_path / "lost", "ed25519")
    authorize_also(gateway, public_line(lost))
    reloaded(gateway)
    client = session(gateway, lost)
    try:
        before = workers(gateway)
        break_share(disk, tmp_path, fault)
        (gateway.folder / "keys/authorized_keys/gvpocr").write_text(kept)
        ended = gateway.wait_event("credentials_removed")
        gateway.wait_event("session_end", session=ended["session"], reason="credentials_removed")
        assert client.wait(PATIENCE) == 255
    finally:
        client.kill()
        client.communicate()
    assert not lets_in(gateway, lost)
    assert lets_in(gateway, gateway.key)
    assert gateway.events("configuration_refused") == []
    assert "warning: shares.bad.path: " in gateway.stderr
    assert reloaded(gateway, 2)["changed"] == "credentials"
    assert workers(gateway) == before
