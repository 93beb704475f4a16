"""Tells, every two seconds, which sessions there are and what they have open.

Nothing of it is on the way of a request: what is told, is counted already. It is told in pieces,
and between two pieces the event loop has its turn.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from sftp_gateway.observability.access_log.json_lines import escape_path
from sftp_gateway.server.handles import FileHandle
from sftp_gateway.server.recorder import Recorder

INTERVAL: Final = 2.0

#: Of a worker; more are counted only.
MOST_SESSIONS: Final = 1000

#: Of a session, the last that were opened.
MOST_FILES: Final = 3

#: Characters of a piece, and one session more: it is made in a fraction of a millisecond, and fits
#: in a socket's buffer whatever names there are.
_PIECE: Final = 1 << 14

#: Bytes of a path, and characters of a version, that are told: they are only looked at.
_LONGEST_PATH: Final = 1024
_LONGEST_VERSION: Final = 100

#: What a session has open, and its recorder.
Session = tuple[Recorder, Iterable[FileHandle]]


class LiveSessions:
    """The sessions of this process."""

    def __init__(
        self,
        *,
        sessions: Callable[[], Iterable[Session]],
        sent: Callable[[], Mapping[str, int]],
        send: Callable[[bytes], object],
    ) -> None:
        """`sent` gives the bytes of each share that were sent so far; `send` never waits."""
        self._sessions = sessions
        self._sent = sent
        self._send = send
        self._started = time.time()

    async def run(self) -> None:
        """Tell now and then, until cancelled."""
        while True:
            for piece in self.pieces():
                self._send(piece)
                await asyncio.sleep(0)
            await asyncio.sleep(INTERVAL)

    def pieces(self) -> Iterator[bytes]:
        """The picture of this moment, in datagrams as history/session_registry.py reads them."""
        sessions = list(self._sessions())
        piece: list[str] = []
        length = 0
        for recorder, opened in sessions[:MOST_SESSIONS]:
            if length > _PIECE:
                yield self._piece(piece, len(sessions), more=True)
                piece, length = [], 0
            piece.append(_told(recorder, opened))
            length += len(piece[-1])
        yield self._piece(piece, len(sessions), more=False)

    def _piece(self, sessions: Iterable[str], total: int, *, more: bool) -> bytes:
        told = {
            "worker": os.getpid(),
            "more": more,
            "started": self._started,
            "total": total,
            "sent": dict(self._sent()),
        }
        return f'{{"live":{json.dumps(told)[:-1]},"sessions":[{",".join(sessions)}]}}}}'.encode()


def _told(recorder: Recorder, opened: Iterable[FileHandle]) -> str:
    session = recorder.session
    files = list(opened)
    told = {
        "session": session.session,
        "user": session.user or "",
        "credential": recorder.credential,
        "key_label": session.key_label or "",
        "client_ip": session.client_ip,
        "client_version": (session.client_version or "")[:_LONGEST_VERSION],
        "started": recorder.started,
        "bytes": recorder.sent,
        "requests": recorder.requests,
        "open": len(files),
        "files": [
            (each.share.name, escape_path(each.path[:_LONGEST_PATH]), each.file.size, each.served)
            for each in islice(reversed(files), MOST_FILES)
        ],
    }
    return json.dumps(told)
