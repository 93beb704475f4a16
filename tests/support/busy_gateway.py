"""A gateway with all activity and faults that dashboards and alerts show."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.gateway import Gateway, fill, wait_for
from tests.support.keys import make_key
from tests.support.slow_disk import failing_disk

#: Addresses of this machine that clients come from, besides 127.0.0.1, which is never banned.
GUESSER, CROWD = "127.0.0.2", "127.0.0.3"

_MOST_OF_ONE_SOURCE = 16

_CONFIG = f"""
max_connections_per_source = {_MOST_OF_ONE_SOURCE}
[penalties]
exempt = ["127.0.0.1/32"]
[shares.letters]
path = "{{folder}}/letters"
[shares.bad]
path = "{{folder}}/bad"
[shares.away]
path = "{{folder}}/away"
"""


class BusyGateway:
    """Methods act as clients, disks and attackers."""

    def __init__(self, folder: Path, gateway: Gateway, gate: Path) -> None:
        self.folder = folder
        self.gateway = gateway
        self._gate = gate
        self._wrong_keys = [make_key(folder / f"wrong{n}", "ed25519") for n in range(5)]
        self._crowd: list[socket.socket] = []

    def read(self) -> None:
        """A worker mounts, walks and reads; another one fetches by sftp."""
        letters = self.folder / "letters"
        with self.gateway.mounted(self.folder / "mount") as mount:
            os.statvfs(mount)
            for file in sorted((mount / "letters").rglob("*")):
                if file.is_file():
                    file.read_bytes()
            os.readlink(mount / "letters/link")
        # From the disk again: drop the file from the page cache.
        with open(letters / "big", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        got = self.gateway.sftp(f"get letters/big {self.folder}/got", "ls -l letters", "pwd")
        assert got.returncode == 0, got.stderr

    def fail_to_read(self) -> None:
        """A disk has a bad block."""
        self._gate.write_text("EIO")
        assert self.gateway.sftp(f"get bad/file {self.folder}/got").returncode != 0
        self._gate.unlink()

    def cause_denials(self) -> None:
        """A worker tries to write, to leave its shares and to run a command."""
        gateway = self.gateway
        assert gateway.sftp(f"put {self.folder}/got letters/new").returncode != 0
        assert gateway.sftp("rm letters/small0").returncode != 0
        assert gateway.sftp("get /etc/passwd /dev/null").returncode != 0
        assert gateway.ssh("id").returncode != 0

    def guess(self, times: int, source: str = "127.0.0.1") -> None:
        """Try wrong keys, several on each connection."""
        options = [part for part in self.gateway.ssh_options() if "IdentityFile" not in part]
        keys = [f"-oIdentityFile={key}" for key in self._wrong_keys]
        for user in ["gvpocr", "root"] * (times // 2):
            guess = [*options, *keys, f"-oBindAddress={source}"]
            assert self.gateway.ssh("echo", user=user, options=guess).returncode != 0

    def exceed_connection_limit(self) -> None:
        """Open more connections from one address than allowed."""
        for _ in range(_MOST_OF_ONE_SOURCE + 4):
            client = socket.create_connection(
                ("127.0.0.1", self.gateway.port), source_address=(CROWD, 0)
            )
            self._crowd.append(client)
        self.gateway.wait_event("connections_refused", reason="max_connections_per_source")

    def disperse(self) -> None:
        for client in self._crowd:
            client.close()
        self._crowd.clear()

    def kill_a_worker(self) -> None:
        """Kill a worker as the kernel's OOM killer does; open files are incomplete."""
        before = len(self.gateway.events("worker_exited", signal="SIGKILL"))
        started = len(self.gateway.events("worker_started"))
        os.kill(self.gateway.events("worker_started")[-1]["pid"], signal.SIGKILL)
        wait_for(
            lambda: len(self.gateway.events("worker_exited", signal="SIGKILL")) > before,
            "the worker to be missed",
        )
        wait_for(
            lambda: len(self.gateway.events("worker_started")) > started, "the worker's successor"
        )

    def abort_transfer(self) -> None:
        """A client disconnects in the middle of a file."""
        opened = len(self.gateway.events("file_opened"))
        before = len(self.gateway.events("file_closed", result="aborted"))
        gate = self._gate
        gate.touch()  # reads wait
        client = subprocess.Popen(
            ["sftp", *self.gateway.ssh_options(), "-P", str(self.gateway.port),
             "gvpocr@127.0.0.1:bad/file", f"{self.folder}/never"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(lambda: len(self.gateway.events("file_opened")) > opened, "the file to be opened")
        client.kill()
        client.wait()
        gate.unlink()
        wait_for(
            lambda: len(self.gateway.events("file_closed", result="aborted")) > before,
            "the file to be closed",
        )

    def fill_the_log_disk(self) -> None:
        """The access log cannot be written for a while."""
        filler = self.folder / "logs/filler"
        with contextlib.suppress(OSError), open(filler, "ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        lost = "sftp_gateway_access_log_lines_lost_total"
        for _ in range(40):
            assert self.gateway.sftp("pwd").returncode == 0
            if self.gateway.metric(lost):
                break
        wait_for(lambda: self.gateway.metric(lost), "lines to be lost")
        filler.unlink()

    def lose_a_share(self) -> None:
        (self.folder / "away").rename(self.folder / "elsewhere")


@contextlib.contextmanager
def busy_gateway(folder: Path) -> Iterator[BusyGateway]:
    """A running gateway with shares `letters`, `bad` and `away`, still unused."""
    small = {f"letters/small{n}": b"x" * 2000 for n in range(20)}
    fill(folder, {**small, "letters/big": bytes(20_000_000), "letters/हिन्दी/पत्र १": b"x" * 500,
                  "behind/file": b"x" * 300_000, "away/file": b"x"})  # fmt: skip
    (folder / "letters/link").symlink_to("small0")
    (folder / "gateway").mkdir()
    logs = folder / "logs"
    logs.mkdir()
    gate = folder / "gate"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "test", logs], check=True)
    try:
        with failing_disk(folder / "behind", folder / "bad", gate):
            options = {
                "SFTP_GATEWAY_ACCESS_LOG__FILE": str(logs / "access.log"),
                "SFTP_GATEWAY_WORKERS": "2",
            }
            gateway = Gateway(folder / "gateway", _CONFIG.format(folder=folder), options)
            busy = None
            try:
                gateway.start()
                busy = BusyGateway(folder, gateway, gate)
                yield busy
            finally:
                if busy is not None:
                    busy.disperse()
                gate.unlink(missing_ok=True)
                gateway.close()
    finally:
        subprocess.run(["umount", "-l", logs], check=False)
