"""The servers that are compared. A peer is one class: what to write to its folder, what to run."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Keys:
    """Private keys, with `.pub` files beside them; the same for all peers."""

    host: Path
    client: Path


class Peer(ABC):
    """A server on loopback that serves `data`. Each has `folder` for itself."""

    #: In the results; and what `--peers` calls it.
    name: ClassVar[str]
    #: One line for the results: what is special about how it is set up.
    setup: ClassVar[str]
    user: str
    #: `data` as clients name it.
    remote: str

    def __init__(self, *, folder: Path, data: Path, keys: Keys) -> None:
        self.folder = folder
        self.data = data
        self.keys = keys
        self.port = free_port()
        folder.mkdir()

    @abstractmethod
    def prepare(self) -> None:
        """Write configuration and keys; once, before the first start."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What serves in the foreground until SIGTERM. Run in `folder`."""

    def environment(self) -> Mapping[str, str]:
        """What `command` needs in its environment, besides this process's."""
        return {}

    def ready_url(self) -> str | None:
        """What answers 200 over HTTP once the server is ready, if it has that."""
        return None


class Gateway(Peer):
    """This project's server, as its first start sets it up, with one share."""

    name = "sftp-gateway"
    setup = "defaults; one share; access log (level files) to a file"
    user = "bench"
    remote = "/home/bench/data"

    def prepare(self) -> None:
        self._metrics_port = free_port()
        keys = self.folder / "keys"
        (keys / "authorized_keys").mkdir(parents=True)
        for suffix in ("", ".pub"):
            source = self.keys.host.with_name(self.keys.host.name + suffix)
            shutil.copy(source, keys / f"ssh_host_ed25519_key{suffix}")
        shutil.copy(f"{self.keys.client}.pub", keys / "authorized_keys" / self.user)
        (self.folder / "config").mkdir()
        (self.folder / "config/sftp-gateway.toml").write_text(
            f"""\
host = "127.0.0.1"
port = {self.port}
metrics_port = {self._metrics_port}
[users.{self.user}]
[shares.data]
path = "{self.data}"
"""
        )

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "sftp_gateway", "serve"]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(REPOSITORY)}

    def ready_url(self) -> str | None:
        return f"http://127.0.0.1:{self._metrics_port}/readyz"


class OpenSsh(Peer):
    """sshd with its internal-sftp, as whoever runs the benchmark."""

    name = "openssh"
    setup = "sshd with internal-sftp; default ciphers; MaxStartups raised to 1000"
    options: ClassVar[Mapping[str, str]] = {}

    def prepare(self) -> None:
        self.user = getpass.getuser()
        self.remote = str(self.data)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists on it
        authorized = self.folder / "authorized_keys"
        shutil.copy(f"{self.keys.client}.pub", authorized)
        options = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.keys.host),
            "PidFile": "none",
            "AuthorizedKeysFile": str(authorized),
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "PermitUserRC": "no",
            "MaxStartups": "1000",
            "Subsystem": "sftp internal-sftp",
            **self.options,
        }
        lines = (f"{name} {value}\n" for name, value in options.items())
        (self.folder / "sshd_config").write_text("".join(lines))

    def command(self) -> Sequence[str]:
        # sshd starts itself again for each connection, so it wants to know its whole path.
        return [sshd(), "-D", "-e", "-f", str(self.folder / "sshd_config")]


class OpenSshGcm(OpenSsh):
    """The same with the gateway's first cipher, which shows how much of a difference that makes."""

    name = "openssh-gcm"
    setup = "as openssh, but offering aes128-gcm@openssh.com only"
    options: ClassVar[Mapping[str, str]] = {"Ciphers": "aes128-gcm@openssh.com"}


#: All peers; those of DEFAULT_PEERS take part unless others are asked for. Ratios are to the last.
PEERS: tuple[type[Peer], ...] = (Gateway, OpenSshGcm, OpenSsh)
DEFAULT_PEERS = (Gateway.name, OpenSsh.name)


def sshd() -> str:
    """The path of sshd, which is not on every user's PATH; raises FileNotFoundError."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError("sshd is missing: install openssh-server")
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
