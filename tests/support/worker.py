"""A worker for a test: a clean Debian in namespaces, with or without systemd, on its own link."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.gateway import Gateway, wait_for

#: A folder with an existing root, to save the minute that creating it takes.
READY_ROOT = "TEST_WORKER_ROOT"

#: Beside Debian's minimal system: a service manager and its tools. The setup's packages are only in
#: apt's cache, as a worker on its own link reaches no mirror.
_INSTALLED = "systemd-sysv,dbus,iproute2,procps,busybox-static,openssh-server"
_IN_CACHE = ("sshfs",)

_numbers = itertools.count()

#: Overlays the worker's file systems on the base, and starts its first process.
_BOOT = r"""
set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/up,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mkdir -p sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs dev
for each in null zero full random urandom tty fuse; do
    touch "dev/$each"
    mount --bind "/dev/$each" "dev/$each"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir oldroot
pivot_root . oldroot
umount -l oldroot
mount --make-rshared /
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin $3
"""

#: The first process without systemd, which only reaps orphans.
_NO_INIT = "/bin/sh /init.sh"
_NO_INIT_SCRIPT = "while :; do sleep 60 & wait; done\n"


def make_root(folder: Path) -> Path:
    """Create a Debian root for workers in `folder` (about a minute)."""
    if ready := os.environ.get(READY_ROOT):
        return Path(ready)
    suite = subprocess.run(
        ["sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    mirror = [os.environ["DEBIAN_MIRROR"]] if "DEBIAN_MIRROR" in os.environ else []
    _quietly(
        "debootstrap", "--variant=minbase", f"--include={_INSTALLED}", suite, str(folder), *mirror
    )
    _quietly("chroot", str(folder), "apt-get", "update", "-qq")
    _quietly("chroot", str(folder), "apt-get", "install", "-y", "-qq", "--no-install-recommends",
             "--download-only", *_IN_CACHE)  # fmt: skip
    for service in ("ssh.service", "systemd-networkd.service"):
        _quietly("chroot", str(folder), "systemctl", "mask", service)
    (folder / "etc/resolv.conf").unlink(missing_ok=True)
    (folder / "init.sh").write_text(_NO_INIT_SCRIPT)
    return folder


def with_sshfs(root: Path, folder: Path) -> Path:
    """A copy of `root` with sshfs installed."""
    _quietly("cp", "-a", "--reflink=auto", f"{root}/.", str(folder))
    _quietly("chroot", str(folder), "apt-get", "install", "-y", "-qq",
             "--no-install-recommends", *_IN_CACHE)  # fmt: skip
    return folder


class Worker:
    """A worker that can reach `host_address` and nothing else."""

    def __init__(self, root: Path, folder: Path, *, systemd: bool = True) -> None:
        number = next(_numbers)
        self._name = f"kw{os.getpid()}-{number}"
        net = f"198.18.{os.getpid() % 250}.{number % 60 * 4}"
        first = int(net.rpartition(".")[2])
        prefix = net.rpartition(".")[0]
        self.host_address, self.address = f"{prefix}.{first + 1}", f"{prefix}.{first + 2}"
        self._root, self._folder, self._systemd = root, folder, systemd
        self._cgroup = _cgroups() / self._name
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def start(self) -> Worker:
        """Boot it and connect its link."""
        self._folder.mkdir(parents=True)
        self._cgroup.mkdir()
        init = "/sbin/init" if self._systemd else _NO_INIT
        unshare = (
            "unshare --cgroup --mount --propagation private --pid --fork --uts --ipc --net "
            "--kill-child"
        )
        self._process = subprocess.Popen(
            [
                "sh", "-c", f'echo $$ >"$0/cgroup.procs" && exec {unshare} sh -c "$@"',
                str(self._cgroup), _BOOT, "sh", str(self._folder), str(self._root), init,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._pid = wait_for(self._first_process, "the worker's first process")
        self._wire()
        if self._systemd:
            wait_for(
                lambda: (
                    self.run("systemctl", "is-system-running").stdout.strip()
                    in ("running", "degraded")
                ),
                "the worker to boot",
            )
        return self

    def _first_process(self) -> int:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for pid in children.split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if command[0] in (b"/sbin/init", b"/bin/sh"):
                return int(pid)
        return 0

    def _wire(self) -> None:
        end = f"{self._name}w"
        _ip("link", "add", self._name, "type", "veth", "peer", "name", end)
        _ip("link", "set", end, "netns", str(self._pid), "name", "eth0")
        _ip("addr", "add", f"{self.host_address}/30", "dev", self._name)
        _ip("link", "set", self._name, "up")
        for words in (
            ("addr", "add", f"{self.address}/30", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
        ):
            subprocess.run(["nsenter", "-t", str(self._pid), "-n", "ip", *words], check=True)

    def cut_link(self) -> None:
        """Cut the link: packets are lost without notice."""
        self._drop("-A")

    def restore_link(self) -> None:
        """Restore the link."""
        self._drop("-D")

    def _drop(self, action: str) -> None:
        for chain, option in (("INPUT", "-i"), ("OUTPUT", "-o")):
            subprocess.run(
                ["nsenter", "-t", str(self._pid), "-n", "iptables", "-w",
                 action, chain, option, "eth0", "-j", "DROP"],
                check=True,
            )  # fmt: skip

    def close(self) -> None:
        """End it with all its processes."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, 9)  # of a process namespace the first: all go with it
            self._process.wait(30)
        subprocess.run(["ip", "link", "del", self._name], check=False, stderr=subprocess.DEVNULL)
        wait_for(self._remove_cgroup, "the worker's control group to be gone")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _remove_cgroup(self) -> bool:
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not self._cgroup.exists()

    # Commands

    def run(
        self, *command: str, stdin: bytes | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root; outputs are text."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-a", "-r", "-w", "env", "-i", "HOME=/root",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *command],
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            command,
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )

    def shell(self, script: str, timeout: float = 120) -> str:
        """Run a shell command that must succeed; returns its output."""
        done = self.run("sh", "-c", script, timeout=timeout)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Create a file."""
        script = f"mkdir -p $(dirname {path}) && umask 077 && cat >{path} && chmod {mode:o} {path}"
        done = self.run("sh", "-c", script, stdin=content)
        assert done.returncode == 0, done.stderr

    def set_up(
        self, gateway: Gateway, *arguments: str, kit: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run the README's command: the generated kit, piped to sh."""
        made = gateway.run(
            "worker-kit", "--stdout", "--server", self.host_address, "--port", str(gateway.port),
            "--key", str(gateway.key), *kit,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return self.run("sh", "-s", "--", *arguments, stdin=made.stdout.encode())


@contextlib.contextmanager
def booted(root: Path, folder: Path, *, systemd: bool = True) -> Iterator[Worker]:
    """A booted worker, which is ended on exit."""
    worker = Worker(root, folder, systemd=systemd)
    try:
        yield worker.start()
    finally:
        worker.close()


def _cgroups() -> Path:
    """The mount point of cgroup v2."""
    unified = Path("/sys/fs/cgroup/unified")
    return unified if unified.is_dir() else Path("/sys/fs/cgroup")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _quietly(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
