"""`worker-kit --hosts`: several workers over ssh, each with a real sshd."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.test_worker_kit import MOUNT, MakeWorker
from tests.support.gateway import Gateway, wait_for
from tests.support.worker import Worker

#: Creating the machine for the first test takes a minute or more.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def with_sshd(worker: Worker, host_key: Path, admin: Path) -> Worker:
    """Let the admin's key log in as root there, at port 22."""
    worker.put("/etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), 0o600)
    worker.put("/root/.ssh/authorized_keys", admin.with_suffix(".pub").read_bytes(), 0o600)
    worker.shell("mkdir -p /run/sshd && /usr/sbin/sshd")
    wait_for(lambda: worker.run("pidof", "sshd").returncode == 0, "sshd")
    return worker


def new_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def test_workers_are_set_up_in_parallel_and_failures_reported(
    make_worker: MakeWorker, far_gateway: Gateway, tmp_path: Path
) -> None:
    host_key, admin = new_key(tmp_path / "host"), new_key(tmp_path / "admin")
    workers = [with_sshd(make_worker(), host_key, admin) for _ in range(2)]
    public = " ".join(host_key.with_suffix(".pub").read_text().split()[:2])
    known = tmp_path / "known"
    known.write_text("".join(f"{worker.address} {public}\n" for worker in workers))
    config = tmp_path / "ssh_config"
    config.write_text(f"IdentityFile {admin}\nUserKnownHostsFile {known}\nIdentityAgent none\n")
    good, wrong = workers
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# the fleet\n"
        f"root@{good.address} --no-cache\n"
        # This worker cannot reach the gateway's address.
        f"root@{wrong.address}:22 -p 9 {wrong.host_address}\n"
        "root@127.0.0.1:9\n"
    )
    done = far_gateway.run(
        "worker-kit", "--server", good.host_address, "--port", str(far_gateway.port),
        "--key", str(far_gateway.key), "--hosts", str(hosts), "--ssh-config", str(config),
    )  # fmt: skip
    assert done.returncode == 1
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines[f"root@{good.address}"] == (
        f"ok      mounted gvpocr@{good.host_address}:/home/gvpocr at {MOUNT}"
    )
    assert lines[f"root@{wrong.address}:22"] == (
        f"FAILED  nothing listens at {wrong.host_address} port 9"
    )
    assert "Connection refused" in lines["root@127.0.0.1:9"]
    assert done.stderr.endswith("1 of 3 workers set up\n")
    assert f"root@{good.address}: logging in: gvpocr@" in done.stderr
    assert good.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
    assert "cache=no" in good.shell("tr '\\0' ' ' </proc/$(pidof sshfs)/cmdline")


def test_workers_generate_keys_that_are_authorized_by_name(
    make_worker: MakeWorker, far_gateway: Gateway, tmp_path: Path
) -> None:
    host_key, admin = new_key(tmp_path / "host"), new_key(tmp_path / "admin")
    workers = [with_sshd(make_worker(systemd=False), host_key, admin) for _ in range(2)]
    config = tmp_path / "ssh_config"
    config.write_text(
        f"IdentityFile {admin}\nUserKnownHostsFile {tmp_path / 'known'}\n"
        "StrictHostKeyChecking accept-new\nIdentityAgent none\n"
    )
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "".join(
            f"root@{worker.address} --name w{number} {worker.host_address}\n"
            for number, worker in enumerate(workers)
        )
    )
    authorized = far_gateway.folder / "keys/authorized_keys/gvpocr"
    shared = authorized.read_text()
    for _ in range(2):
        done = far_gateway.run(
            "worker-kit", "--server", "gateway", "--port", str(far_gateway.port),
            "--hosts", str(hosts), "--ssh-config", str(config),
        )  # fmt: skip
        assert done.returncode == 0, (done.stdout, done.stderr)
        added = authorized.read_text().removeprefix(shared)
        assert sorted(line.split()[2] for line in added.splitlines()) == ["w0", "w1"]
    for number, worker in enumerate(workers):
        assert worker.shell("cat /etc/sshfs-main-server/key.pub") in added
        assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
        private = worker.shell("cat /etc/sshfs-main-server/key").splitlines()[2]
        assert private not in "".join(
            path.read_text(errors="replace")
            for path in far_gateway.folder.rglob("*")
            if path.is_file()
        ), number


def test_a_worker_that_takes_too_long_is_abandoned(
    make_worker: MakeWorker, make_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_HOST="0.0.0.0").start()
    host_key, admin = new_key(tmp_path / "host"), new_key(tmp_path / "admin")
    worker = with_sshd(make_worker(systemd=False), host_key, admin)
    worker.put("/root/.bashrc", b"exec sleep 1000\n")
    config = tmp_path / "ssh_config"
    config.write_text(
        f"IdentityFile {admin}\nUserKnownHostsFile {tmp_path / 'known'}\n"
        "StrictHostKeyChecking accept-new\nIdentityAgent none\n"
    )
    hosts = tmp_path / "hosts"
    hosts.write_text(f"root@{worker.address}\n")
    done = gateway.run(
        "worker-kit", "--server", worker.host_address, "--port", str(gateway.port),
        "--key", str(gateway.key), "--hosts", str(hosts), "--ssh-config", str(config),
        "--timeout", "3",
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAILED  timed out after 3 s" in done.stdout
