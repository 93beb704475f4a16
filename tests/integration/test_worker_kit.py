"""The worker kit's setup on clean machines in namespaces, with a running gateway."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import REPOSITORY, Gateway, fill, wait_for
from tests.support.worker import Worker

#: Creating the machine for the first test takes a minute or more.
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

MOUNT = "/mnt/sshfs/main-server"
INSTALLED = "/usr/local/lib/sshfs-main-server"
MakeWorker = Callable[..., Worker]


def kit_on(worker: Worker, gateway: Gateway, *options: str) -> str:
    """Copy the kit to the worker; returns the path of its setup script."""
    made = gateway.run(
        "worker-kit", "--server", worker.host_address, "--port", str(gateway.port),
        "--out", "kit", *options,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    worker.put("/root/worker-kit.sh", (gateway.folder / "kit/worker-kit.sh").read_bytes(), 0o700)
    worker.shell("sh /root/worker-kit.sh --extract /root/kit")
    return "/root/kit/setup-sshfs-remote-worker.sh"


def sshfs_pid(worker: Worker) -> str:
    return worker.shell("pidof sshfs").strip()


def test_one_pasted_command_sets_up_a_clean_worker(
    make_worker: MakeWorker, bare_root: Path, far_gateway: Gateway
) -> None:
    content = bytes(range(256)) * 8192
    fill(far_gateway.folder / "shared/models", {"weights": content})
    worker = make_worker(root=bare_root)
    assert worker.run("which", "sshfs").returncode
    done = worker.set_up(far_gateway)
    assert done.returncode == 0, done.stderr
    assert f"==> mounted gvpocr@{worker.host_address}:/home/gvpocr at {MOUNT}" in done.stdout
    assert "To diagnose:    sshfs-doctor\n" in done.stdout
    worker.shell("test -x $(command -v sshfs-doctor)")
    worker.put("/root/expected", content)
    worker.shell(f"cmp {MOUNT}/models/weights /root/expected")
    assert worker.run("touch", f"{MOUNT}/models/x").returncode
    # Other users of the worker can read too.
    worker.shell(f"setpriv --reuid 1234 --clear-groups cat {MOUNT}/models/weights >/dev/null")
    assert worker.shell("systemctl is-enabled sshfs-main-server") == "enabled\n"
    assert worker.shell("systemctl is-active sshfs-main-server") == "active\n"
    worker.shell(f"grep -qx 4096 /sys/class/bdi/$(stat -c %Hd:%Ld {MOUNT})/read_ahead_kb")
    far_gateway.wait_event("file_closed", path="/home/gvpocr/models/weights", whole=True)
    # The worker has no Python.
    assert worker.run("which", "python3").returncode
    assert worker.shell("sshfs-doctor --seconds 0 | cut -d' ' -f1 | sort -u") == "ok\n"


def test_a_second_run_keeps_the_mount_and_uninstall_removes_everything(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    worker.shell("find / -xdev >/tmp/before")
    assert worker.set_up(far_gateway).returncode == 0
    before = sshfs_pid(worker)
    again = worker.set_up(far_gateway)
    assert again.returncode == 0
    assert "==> already up to date: the mount is unchanged" in again.stdout
    assert sshfs_pid(worker) == before
    changed = worker.run(f"{INSTALLED}/setup-sshfs-remote-worker.sh", "--no-cache")
    assert changed.returncode == 0, changed.stderr
    assert sshfs_pid(worker) != before
    assert "cache=no" in worker.shell("tr '\\0' ' ' </proc/$(pidof sshfs)/cmdline")
    gone = worker.run(f"{INSTALLED}/setup-sshfs-remote-worker.sh", "--uninstall")
    assert gone.returncode == 0, gone.stderr
    worker.shell("find / -xdev >/tmp/after")
    left = worker.shell("diff /tmp/before /tmp/after | grep '^>' || true").splitlines()
    journal = ("/var/log", "/tmp", "/run", "/root", "/var/lib/systemd", "/var/tmp")
    assert [line for line in left if not line[2:].startswith((*journal, "/mnt/sshfs"))] == []
    assert worker.run("pidof", "sshfs").returncode
    assert MOUNT not in worker.shell("cat /proc/mounts")


def test_files_with_secrets_are_readable_by_root_only(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    setup = kit_on(worker, far_gateway, "--key", str(far_gateway.key))
    kit = far_gateway.folder / "kit"
    assert (kit / "worker_key").stat().st_mode & 0o077 == 0
    assert (kit / "worker-kit.sh").stat().st_mode & 0o077 == 0
    assert worker.run(setup).returncode == 0
    assert worker.shell("stat -c %a /etc/sshfs-main-server /etc/sshfs-main-server/key") == (
        "700\n600\n"
    )
    # Not even with the permissions of the copied file.
    worker.shell("cp /root/kit/worker_key /root/loose && chmod 644 /root/loose")
    loose = worker.run(setup, "--key", "/root/loose")
    assert loose.returncode == 0, loose.stderr
    assert worker.shell("stat -c %a /etc/sshfs-main-server/key") == "600\n"
    # The files unpacked from the pipe, key included, are removed.
    assert worker.set_up(far_gateway).returncode == 0
    secret = far_gateway.key.read_text().splitlines()[2]
    assert worker.shell(f"grep -rlF '{secret}' /etc/sshfs-main-server") != ""
    assert worker.shell(f"grep -rlF '{secret}' /tmp /var/tmp /run /usr/local || true") == ""


# Each failing step has its own message, and the previous mount keeps working.

WRONG = {
    "port": (
        ("-p", "9"),
        "error: nothing listens at {server} port 9\n",
    ),
    "name": (
        ("no-such-machine.invalid",),
        "error: cannot resolve the host name no-such-machine.invalid\n",
    ),
    "route": (
        ("203.0.113.9",),
        "error: cannot reach 203.0.113.9 port {port}\n",
    ),
    "user": (
        ("-u", "nobody-here"),
        " for nobody-here\n",
    ),
    "key": (
        ("--key", "/root/strange"),
        "error: the server rejected the key SHA256:",
    ),
    "no key": (
        ("--key", "/root/kit/README.md"),
        "error: the key cannot be used: it has a passphrase, or is not an OpenSSH private key\n",
    ),
    "missing key": (
        ("--key", "/root/nothing"),
        "error: the key /root/nothing cannot be read\n",
    ),
    "password": (
        ("-P", "wrong"),
        "error: the server rejected the password of gvpocr, or gvpocr may not log in from this "
        "address\n",
    ),
    "folder": (
        ("--remote", "/home/gvpocr/letters"),
        "/home/gvpocr/letters: No such file or directory\n"
        "error: the server has no folder /home/gvpocr/letters for gvpocr\n",
    ),
    "file": (
        ("--remote", "/home/gvpocr/models/README.txt"),
        "error: the server has no folder /home/gvpocr/models/README.txt for gvpocr\n",
    ),
    "host key": (
        ("--key", "/root/kit/worker_key"),
        "error: the host key of {server} port {port} is not that of the gateway",
    ),
    "option": (("--frobnicate",), "error: unknown option --frobnicate\n"),
    "value": (("-p",), "error: -p needs a value\n"),
    "mount": (("--mount", "mnt"), "error: cannot mount '/home/gvpocr' at 'mnt'\n"),
    "mount of another": (("--mount", "/proc"), "error: /proc is already a mount of type proc\n"),
}


def test_a_failed_set_up_is_explained_and_keeps_the_old_mount(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    setup = kit_on(worker, far_gateway, "--key", str(far_gateway.key))
    assert worker.run(setup).returncode == 0
    before = sshfs_pid(worker)
    settings = "cat /etc/sshfs-main-server/config /etc/sshfs-main-server/known_hosts"
    configured = worker.shell(settings)
    worker.shell("ssh-keygen -q -t ed25519 -N '' -f /root/strange")
    for what, (options, message) in WRONG.items():
        if what == "host key":
            worker.shell(
                "echo sftp-gateway $(cut -d' ' -f1,2 /root/strange.pub) >/root/kit/known_hosts"
            )
        done = worker.run(setup, *options)
        text = message.format(server=worker.host_address, port=far_gateway.port)
        assert done.returncode == 1, what
        assert text in done.stderr, (what, done.stderr)
        assert sshfs_pid(worker) == before, what
        assert worker.shell(settings) == configured, what
        worker.shell(f"ls {MOUNT}/models")
    assert worker.run("ls", "/etc/sshfs-main-server.new").returncode


def test_a_failed_mount_restores_the_previous_one(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    setup = kit_on(worker, far_gateway, "--key", str(far_gateway.key))
    assert worker.run(setup).returncode == 0
    done = worker.run(setup, "--mount", "/proc/nothing")
    assert done.returncode == 1
    assert "error: cannot create /proc/nothing\n" in done.stderr
    assert f"the existing mount at {MOUNT} is unchanged\n" in done.stderr
    worker.shell(f"ls {MOUNT}/models && systemctl is-active sshfs-main-server")
    assert f"MOUNT='{MOUNT}'" in worker.shell("cat /etc/sshfs-main-server/config")


def test_set_up_without_root_is_refused(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    worker = make_worker(systemd=False)
    kit_on(worker, far_gateway)
    worker.shell("cp -r /root/kit /tmp/kit && chmod -R a+rX /tmp/kit")
    done = worker.run(
        "setpriv", "--reuid", "1234", "--clear-groups", "/tmp/kit/setup-sshfs-remote-worker.sh"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: this script must run as root\n")


# A key for each worker


def let_in(gateway: Gateway, worker: Worker) -> str:
    """Run the line printed by the background setup on the server; returns the key's name."""

    def printed() -> str:
        text = worker.run("cat", "/root/output").stdout
        found = [line.strip() for line in text.splitlines() if "keys add" in line]
        return found[0] if found else ""

    echo, _, add = wait_for(printed, "the line for the server", 60).partition(" | ")
    line = echo.removeprefix("echo '").removesuffix("'")
    words = add.split()
    added = gateway.run(*words[words.index("keys") :], input=f"{line}\n")
    assert added.returncode == 0, added.stderr
    return line.split()[2]


