"""Looks at every share now and then: whether it can be read, and how full its disk is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

from sftp_gateway.server.lanes import Lane, Lanes
from sftp_gateway.vfs.share import Share
from sftp_gateway.vfs.tree import Tree

#: Seconds between two looks, and how long a look may take before the share counts as hanging.
INTERVAL: Final = 5.0
PATIENCE: Final = 4.0

#: What is wrong with a share that hangs.
NO_ANSWER: Final = "its disk does not answer"

#: Unit of the sums over several file systems, in bytes.
_BLOCK: Final = 4096


class ShareMonitor:
    """The state of the shares as it was found last."""

    def __init__(
        self, *, shares: Sequence[Share], lanes: Lanes, changed: Callable[[str, bool], None]
    ) -> None:
        """`changed` is told each share's name and whether it can be read, at every look."""
        self._shares = tuple(shares)
        self._lanes = lanes
        self._changed = changed
        self._problems = {share.name: "not looked at yet" for share in shares}
        self._file_systems: dict[str, os.statvfs_result] = {}
        self._looking: dict[str, asyncio.Future[os.statvfs_result]] = {}

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with each share; empty for one that can be read."""
        return dict(self._problems)

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
        except TimeoutError:
            problem = NO_ANSWER
        except OSError as error:
            problem = error.strerror or "cannot be read"
        self._problems[share.name] = problem
        self._changed(share.name, not problem)

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

            self._lanes.submit(share.name, Lane.METADATA, share.check, done, patient=True)
        return asked

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
