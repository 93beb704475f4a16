"""The base of SFTP and command sessions: backpressure, sending, closing files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from sftp_gateway.server.handles import DirectoryHandle, FileHandle
from sftp_gateway.server.io_pools import IoPools
from sftp_gateway.server.limits.bandwidth import BandwidthLimiter
from sftp_gateway.server.limits.scheduler import TimeSlice
from sftp_gateway.server.packets.outgoing import OutgoingBuffer
from sftp_gateway.server.recorder import Recorder

#: Bytes of responses after which a session waits for its next turn, and after which it sends them:
#: the client handles one piece while the next is made.
MAX_TURN_BYTES: Final = 512 * 1024
FLUSH_BYTES: Final = 64 * 1024


class Channel(Protocol):
    """What a session needs of its SSH channel."""

    #: The responses to be sent.
    outgoing: OutgoingBuffer

    #: The time slice of the connection, shared by all its channels.
    time_slice: TimeSlice

    def wait_turn(self) -> None:
        """Have the session's `take_turn` called in the next time slice."""
        ...

    def flush(self) -> None:
        """Send what is in `outgoing`; may call the session's `pause_writing`."""
        ...


class BaseSession:
    """The session of one channel. Used on the event loop."""

    def __init__(
        self,
        *,
        channel: Channel,
        pools: IoPools,
        recorder: Recorder,
        log_congested: Callable[[], bool],
        bandwidth: BandwidthLimiter | None,
    ) -> None:
        """`log_congested` returns whether the access log has no room for events of the user."""
        self._channel = channel
        self._outgoing = channel.outgoing
        self._time_slice = channel.time_slice
        self._pools = pools
        self._recorder = recorder
        self._log_congested = log_congested
        self._bandwidth = bandwidth
        self._writing_paused = False
        self._turn_bytes = 0
        self._throttle_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def pump(self) -> None:
        """Continue until the session has to wait."""
        raise NotImplementedError

    def _blocked(self) -> bool:
        return (
            self._writing_paused
            or self._log_congested()
            or (self._bandwidth is not None and self._throttled(self._bandwidth))
            or self._turn_spent()
        )

    def _turn_spent(self) -> bool:
        # Counted over a whole turn of the event loop: many small packets are delivered one by one
        # before the socket can report that it is full.
        if self._turn_bytes < MAX_TURN_BYTES:
            return False
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

    def _send(self, data: bytes) -> None:
        if self._outgoing.length >= FLUSH_BYTES:  # otherwise any response fits
            self._flush()
        self._outgoing.put(data)

    def _flush(self) -> None:
        """Send the responses so far in one piece, so that SSH packets are full."""
        if self._outgoing.length and not self._closed:
            self._turn_bytes += self._outgoing.length
            if self._bandwidth is not None:
                self._bandwidth.consume(self._outgoing.length)
            self._channel.flush()

    def _release(self, opened: FileHandle | DirectoryHandle, *, result: str) -> None:
        if isinstance(opened, FileHandle) and not opened.file.local:
            self._pools.close_later(opened.share.name, opened.close)
        else:
            opened.close()
        self._recorder.closed(opened, result=result)
