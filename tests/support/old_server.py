"""The server that the gateway replaces: OpenSSH's sshd as in its container."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.gateway import TIMEOUT, Gateway, free_port, running, wait_for
from tests.support.keys import make_key, public_line

_USER = "gvpocr:x:54100:54100::/home/gvpocr:/bin/sh"

# What a container has of its own is given by namespaces: user, home, processes. The machine's own
# files stay as they are.
_START = """
set -e
mount --make-rprivate /
(cat /etc/passwd; echo '{user}') > '{folder}/passwd'
(cat /etc/group; echo 'gvpocr:x:54100:') > '{folder}/group'
(cat /etc/shadow; echo 'gvpocr:*:19000:0:99999:7:::') > '{folder}/shadow'
for name in passwd group shadow; do mount --bind '{folder}'/$name /etc/$name; done
mount -t tmpfs none /home
mkdir -p /home/gvpocr/.ssh /home/gvpocr/.cache/huggingface/hub /run/sshd
cat '{folder}/authorized_keys' > /home/gvpocr/.ssh/authorized_keys
for share in Bhushanji newsletters models; do
    mkdir /home/gvpocr/$share
    mount --bind '{shares}'/$share /home/gvpocr/$share
done
mount --bind '{shares}/huggingface/hub' /home/gvpocr/.cache/huggingface/hub
chown -R 54100:54100 /home/gvpocr/.ssh
chmod 700 /home/gvpocr/.ssh
exec /usr/sbin/sshd -D -e -f '{folder}/etc/ssh/sshd_config'
"""

_CONFIG = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/etc/ssh/ssh_host_ed25519_key
HostKey {folder}/etc/ssh/ssh_host_rsa_key
HostKey {folder}/etc/ssh/ssh_host_ecdsa_key
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""


class OldServer:
    """An sshd with user gvpocr, whose home has the four shares, and who has a shell.

    `folder` has etc/ssh with the host keys, and `authorized_keys` with the user's.
    """

    def __init__(self, folder: Path, shares: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._shares = shares
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "etc/ssh").mkdir(parents=True)
        # "ssh-keygen -A: generate host keys of all default key types if they do not exist"
        subprocess.run(["ssh-keygen", "-A", "-f", folder], check=True, capture_output=True)
        config = _CONFIG.format(port=port, folder=folder)
        (folder / "etc/ssh/sshd_config").write_text(config)

    def start(self) -> OldServer:
        """Start it with the namespaces of a container."""
        script = _START.format(user=_USER, folder=self.folder, shares=self._shares)
        with open(self.folder / "sshd.log", "ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._listens, f"sshd to listen: {self.log}")
        return self

    @property
    def log(self) -> str:
        return (self.folder / "sshd.log").read_text()

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        ran = subprocess.run(
            ["ssh-keyscan", "-p", str(self.port), "127.0.0.1"], capture_output=True, text=True
        )
        return "ssh-ed25519" in ran.stdout

    def stop(self) -> None:
        """End it with all its connections, as `docker stop` does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(TIMEOUT)
            self._process = None


class ClientsOfOldServer(Gateway):
    """The clients that a test has for a gateway, for the old server instead."""

    def __init__(self, server: OldServer, key: Path) -> None:
        self.port = server.port
        self._server, self._key = server, key

    @property
    def key(self) -> Path:
        return self._key

    @property
    def known_hosts(self) -> Path:
        path = self._server.folder / "known_hosts"
        if not path.exists():
            public = (self._server.folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
            path.write_text(f"[127.0.0.1]:{self.port} {public}")
        return path


class Both(NamedTuple):
    """A gateway and an sshd that serve the same folders to the same user."""

    gateway: Gateway
    openssh: Gateway


#: The shares, and where their folders are below that of all.
SHARES = {
    "Bhushanji": "Bhushanji",
    "newsletters": "newsletters",
    "models": "models",
    ".cache/huggingface/hub": "huggingface/hub",
}


@contextlib.contextmanager
def beside_openssh(top: Path, *, links: str = "auto") -> Iterator[Both]:
    """Serve the shares' folders below `top/data`, which are made if they are missing, twice."""
    shares = top / "data"
    for folder in (top / "old", top / "new", *(shares / path for path in SHARES.values())):
        folder.mkdir(parents=True, exist_ok=True)
    key = make_key(top / "key", "ed25519")
    (top / "old/authorized_keys").write_text(public_line(key) + "\n")
    old = OldServer(top / "old", shares, free_port())
    config = "".join(
        f'[shares."{name}"]\npath = "{shares / path}"\nlinks = "{links}"\n'
        for name, path in SHARES.items()
    )
    try:
        old.start()
        with running(top / "new", config) as gateway:
            yield Both(gateway, ClientsOfOldServer(old, key))
    finally:
        old.stop()
