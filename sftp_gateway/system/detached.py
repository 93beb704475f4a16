"""Runs calls that may hang on a disk in a child process, which is abandoned if they do.

A thread cannot replace the child: a thread that waits for a frozen disk cannot be ended, not even
by SIGKILL, and a process ends only with its last thread. The kernel ends the abandoned child once
the disk answers, so the child keeps nothing open that others wait for.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from sftp_gateway.system.children import fork, redirect_to_null

Key = TypeVar("Key")
Value = TypeVar("Value")

#: Bytes of the longest answer.
_MAX_ANSWER: Final = 1 << 16


def run_detached(
    probe: Callable[[Key], Value], keys: Iterable[Key], *, timeout: float
) -> dict[Key, Value]:
    """Call `probe` for all keys at once; a key without an answer in `timeout` seconds is missing.

    Call it with one thread running, as `fork`. Answers have to be small and picklable. Raises
    OSError if no child can be forked.
    """
    answers = run_with_descriptors(lambda key: (probe(key), ()), list(keys), timeout=timeout)
    return {key: value for key, (value, _) in answers.items()}


def run_with_descriptors(
    probe: Callable[[Key], tuple[Value, Sequence[int]]], keys: Sequence[Key], *, timeout: float
) -> dict[Key, tuple[Value, Sequence[int]]]:
    """As `run_detached`, for a probe that also returns a descriptor; the caller closes it."""
    answers: dict[Key, tuple[Value, Sequence[int]]] = {}
    if not keys:
        return answers
    deadline = time.monotonic() + timeout
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            pid = fork(lambda: _answer(probe, keys, theirs), keep=[theirs.fileno()])
        while len(answers) < len(keys) and (left := deadline - time.monotonic()) > 0:
            ours.settimeout(left)
            try:
                data, descriptors, _, _ = socket.recv_fds(ours, _MAX_ANSWER, 1)
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


def _answer(
    probe: Callable[[Key], tuple[Value, Sequence[int]]], keys: Sequence[Key], out: socket.socket
) -> None:
    """In the child: call the probe on a thread for each key."""
    for standard in (1, 2):
        redirect_to_null(standard)

    def answer(number: int) -> None:
        value, descriptors = probe(keys[number])
        with suppress(OSError):  # the parent has stopped waiting
            socket.send_fds(out, [pickle.dumps((number, value))], descriptors)

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
