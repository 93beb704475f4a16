"""OpenSSH's sshd: what the others are compared with."""

from __future__ import annotations

import getpass
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.peers.base import Peer, required


class OpenSsh(Peer):
    """sshd with its internal-sftp, as whoever runs the benchmark."""

    name = "openssh"
    setup = "sshd with internal-sftp; default ciphers; MaxStartups raised to 1000"
    main = True
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
        return [required("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]


class OpenSshGcm(OpenSsh):
    """The same with the gateway's first cipher, which shows how much of a difference that makes."""

    name = "openssh-gcm"
    setup = "as openssh, but offering aes128-gcm@openssh.com only"
    options: ClassVar[Mapping[str, str]] = {"Ciphers": "aes128-gcm@openssh.com"}
