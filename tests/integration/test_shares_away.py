"""Dead, frozen and missing shares fail alone: logins and other shares are unaffected."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.test_key_rotation import authorize_also, lets_in, reloaded
from tests.integration.test_workers import workers
from tests.support.gateway import TIMEOUT, Gateway, fill, wait_for
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
    """Two workers with a share `bad` on a failing disk, and a share `good`; not started."""
    fill(tmp_path / "good", {"file": b"good"})
    gateway = make_gateway(
        f'[shares.bad]\npath = "{tmp_path}/bad/folder"\n[shares.good]\npath = "{tmp_path}/good"\n',
        SFTP_GATEWAY_WORKERS="2",
        SFTP_GATEWAY_DISK_TIMEOUT="1",
    )
    yield gateway
    disk.resume()  # the kernel keeps a process until its requests have ended
    gateway.close()


def break_share(disk: Disk, tmp_path: Path, fault: str) -> None:
    if fault == "missing":
        (tmp_path / "behind/folder").rename(tmp_path / "behind/aside")
    else:
        {"dead": disk.die, "stopped": disk.hang, "frozen": disk.freeze}[fault]()


def session(gateway: Gateway, key: Path) -> subprocess.Popen[bytes]:
    """A client that is logged in and sends no requests."""
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


def mend_share(disk: Disk, tmp_path: Path, fault: str) -> None:
    if fault == "missing":
        (tmp_path / "behind/aside").rename(tmp_path / "behind/folder")
    else:
        disk.resume()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_share_unavailable_at_start_fails_alone(
    gateway: Gateway, tmp_path: Path, disk: Disk, fault: str
) -> None:
    break_share(disk, tmp_path, fault)
    gateway.start()
    assert "shares.bad.path: " in gateway.stderr
    assert "error: 1 of 2 shares can be read; " in gateway.stderr
    assert gateway.sftp("get good/file /dev/null").returncode == 0
    status, body = gateway.http("/readyz")
    assert status == 503
    assert json.loads(body)["shares"]["good"] == "ok"
    assert json.loads(body)["shares"]["bad"] != "ok"
    if fault != "dead":  # such a file system never comes back
        mend_share(disk, tmp_path, fault)
        wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be served")
        assert gateway.sftp("get bad/file /dev/null").returncode == 0


def test_an_unreadable_share_fails_alone_and_is_reported_with_owner_and_mode(
    make_gateway: Callable[..., Gateway],
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        closed = Path(made) / "closed"
        Path(made).chmod(0o755)
        fill(closed, {"file": b"closed"})
        closed.chmod(0o700)
        os.chown(closed, 1000, 1000)
        gateway = make_gateway(f'shares.closed.path = "{closed}"', SFTP_GATEWAY_DEFAULTS="true")
        for folder in (gateway.folder, *gateway.folder.parents[:-2]):
            folder.chmod(0o755)
        os.chown(gateway.folder, 65534, 65534)
        gateway.start(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
        why = "it belongs to 1000:1000, mode 0700: run the gateway as user 1000, or chmod o+rx"
        assert why in gateway.stderr
        status, body = gateway.http("/readyz")
        assert (status, why in json.loads(body)["shares"]["closed"]) == (503, True)
        assert gateway.sftp("get models/README.txt /dev/null").returncode == 0
        assert gateway.sftp("ls closed").returncode != 0
        closed.chmod(0o705)
        wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be served")
        assert gateway.sftp("get closed/file /dev/null").returncode == 0


def test_a_gateway_without_a_readable_share_starts_but_is_not_ready(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(f'shares.gone.path = "{tmp_path}/gone"').start()
    assert "error: 0 of 1 shares can be read; " in gateway.stderr
    assert gateway.http("/healthz")[0] == 200
    assert gateway.http("/readyz")[0] == 503
    fill(tmp_path / "gone", {"file": b"here"})
    wait_for(lambda: gateway.http("/readyz")[0] == 200, "the share to be served")
    assert gateway.sftp("get gone/file /dev/null").returncode == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_removed_key_is_refused_while_a_share_is_unavailable(
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
        assert client.wait(TIMEOUT) == 255
    finally:
        client.kill()
        client.communicate()
    assert not lets_in(gateway, lost)
    assert lets_in(gateway, gateway.key)
    assert gateway.events("configuration_refused") == []
    assert ": shares.bad.path: " in gateway.stderr
    assert reloaded(gateway, 2)["changed"] == "credentials"
    assert workers(gateway) == before


@pytest.mark.parametrize("fault", FAULTS)
def test_workers_started_without_a_share_apply_removed_keys(
    gateway: Gateway, tmp_path: Path, disk: Disk, fault: str
) -> None:
    gateway.start()
    assert gateway.process is not None
    before = workers(gateway)
    break_share(disk, tmp_path, fault)
    # Keeps the old workers in the kernel if the disk hangs.
    gateway.sftp("get bad/file /dev/null")
    wait_for(lambda: gateway.http("/readyz")[0] == 503, "the share to be missed")
    gateway.process.send_signal(signal.SIGUSR1)
    assert reloaded(gateway)["changed"] == "all"
    assert len(set(workers(gateway).values()) - set(before.values())) == 2
    assert gateway.sftp("get good/file /dev/null").returncode == 0
    assert gateway.sftp("get bad/file /dev/null").returncode == 1
    assert gateway.http("/healthz") == (200, "ok\n")
    (gateway.folder / "keys/authorized_keys/gvpocr").write_text("")
    assert reloaded(gateway, 2)["changed"] == "credentials"
    assert not lets_in(gateway, gateway.key)
    assert gateway.events("configuration_refused") == []
    (gateway.folder / "keys/authorized_keys/gvpocr").write_text(
        (gateway.folder / "keys/worker_ed25519.pub").read_text()
    )
    if fault == "dead":
        subprocess.run(["umount", "-l", tmp_path / "bad"], check=True)
        fill(tmp_path / "bad", {"folder/file": b"bad"})
    else:
        mend_share(disk, tmp_path, fault)
    wait_for(lambda: gateway.sftp("get bad/file /dev/null").returncode == 0, "the share to be back")


def test_workers_started_on_a_cached_dead_share_stay(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    fill(tmp_path / "behind", {"folder/file": b"bad"})
    places = (tmp_path / "behind", tmp_path / "bad", tmp_path / "gate")
    with failing_disk(*places, cached=600) as disk:
        gateway = make_gateway(f'shares.bad.path = "{tmp_path}/bad/folder"').start()
        assert gateway.process is not None
        disk.die()
        gateway.process.send_signal(signal.SIGUSR1)
        reloaded(gateway)
        wait_for(lambda: gateway.http("/readyz")[0] == 503, "the share to be missed")
        assert (tmp_path / "bad/folder").stat()  # by the cache
        gateway.sftp("get bad/file /dev/null")
        assert gateway.events("worker_outdated") == []
        gateway.close()


@contextmanager
def mounted_again(tmp_path: Path, kind: str) -> Iterator[None]:
    """Mount something else over the disk's mount point, with a marker file."""
    at = tmp_path / "bad"
    if kind == "over":  # by who does not know that there is one
        subprocess.run(["mount", "-t", "tmpfs", "test", at], check=True)
    else:
        subprocess.run(["umount", "-l", at], check=True)
    fill(tmp_path / "next", {"file": b"next"})
    if kind == "fuse":
        with failing_disk(tmp_path / "next", at, tmp_path / "other gate"):
            yield
        return
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "test", at], check=True)
    fill(at, {"file": b"next"})
    yield
    if kind != "folder":
        subprocess.run(["umount", "-l", at], check=True)


