"""What SFTP sessions and commands share: the context of their parts, and when they may continue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from sftp_gateway.server.handles import DirectoryHandle, FileHandle, HandleTable
from sftp_gateway.server.io_pools import IoPools
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.limits.scheduler import TimeSlice
from sftp_gateway.server.packets.outgoing import OutgoingBuffer
from sftp_gateway.server.recorder import Recorder
from sftp_gateway.server.sftp.checksums import Checksums
from sftp_gateway.server.sftp.owners import Owners
from sftp_gateway.vfs.tree import Tree

#: Bytes of responses that are sent together: while the client handles them, more are made.
FLUSH_BYTES: Final = 64 * 1024

#: Bytes of responses that a session sends before other connections have their turn.
MAX_TURN_BYTES: Final = 512 * 1024


class Channel(Protocol):
    """The SSH channel of a session."""

    #: Where the session lays out what it sends.
    outgoing: OutgoingBuffer

    #: The time slice of the connection, shared by its channels.
    time_slice: TimeSlice

    def wait_turn(self) -> None:
        """Have the session's `take_turn` called in the next time slice."""
        ...

    def flush(self) -> None:
        """Send what is in `outgoing`; may call the session's `pause_writing` meanwhile."""
        ...

    def pause_reading(self) -> None:
        """Deliver no more data until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Deliver data again."""
        ...

    def write_error(self, data: bytes) -> None:
        """Send `data` on standard error."""
        ...

    def exit(self, status: int) -> None:
        """Close the channel with this exit status, once everything written is sent."""
        ...

    def close_for_read(self, message: str) -> None:
        """Close the channel because a READ failed with `message`."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class SessionContext:
    """The state and services of one SFTP session or command; used on the event loop."""

    channel: Channel
    tree: Tree
    handles: HandleTable
    pools: IoPools
    checksums: Checksums
    owners: Owners
    recorder: Recorder
    #: Whether the access log has no room for events of the user.
    log_congested: Callable[[], bool]
    #: statvfs(3) of the virtual directories: the sum of a tree's shares.
    virtual_statvfs: Callable[[Tree], os.statvfs_result | None]
    #: Logs an exception that only a bug explains.
    report_bug: Callable[[Exception], None]
    bandwidth: BandwidthLimiter | None = None

    outgoing: OutgoingBuffer = field(init=False)
    #: Requests that threads work on, or that wait for a thread.
    pending: int = 0
    #: Bytes sent in this turn of the event loop.
    turn_bytes: int = 0
    #: The channel takes no more.
    closed: bool = False
    #: Closed by the client while a request on them is unanswered.
    closing: set[FileHandle | DirectoryHandle] = field(default_factory=set)
    #: Serves what waits; set by the session.
    pump: Callable[[], None] = field(init=False)

    def __post_init__(self) -> None:
        self.outgoing = self.channel.outgoing

    def send(self, packet: bytes) -> None:
        """Lay out a response for `flush`."""
        if self.outgoing.length >= FLUSH_BYTES:  # there is room for one more, however long
            self.flush()
        self.outgoing.put(packet)

    def flush(self) -> None:
        """Send the responses so far together, in full SSH packets."""
        length = self.outgoing.length
        if length and not self.closed:
            self.turn_bytes += length
            if self.bandwidth is not None:
                self.bandwidth.consume(length)
            self.channel.flush()

    def resume(self, opened: FileHandle | DirectoryHandle | None = None) -> None:
        """Continue after a request that took a thread, on `opened` if it named a handle."""
        if opened is not None:
            self.release_if_idle(opened)
        self.flush()
        self.pump()

    def close_handle(self, handle: bytes) -> None:
        """Close `handle` once all earlier requests on it are answered; raises InvalidHandle."""
        opened = self.handles.remove(handle)
        if opened.in_use:
            self.closing.add(opened)
        else:
            self.release(opened, result="ok")

    def release_if_idle(self, opened: FileHandle | DirectoryHandle) -> None:
        """Release `opened` if the client closed it and no request on it is unanswered."""
        if opened in self.closing and not opened.in_use:
            self.closing.remove(opened)
            self.release(opened, result="ok")

    def release(self, opened: FileHandle | DirectoryHandle, *, result: str) -> None:
        """Close a file or directory, on a thread if its close(2) may block."""
        if isinstance(opened, FileHandle) and not opened.file.local:
            self.pools.close_later(opened.share.name, opened.close)
        else:
            opened.close()
        self.recorder.closed(opened, result=result)


class BaseSession:
    """One session of a channel; used on the event loop."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._channel = context.channel
        self._time_slice = context.channel.time_slice
        self._writing_paused = False
        self._throttle_timer: asyncio.TimerHandle | None = None
        context.pump = self.pump

    def pump(self) -> None:
        """Continue for as long as the session may."""
        raise NotImplementedError

    def _blocked(self) -> bool:
        context = self._context
        return (
            self._writing_paused
            or context.log_congested()
            or (context.bandwidth is not None and self._throttled(context.bandwidth))
            or (context.turn_bytes >= MAX_TURN_BYTES and self._end_turn())
        )

    def _end_turn(self) -> bool:
        # Counted over one turn of the event loop: each of many small packets of a client is
        # delivered by itself, before the socket can report that it is full.
        self._channel.wait_turn()
        return True

    def _throttled(self, bandwidth: BandwidthLimiter) -> bool:
        if self._throttle_timer is None and (delay := bandwidth.delay()):
            self._throttle_timer = asyncio.get_running_loop().call_later(
                delay, self._end_throttling
            )
        return self._throttle_timer is not None

    def _end_throttling(self) -> None:
        self._throttle_timer = None
        self.pump()

    def _stop_throttling(self) -> None:
        if self._throttle_timer is not None:
            self._throttle_timer.cancel()