def test_each_workers_key_can_be_revoked_alone(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker(systemd=False)
    setup = kit_on(worker, far_gateway)
    worker.shell(f"({setup} --name worker7; echo $? >/root/status) >/root/output 2>&1 &")
    assert let_in(far_gateway, worker) == "worker7"
    wait_for(lambda: worker.run("cat", "/root/status").stdout == "0\n", "the set-up", 60)
    assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
    (listed,) = [
        line
        for line in far_gateway.run("keys", "list").stdout.splitlines()
        if line.endswith("  worker7")
    ]
    before = sshfs_pid(worker)
    # A second run keeps the key.
    assert "already up to date" in worker.run(setup).stdout
    assert sshfs_pid(worker) == before
    used = far_gateway.events("login_accepted")[-1]["key"]
    assert used in listed
    assert far_gateway.run("keys", "remove", "gvpocr", "worker7").returncode == 0
    far_gateway.wait_event("session_end", key=used)
    assert far_gateway.ssh("echo in").returncode == 0


def test_a_shared_key_is_kept_until_the_worker_has_its_own(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker(systemd=False)
    assert worker.set_up(far_gateway).returncode == 0
    before = sshfs_pid(worker)
    setup = kit_on(worker, far_gateway)
    again = worker.run(setup)
    assert again.returncode == 0, again.stderr
    assert "already up to date" in again.stdout
    assert "For a key of its own, which can be\nrevoked separately" in again.stdout
    assert sshfs_pid(worker) == before
    # Until the new key is authorized, the current one stays in use.
    worker.shell("sed -i \"s/^KEY_WAIT=.*/KEY_WAIT='0'/\" /root/kit/config")
    refused = worker.run(setup, "--own-key", "--name", "worker8")
    assert refused.returncode == 1
    assert "error: the server rejected the key SHA256:" in refused.stderr
    assert sshfs_pid(worker) == before
    worker.put("/root/output", refused.stdout.encode())
    assert let_in(far_gateway, worker) == "worker8"
    far_gateway.wait_event("configuration_reloaded")
    worker.shell("sed -i \"s/^KEY_WAIT=.*/KEY_WAIT='60'/\" /root/kit/config")
    moved = worker.run(setup, "--own-key")
    assert moved.returncode == 0, moved.stderr
    assert sshfs_pid(worker) != before
    assert worker.shell("cat /etc/sshfs-main-server/key.pub").endswith(" worker8\n")
    assert far_gateway.ssh("echo in").returncode == 0, "the shared key"
    assert "already up to date" in worker.run(setup, "--own-key").stdout


def test_a_package_that_cannot_be_installed_is_reported_with_apts_error(
    make_worker: MakeWorker, bare_root: Path, far_gateway: Gateway
) -> None:
    worker = make_worker(root=bare_root, systemd=False)
    worker.shell("rm -rf /var/cache/apt/archives /var/lib/apt/lists")
    done = worker.run(kit_on(worker, far_gateway, "--key", str(far_gateway.key)))
    assert done.returncode == 1
    assert "error: sshfs could not be installed\n" in done.stderr
    assert "E: " in done.stderr


def test_a_truncated_script_does_nothing(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    worker = make_worker(systemd=False)
    kit_on(worker, far_gateway, "--key", str(far_gateway.key))
    whole = (far_gateway.folder / "kit/worker-kit.sh").read_bytes()
    for length in (len(whole) // 2, len(whole) - 20):
        worker.run("sh", stdin=whole[:length])
        assert worker.run("ls", "/etc/sshfs-main-server", INSTALLED).returncode


def test_a_password_can_log_in_and_is_never_exposed(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    password = "Tr0ub4dor&3 with blanks"
    hashed = far_gateway.run("hash-password", input=f"{password}\n").stdout.strip()
    (far_gateway.folder / "config/sftp-gateway.toml").write_text(
        f'[users.gvpocr]\npassword_hash = "{hashed}"\n'
    )
    far_gateway.wait_event("configuration_reloaded")
    worker = make_worker()
    setup = kit_on(worker, far_gateway)
    # The process list that any user sees, one line per sample.
    worker.put(
        "/root/spy.sh",
        b"while :; do cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0\\n' '  '; echo; done",
    )
    worker.shell("sh /root/spy.sh >/root/seen 2>/dev/null & echo $! >/root/spy.pid")
    worker.put("/root/start.sh", f"exec sh {setup} -P '{password}'\n".encode())
    done = worker.run("sh", "/root/start.sh")
    assert done.returncode == 0, done.stderr
    worker.shell("kill $(cat /root/spy.pid)")
    assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
    # The setup re-executes itself without the password before it does anything else, so that the
    # process list never shows it during the login or later.
    assert worker.shell("grep -ac 'ssh -F' /root/seen") != "0\n"
    assert worker.shell("grep -a 'ssh -F' /root/seen | grep -ac Tr0ub[4]dor || true") == "0\n"
    assert worker.shell("cat /proc/[0-9]*/cmdline | grep -ac Tr0ub[4]dor || true") == "0\n"
    assert worker.shell("stat -c %a /etc/sshfs-main-server/password") == "600\n"
    assert worker.shell("grep -rl Tr0ub4dor /tmp /var/tmp /run /usr/local || true") == ""
    assert "max_conns=4" in worker.shell("tr '\\0' ' ' </proc/$(pidof sshfs)/cmdline")


def test_busybox_alone_is_enough(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    """As on Alpine: only BusyBox, and no service manager."""
    worker = make_worker(systemd=False)
    kit_on(worker, far_gateway, "--key", str(far_gateway.key))
    worker.shell("busybox --install -s /usr/local/sbin && ln -sf /bin/busybox /bin/sh")
    assert "BusyBox" in worker.run("sh", "--help").stderr
    done = worker.run("sh", "/root/worker-kit.sh")
    assert done.returncode == 0, done.stderr
    assert "neither systemd nor OpenRC" in done.stdout
    assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
    assert worker.run(f"{INSTALLED}/setup-sshfs-remote-worker.sh").returncode == 0
    gone = worker.run(f"{INSTALLED}/setup-sshfs-remote-worker.sh", "--uninstall")
    assert gone.returncode == 0, gone.stderr
    assert MOUNT not in worker.shell("cat /proc/mounts")


@pytest.mark.parametrize(
    ("manager", "words"),
    [
        ("dnf", "install -y -q fuse-sshfs openssh-clients"),
        ("apk", "add --quiet sshfs openssh-client"),
    ],
)
def test_fedora_and_alpine_use_their_own_packages(
    make_worker: MakeWorker, bare_root: Path, far_gateway: Gateway, manager: str, words: str
) -> None:
    worker = make_worker(root=bare_root, systemd=False)
    worker.shell("mv /usr/bin/apt-get /root/real-apt-get")
    worker.put(
        f"/usr/local/bin/{manager}",
        b'#!/bin/sh\necho "$*" >/root/asked\n'
        b"exec /root/real-apt-get install -y -qq --no-install-recommends sshfs\n",
        0o755,
    )
    done = worker.set_up(far_gateway)
    assert done.returncode == 0, done.stderr
    assert worker.shell("cat /root/asked") == f"{words}\n"


def test_systemd_verifies_the_unit_without_warnings(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    assert worker.set_up(far_gateway).returncode == 0
    done = worker.run("systemd-analyze", "verify", "sshfs-main-server.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_kit_replaces_the_old_scripts_mount(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    worker = make_worker()
    worker.put("/root/old.sh", (REPOSITORY / "tests/support/old_worker_script.sh").read_bytes())
    worker.put("/root/.ssh/id_rsa", far_gateway.key.read_bytes(), 0o600)
    old = worker.run("bash", "/root/old.sh", worker.host_address, "-p", str(far_gateway.port))
    assert old.returncode == 0, old.stderr
    assert "SSH connection successful" in old.stdout
    assert worker.shell(f"cat {MOUNT}/models/README.txt").startswith("This folder is the share")
    done = worker.set_up(far_gateway)
    assert done.returncode == 0, done.stderr
    assert worker.shell(f"grep -c ' {MOUNT} ' /proc/mounts") == "1\n"
    assert worker.shell("grep -c '^[^#].*sshfs' /etc/fstab || true") == "0\n"
    gone = worker.run(f"{INSTALLED}/setup-sshfs-remote-worker.sh", "--uninstall")
    assert gone.returncode == 0
    assert worker.shell("grep -c '^[^#].*sshfs' /etc/fstab") == "1\n"


# The doctor


def findings(worker: Worker, *options: str) -> dict[str, dict[str, Any]]:
    """The findings of the doctor on the worker, by check."""
    ran = worker.run("sshfs-doctor", "--json", "--seconds", "0", *options)
    assert ran.stderr == ""
    report = json.loads(ran.stdout)
    assert report["ok"] == (ran.returncode == 0)
    return {finding["check"]: finding for finding in report["findings"]}


def found(worker: Worker, check: str, status: str, text: str) -> dict[str, dict[str, Any]]:
    """All findings, after checking the one of `check`."""
    report = findings(worker)
    assert report[check]["status"] == status, report
    assert text in report[check]["found"], report[check]
    return report


def test_the_doctor_uses_the_kits_configuration_without_a_mount(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    """With BusyBox as on Alpine, and without Python."""
    worker = make_worker(systemd=False)
    worker.shell("busybox --install -s /usr/local/sbin && ln -sf /bin/busybox /bin/sh")
    assert worker.set_up(far_gateway, "--no-cache").returncode == 0
    good = findings(worker)
    assert {each["status"] for each in good.values()} == {"ok"}, good
    report = worker.run("sshfs-doctor", "--seconds", "1").stdout
    assert "throughput   not measured: no large file" in report

    program, config = f"{INSTALLED}/sshfs-main-server", "/etc/sshfs-main-server"
    start = f"setsid {program} supervise >>/var/log/sshfs-main-server.log 2>&1 </dev/null &"
    worker.shell(f"{program} stop")
    report = found(worker, "service", "problem", "it is not running (inactive)")
    assert f"on port {far_gateway.port}" in report["port"]["found"]
    for check in ("key", "host key", "login", "folder"):
        assert report[check]["status"] == "ok", report[check]
    assert report["mount"]["found"] == f"nothing is mounted at {MOUNT}"
    assert report["mount"]["means"].endswith("For the cause see above: service.")
    assert report["throughput"]["found"] == "not checked: the mount cannot be read"

    # A missing folder.
    worker.shell(f"sed -i \"s|^REMOTE=.*|REMOTE='/home/gvpocr/letters'|\" {config}/config; {start}")
    wait_for(lambda: worker.run("ls", "/run/sshfs-main-server/failed").returncode == 0, "failure")
    report = found(worker, "folder", "problem", "/home/gvpocr/letters")
    assert "No such file or directory" in report["service"]["found"]
    assert report["host key"]["status"] == "ok"
    assert report["mount"]["means"].endswith("For the cause see above: folder, service.")

    # A host key other than the pinned one.
    worker.shell(f"{program} stop; sed -i \"s|letters'|'|; s|gvpocr/'|gvpocr'|\" {config}/config")
    worker.shell(
        f"ssh-keygen -q -t ed25519 -N '' -f /root/strange; cp {config}/known_hosts /root/known; "
        f"echo sftp-gateway $(cut -d' ' -f1,2 /root/strange.pub) >{config}/known_hosts"
    )
    report = found(
        worker, "host key", "problem", f"host key differs from that in {config}/known_hosts:1"
    )
    assert report["folder"]["status"] == "ok"
    assert any(
        command.startswith("sftp-gateway worker-kit") for command in report["host key"]["do"]
    )
    worker.shell(f"cp /root/known {config}/known_hosts")

    # A name whose first address does not respond.
    worker.shell(
        f"ip -6 addr add fd00::7 dev lo; echo fd00::7 main >>/etc/hosts; "
        f"echo {worker.host_address} main >>/etc/hosts; "
        f"sed -i \"s/^SERVER=.*/SERVER='main'/\" {config}/config"
    )
    report = found(worker, "login", "ok", "gvpocr@main can log in")
    assert report["name"]["found"] == f"main is fd00::7, {worker.host_address}"

    # No server.
    far_gateway.stop()
    report = found(worker, "port", "problem", "main refuses connections to port")
    assert "fd00::7: Connection refused" in report["port"]["found"]
    for check in ("host key", "login", "folder"):
        assert report[check]["found"] == "not checked: the server was not reached"


def test_the_readmes_manual_mount_needs_no_terminal(
    make_worker: MakeWorker, far_gateway: Gateway
) -> None:
    (script,) = re.findall(
        r"```sh\n(mkdir -p /mnt/sshfs/main-server\nsshfs .*?)```",
        (REPOSITORY / "README.md").read_text(),
        re.DOTALL,
    )
    worker = make_worker(systemd=False)
    worker.put("/root/.ssh/worker_ed25519", far_gateway.key.read_bytes(), 0o600)
    script = script.replace("SERVER", worker.host_address)
    worker.shell(script.replace("-p 2222", f"-p {far_gateway.port}"))
    assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]


def test_the_fstab_line_mounts(make_worker: MakeWorker, far_gateway: Gateway) -> None:
    worker = make_worker()
    kit_on(worker, far_gateway)
    worker.put("/etc/sshfs-main-server/key", far_gateway.key.read_bytes(), 0o600)
    worker.shell(
        "cp /root/kit/known_hosts /etc/sshfs-main-server && cat /root/kit/fstab.sshfs >>/etc/fstab "
        f"&& mkdir -p {MOUNT} && mount {MOUNT}"
    )
    assert worker.shell(f"ls {MOUNT}").split() == ["Bhushanji", "models", "newsletters"]
    worker.shell(f"umount {MOUNT}")


def test_compose_accepts_the_override(far_gateway: Gateway, tmp_path: Path) -> None:
    made = far_gateway.run(
        "worker-kit", "--server", "main.example.org", "--port", "2222", "--out", str(tmp_path)
    )
    assert made.returncode == 0, made.stderr
    (tmp_path / "docker-compose.yml").write_text(
        'version: "3.7"\nservices:\n  worker:\n    image: debian\n'
    )
    (tmp_path / ".env.sshfs").write_bytes((tmp_path / ".env.sshfs.example").read_bytes())
    done = subprocess.run(
        [
            "docker-compose", "--env-file", ".env.sshfs", "-f", "docker-compose.yml",
            "-f", "docker-compose.sshfs-override.yml", "config",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "- /mnt/sshfs:/mnt/sshfs:ro,rslave\n" in done.stdout
    assert "MAIN_SERVER: /mnt/sshfs/main-server\n" in done.stdout
