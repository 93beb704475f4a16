"""Provokes each problem that a worker can have, and checks the doctor's diagnosis."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import delay
from tests.support.gateway import REPOSITORY, Gateway, fill, free_port, running, unmount, wait_for
from tests.support.keys import make_key, public_line

pytestmark = pytest.mark.integration

DOCTOR = REPOSITORY / "sftp_gateway/worker_kit/files/sshfs-doctor"
BIG = 6 << 20
COMMON = ("reconnect", "ServerAliveInterval=15", "ServerAliveCountMax=3")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@dataclass(frozen=True)
class Report:
    """The doctor's findings by check: status, finding, meaning and commands."""

    status: int
    findings: list[dict[str, Any]]

    def of(self, check: str) -> dict[str, Any]:
        (found,) = [finding for finding in self.findings if finding["check"] == check]
        return found

    def problem(self, check: str, message: str) -> dict[str, Any]:
        """A complete finding with status `problem`."""
        found = self.of(check)
        assert (found["status"], self.status) == ("problem", 1), found
        assert message in found["found"], found
        assert found["means"], found
        return found

    def skipped(self, why: str, *checks: str) -> None:
        for check in checks:
            assert self.of(check)["status"] == "skipped"
            assert self.of(check)["found"] == f"not checked: {why}"

    def fine(self, *checks: str) -> None:
        assert {check: self.of(check)["status"] for check in checks} == dict.fromkeys(checks, "ok")

    @property
    def checks(self) -> list[str]:
        return [finding["check"] for finding in self.findings]


Examine = Callable[..., Report]


@pytest.fixture(scope="module")
def doctor() -> Iterator[Path]:
    """The program as on a worker: a single file in a folder that every user can enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o755)
        program = Path(made) / "sshfs-doctor"
        shutil.copy(DOCTOR, program)
        yield program


@pytest.fixture
def examine(doctor: Path) -> Examine:
    """Runs it with this machine's shell."""

    def run(
        *options: object, seconds: int = 0, runner: tuple[str, ...] = (), **more: Any
    ) -> Report:
        ran = subprocess.run(
            [
                *runner, "sh", str(doctor), "--json",
                "--seconds", str(seconds), *map(str, options),
            ],
            capture_output=True, text=True, timeout=90, cwd="/", **more,
        )  # fmt: skip
        assert ran.stderr == ""
        result = json.loads(ran.stdout)
        assert result["ok"] == (ran.returncode == 0)
        return Report(ran.returncode, result["findings"])

    return run


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        fill(gateway.folder / "shared", {"models/big.bin": bytes(BIG)})
        (gateway.folder / "shared/Bhushanji/README.txt").unlink()
        yield gateway


def login(gateway: Gateway, **other: object) -> list[object]:
    """Options of a working login, overridden by those given."""
    options = {
        "server": "127.0.0.1", "port": gateway.port, "user": "gvpocr", "key": gateway.key,
        "known_hosts": gateway.known_hosts, **other,
    }  # fmt: skip
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def expected(gateway: Gateway) -> str:
    return subprocess.run(
        ["ssh-keygen", "-lf", gateway.folder / "keys/ssh_host_ed25519_key.pub"],
        capture_output=True, text=True, check=True,
    ).stdout.split()[1]  # fmt: skip


# No problems


def test_a_healthy_mount_has_no_problems(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "allow_other", *COMMON) as mount:
        report = examine("--mount", mount, seconds=2)
    assert {finding["status"] for finding in report.findings} == {"ok"}
    assert report.checks == [
        "programs", "allow_other", "key", "name", "port", "host key", "login", "folder", "mount",
        "options", "read-ahead", "throughput",
    ]  # fmt: skip
    assert expected(gateway) in report.of("host key")["found"]
    assert "MB/s" in report.of("throughput")["found"]
    assert "models/big.bin" in report.of("throughput")["found"]
    assert report.of("folder")["found"].startswith("/home/gvpocr has .cache, Bhushanji, models")


def test_without_a_mount_the_login_is_tested(gateway: Gateway, examine: Examine) -> None:
    report = examine(*login(gateway))
    assert report.status == 0
    report.fine("key", "name", "port", "host key", "login", "folder")


