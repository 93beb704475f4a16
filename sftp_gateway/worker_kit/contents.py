"""The kit's files."""

from __future__ import annotations

import base64
import gzip
import io
import shlex
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Final

from sftp_gateway.worker_kit import mounting

SETUP: Final = "setup-sshfs-remote-worker.sh"
#: HostKeyAlias on workers (ssh_config(5)): independent of the gateway's name and address.
HOST_KEY_ALIAS: Final = "sftp-gateway"
#: The installed configuration on a worker.
_ETC: Final = "/etc/sshfs-main-server"

_TEMPLATES: Final = (
    "sshfs-main-server.service",
    "sshfs-main-server.openrc",
    "docker-compose.sshfs-override.yml",
    ".env.sshfs.example",
    "README.md",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a kit."""

    content: bytes = field(repr=False)
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    """The mount of `remote` at `mount`, and the server's host keys.

    All strings must be safe in shell scripts without quotes; `host_keys` are public keys, `TYPE
    BASE64`.
    """

    server: str
    port: int
    user: str
    remote: str
    mount: str
    host_keys: Sequence[str]
    key: bytes | None = field(default=None, repr=False)
    keys_add: str = "sftp-gateway keys add"
    """The command that authorizes a key, run in the gateway's folder; the user's name follows."""

    def files(self) -> Mapping[str, File]:
        """The files of the kit, by name."""
        kit = {
            SETUP: File(content=_template(SETUP), mode=0o755),
            "sshfs-main-server": File(content=_template("sshfs-main-server"), mode=0o755),
            "sshfs-doctor": File(content=_template("sshfs-doctor"), mode=0o755),
            "config": File(content=self._config().encode()),
            "known_hosts": File(content=self._known_hosts().encode()),
            "fstab.sshfs": File(content=self._fstab().encode()),
        }
        for name in _TEMPLATES:
            kit[name] = File(content=self._filled(_template(name)))
        if self.key is not None:
            kit["worker_key"] = File(content=self.key, mode=0o600)
        return kit

    def script(self, arguments: Sequence[str] = ()) -> bytes:
        """One shell script that unpacks the kit and runs its set-up with `arguments`."""
        archive = io.BytesIO()
        # Without times and owners, so that the same kit always gives the same script.
        with (
            gzip.GzipFile(fileobj=archive, mode="wb", mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w") as tar,
        ):
            for name, file in self.files().items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(file.content), file.mode
                tar.addfile(member, io.BytesIO(file.content))
        packed = base64.encodebytes(archive.getvalue()).strip()
        words = " ".join(map(shlex.quote, arguments)).encode()
        unpack = _template("unpack.sh").replace(b"@ARGUMENTS@", words)
        return unpack.replace(b"@ARCHIVE@", packed)

    def _config(self) -> str:
        values = {
            "SERVER": self.server,
            "PORT": str(self.port),
            "LOGIN": self.user,
            "REMOTE": self.remote,
            "MOUNT": self.mount,
            "KEYS_ADD": self.keys_add,
            **mounting.TUNING,
        }
        return "".join(f"{name}='{value}'\n" for name, value in values.items())

    def _known_hosts(self) -> str:
        return "".join(f"{HOST_KEY_ALIAS} {key}\n" for key in self.host_keys)

    def _fstab(self) -> str:
        host = f"[{self.server}]" if ":" in self.server else self.server
        tuning = mounting.TUNING
        options = [
            "_netdev",
            *mounting.OPTIONS,
            mounting.CACHE,
            f"max_conns={mounting.MAX_CONNS}",
            f"port={self.port}",
            f"IdentityFile={_ETC}/key",
            f"UserKnownHostsFile={_ETC}/known_hosts",
            f"HostKeyAlias={HOST_KEY_ALIAS}",
            "StrictHostKeyChecking=yes",
            f"ServerAliveInterval={tuning['KEEPALIVE_INTERVAL']}",
            f"ServerAliveCountMax={tuning['KEEPALIVE_COUNT']}",
        ]
        return (
            "# For machines without a service manager. It does not raise the read-ahead, and\n"
            "# cannot log in with a password. sshfs before 3.7.0 does not support max_conns.\n"
            f"{self.user}@{host}:{self.remote} {self.mount} fuse.sshfs {','.join(options)} 0 0\n"
        )

    def _filled(self, text: bytes) -> bytes:
        mount = PurePosixPath(self.mount)
        for name, value in {
            "SERVER": self.server,
            "PORT": str(self.port),
            "LOGIN": self.user,
            "MOUNT": self.mount,
            "PARENT": str(mount.parent),
            "NAME": mount.name,
        }.items():
            text = text.replace(f"@{name}@".encode(), value.encode())
        return text


def _template(name: str) -> bytes:
    return (files("sftp_gateway.worker_kit") / "files" / name).read_bytes()
