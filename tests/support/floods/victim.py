"""The victim of a flood: another user, with the real `ssh`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.gateway import Gateway
from tests.support.sftp_wire import (
    AttrsReply,
    DataReply,
    HandleReply,
    RawClient,
    Reply,
    encode_init,
    encode_open,
    encode_read,
    encode_stat,
)


class VictimError(Exception):
    """The victim was not served."""


class Victim:
    """An SFTP session through the real `ssh` that alternates STAT and small READs."""

    def __init__(self, gateway: Gateway, private: Path) -> None:
        self._ssh = subprocess.Popen(
            ["ssh", *gateway.ssh_options(key=private), "-p", str(gateway.port), "-s",
             "victim@127.0.0.1", "sftp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )  # fmt: skip
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        self._requests, self._answers = self._ssh.stdin.fileno(), self._ssh.stdout.fileno()
        self._wire = RawClient()
        self._turn = 0
        self._send(encode_init())
        path = b"/home/victim/share/small"
        opened = self._send(encode_open(0, path))
        assert isinstance(opened, HandleReply)
        self._asks: list[tuple[type[Reply], Callable[..., bytes], tuple[Any, ...]]] = [
            (AttrsReply, encode_stat, (path,)),
            (DataReply, encode_read, (opened.handle, 0, 512)),
        ]

    @property
    def pid(self) -> int:
        """The process of `ssh`."""
        return self._ssh.pid

    def ask(self) -> None:
        """Send one request and read its reply."""
        expected, encode, arguments = self._asks[self._turn % len(self._asks)]
        self._turn += 1
        answer = self._send(encode(self._turn % 2**32, *arguments))
        if not isinstance(answer, expected):
            raise VictimError(f"it was answered {answer}")

    def _send(self, packet: bytes) -> Reply:
        try:
            os.write(self._requests, packet)
        except BrokenPipeError as error:
            raise VictimError("its session was ended") from error
        while True:
            if not (data := os.read(self._answers, 65536)):
                raise VictimError("its session was ended")
            if replies := self._wire.receive(data):
                return replies[0]

    def close(self) -> None:
        self._ssh.kill()
        self._ssh.communicate()
