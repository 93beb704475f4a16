"""A gateway of a test's own: the real program in a process of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sftp_gateway.settings import Settings
from tests.support.measured import metric_in

REPOSITORY = Path(__file__).resolve().parents[2]

#: Seconds that a test waits for something before it fails: enough for a machine with other work.
TIMEOUT = 60.0

#: The gateway's program, from the sources.
PROGRAM = (sys.executable, "-m", "sftp_gateway")

T = TypeVar("T")


def wait_for(probe: Callable[[], T], what: str, timeout: float = TIMEOUT) -> T:
    """Call `probe` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if result := probe():
            return result
        time.sleep(0.02)
    raise AssertionError(f"timed out after {timeout:g} s waiting for {what}")


def free_port() -> int:
    """An unused port outside the kernel's range for outgoing connections."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def environment(**options: str) -> dict[str, str]:
    """The environment of a gateway with `options`, and none of the machine's own settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("SFTP_GATEWAY_")}
    python_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**inherited, "PYTHONPATH": python_path, **options}


def children_of(pid: int) -> list[int]:
    """The children of `pid`, zombies included."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def _alone(config: str) -> str | None:
    """`config` with default users or shares added, for use with `defaults = false`.

    None if it names only defaults, or cannot be parsed.
    """
    try:
        named = tomllib.loads(config)
    except tomllib.TOMLDecodeError:
        return None
    users, shares = named.get("users", {}), named.get("shares", {})
    if (not shares and (not users or "gvpocr" in users)) or "defaults" in named:
        return None
    if not users:
        config += "\n[users.gvpocr]\n"
    if not shares:
        for name, share in Settings().shares.items():
            config += f'\n[shares."{name}"]\npath = "{share.path}"\nlinks = "{share.links}"\n'
    return config


class Gateway:
    """A gateway that serves the folders below `folder`, as a user would start it there.

    `config` is the text of config/sftp-gateway.toml; users and shares that it names are the only
    ones, unless it or `options` say otherwise. The access log goes to `access.log`, and messages
    to `stderr.log`.
    """

    def __init__(
        self, folder: Path, config: str = "", options: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self.metrics_port = free_port()
        self._options = {
            "SFTP_GATEWAY_HOST": "127.0.0.1",
            "SFTP_GATEWAY_PORT": "0",
            "SFTP_GATEWAY_METRICS_PORT": str(self.metrics_port),
            "SFTP_GATEWAY_DRAIN_TIMEOUT": "2",
            **(options or {}),
        }
        alone = None if "SFTP_GATEWAY_DEFAULTS" in self._options else _alone(config)
        if alone is not None:
            self._options["SFTP_GATEWAY_DEFAULTS"] = "false"
            config = alone
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        (folder / "config").mkdir(exist_ok=True)
        if config:
            (folder / "config/sftp-gateway.toml").write_text(config)

    @property
    def key(self) -> Path:
        return self.folder / "keys/worker_ed25519"

    @property
    def known_hosts(self) -> Path:
        """A known_hosts file that pins this gateway's host key."""
        path = self.folder / "known_hosts"
        public = (self.folder / "keys/ssh_host_ed25519_key.pub").read_text().split()[:2]
        line = f"[127.0.0.1]:{self.port} {' '.join(public)}\n"
        if not path.exists() or path.read_text() != line:  # a client may be reading it
            path.write_text(line)
        return path

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr.log").read_text()

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run another command of the program."""
        return subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.folder,
            env=environment(**self._options),
            capture_output=True,
            text=True,
            timeout=60,
            **more,
        )

    def start(
        self, runner: Sequence[str] = (), *, program: Sequence[str | Path] = PROGRAM
    ) -> Gateway:
        """Start serving, through the command `runner` (such as setpriv) if given."""
        with (
            open(self.folder / "access.log", "ab") as log,
            open(self.folder / "stderr.log", "ab") as errors,
        ):
            before = len(self.events("server_started"))
            self.process = subprocess.Popen(
                [*runner, *program, "serve"],
                cwd=self.folder,
                env=environment(**self._options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
            )

        def started() -> list[dict[str, Any]]:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway did not start:\n{self.stderr}")
            return self.events("server_started")[before:]

        self.port = wait_for(started, "the gateway to start")[-1]["port"]
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the gateway with a signal; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    def close(self) -> None:
        """End it at once, by two signals: SIGKILL would leave files behind."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(TIMEOUT)

    @property
    def pids(self) -> list[int]:
        """Its processes, the supervisor first."""
        assert self.process is not None
        return [self.process.pid, *children_of(self.process.pid)]

    # Its output

    def events(self, name: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The events in the access log, filtered by name and fields."""
        try:
            written = (self.folder / "access.log").read_bytes()
        except FileNotFoundError:
            return []
        # The last line may be incomplete.
        events = [json.loads(line) for line in written.split(b"\n")[:-1]]
        return [
            event
            for event in events
            if (name is None or event["event"] == name)
            and all(event.get(key) == value for key, value in fields.items())
        ]

    def wait_event(self, name: str, **fields: Any) -> dict[str, Any]:
        """Wait for such an event; return the newest."""
        return wait_for(lambda: self.events(name, **fields), f"event {name} {fields}")[-1]

    def http(self, path: str) -> tuple[int, str]:
        """Status and body of a GET of the observability endpoint."""
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        return metric_in(self.http("/metrics")[1], name, **labels)

    # Real clients

    def authorize(self, user: str, *lines: str) -> None:
        """Write a user's authorized_keys file, which the gateway reads when it starts."""
        folder = self.folder / "keys/authorized_keys"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / user).write_text("".join(f"{line}\n" for line in lines))

    def ssh_options(self, *, key: Path | None = None, **more: str) -> list[str]:
        """OpenSSH client options: this host key, this worker key, no user configuration.

        `more` are further options, as ssh_config(5) names them.
        """
        options = {
            "UserKnownHostsFile": str(self.known_hosts),
            "StrictHostKeyChecking": "yes",
            "IdentityFile": str(key or self.key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            **more,
        }
        return ["-F", "none", *(f"-o{name}={value}" for name, value in options.items())]

    def ssh(
        self, *command: str, user: str = "gvpocr", options: list[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "ssh",
                *(options or self.ssh_options()),
                "-p",
                str(self.port),
                f"{user}@127.0.0.1",
                *command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def sftp(
        self, *commands: str, user: str = "gvpocr", options: list[str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `commands` in a batch of the `sftp` program."""
        return subprocess.run(
            [
                "sftp",
                *(options or self.ssh_options()),
                "-P",
                str(self.port),
                "-b",
                "-",
                f"{user}@127.0.0.1",
            ],
            input="\n".join(commands).encode("utf-8", "surrogateescape") + b"\n",
            capture_output=True,
            timeout=120,
        )

    def rclone_settings(self) -> dict[str, str]:
        """Environment that makes rclone's `:sftp:` this gateway, with the worker's key."""
        return {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_SFTP_HOST": "127.0.0.1",
            "RCLONE_SFTP_PORT": str(self.port),
            "RCLONE_SFTP_USER": "gvpocr",
            "RCLONE_SFTP_KEY_FILE": str(self.key),
            "RCLONE_SFTP_KNOWN_HOSTS_FILE": str(self.known_hosts),
            "RCLONE_RETRIES": "1",
        }

    @contextlib.contextmanager
    def mounted(
        self,
        at: Path,
        source: str = "/home/gvpocr",
        *options: str,
        user: str = "gvpocr",
        key: Path | None = None,
        sshfs: str | Path = "sshfs",
    ) -> Iterator[Path]:
        """Mount by the worker's key, in the foreground as a child of the test.

        `sshfs`: the program; tests.support.clients has those of other versions.
        """
        at.mkdir(parents=True, exist_ok=True)
        ssh = [
            part.removeprefix("-o") for part in self.ssh_options(key=key) if part.startswith("-o")
        ]
        mounting = subprocess.Popen(
            [
                sshfs, "-f", "-p", str(self.port), f"{user}@127.0.0.1:{source}", str(at),
                *(f"-o{option}" for option in (*ssh, *options)),
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

        with _mounted_by(mounting, at):
            yield at


@contextlib.contextmanager
def running(folder: Path, config: str = "", **options: str) -> Iterator[Gateway]:
    """A running gateway, for the tests of a module to share."""
    gateway = Gateway(folder, config, options)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@contextlib.contextmanager
def filesystem(
    module: str, *arguments: Path | str, mount: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A FUSE file system that `module` serves in its own process."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=REPOSITORY, env=environment()
    )

    with _mounted_by(process, mount):
        yield process


@contextlib.contextmanager
def _mounted_by(process: subprocess.Popen[bytes], at: Path) -> Iterator[None]:
    """Wait until the process has mounted its file system; unmount it on exit."""

    def ready() -> bool:
        assert process.poll() is None, f"{process.args!r} ended with status {process.returncode}"
        return os.path.ismount(at)

    try:
        wait_for(ready, f"{at} to be mounted")
        yield
    finally:
        unmount(at, process)


def unmount(at: Path, sshfs: subprocess.Popen[bytes]) -> None:
    """Unmount, lazily if a failed test left the mount busy."""
    if os.path.ismount(at) and subprocess.run(["fusermount3", "-u", str(at)]).returncode:
        subprocess.run(["fusermount3", "-uz", str(at)], check=False)
    try:
        sshfs.wait(TIMEOUT / 2)
    except subprocess.TimeoutExpired:
        sshfs.kill()
        sshfs.wait(TIMEOUT / 2)
    # ismount() is false for a mount whose process is gone.
    subprocess.run(["fusermount3", "-uzq", str(at)], stderr=subprocess.DEVNULL, check=False)


def fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Create files and their folders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
