"""Numbers, times and words, written for people."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Bytes, in steps of a thousand as disks and `MB/s` are: `1.05 MB`."""
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.3g} {unit}"


def rate(count: float) -> str:
    """Bytes a second."""
    if 0 < count < 1:
        return "< 1 B/s"
    return f"{size(count)}/s"


def span(seconds: float) -> str:
    """Seconds, roughly: `45 s`, `12 min`, `3 h 5 min`, `9 d`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        minutes = whole % 3600 // 60
        return f"{whole // 3600} h {minutes} min" if minutes else f"{whole // 3600} h"
    return f"{whole // 86_400} d"


def duration(seconds: float) -> str:
    """How long something took: `24 ms`, `1.2 s`, `3 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else span(seconds)


def clock(moment: float, now: float) -> str:
    """A time of day, with the date where that is another."""
    then = datetime.fromtimestamp(moment).astimezone()
    today = datetime.fromtimestamp(now).astimezone().date()
    return f"{then:%H:%M:%S}" if then.date() == today else f"{then:%d %b %H:%M}"


def stamp(moment: float) -> str:
    """A time for machines."""
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="seconds")


def zone() -> str:
    """What the times of the page are in."""
    return time.strftime("%Z") or "UTC"


def number(count: int) -> str:
    """With thin spaces between thousands."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def words(word: str) -> str:
    """A word of the access log as prose: `key_expired` is `key expired`."""
    return word.replace("_", " ")
