"""Lines of an access log for a history to keep."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sftp_gateway.observability.history.store import Row, row_of

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()


def line(event: str = "file_closed", *, at: float = NOON, **fields: Any) -> bytes:
    """A line as a worker writes it, with its line feed."""
    time = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    session = {"session": "9f86d081884c7d65", "client_ip": "192.0.2.17"}
    entry = {"time": time, "event": event, **session, **fields}
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def read(name: str, *, user: str = "ana", sent: int = 1000, **fields: Any) -> bytes:
    """The line of a file that was read; `name` begins with its share."""
    path = f"/home/{user}/{name}"
    share = name.partition("/")[0]
    return line(user=user, share=share, path=path, bytes=sent, **{"result": "ok", **fields})


def row(text: bytes) -> Row:
    found = row_of(text)
    assert found is not None
    return found[0]
