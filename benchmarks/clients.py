"""The stock clients: ssh, sftp and sshfs, pointed at one server and nothing of the user's."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import processes
from benchmarks.peers import Peer
from benchmarks.server import PATIENCE, POLL
from benchmarks.streams import Session

_CIPHER = re.compile(r"kex: server->client cipher: (\S+)")


class Clients:
    """Clients of `peer`, with all their options left at their defaults but those of the login."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        """`folder` is made, for mount points and for known_hosts."""
        self._peer = peer
        self._folder = folder
        self._numbers = itertools.count()
        folder.mkdir(parents=True)
        known_hosts = folder / "known_hosts"
        key = Path(f"{peer.keys.host}.pub").read_text().split()[:2]
        # Any port: a delaying proxy has one of its own.
        known_hosts.write_text(f"[127.0.0.1]:* {' '.join(key)}\n")
        self._options = {
            "UserKnownHostsFile": str(known_hosts),
            "StrictHostKeyChecking": "yes",
            "IdentityFile": str(peer.keys.client),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
        }

    @property
    def _ssh_options(self) -> Sequence[str]:
        return ["-F", "none", *(f"-o{name}={value}" for name, value in self._options.items())]

    @property
    def _address(self) -> str:
        return f"{self._peer.user}@127.0.0.1"

    def ssh_sftp(self, *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        """`ssh -s sftp`: a login and an SFTP session without an SFTP client."""
        port = str(self._peer.port)
        return subprocess.Popen(
            ["ssh", *self._ssh_options, "-p", port, "-s", self._address, "sftp"],
            bufsize=0,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )

    @contextlib.contextmanager
    def sessions(self, number: int) -> Iterator[Sequence[Session]]:
        """`number` SFTP sessions that got their VERSION and in which nothing else happened."""
        started: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(number):
                started.append(self.ssh_sftp(stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            yield [Session(process) for process in started]
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.communicate()

    def sftp(self, *commands: str) -> None:
        """Run `commands` in a batch of the `sftp` program; raises CalledProcessError."""
        words = ["sftp", *self._ssh_options, "-P", str(self._peer.port), "-b", "-", self._address]
        with (
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as sftp,
            processes.ended_after(PATIENCE, sftp),
        ):
            sftp.communicate("\n".join((*commands, "")).encode())
        if sftp.returncode:
            raise subprocess.CalledProcessError(sftp.returncode, words)

    @contextlib.contextmanager
    def mounted(self, *options: str, port: int | None = None) -> Iterator[Path]:
        """A fresh mount of the data by sshfs; its options are the defaults, and `options`."""
        at = self._folder / f"mnt{next(self._numbers)}"
        at.mkdir()
        ssh_options = (f"{name}={value}" for name, value in self._options.items())
        command = [
            "sshfs", "-f", "-p", str(port or self._peer.port),
            f"{self._address}:{self._peer.remote}", str(at),
            *(f"-o{option}" for option in (*ssh_options, *options)),
        ]  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        log = at.with_suffix(".log")
        with open(log, "wb") as said:
            sshfs = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=said)
        try:
            while not os.path.ismount(at):
                if sshfs.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"sshfs could not mount: {log.read_text(errors='replace')}")
                time.sleep(POLL)
            yield at
        finally:
            _unmount(at, sshfs)
            at.rmdir()

    def cipher(self) -> str:
        """The cipher that server and stock client agree on for what the server sends."""
        port = str(self._peer.port)
        said = subprocess.run(
            ["ssh", "-v", *self._ssh_options, "-p", port, "-s", self._address, "sftp"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        ).stderr.decode(errors="replace")
        found = _CIPHER.search(said)
        if found is None:
            raise RuntimeError(f"cannot log in to {self._peer.name}:\n{said}")
        return found[1]


def _unmount(at: Path, sshfs: subprocess.Popen[bytes]) -> None:
    if os.path.ismount(at):
        done = subprocess.run(["fusermount3", "-u", str(at)], check=False)
        if done.returncode:  # busy, after a workload that failed
            subprocess.run(["fusermount3", "-uz", str(at)], check=True)
    try:
        sshfs.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        sshfs.kill()
        sshfs.wait()
