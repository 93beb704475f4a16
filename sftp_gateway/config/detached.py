"""Asks what may hang in a child process, which is left behind if it does.

A thread would not do: what waits for a disk that is frozen cannot be ended, not even by a signal
that kills, and a process ends only with the last of its threads. A child of its own can be left to
the kernel, which ends it once the disk answers; so it has nothing open that others wait for.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from sftp_gateway.system.children import fork
from sftp_gateway.vfs.path_resolution import open_no_symlinks

Key = TypeVar("Key")
Value = TypeVar("Value")

#: An answer, and descriptors that come with it.
_Answer = tuple[Any, Sequence[int]]

#: Bytes of the longest answer.
_LONGEST: Final = 1 << 16


def ask(
    question: Callable[[Key], Value], keys: Iterable[Key], *, seconds: float
) -> dict[Key, Value]:
    """Ask for all keys at the same time; a key that has no answer after `seconds` is missing.

    To be called in a process of one thread, as `fork` is. Answers must be small, and what can be
    pickled. Raises OSError if there can be no child.
    """
    found = _answers(lambda key: (question(key), ()), list(keys), seconds)
    return {key: value for key, (value, _) in found.items()}


def open_folders(paths: Mapping[str, Path], *, seconds: float) -> dict[str, int]:
    """O_PATH descriptors of the folders whose disks answer, opened by `open_no_symlinks`.

    To be called as `ask` is.
    """

    def opened(name: str) -> _Answer:
        try:
            folder = open_no_symlinks(paths[name])
            os.fstatvfs(folder)  # which no cache answers
        except OSError:
            return None, ()
        return None, (folder,)

    answers = _answers(opened, list(paths), seconds)
    return {name: received[0] for name, (_, received) in answers.items() if received}


def _answers(
    question: Callable[[Key], _Answer], keys: list[Key], seconds: float
) -> dict[Key, _Answer]:
    answers: dict[Key, _Answer] = {}
    if not keys:
        return answers
    deadline = time.monotonic() + seconds
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = fork(lambda: _answer(question, keys, theirs))
        while len(answers) < len(keys) and (left := deadline - time.monotonic()) > 0:
            ours.settimeout(left)
            try:
                data, descriptors, _, _ = socket.recv_fds(ours, _LONGEST, 1)
            except TimeoutError:
                break
            if not data:
                break
            number, value = pickle.loads(data)  # noqa: S301 - our own child
            answers[keys[number]] = value, descriptors
    os.kill(pid, signal.SIGKILL)
    if len(answers) == len(keys):
        os.waitpid(pid, 0)
    return answers


def _answer(question: Callable[[Key], _Answer], keys: list[Key], out: socket.socket) -> None:
    """Answer in the child: a thread for each key."""
    _close_all_but(out.fileno())

    def answer(number: int) -> None:
        value, descriptors = question(keys[number])
        with suppress(OSError):  # nobody waits any more
            socket.send_fds(out, [pickle.dumps((number, value))], descriptors)

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _close_all_but(kept: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
