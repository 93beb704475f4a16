"""Reports the sessions of a worker, and the files that they have open, to the status page.

Requests pay nothing for it: the figures exist already. A report is split into messages, and the
event loop has a turn between two of them.
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

#: Seconds between two reports.
INTERVAL: Final = 2.0

#: Sessions of a worker that are reported in detail; the others only count.
MAX_SESSIONS: Final = 1000

#: Files of a session that are reported: those opened last.
MAX_FILES: Final = 3

#: Characters of a message, not counting its last session. It takes a fraction of a millisecond, and
#: fits into a socket's buffer whatever the names.
_MESSAGE_SIZE: Final = 1 << 14

#: Bytes of a path, and characters of a version, that are reported.
_MAX_PATH: Final = 1024
_MAX_VERSION: Final = 100

#: The recorder of a session, and the files that it has open.
Session = tuple[Recorder, Iterable[FileHandle]]


class SessionReporter:
    """Reports the sessions of this process."""

    def __init__(
        self,
        *,
        sessions: Callable[[], Iterable[Session]],
        sent: Callable[[], Mapping[str, int]],
        send: Callable[[bytes], object],
    ) -> None:
        """`sent` returns the bytes sent so far of each share; `send` must not block."""
        self._sessions = sessions
        self._sent = sent
        self._send = send
        self._started = time.time()

    async def run(self) -> None:
        """Report every INTERVAL seconds, until cancelled."""
        while True:
            for message in self.messages():
                self._send(message)
                await asyncio.sleep(0)
            await asyncio.sleep(INTERVAL)

    def messages(self) -> Iterator[bytes]:
        """A report, as the datagrams that history/session_registry.py reads."""
        sessions = list(self._sessions())
        batch: list[str] = []
        length = 0
        for recorder, opened in sessions[:MAX_SESSIONS]:
            if length > _MESSAGE_SIZE:
                yield self._message(batch, len(sessions), more=True)
                batch, length = [], 0
            batch.append(_session(recorder, opened))
            length += len(batch[-1])
        yield self._message(batch, len(sessions), more=False)

    def _message(self, sessions: Iterable[str], total: int, *, more: bool) -> bytes:
        head = {
            "worker": os.getpid(),
            "more": more,
            "started": self._started,
            "total": total,
            "sent": dict(self._sent()),
        }
        return f'{{"live":{json.dumps(head)[:-1]},"sessions":[{",".join(sessions)}]}}}}'.encode()


def _session(recorder: Recorder, opened: Iterable[FileHandle]) -> str:
    session = recorder.session
    files = list(opened)
    fields = {
        "session": session.session,
        "user": session.user or "",
        "credential": recorder.credential,
        "key_label": session.key_label or "",
        "client_ip": session.client_ip,
        "client_version": (session.client_version or "")[:_MAX_VERSION],
        "started": recorder.started,
        "bytes": recorder.sent,
        "requests": recorder.requests,
        "open": len(files),
        "files": [
            (each.share.name, escape_path(each.path[:_MAX_PATH]), each.file.size, each.served)
            for each in islice(reversed(files), MAX_FILES)
        ],
    }
    return json.dumps(fields)