def test_a_mounts_own_ssh_config_is_used(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    """As the worker kit's service mounts; only root can read that file."""
    config, at = tmp_path / "ssh_config", tmp_path / "mnt"
    config.write_text(
        f"Port {gateway.port}\nIdentityFile {gateway.key}\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {gateway.known_hosts}\nServerAliveInterval 15\n"
    )
    config.chmod(0o600)
    at.mkdir()
    with subprocess.Popen(
        ["sshfs", "-f", "gvpocr@127.0.0.1:/home/gvpocr", str(at), "-F", str(config),
         "-o", "ro,allow_other,reconnect"], stdin=subprocess.DEVNULL,
    ) as sshfs:  # fmt: skip
        try:
            wait_for(lambda: os.path.ismount(at), "the mount")
            report = examine("--mount", at)
            report.fine("key", "name", "port", "host key", "login", "folder", "mount")
            assert report.status == 0
            tmp_path.chmod(0o755)
            report = examine("--mount", at, runner=NOBODY)
            found = report.problem("settings", str(config))
            assert found["do"][0].startswith("sudo ")
        finally:
            unmount(at, sshfs)


def test_the_gateways_doctor_command_prints_a_readable_report(gateway: Gateway) -> None:
    ran = gateway.run("doctor", "--worker", *map(str, login(gateway)))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "ok       login        gvpocr@127.0.0.1 can log in (publickey)\n" in ran.stdout
    # Options of the worker's doctor select it.
    ran = gateway.run("doctor", *map(str, login(gateway, key="/missing")))
    assert ran.returncode == 1
    assert "problem  key          the key /missing does not exist\n" in ran.stdout
    assert "                      $ scp SERVER" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --mount PATH, or --server HOST"),
        (("--server", "a", "--port", "0"), "--port: '0' is not a valid port"),
        (("--nonsense",), "unrecognized arguments"),
    ],
)
def test_invalid_arguments_are_a_usage_error(
    doctor: Path, arguments: tuple[str, ...], message: str
) -> None:
    ran = subprocess.run(["sh", doctor, *arguments], capture_output=True, text=True)
    assert ran.returncode == 2
    assert message in ran.stderr


# The worker


def test_missing_programs_are_named(gateway: Gateway, tmp_path: Path, examine: Examine) -> None:
    tools = "sh awk cat chmod cut grep head id mktemp printf rm sed sort stat tail tr uname"
    for tool in tools.split():
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    report = examine("--server", "127.0.0.1", env={"PATH": str(tmp_path)})
    found = report.problem("programs", "ssh, sshfs, fusermount3 is not installed")
    assert any("apt-get install -y sshfs" in command for command in found["do"])


@pytest.mark.parametrize(("line", "status"), [("#user_allow_other", "warning"), ("user_allow_other", "ok")])  # noqa: E501  # fmt: skip
def test_a_user_needs_user_allow_other(
    gateway: Gateway, doctor: Path, examine: Examine, line: str, status: str
) -> None:
    conf = doctor.parent / "fuse.conf"
    conf.write_text(f"# about it\n{line}\n")
    report = examine(*login(gateway), "--fuse-conf", conf, runner=NOBODY)
    found = report.of("fuse.conf")
    assert found["status"] == status
    assert bool(found["do"]) == (status == "warning")
    assert "fuse.conf" not in examine(*login(gateway), "--fuse-conf", conf).checks, "root may"


def broken_key(gateway: Gateway, folder: Path, how: str) -> Path:
    key = make_key(folder / "key", "ed25519", None, *(["-N", "x"] if how == "passphrase" else []))
    match how:
        case "missing":
            return folder / "missing"
        case "open":
            key.chmod(0o644)
        case "public":
            return Path(f"{key}.pub")
        case "putty":
            key.write_text("PuTTY-User-Key-File-3: ssh-ed25519\n")
        case "cut":
            key.write_text(key.read_text()[:200])
        case "other half":
            shutil.copy(f"{gateway.key}.pub", f"{key}.pub")
    return key


