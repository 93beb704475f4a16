"""The worker kit's mount: what it survives, and how it recovers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.integration.test_worker_kit import INSTALLED, MOUNT, MakeWorker, sshfs_pid
from tests.support.gateway import Gateway, fill, wait_for
from tests.support.worker import Worker

#: Creating the machine for the first test takes a minute or more.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

#: Seconds within which a mount must recover; docs/worker-kit.md has typical times.
BACK = 60.0


def set_up(worker: Worker, gateway: Gateway, **tuning: int) -> None:
    """Set up the kit with changes to its `config`."""
    done = worker.set_up(gateway)
    assert done.returncode == 0, done.stderr
    if tuning:
        for name, value in tuning.items():
            worker.shell(f"sed -i \"s/^{name}=.*/{name}='{value}'/\" /etc/sshfs-main-server/config")
        worker.shell("systemctl restart sshfs-main-server")


def is_read(worker: Worker, name: str = "models/README.txt") -> bool:
    """Whether a file can be read; in the background, as the mount may hang."""
    script = f"timeout 5 cat {MOUNT}/{name} >/dev/null 2>&1"
    return worker.run("sh", "-c", script).returncode == 0


def restart(gateway: Gateway, make_gateway: Callable[..., Gateway]) -> Gateway:
    """Restart a gateway on the same port."""
    assert gateway.stop() == 0
    again = Gateway(
        gateway.folder, "", {"SFTP_GATEWAY_HOST": "0.0.0.0", "SFTP_GATEWAY_PORT": str(gateway.port)}
    )
    return again.start()


def test_a_mount_survives_a_server_restart(
    make_worker: MakeWorker, far_gateway: Gateway, make_gateway: Callable[..., Gateway]
) -> None:
    worker = make_worker()
    set_up(worker, far_gateway)
    before = sshfs_pid(worker)
    again = restart(far_gateway, make_gateway)
    try:
        wait_for(lambda: is_read(worker), "the mount to be back", BACK)
        assert sshfs_pid(worker) == before
    finally:
        again.close()


@pytest.mark.parametrize("seconds", [3, 20])
def test_a_mount_recovers_with_the_link(
    make_worker: MakeWorker, far_gateway: Gateway, seconds: int
) -> None:
    fill(far_gateway.folder / "shared/models", {"fresh": b"1", "other": b"2"})
    worker = make_worker()
    set_up(worker, far_gateway)
    assert is_read(worker)
    before = sshfs_pid(worker)
    worker.cut_link()
    gone = time.monotonic()
    # Once the link is back, a hanging read does not block others.
    worker.shell(f"(cat {MOUNT}/models/fresh; : >/root/ended) >/dev/null 2>&1 &")
    wait_for(lambda: time.monotonic() - gone > seconds, "the link to have been cut so long")
    assert worker.run("test", "-e", "/root/ended").returncode
    worker.restore_link()
    wait_for(lambda: is_read(worker, "models/other"), "the mount to be back", BACK)
    assert sshfs_pid(worker) == before


def test_a_hanging_mount_is_remounted_if_the_server_answers(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    set_up(worker, far_gateway, CHECK_INTERVAL=1, HUNG_AFTER=3)
    before = sshfs_pid(worker)
    worker.shell(f"kill -STOP {before}")
    wait_for(lambda: worker.run("pidof", "sshfs").stdout.strip() not in ("", before), "another")
    wait_for(lambda: is_read(worker), "the mount to be back", BACK)
    assert "although the server answers; remounting" in worker.shell(
        "journalctl -u sshfs-main-server"
    )


def test_a_mount_is_left_alone_while_the_server_is_down(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    set_up(worker, far_gateway, CHECK_INTERVAL=1, HUNG_AFTER=2, CONNECT_TIMEOUT=1)
    before = sshfs_pid(worker)
    worker.cut_link()
    cut = time.monotonic()
    # Long enough for a few attempts to log in.
    wait_for(lambda: time.monotonic() - cut > 12, "some attempts")
    assert sshfs_pid(worker) == before
    worker.restore_link()
    wait_for(lambda: is_read(worker), "the mount to be back", BACK)


@pytest.mark.parametrize("systemd", [True, False])
def test_a_mount_whose_sshfs_died_is_remounted(
    make_worker: MakeWorker, far_gateway: Gateway, systemd: bool
) -> None:
    worker = make_worker(systemd=systemd)
    set_up(worker, far_gateway)
    before = sshfs_pid(worker)
    worker.shell(f"kill -9 {before}")
    wait_for(lambda: worker.run("pidof", "sshfs").stdout.strip() not in ("", before), "another")
    wait_for(lambda: is_read(worker), "the mount to be back", BACK)
    assert worker.shell(f"grep -c ' {MOUNT} ' /proc/mounts") == "1\n"


def test_failed_mounts_are_retried_with_backoff(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    set_up(worker, far_gateway)
    config = "/etc/sshfs-main-server/config"
    worker.shell(
        f"sed -i \"s/^RETRY=.*/RETRY='1'/; s/^RETRY_MAX=.*/RETRY_MAX='2'/; "
        f"s|^REMOTE=.*|REMOTE='/home/gvpocr/letters'|\" {config}"
    )
    worker.shell("systemctl restart sshfs-main-server")
    log = "journalctl -o cat -u sshfs-main-server"

    def delays() -> list[str]:
        return re.findall(r"retrying in (\d+) s", worker.shell(log))

    wait_for(lambda: len(delays()) >= 3, "three attempts")
    assert delays()[:3] == ["1", "2", "2"]
    assert "/home/gvpocr/letters: No such file or directory" in worker.shell(log)
    worker.shell(f"sed -i \"s|^REMOTE=.*|REMOTE='/home/gvpocr'|\" {config}")
    wait_for(lambda: is_read(worker), "the mount to be back", BACK)


def test_a_mount_is_restored_at_boot(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    """Simulated by starting the target that the service is enabled for."""
    worker = make_worker()
    set_up(worker, far_gateway)
    worker.shell("systemctl stop sshfs-main-server")
    assert MOUNT not in worker.shell("cat /proc/mounts")
    assert worker.shell("systemctl is-failed sshfs-main-server || true") == "inactive\n"
    worker.shell("systemctl start multi-user.target sshfs-main-server")
    assert is_read(worker)


def test_a_container_sees_a_remount(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    """Mapped as in the compose file: the parent folder, read-only, with slave propagation."""
    worker = make_worker()
    set_up(worker, far_gateway)
    worker.put(
        "/root/container.sh",
        b"mkdir /tmp/c && mount --rbind /mnt/sshfs /tmp/c && mount --make-rslave /tmp/c && "
        b"mount -o remount,bind,ro /tmp/c && echo $$ >/root/container.pid && exec sleep 1000",
    )
    worker.shell("unshare --mount --propagation slave sh /root/container.sh >/dev/null 2>&1 &")

    def first_process() -> str:
        return worker.run("cat", "/root/container.pid").stdout.strip()

    pid = wait_for(first_process, "the container to start")

    def seen() -> bool:
        done = worker.run("nsenter", "-m", "-t", pid, "ls", "/tmp/c/main-server/models")
        return done.stdout == "README.txt\n"

    wait_for(seen, "the container to see the mount")
    before = sshfs_pid(worker)
    worker.shell(f"kill -9 {before}")
    wait_for(lambda: worker.run("pidof", "sshfs").stdout.strip() not in ("", before), "another")
    wait_for(seen, "the container to see the new mount", BACK)


def test_a_worker_learns_the_next_host_key(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    worker = make_worker()
    set_up(worker, far_gateway)
    assert far_gateway.run("keys", "rotate-host", "prepare").returncode == 0
    following = (far_gateway.folder / "keys/ssh_host_ed25519_key.next.pub").read_text().split()[1]
    far_gateway.wait_event("configuration_reloaded")
    known = "/etc/sshfs-main-server/known_hosts"

    def learnt() -> bool:
        worker.shell(f"{INSTALLED}/sshfs-main-server login")
        return following in worker.shell(f"cat {known}")

    wait_for(learnt, "the worker to learn the key")
    assert far_gateway.run("keys", "rotate-host", "promote").returncode == 0
    worker.shell("systemctl restart sshfs-main-server")
    assert is_read(worker)
