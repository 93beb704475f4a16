"""Looks at every share now and then: whether it can be read, and how full its disk is.

A look opens the share's folder, which may work while its files cannot be read. So a share has a
problem too while what clients ask of it hangs or fails:

| problem                      | until                                                             |
|------------------------------|-------------------------------------------------------------------|
| reads or requests hang       | the disk has answered all that it kept for 10 seconds             |
| the last read failed         | a read from the disk succeeds, or none has failed for a minute    |
| the last other request failed| one succeeds, or a look, or none has failed for a minute          |
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from sftp_gateway.server.io_pools import IoPools, Pool, error_of
from sftp_gateway.vfs.share import Share
from sftp_gateway.vfs.tree import Tree

#: Seconds between two looks, and how long a look may take before the share counts as hanging.
INTERVAL: Final = 5.0
PATIENCE: Final = 4.0

#: What is wrong with a share that hangs.
NO_ANSWER: Final = "its disk does not answer"

#: Seconds for which a failure is a problem if nothing else is asked of the share.
_MEMORY: Final = 60.0

#: Errors that tell of what was asked for, or of this process, not of the disk.
_NOT_OF_DISK: Final = frozenset(
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

#: What the work of a pool is called.
_WORK: Final = {Pool.READ: "reads", Pool.METADATA: "requests"}

#: Unit of the sums over several file systems, in bytes.
_BLOCK: Final = 4096


class DiskErrors:
    """What disks failed of what clients asked for; for the event loop."""

    def __init__(
        self,
        *,
        count: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count` is told each error: the share, the pool, and the error's name."""
        self._count = count
        self._clock = clock
        #: The last error, and when it came, until it is made good.
        self._last: dict[tuple[str, Pool], tuple[str, float]] = {}

    def record(self, share: str, pool: Pool, error: Exception | None) -> None:
        """A disk has done something for a client, or has failed to."""
        if error is None:
            if self._last:
                self._last.pop((share, pool), None)
        elif (
            isinstance(error, OSError)
            and pool is not Pool.PROBE
            and error.errno not in _NOT_OF_DISK
            and error.errno is not None
        ):
            self._count(share, pool, errno.errorcode.get(error.errno, "other"))
            self._last[share, pool] = os.strerror(error.errno), self._clock()

    def looked(self, share: str) -> None:
        """A look at the share has succeeded."""
        self._last.pop((share, Pool.METADATA), None)

    def problem(self, share: str) -> str:
        """What fails of the share; "" for nothing."""
        for pool, work in _WORK.items():
            text, since = self._last.get((share, pool), ("", 0.0))
            if text and self._clock() - since < _MEMORY:
                return f"{work} fail: {text}"
        return ""


class ShareMonitor:
    """The state of the shares as it was found last."""

    def __init__(
        self,
        *,
        shares: Sequence[Share],
        pools: IoPools,
        errors: DiskErrors,
        changed: Callable[[str, bool], None],
        unreadable: Callable[[Path], str],
    ) -> None:
        """`changed` is told each share's name and whether it can be read, at every look.

        `unreadable` says why a folder may not be read; it may wait for the disk.
        """
        self._shares = tuple(shares)
        self._pools = pools
        self._errors = errors
        self._changed = changed
        self._unreadable = unreadable
        self._found = {share.name: "not looked at yet" for share in shares}
        self._file_systems: dict[str, os.statvfs_result] = {}
        self._looking: dict[str, asyncio.Future[os.statvfs_result]] = {}
        self._peeking: set[str] = set()
        #: Shares whose disks hang, and at whose paths another is mounted by now: no thread that
        #: waits for the old one is free again.
        self.left_behind: set[str] = set()

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with each share; empty for one that can be read."""
        return {share.name: self._problem(share.name) for share in self._shares}

    def _problem(self, share: str) -> str:
        if found := self._found[share]:
            return found
        for pool, work in _WORK.items():
            if count := self._pools.hanging(share, pool):
                return f"{work} hang: {count} {'thread' if count == 1 else 'threads'}"
        return self._errors.problem(share)

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL)

    async def look(self) -> None:
        """Look at all shares once, at the same time."""
        await asyncio.gather(*(self._look_at(share) for share in self._shares))

    async def _look_at(self, share: Share) -> None:
        problem = ""
        try:
            async with asyncio.timeout(PATIENCE):
                self._file_systems[share.name] = await asyncio.shield(self._ask(share))
            self._errors.looked(share.name)
        except TimeoutError:
            problem = NO_ANSWER
            self._peek(share)
        except OSError as error:
            problem = error.strerror or "cannot be read"
        self._found[share.name] = problem
        self._changed(share.name, not self._problem(share.name))

    def _peek(self, share: Share) -> None:
        """See whether it is still the disk that hangs which is mounted there."""
        if share.name in self._peeking:
            return
        self._peeking.add(share.name)

        def done(future: asyncio.Future[bool]) -> None:
            self._peeking.discard(share.name)
            if error_of(future) is None and future.result() and share.name in self._looking:
                self.left_behind.add(share.name)

        self._pools.submit(share.name, Pool.PROBE, share.left_behind, done, no_timeout=True)

    def _ask(self, share: Share) -> asyncio.Future[os.statvfs_result]:
        """The look that is under way, or a new one: a hanging disk holds one thread, not more."""
        asked = self._looking.get(share.name)
        if asked is None:
            asked = asyncio.get_running_loop().create_future()
            self._looking[share.name] = asked

            def done(future: asyncio.Future[os.statvfs_result]) -> None:
                waiting = self._looking.pop(share.name)
                if future.cancelled():
                    waiting.cancel()
                elif (error := future.exception()) is not None:
                    waiting.set_exception(error)
                    waiting.exception()  # nobody may be waiting any more
                else:
                    waiting.set_result(future.result())

            self._pools.submit(
                share.name, Pool.PROBE, lambda: self._check(share), done, no_timeout=True
            )
        return asked

    def _check(self, share: Share) -> os.statvfs_result:
        """As `Share.check`; on a thread."""
        try:
            return share.check()
        except PermissionError as error:
            if share.moved:  # a worker that is started now may read it
                raise
            raise PermissionError(error.errno, self._unreadable(share.path)) from error

    def statvfs_of(self, tree: Tree) -> os.statvfs_result | None:
        """Sums over the file systems that the tree's shares are on, each counted once.

        This is what `df` shows for a mount of the home folder. None before the first look.
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
                0,  # f_fsid: it is none of them
            )
        )
