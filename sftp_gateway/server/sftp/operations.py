"""A request as work that may block, and the response to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sftp_gateway.protocol.responses import Response
from sftp_gateway.vfs.share import Share


@dataclass(slots=True, kw_only=True)
class Operation:
    """One request as two steps: `finish(run(wait=...))` is the response.

    `run` does what may wait for a disk, and nothing else, so that it can be tried on the event loop
    and repeated on a thread. `finish` makes the response on the event loop, where the session's
    state lives. `share` is None if no file system is touched; `run` then never raises
    BlockingIOError. `discard` releases the result of `run` if nobody takes it; `give_up` is called
    when `run` has timed out and may still be running.
    """

    run: Callable[..., Any]
    finish: Callable[[Any], Response]
    share: Share | None = None
    path: bytes | None = None
    discard: Callable[[Any], None] = lambda result: None
    give_up: Callable[[], None] = lambda: None
