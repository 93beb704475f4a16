"""Probes every share regularly: whether it can be read, and how full its file system is.

A probe opens the share's folder. That may work although its files cannot be read, so a share also
has a problem while requests of clients hang or fail:

| problem                       | ends when                                                        |
|-------------------------------|------------------------------------------------------------------|
| reads or requests hang        | the disk has answered all those older than 10 seconds            |
| the last read failed          | a read from the disk succeeds, or none has failed for a minute   |
| the last other request failed | one or a probe succeeds, or none has failed for a minute         |
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sftp_gateway.server.io_pools import IoPools, Job, Pool
from sftp_gateway.vfs.share import Share
from sftp_gateway.vfs.tree import Tree

#: Seconds between two probes, and seconds after which a probe has failed.
PROBE_INTERVAL: Final = 5.0
PROBE_TIMEOUT: Final = 4.0

#: The problem of a share whose probe hangs.
NO_ANSWER: Final = "its disk does not answer"

#: Seconds for which a failure is a problem if nothing else is requested.
_FAILURE_MEMORY: Final = 60.0

#: Errors of the request or of this process, not of the disk.
_NOT_THE_DISKS: Final = frozenset(
    {
        errno.EACCES,
        errno.EAGAIN,
        errno.EBADF,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMFILE,
        errno.ENAMETOOLONG,
        errno.ENFILE,
        errno.ENOENT,
        errno.ENOMEM,
        errno.ENOTDIR,
        errno.EOVERFLOW,
        errno.EPERM,
        errno.EXDEV,
    }
)

#: What a problem calls the work of each pool.
_WORK: Final = {Pool.READ: "reads", Pool.METADATA: "requests"}

#: Bytes of a block in the sums over several file systems.
_BLOCK: Final = 4096


class DiskErrors:
    """The requests of clients that disks have failed. Used on the event loop."""

    def __init__(
        self,
        *,
        count: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count` gets each error: the share, the pool, and the error's name."""
        self._count = count
        self._clock = clock
        #: The text and time of the last error, until a success.
        self._last: dict[tuple[str, Pool], tuple[str, float]] = {}

    def record(self, share: str, pool: Pool, error: Exception | None) -> None:
        """Record the outcome of a request."""
        if error is None:
            if self._last:
                self._last.pop((share, pool), None)
        elif (
            isinstance(error, OSError)
            and pool is not Pool.PROBE
            and error.errno not in _NOT_THE_DISKS
            and error.errno is not None
        ):
            self._count(share, pool, errno.errorcode.get(error.errno, "other"))
            self._last[share, pool] = os.strerror(error.errno), self._clock()

    def probe_succeeded(self, share: str) -> None:
        """Forget the last failure of a request other than a read."""
        self._last.pop((share, Pool.METADATA), None)

    def problem(self, share: str) -> str:
        """The share's problem; "" for none."""
        for pool, work in _WORK.items():
            text, since = self._last.get((share, pool), ("", 0.0))
            if text and self._clock() - since < _FAILURE_MEMORY:
                return f"{work} fail: {text}"
        return ""


