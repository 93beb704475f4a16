"""This project's server."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.base import REPOSITORY, Peer, free_port


class Gateway(Peer):
    """This project's server, as its first start sets it up, with one share."""

    name = "sftp-gateway"
    setup = "defaults; one share; access log (level files) to a file"
    main = True
    remote = "/home/bench/data"
    #: Where its code is.
    checkout: Path = REPOSITORY
    #: More for its environment: options that `prepare` does not write.
    options: Mapping[str, str] = {}

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
defaults = false
[users.{self.user}]
[shares.data]
path = "{self.data}"
"""
        )

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "sftp_gateway", "serve"]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": str(self.checkout), **self.options}

    def ready_url(self) -> str | None:
        return f"http://127.0.0.1:{self._metrics_port}/readyz"


def gateway_before(where: Path) -> type[Gateway]:
    """The same of another checkout, with the same Python and packages."""

    class Before(Gateway):
        name = "before"
        setup = "the gateway of another checkout; as set up as the gateway"
        checkout = where

    return Before