@pytest.mark.parametrize(
    ("how", "message", "do"),
    [
        ("missing", "does not exist", "scp "),
        ("open", "is open to others (mode 0644)", "chmod 600 "),
        ("public", "is the public half", ""),
        ("putty", "is a key of PuTTY's", ""),
        ("cut", "cannot be used", ""),
        ("passphrase", "has a passphrase", "ssh-keygen -p -N '' -f "),
        ("other half", ".pub is of another key than ", "ssh-keygen -y -f "),
    ],
)
def test_an_unusable_key_is_explained(
    gateway: Gateway, tmp_path: Path, examine: Examine, *, how: str, message: str, do: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    report = examine(*login(gateway, key=broken_key(gateway, tmp_path, how)), env=environment)
    found = report.problem("key", message)
    assert [command for command in found["do"] if command.startswith(do)] or not do
    assert "Permission denied (publickey)" in report.problem("login", "")["found"]


def test_a_key_readable_only_by_root_suggests_sudo(gateway: Gateway, examine: Examine) -> None:
    report = examine(*login(gateway), runner=NOBODY)
    found = report.problem("key", f"{gateway.key} cannot be read: Permission denied")
    (command,) = found["do"]
    assert command.startswith("sudo ")
    # Root needs no sudo.
    ran = subprocess.run(
        ["sh", "-c", command[len("sudo ") :]], cwd="/", capture_output=True, text=True
    )
    assert (ran.returncode, json.loads(ran.stdout)["ok"]) == (0, True), ran.stderr


def signed(gateway: Gateway, folder: Path, *options: str) -> Path:
    ca, key = make_key(folder / "ca", "ed25519"), make_key(folder / "key", "ed25519")
    subprocess.run(["ssh-keygen", "-q", "-s", ca, "-I", "w", *options, f"{key}.pub"], check=True)
    return key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-n", "gvpocr", "-V", "-2d:-1d"), "expired at "),
        (("-n", "gvpocr", "-V", "+1d:+2d"), "is not valid before "),
        (("-n", "ana", "-V", "+1d"), "is not for gvpocr"),
    ],
)
def test_an_invalid_certificate_is_explained(
    gateway: Gateway, tmp_path: Path, examine: Examine, options: tuple[str, ...], message: str
) -> None:
    report = examine(*login(gateway, key=signed(gateway, tmp_path, *options)))
    problems = [
        finding["found"]
        for finding in report.findings
        if finding["check"] == "certificate" and finding["status"] == "problem"
    ]
    assert len(problems) == 1
    assert message in problems[0]


def test_a_valid_certificate_is_reported(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine
) -> None:
    gateway = make_gateway()
    key = signed(gateway, tmp_path, "-n", "gvpocr", "-V", "+1d")
    gateway.authorize("gvpocr", f"cert-authority {public_line(tmp_path / 'ca')}")
    gateway.start()
    report = examine(*login(gateway, key=key))
    report.fine("certificate", "login")


# Network


def test_an_unresolvable_host_name_is_reported(gateway: Gateway, examine: Examine) -> None:
    report = examine(*login(gateway, server="nowhere.invalid"))
    report.problem("name", "nowhere.invalid has no address")
    report.skipped("the server was not reached", "host key", "login", "folder")


def test_an_ipv6_only_server_is_reported(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine
) -> None:
    gateway = make_gateway(SFTP_GATEWAY_HOST="::1").start()
    key = (gateway.folder / "keys/ssh_host_ed25519_key.pub").read_text()
    (tmp_path / "known").write_text(f"[::1]:{gateway.port} {key}")
    for server in ("::1", "[::1]"):
        report = examine(*login(gateway, server=server, known_hosts=tmp_path / "known"))
        assert report.of("name")["found"] == "::1 is ::1"
        report.fine("port", "host key", "login", "folder")


def test_a_closed_port_is_reported(gateway: Gateway, examine: Examine) -> None:
    report = examine(*login(gateway, port=free_port()))
    report.problem("port", "127.0.0.1 refuses connections to port")
    report.skipped("the server was not reached", "host key", "login", "folder")


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port that never responds, as behind a firewall: its backlog is full."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listening,
        contextlib.ExitStack() as ends,
    ):
        for _ in range(4):
            end = ends.enter_context(socket.socket())
            end.setblocking(False)
            end.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def test_a_filtered_port_is_reported(gateway: Gateway, examine: Examine) -> None:
    with silent_port() as port:
        report = examine(*login(gateway, port=port))
    report.problem("port", f"127.0.0.1 does not answer on port {port}")