class ShareMonitor:
    """The state of the shares as the last probes found it."""

    def __init__(
        self,
        *,
        shares: Sequence[Share],
        pools: IoPools,
        errors: DiskErrors,
        probed: Callable[[str, bool], None],
        unreadable: Callable[[Path], str],
    ) -> None:
        """`probed` gets each share's name and whether it can be read, after every probe.

        `unreadable` explains why a folder cannot be read; it may wait for the disk.
        """
        self._shares = tuple(shares)
        self._pools = pools
        self._errors = errors
        self._probed = probed
        self._unreadable = unreadable
        self._last_problem = {share.name: "not probed yet" for share in shares}
        self._file_systems: dict[str, os.statvfs_result] = {}
        self._probes: dict[str, asyncio.Future[os.statvfs_result]] = {}
        self._checking_mounts: set[str] = set()
        #: Shares whose disks hang while another is mounted at their paths by now. The threads that
        #: wait for the old ones are lost.
        self.remounted: set[str] = set()

    @property
    def problems(self) -> dict[str, str]:
        """The problem of each share; empty for one that can be read."""
        return {share.name: self._problem(share.name) for share in self._shares}

    def _problem(self, share: str) -> str:
        if problem := self._last_problem[share]:
            return problem
        for pool, work in _WORK.items():
            if count := self._pools.hanging(share, pool):
                return f"{work} hang: {count} {'thread' if count == 1 else 'threads'}"
        return self._errors.problem(share)

    async def run(self) -> None:
        """Probe all shares every PROBE_INTERVAL seconds, until cancelled."""
        while True:
            await self.probe()
            await asyncio.sleep(PROBE_INTERVAL)

    async def probe(self) -> None:
        """Probe all shares once, at the same time."""
        await asyncio.gather(*(self._probe(share) for share in self._shares))

    async def _probe(self, share: Share) -> None:
        problem = ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                self._file_systems[share.name] = await asyncio.shield(self._start_probe(share))
            self._errors.probe_succeeded(share.name)
        except TimeoutError:
            problem = NO_ANSWER
            self._check_mount(share)
        except OSError as error:
            problem = error.strerror or "cannot be read"
        self._last_problem[share.name] = problem
        self._probed(share.name, not self._problem(share.name))

    def _check_mount(self, share: Share) -> None:
        """Find out whether another file system is mounted at the share's path by now."""
        if share.name in self._checking_mounts:
            return
        self._checking_mounts.add(share.name)

        def done(job: Job[bool]) -> None:
            self._checking_mounts.discard(share.name)
            if job.error is None and job.result() and share.name in self._probes:
                self.remounted.add(share.name)

        self._pools.submit(share.name, Pool.PROBE, share.left_behind, done, no_timeout=True)

    def _start_probe(self, share: Share) -> asyncio.Future[os.statvfs_result]:
        """The running probe, or a new one: a hanging disk blocks one thread, not more."""
        probe = self._probes.get(share.name)
        if probe is None:
            probe = asyncio.get_running_loop().create_future()
            self._probes[share.name] = probe

            def done(job: Job[os.statvfs_result]) -> None:
                waiting = self._probes.pop(share.name)
                if job.cancelled:
                    waiting.cancel()
                elif (error := job.error) is not None:
                    waiting.set_exception(error)
                    waiting.exception()  # retrieved: it may have no waiter any more
                else:
                    waiting.set_result(job.result())

            self._pools.submit(
                share.name, Pool.PROBE, lambda: self._check(share), done, no_timeout=True
            )
        return probe

    def _check(self, share: Share) -> os.statvfs_result:
        """As `Share.check`; on a thread."""
        try:
            return share.check()
        except PermissionError as error:
            if share.moved:  # a worker that starts now can read it
                raise
            raise PermissionError(error.errno, self._unreadable(share.path)) from error

    def statvfs_of(self, tree: Tree) -> os.statvfs_result | None:
        """The sums over the file systems of the tree's shares, each counted once.

        `df` shows them for a mount of the home folder. None before the first probe.
        """
        # By device: f_fsid is 0 for all of FUSE and NFS.
        distinct = {
            share.device: self._file_systems[share.name]
            for share in tree.shares
            if share.name in self._file_systems
        }.values()
        if not distinct:
            return None

        def blocks(count: str) -> int:
            return sum(getattr(r, count) * r.f_frsize // _BLOCK for r in distinct)

        return os.statvfs_result(
            (
                _BLOCK,
                _BLOCK,
                blocks("f_blocks"),
                blocks("f_bfree"),
                blocks("f_bavail"),
                sum(r.f_files for r in distinct),
                sum(r.f_ffree for r in distinct),
                sum(r.f_favail for r in distinct),
                0,  # f_flag
                min(r.f_namemax for r in distinct),
                0,  # f_fsid
            )
        )
