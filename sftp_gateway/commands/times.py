"""Points in time as people write them on the command line."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import Final

from sftp_gateway.auth.keys.options import parse_expiry

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
#: As `keys list` prints them.
_DASHED: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?)?(Z?)"
)

#: The forms of `parse_expiry_time`.
EXPIRY_FORMS: Final = (
    "now, +30m, +12h, +7d, 2031-05-06, 2031-05-06T07:08:09Z, or as in expiry-time=: 20310506, "
    "203105060708, 20310506070809; local time, or UTC with Z at the end"
)
#: The forms of `parse_log_time`.
LOG_FORMS: Final = "90m, 24h, 7d, today, yesterday, 2026-01-31 or 2026-01-31T14:30"


def parse_expiry_time(text: str, now: datetime) -> datetime:
    """When a key expires; a span is counted from `now` on. Raises ValueError."""
    if text == "now":
        return now
    try:
        if text.startswith("+"):
            return now + _span(text[1:])
        dashed = _DASHED.fullmatch(text)
        return parse_expiry("".join(filter(None, dashed.groups())) if dashed else text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a valid time; write {EXPIRY_FORMS}") from None


def parse_log_time(text: str, now: datetime) -> datetime:
    """A time in the past; a span is counted back from `now`, dates are local. Raises ValueError."""
    try:
        if _SPAN.fullmatch(text):
            return now.astimezone(UTC) - _span(text)
        if text in ("today", "yesterday"):
            day = now.astimezone().date() - timedelta(days=text == "yesterday")
            return _local(datetime.combine(day, time_of_day.min))
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a valid time; write {LOG_FORMS}") from None
    return found if found.tzinfo else _local(found)


def show_time(when: datetime) -> str:
    """In UTC, to the second: `2031-05-06T07:08:09Z`."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _span(text: str) -> timedelta:
    span = _SPAN.fullmatch(text)
    if span is None:
        raise ValueError
    return timedelta(**{_UNITS[span[2]]: int(span[1])})


def _local(shown: datetime) -> datetime:
    """When this machine's clock shows this, or would if it had not just been put forward."""
    found = shown.astimezone()
    if found.replace(tzinfo=None) == shown:
        return found
    return max(found, shown.replace(fold=1).astimezone())
