"""Other SFTP servers that one may choose: they stand beside, for some of the workloads."""

from __future__ import annotations

import getpass
import grp
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import asyncssh_server
from benchmarks.peers.base import Peer, program, required

_PROFTPD_MODULES = Path("/usr/lib/proftpd")
_PROFTPD_CONFIG = """\
ModulePath {modules}
LoadModule mod_sftp.c
ServerType standalone
ServerName benchmark
DefaultAddress 127.0.0.1
SocketBindTight on
UseIPv6 off
UseReverseDNS off
Port {port}
User {user}
Group {group}
PidFile {folder}/pid
ScoreboardFile {folder}/scoreboard
DelayTable {folder}/delay
ControlsEngine off
SystemLog {folder}/system.log
TransferLog none
WtmpLog off
AuthOrder mod_auth_file.c
AuthUserFile {folder}/passwd
AuthGroupFile {folder}/group
RootLogin on
SFTPEngine on
SFTPLog {folder}/sftp.log
SFTPHostKey {host_key}
SFTPAuthMethods publickey
SFTPAuthorizedUserKeys file:{folder}/authorized_keys
<Limit WRITE>
  DenyAll
</Limit>
"""


class Asyncssh(Peer):
    """The library that the gateway's transport comes from, with its own SFTP server on uvloop."""

    name = "asyncssh"
    setup = "asyncssh's SFTPServer with a chroot, on uvloop; default ciphers"
    remote = "/"

    def prepare(self) -> None:
        pass

    def command(self) -> Sequence[str]:
        return [
            sys.executable, asyncssh_server.__file__, str(self.port), str(self.keys.host),
            f"{self.keys.client}.pub", str(self.data),
        ]  # fmt: skip


class Rclone(Peer):
    """rclone, which is written in Go."""

    name = "rclone"
    setup = "rclone serve sftp --read-only"
    remote = "/"

    @classmethod
    def missing(cls) -> str | None:
        return None if program("rclone") else "rclone is not installed"

    def prepare(self) -> None:
        (self.folder / "rclone.conf").touch()  # nothing of the user's own

    def command(self) -> Sequence[str]:
        return [
            required("rclone"), "serve", "sftp", str(self.data), "--read-only",
            "--config", str(self.folder / "rclone.conf"), "--addr", f"127.0.0.1:{self.port}",
            "--key", str(self.keys.host), "--authorized-keys", f"{self.keys.client}.pub",
        ]  # fmt: skip


class ProFtpd(Peer):
    """ProFTPD's mod_sftp: C, one process for a connection, as sshd has."""

    name = "proftpd"
    setup = "ProFTPD mod_sftp; writing denied; default ciphers; its log to a file"

    @classmethod
    def missing(cls) -> str | None:
        if os.geteuid() != 0:
            return "proftpd is not run by others than root"
        if not (program("proftpd") and (_PROFTPD_MODULES / "mod_sftp.so").exists()):
            return "proftpd with mod_sftp is not installed"
        return None

    def prepare(self) -> None:
        self.remote = str(self.data)
        user, group = getpass.getuser(), grp.getgrgid(os.getegid()).gr_name
        authorized = subprocess.run(
            ["ssh-keygen", "-e", "-m", "RFC4716", "-f", f"{self.keys.client}.pub"],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        (self.folder / "authorized_keys").write_bytes(authorized)
        account = f"{self.user}:*:{os.getuid()}:{os.getgid()}::{self.folder}:/bin/sh\n"
        (self.folder / "passwd").write_text(account)
        (self.folder / "group").write_text(f"{group}:x:{os.getgid()}:\n")
        for name in ("passwd", "group"):
            (self.folder / name).chmod(0o600)  # proftpd insists on it
        config = _PROFTPD_CONFIG.format(
            modules=_PROFTPD_MODULES,
            folder=self.folder,
            port=self.port,
            user=user,
            group=group,
            host_key=self.keys.host,
        )
        (self.folder / "proftpd.conf").write_text(config)

    def command(self) -> Sequence[str]:
        config = str(self.folder / "proftpd.conf")
        return [required("proftpd"), "--nodaemon", "--quiet", "--config", config]
