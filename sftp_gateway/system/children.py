"""Makes child processes that begin where this one stands, and end with it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from sftp_gateway.errors import ConfigurationError

_log = logging.getLogger(__name__)

#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG: Final = 1

#: Only the supervisor obeys these. A terminal and some service managers send them to all.
_PARENTS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child; return its pid. The child is killed when this process ends.

    The child's exit status is 0, or 1 where `work` raises. Raises OSError where there can be no
    more processes. To be called in a process of one thread.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal in between would be taken for the parent's: the two share what wakes the loop.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(parent, work)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _be_child(parent: int, work: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it ended before that was said
        signal.set_wakeup_fd(-1)
        for number in _PARENTS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        redirect_to_null(0)  # it may be a terminal
        work()
        status = 0
    except ConfigurationError as error:
        _log.error("%s", error)
    except BaseException:
        traceback.print_exc()
    finally:
        # Without the parent's clean-ups, and without waiting for threads that hang in a disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def redirect_to_null(descriptor: int) -> None:
    """Let go of what a standard descriptor leads to."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def ended_children() -> list[tuple[int, int]]:
    """(pid, exit code) of the children that have ended since; a signal's code is negative.

    Also of strangers whose parents have ended, which come to the first process of a container.
    """
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status)))