@pytest.fixture(params=["require", "off"])
def whole(
    request: pytest.FixtureRequest,
    make_gateway: Callable[..., Gateway],
    tmp_path: Path,
    disk: Disk,
) -> Iterator[Gateway]:
    """Two workers with a share that is a mount point, with Landlock and without."""
    fill(tmp_path / "behind", {"file": b"first"})
    gateway = make_gateway(
        f'shares.bad.path = "{tmp_path}/bad"\n[users.gvpocr]\n',
        SFTP_GATEWAY_WORKERS="2",
        SFTP_GATEWAY_LANDLOCK=request.param,
    ).start()
    yield gateway
    disk.resume()
    gateway.close()


def served_by_all(gateway: Gateway, tmp_path: Path, content: bytes) -> bool:
    """Whether connections to both workers read this content."""
    for number in range(2):
        gateway.sftp(f"get bad/file {tmp_path}/got{number}")
    got = [tmp_path / f"got{number}" for number in range(2)]
    return all(each.exists() and each.read_bytes() == content for each in got)


@pytest.mark.parametrize(
    ("whole", "worker", "kind"),
    [
        ("require", "running", "fuse"),
        ("require", "started", "fuse"),
        ("off", "running", "fuse"),
        ("off", "started", "over"),
        ("require", "running", "folder"),
        ("off", "running", "tmpfs"),
    ],
    indirect=["whole"],
)
def test_a_recovered_mount_is_served_by_old_and_new_workers(
    whole: Gateway, tmp_path: Path, disk: Disk, kind: str, worker: str
) -> None:
    assert served_by_all(whole, tmp_path, b"first")
    disk.die()
    if worker == "started":
        before = workers(whole)
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: len(whole.events("worker_started")) == 4, "their successors")
        wait_for(lambda: whole.metric("sftp_gateway_workers") == 2, "their successors to serve")
    wait_for(lambda: whole.http("/readyz")[0] == 503, "the share to be missed")
    with mounted_again(tmp_path, kind):
        wait_for(lambda: served_by_all(whole, tmp_path, b"next"), "the new mount to be served")
        wait_for(lambda: whole.http("/readyz")[0] == 200, "the gateway to be ready")
        whole.close()


