"""What a server that takes part has to tell: what to write to its folder, and what to run."""

from __future__ import annotations

import os
import posixpath
import shutil
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

REPOSITORY = Path(__file__).resolve().parents[2]


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
    #: Whether it takes part in every workload and round; the others only stand beside.
    main: ClassVar[bool] = False
    user: str = "bench"
    #: `data` as clients name it.
    remote: str

    def __init__(self, *, folder: Path, data: Path, keys: Keys) -> None:
        self.folder = folder
        self.data = data
        self.keys = keys
        self.port = free_port()
        folder.mkdir()

    @classmethod
    def missing(cls) -> str | None:
        """Why it cannot take part on this machine; None if it can."""
        return None

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

    def remote_path(self, name: str) -> str:
        """A file of the data as clients name it."""
        return posixpath.join(self.remote, name)


def program(name: str) -> str | None:
    """The path of a program, also of one that is not on every user's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def required(name: str) -> str:
    """The same; raises FileNotFoundError."""
    if (found := program(name)) is None:
        raise FileNotFoundError(f"{name} is missing; scripts/bench installs it")
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
