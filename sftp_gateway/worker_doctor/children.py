"""Looking at things and running programs without being kept by them.

A mount that hangs keeps whoever touches it, for ever and against SIGKILL. So a child touches it,
for a limited time, and is left behind if need be.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import time
from typing import Any, Callable

#: Seconds for whatever should take a fraction of one.
PATIENCE = 10.0
#: Seconds that a touch of the mount may take: longer than a spun down disk, shorter than people.
TOUCH = 8.0


def in_child(look: Callable[[], Any], seconds: float) -> Any:
    """What `look` gives, in a child that is left behind after so many seconds.

    Raises TimeoutError then, and OSError as `look` does.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(look, theirs)
    os.close(theirs)
    try:
        answer = b""
        deadline = time.monotonic() + seconds
        while True:
            ready = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                os.kill(child, signal.SIGKILL)  # which the kernel may keep until the mount is back
                raise TimeoutError
            part = os.read(ours, 1 << 16)
            if not part:
                break
            answer += part
        os.waitpid(child, 0)
    finally:
        os.close(ours)
    failure, told = json.loads(answer) if answer else [errno.EIO, None]
    if failure is not None:
        raise OSError(failure, os.strerror(failure))
    return told


def _be_child(look: Callable[[], Any], answer: int) -> None:
    # Nobody may wait for the end of an output that a child who is left behind still holds.
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, answer)
    os.closerange(answer + 1, 1024)
    try:
        told = json.dumps([None, look()])
    except OSError as error:
        told = json.dumps([error.errno or errno.EIO, None])
    except BaseException:
        told = ""
    with contextlib.suppress(OSError):
        os.write(answer, told.encode())
    os._exit(0)


def run(
    *command: str, seconds: float = PATIENCE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program that asks nobody anything. One that takes too long has status 124."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C", **environment},
            start_new_session=True,  # no terminal to ask for a password on
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", "it took too long")
    except OSError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def last_line(text: str) -> str:
    """The last that a program said, which is usually why it ended."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "?"
