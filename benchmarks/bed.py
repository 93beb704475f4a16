"""A gateway with options of its own, and stock clients with options of theirs, on loopback."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.base import Keys
from benchmarks.peers.gateway import Gateway
from benchmarks.server import PATIENCE, POLL, Server, running


class Bed:
    """A gateway that serves `data`; made in `folder`, started by `running`.

    `options` are the gateway's, as the settings name them; what is no text is written as JSON.
    """

    def __init__(self, *, folder: Path, data: Path, options: Mapping[str, object]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._batches = itertools.count()
        keys = Keys(make_key(folder / "host_key"), make_key(folder / "client_key"))
        self._gateway = Gateway(folder=folder / "gateway", data=data, keys=keys)
        self._gateway.options = {
            f"SFTP_GATEWAY_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in options.items()
        }
        self._gateway.prepare()
        known_hosts = folder / "known_hosts"
        host_key = Path(f"{keys.host}.pub").read_text().split()[:2]
        known_hosts.write_text(f"[127.0.0.1]:{self._gateway.port} {' '.join(host_key)}\n")
        self._login = {
            "UserKnownHostsFile": str(known_hosts),
            "StrictHostKeyChecking": "yes",
            "IdentityFile": str(keys.client),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
        }

    def running(self, **options: float) -> contextlib.AbstractContextManager[Server]:
        """Start the gateway, wait until it serves, and end it afterwards; see server.running."""
        return running(self._gateway, **options)

    @property
    def port(self) -> int:
        """Where the gateway listens, on 127.0.0.1."""
        return self._gateway.port

    @property
    def authorized_keys(self) -> Path:
        """The file of the user's keys."""
        return self._gateway.folder / "keys/authorized_keys" / self._gateway.user

    def metric(self, name: str) -> float:
        """A metric of the gateway, the sum over its labels."""
        url = str(self._gateway.ready_url()).replace("/readyz", "/metrics")
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - our own
            page = answer.read().decode()
        found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
        return sum(float(each) for each in found)

    def bytes_sent(self) -> int:
        """Bytes of files that the gateway has sent so far, by its own account."""
        return int(self.metric("sftp_gateway_bytes_sent_total"))

    def remote(self, name: str) -> bytes:
        """The path of a file of the data, as clients name it."""
        return f"{self._gateway.remote}/{name}".encode()

    def ssh_sftp(self, **ssh_options: str) -> subprocess.Popen[bytes]:
        """`ssh -s sftp`, its standard input and output being pipes."""
        return subprocess.Popen(
            ["ssh", *self._ssh_options("-p", ssh_options), "-s", self._address, "sftp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def sftp(self, *commands: str) -> subprocess.Popen[bytes]:
        """A batch of the `sftp` program; the caller waits for it."""
        batch = self.folder / f"batch{next(self._batches)}"
        batch.write_text("".join(f"{command}\n" for command in commands))
        with open(batch) as said:
            batch.unlink()
            return subprocess.Popen(
                ["sftp", *self._ssh_options("-P"), "-b", "-", self._address],
                stdin=said,
                stdout=subprocess.DEVNULL,
            )

    def _ssh_options(self, port: str, more: Mapping[str, str] | None = None) -> Sequence[str]:
        options = (f"-o{name}={value}" for name, value in {**self._login, **(more or {})}.items())
        return ["-F", "none", *options, port, str(self._gateway.port)]

    @property
    def _address(self) -> str:
        return f"{self._gateway.user}@127.0.0.1"

    @contextlib.contextmanager
    def mounted(self, *flags: str, name: str = "mnt", **ssh_options: str) -> Iterator[Mount]:
        """A mount of the data by sshfs; `flags` are options of sshfs and of FUSE."""
        log, at = self.folder / f"{name}.log", self.folder / name
        at.mkdir(exist_ok=True)
        log.unlink(missing_ok=True)
        options = [f"{key}={value}" for key, value in {**self._login, **ssh_options}.items()]
        # What ssh tells of the key exchanges is the client's own account of them.
        options += [f"ssh_command=ssh -v -E {log}", *flags]
        sshfs = subprocess.Popen(
            [
                "sshfs", "-f", "-p", str(self._gateway.port),
                f"{self._address}:{self._gateway.remote}", str(at),
                *(f"-o{option}" for option in options),
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        try:
            while not os.path.ismount(at):
                if sshfs.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"sshfs could not mount:\n{log.read_text()}")
                time.sleep(POLL)
            yield Mount(at=at, sshfs=sshfs, log=log)
        finally:
            _unmount(at, sshfs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mount at `at`; `log` is what its ssh says (`ssh -v`), of one connection after another."""

    at: Path
    sshfs: subprocess.Popen[bytes]
    log: Path


def make_key(path: Path) -> Path:
    """A new key without a passphrase, and `.pub` beside it; returns `path`."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "benchmark", "-f", str(path)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    return path


def _unmount(at: Path, sshfs: subprocess.Popen[bytes]) -> None:
    # Lazily where a reader hangs in it; ending sshfs then gives that reader its error.
    if (
        os.path.ismount(at)
        and subprocess.run(["fusermount3", "-u", str(at)], check=False).returncode
    ):
        subprocess.run(["fusermount3", "-uz", str(at)], check=False)
    try:
        sshfs.wait(10)
    except subprocess.TimeoutExpired:
        sshfs.kill()
        sshfs.wait()
