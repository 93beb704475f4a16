"""One line of the access log, read back: who did what, and how it ended.

The terminal, the status page and the history all read lines through this class. Workers are what
clients attack, so no field is trusted to have the type that the schema gives it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

#: Results that count as errors, and all that a line can have.
ERROR_RESULTS: Final = ("denied", "refused", "aborted")
RESULTS: Final = ("ok", *ERROR_RESULTS)

_RESULT_OF_EVENT: Final[Mapping[str, str]] = {
    "denied": "denied",
    "login_refused": "refused",
    "negotiation_failed": "refused",
    "command_refused": "refused",
    "folder_listed": "ok",
    "login_accepted": "ok",
    "command_answered": "ok",
}

#: The field that says how an event ended; `result` for all others.
_OUTCOME_FIELDS: Final[Mapping[str, str]] = {
    "denied": "reason",
    "login_refused": "reason",
    "negotiation_failed": "algorithm",
    "command_refused": "kind",
    "read_failed": "error",
    "session_end": "reason",
    "credentials_removed": "reason",
}

#: Events that report an error whatever their result.
_ERROR_EVENTS: Final = frozenset(
    {"read_failed", "log_dropped", "connections_refused", "source_banned", "configuration_refused",
     "credentials_removed"}
)  # fmt: skip

#: Raised while reading fields of a line that the gateway did not write.
MALFORMED: Final = (
    AttributeError,
    LookupError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class LogLine:
    """An event as its line has it; `time` in seconds since 1970."""

    time: float
    event: str
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, line: bytes | str) -> LogLine | None:
        """The line's fields; None if it is not a line of the access log."""
        try:
            fields = json.loads(line)
            return cls(timestamp(fields["time"]), str(fields["event"]), fields)
        except MALFORMED:
            return None

    def text(self, name: str) -> str:
        """A field that is text, else ""; without lone surrogates, which have no UTF-8."""
        value = self.fields.get(name)
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""

    @property
    def user(self) -> str:
        """The user, or the name tried in a login that was refused."""
        return self.text("user") or self.text("user_tried")

    @property
    def result(self) -> str:
        """One of RESULTS, or "" for an event that has none."""
        return _RESULT_OF_EVENT.get(self.event) or self.text("result")

    @property
    def outcome(self) -> str:
        """How it ended in one word: the result, or the reason for it."""
        if self.event == "worker_exited":
            how = self.text("signal") or f"status {self.fields.get('status')}"
            return f"{how}, broken connections: {self.fields.get('connections')}"
        found = self.text(_OUTCOME_FIELDS.get(self.event, "result"))
        return "" if self.event == "session_end" and found == "closed" else found

    @property
    def is_error(self) -> bool:
        """Whether the line deserves attention."""
        if self.event == "worker_exited":
            return self.fields.get("expected") is False
        return self.event in _ERROR_EVENTS or self.result in ERROR_RESULTS

    @property
    def bytes(self) -> int | None:
        """Bytes of files sent; None if the line does not say."""
        value = self.fields.get("bytes")
        return value if isinstance(value, int) and 0 <= value < 1 << 62 else None


def timestamp(text: str) -> float:
    """A time as lines have it, in seconds since 1970. Raises ValueError and TypeError."""
    return datetime.fromisoformat(text).timestamp()
