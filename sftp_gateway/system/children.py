"""Forks child processes that continue from this one's state and end with it."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Final, NoReturn

from sftp_gateway.errors import ConfigurationError

_log = logging.getLogger(__name__)

#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG: Final = 1

#: Only the supervisor handles these; a terminal and some service managers send them to all.
_SUPERVISOR_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def fork(work: Callable[[], None], *, keep: Collection[int]) -> int:
    """Run `work` in a child; return its pid. The child is killed when this process ends.

    Of the parent's descriptors, the child has 0 to 2 and those in `keep`; all others are closed,
    so an object of the parent that owns one must not be used or freed there. The exit status is 0,
    or 1 if `work` raises. Raises OSError if no process can be forked. Call it with one thread
    running.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    # Until the child has closed it, both would be woken by one descriptor (set_wakeup_fd).
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(parent, work, keep)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _run_child(parent: int, work: Callable[[], None], keep: Collection[int]) -> NoReturn:
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it ended before prctl() took effect
        signal.set_wakeup_fd(-1)
        for number in _SUPERVISOR_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _close_all_but(keep)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        redirect_to_null(0)  # it may be a terminal
        work()
        status = 0
    except ConfigurationError as error:
        _log.error("%s", error)
    except BaseException:
        traceback.print_exc()
    finally:
        # Skips the parent's clean-up, and does not wait for threads that hang on a disk.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _close_all_but(keep: Collection[int]) -> None:
    previous = 2
    for descriptor in sorted(each for each in keep if each > previous):
        os.closerange(previous + 1, descriptor)
        previous = descriptor
    os.closerange(previous + 1, os.sysconf("SC_OPEN_MAX"))


def redirect_to_null(descriptor: int) -> None:
    """Replace a standard descriptor by /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)


def reap_children() -> list[tuple[int, int]]:
    """(pid, exit code) of the children that have ended since the last call; -N for signal N.

    They include orphans that the first process of a container adopts.
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