def test_a_replaced_hanging_mount_is_abandoned(whole: Gateway, tmp_path: Path, disk: Disk) -> None:
    assert served_by_all(whole, tmp_path, b"first")
    disk.freeze()
    wait_for(lambda: whole.http("/readyz")[0] == 503, "the share to be missed")
    with mounted_again(tmp_path, "tmpfs"):
        wait_for(lambda: served_by_all(whole, tmp_path, b"next"), "the new mount to be served")
        wait_for(lambda: whole.http("/readyz")[0] == 200, "the gateway to be ready")
        assert whole.events("worker_outdated", share="bad")
        disk.resume()
        whole.close()


def test_a_worker_stuck_in_the_kernel_is_replaced_and_delays_no_key_change(
    gateway: Gateway, disk: Disk
) -> None:
    gateway.start()
    before = workers(gateway)
    disk.freeze()
    depth = "sftp_gateway_slow_lane_depth"
    wait_for(lambda: gateway.metric(depth, share="bad") >= 2, "both workers to look at it")
    os.kill(before[0], signal.SIGKILL)
    (gateway.folder / "keys/authorized_keys/gvpocr").write_text("")
    assert reloaded(gateway)["changed"] == "credentials"
    assert gateway.events("worker_exited") == []
    assert not lets_in(gateway, gateway.key)
    wait_for(lambda: len(workers(gateway)) > len(before), "another worker")


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
def test_check_names_a_hanging_share_and_ends(
    gateway: Gateway, tmp_path: Path, disk: Disk, fault: str
) -> None:
    gateway.run("init")
    break_share(disk, tmp_path, fault)
    ran = gateway.run("check")
    assert ran.returncode == 2
    assert f": shares.bad.path: the disk of {tmp_path}/bad/folder does not" in ran.stderr
    assert "shares.good" not in ran.stderr
    assert not disk.tired


def test_the_first_start_skips_a_hanging_default_share(
    make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway()
    (gateway.folder / "shared").mkdir()
    (tmp_path / "behind").mkdir()
    with failing_disk(
        tmp_path / "behind", gateway.folder / "shared/models", tmp_path / "gate"
    ) as disk:
        disk.freeze()
        ran = gateway.run("init")
        disk.resume()
    assert (ran.returncode, "shared/models: its disk" in ran.stderr) == (0, True)
    assert (gateway.folder / "shared/newsletters/README.txt").exists()