@contextlib.contextmanager
def server(banner: bytes | None) -> Iterator[int]:
    """A server that sends this to each client; None for nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if banner is None:
            yield port
            return
        script = (
            "import socket, sys\n"
            f"s = socket.socket(fileno={listening.fileno()}); c, _ = s.accept()\n"
            f"c.sendall({banner!r}); c.shutdown(1); c.recv(100)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script], pass_fds=[listening.fileno()])
        try:
            yield port
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("banner", "found"),
    [
        (None, "accepts the connection and says nothing"),
        (b"", "accepts the connection and closes it immediately"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "answers, but not with SSH"),
    ],
)
def test_a_port_without_an_ssh_server_is_reported(
    gateway: Gateway, examine: Examine, banner: bytes | None, found: str
) -> None:
    with server(banner) as port:
        report = examine(*login(gateway, port=port))
    report.problem("port", found)
    report.skipped("the server was not reached", "host key", "login", "folder")


def test_another_ssh_server_is_reported(gateway: Gateway, examine: Examine) -> None:
    with server(b"SSH-2.0-OpenSSH_9.6\r\n") as port:
        report = examine(*login(gateway, port=port))
    assert report.of("port")["status"] == "warning"
    assert "OpenSSH_9.6" in report.of("port")["found"]


def test_a_banned_source_is_reported(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine
) -> None:
    gateway = make_gateway("[penalties]\nexempt = []\nfailed_login = 20\n").start()
    wrong = make_key(tmp_path / "wrong", "ed25519")
    while not gateway.events("source_banned"):
        gateway.ssh("echo x", options=gateway.ssh_options(key=wrong))
    found = examine(*login(gateway)).problem("port", "closes it immediately")
    assert "banned" in found["means"]
    assert any("source_banned" in command for command in found["do"])


# Host key and login


@pytest.mark.parametrize("known", ["unknown", "changed"])
def test_an_unexpected_host_key_is_reported_and_the_login_still_tested(
    gateway: Gateway, tmp_path: Path, examine: Examine, known: str
) -> None:
    file = tmp_path / "known hosts"
    other = public_line(make_key(tmp_path / "other", "ed25519"))
    file.write_text(f"[127.0.0.1]:{gateway.port} {other}\n" if known == "changed" else "")
    report = examine(*login(gateway, known_hosts=file.rename(tmp_path / "known")))
    message = {"unknown": "host key is not in", "changed": "host key differs from"}[known]
    found = report.problem("host key", message)
    assert expected(gateway) in found["found"]
    report.fine("login", "folder")
    # The recommended command fixes it.
    for command in found["do"]:
        if command.startswith(("ssh-keygen -R", "ssh-keyscan")):
            subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    assert examine(*login(gateway, known_hosts=tmp_path / "known")).status == 0


def test_a_key_unknown_to_the_server_is_reported(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    key = make_key(tmp_path / "wrong", "ed25519")
    report = examine(*login(gateway, key=key))
    report.fine("key", "host key")
    found = report.problem("login", "Permission denied (publickey).")
    assert str(key) in found["means"]
    assert any(
        command.startswith("sftp-gateway keys list | grep SHA256:") for command in found["do"]
    )


@pytest.mark.parametrize(("password", "status"), [("a good password", 0), ("another", 1)])
def test_a_password_login_is_tested(
    make_gateway: Callable[..., Gateway], examine: Examine, password: str, status: int
) -> None:
    gateway = make_gateway()
    hashed = gateway.run("hash-password", input="a good password\n").stdout.strip()
    (gateway.folder / "config/sftp-gateway.toml").write_text(
        f"[users.gvpocr]\npassword_hash = '{hashed}'\n"
    )
    (gateway.folder / "keys").mkdir()
    gateway.start()
    options = login(gateway)
    options = [option for option in options if not str(option).startswith("--key=")]
    report = examine(*options, "--password-stdin", input=f"{password}\n")
    assert report.status == status
    found = report.of("login")["found"]
    assert found.endswith(
        "(password)" if status == 0 else "Permission denied (publickey,password)."
    )


# Folder and mount


def test_a_missing_remote_folder_is_reported(gateway: Gateway, examine: Examine) -> None:
    report = examine(*login(gateway, path="/home/gvpocr/letters"))
    report.problem("folder", "/home/gvpocr/letters: ")
    assert "not granted" in report.of("folder")["means"]


def test_an_empty_remote_folder_is_reported(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    source = "/home/gvpocr/Bhushanji"
    with gateway.mounted(tmp_path / "mnt", source, "allow_other", *COMMON) as mount:
        report = examine("--mount", mount)
    assert report.of("folder")["found"] == f"{source} is empty"
    assert (report.of("folder")["status"], report.of("mount")["status"]) == ("warning", "warning")


def test_a_missing_mount_is_reported(gateway: Gateway, tmp_path: Path, examine: Examine) -> None:
    report = examine(*login(gateway), "--mount", tmp_path)
    report.problem("mount", "nothing is mounted at")
    report.fine("login")


def test_a_mount_whose_sshfs_was_killed_is_reported(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *COMMON) as mount:
        sshfs = process_of(mount)
        os.kill(sshfs, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{sshfs}/exe").exists(), "its end")
        report = examine("--mount", mount, *login(gateway))
        found = report.problem("mount", "Transport endpoint is not connected")
        assert found["means"].startswith("Its sshfs process has ended")
        report.fine("login")
        assert found["do"][0].startswith(f"fusermount3 -uz {mount}")
        subprocess.run(["sh", "-c", found["do"][0]], check=True)
        assert os.listdir(mount) == []


def process_of(mount: Path) -> int:
    ran = subprocess.run(["pgrep", "-f", f"sshfs -f .* {mount} "], capture_output=True, text=True)
    return int(ran.stdout.split()[0])


@pytest.mark.parametrize(("owner", "found"), [(0, True), (65534, False)])
def test_options_are_not_read_from_another_program_named_sshfs(
    examine: Examine, owner: int, found: bool
) -> None:
    command = [
        "sshfs",
        "-c",
        "read line",
        "x@host:",
        "/mnt/of-a-test",
        "-o",
        "HostName=evil.invalid",
    ]
    process = subprocess.Popen(
        command, executable="/bin/sh", stdin=subprocess.PIPE, user=owner, cwd="/"
    )
    try:
        running = Path(f"/proc/{process.pid}/cmdline")
        wait_for(lambda: running.read_bytes().startswith(b"sshfs"), "it to run")
        report = examine(
            "--mount", "/mnt/of-a-test", "--server", "127.0.0.1", "--port", free_port()
        )
        if found:
            report.problem("name", "evil.invalid has no address")
        else:
            report.problem("port", "127.0.0.1 refuses connections")
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=touch RAN;:x", 'gvpocr@127.0.0.1:/home/gvpocr"\n!touch RAN\n"']
)
def test_a_mounts_name_cannot_run_commands(
    gateway: Gateway, tmp_path: Path, examine: Examine, name: str
) -> None:
    ran = tmp_path / "ran"
    named = name.replace("RAN", str(ran))
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", f"fsname={named}", *COMMON) as mount:
        report = examine(
            "--mount", mount, "--known-hosts", gateway.known_hosts, "--key", gateway.key
        )
    assert not ran.exists()
    report.problem("settings", "which is not a server and a folder")
    report.fine("mount")


@pytest.mark.parametrize("stopped", ["gateway", "sshfs"])
def test_a_hanging_mount_does_not_block_the_doctor(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine, stopped: str
) -> None:
    gateway = make_gateway("workers = 1\n").start()
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *COMMON) as mount:
        os.listdir(mount)  # now sshfs answers some by itself
        pids = gateway.pids if stopped == "gateway" else [process_of(mount)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            report = examine("--mount", mount)
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        found = report.problem("mount", f"{mount} hangs")
        if stopped == "gateway":
            report.problem("port", "says nothing")
            assert "ServerAliveInterval" in found["means"]
        else:
            report.fine("port", "login")
            assert found["do"][0] == f"kill -CONT {pids[0]}"
        report.skipped("the mount cannot be read", "options", "read-ahead", "throughput")
        wait_for(lambda: examine("--mount", mount).status == 0, "the mount to be back")


def test_a_mount_without_allow_other_is_reported(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as made,
        gateway.mounted(Path(made) / "mnt", "/home/gvpocr", *COMMON) as mount,
    ):
        Path(made).chmod(0o755)
        assert examine("--mount", mount).of("allow_other")["status"] == "warning"
        report = examine("--mount", mount, runner=NOBODY)
        found = report.problem("mount", "Permission denied")
        assert "allow_other" in found["means"]


def test_a_mount_of_another_type_is_reported(tmp_path: Path, examine: Examine) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        examine("--mount", tmp_path).problem("mount", "is a mount of type tmpfs")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_stacked_mounts_are_reported(gateway: Gateway, tmp_path: Path, examine: Examine) -> None:
    def count() -> int:
        return Path("/proc/self/mountinfo").read_text().count(f" {tmp_path}/mnt ")

    with (
        gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *COMMON) as mount,
        gateway.mounted(mount, "/home/gvpocr", *COMMON),
    ):
        wait_for(lambda: count() == 2, "the second")
        found = [f for f in examine("--mount", mount).findings if f["check"] == "mount"]
    assert found[0]["found"].startswith("2 mounts are stacked at")
    assert found[0]["do"] == [f"fusermount3 -u {mount}"]
    assert found[1]["status"] == "ok"


def test_missing_mount_options_are_recommended(
    gateway: Gateway, tmp_path: Path, examine: Examine
) -> None:
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr") as mount:
        found = examine("--mount", mount).of("options")
    assert found["status"] == "warning"
    assert found["found"] == (
        "the mount has no reconnect and no ServerAliveInterval=15,ServerAliveCountMax=3"
    )


def test_more_read_ahead_is_recommended_on_a_slow_link(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine
) -> None:
    gateway = make_gateway().start()
    with delay.link(gateway.port, each_way=0.01) as gateway.port:
        with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *COMMON) as mount:
            report = examine("--mount", mount)
            found = report.of("read-ahead")
            assert found["status"] == "warning"
            (command,) = found["do"]
            assert "128 KiB ahead" in found["found"]
            assert report.of("max_read")["status"] == "warning"
            subprocess.run(["sh", "-c", command], check=True)
            examine("--mount", mount).fine("read-ahead")
        with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", "max_read=65536", *COMMON) as mount:
            assert "max_read" not in examine("--mount", mount).checks


def test_a_slow_mount_is_reported(
    make_gateway: Callable[..., Gateway], tmp_path: Path, examine: Examine
) -> None:
    gateway = make_gateway("[users.gvpocr]\nbandwidth_limit = 1000000\n").start()
    fill(gateway.folder / "shared", {"models/big.bin": bytes(BIG)})
    with gateway.mounted(tmp_path / "mnt", "/home/gvpocr", *COMMON) as mount:
        found = examine("--mount", mount, seconds=3).of("throughput")
        assert found["status"] == "warning"
        assert "bandwidth_limit" in found["means"]
        named = examine("--mount", mount, "--file", mount / "models/README.txt", seconds=1)
        assert named.of("throughput")["found"].startswith("not measured")
        gone = examine("--mount", mount, "--file", mount / "models/gone", seconds=1)
        assert gone.of("throughput")["found"] == "reading failed: No such file or directory"


# On the server


def test_on_the_server_the_doctor_checks_configuration_and_gateway(
    make_gateway: Callable[..., Gateway],
) -> None:
    port = free_port()
    gateway = make_gateway(SFTP_GATEWAY_PORT=str(port)).start()
    ran = gateway.run("doctor")
    assert (ran.returncode, ran.stdout) == (0, "")
    _, health, ready, same = ran.stderr.splitlines()
    assert same.endswith("nothing would be taken away.")
    assert health == "ok"
    assert ready.startswith('/readyz: 200: {"ready": true, ')
    shutil.rmtree(gateway.folder / "shared/models")
    wait_for(lambda: gateway.http("/readyz")[0] == 503, "the share to be missed")
    ran = gateway.run("doctor")
    assert ran.returncode == 1
    assert "error: shares.models.path: there is no folder shared/models" in ran.stderr
    assert "/readyz: 503: " in ran.stderr
    gateway.stop()
    ran = gateway.run("doctor")
    assert ran.returncode == 1
    assert f"127.0.0.1 port {port}: " in ran.stderr
    assert f"/readyz: 127.0.0.1 port {gateway.metrics_port}: " in ran.stderr
