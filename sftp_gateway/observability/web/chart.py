"""The chart of what was sent: columns of stacked parts, which templates/chart.html makes SVG of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftp_gateway.observability import formatting

#: Parts that have a colour of their own; the rest is one part more.
MAX_PARTS: Final = 5
OTHERS: Final = "others"

#: Minutes of a column, by the hours shown.
COLUMNS: Final[Mapping[int, int]] = {1: 1, 6: 5, 24: 15}

_WIDTH: Final = 1000
_HEIGHT: Final = 100
_GAP: Final = 0.18  # of a column's width

#: Rates at which the scale may end, in units of a power of ten.
_STEPS: Final = (1, 2, 4, 6, 8, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Bytes by column, oldest first, for each part; those of most bytes first."""

    start: int  # the first column's minute since 1970
    minutes: int  # of a column
    parts: Mapping[str, Sequence[int]]

    def time_of(self, column: int) -> datetime:
        """When a column begins, in the gateway's time zone."""
        return datetime.fromtimestamp((self.start + column * self.minutes) * 60).astimezone()

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(map(sum, self.parts.values()))


def series(sent: Mapping[tuple[int, str], int], *, hours: int, now: float) -> Series:
    """The columns of the last `hours`, of bytes by minute and name."""
    minutes = COLUMNS[hours]
    count = hours * 60 // minutes
    last = int(now // 60) // minutes * minutes
    start = last - (count - 1) * minutes
    totals: Counter[str] = Counter()
    for (minute, name), bytes_sent in sent.items():
        if start <= minute < start + count * minutes:
            totals[name] += bytes_sent
    named = [name for name, _ in totals.most_common(MAX_PARTS)]
    parts: dict[str, list[int]] = {name: [0] * count for name in named}
    for (minute, name), bytes_sent in sent.items():
        if start <= minute < start + count * minutes:
            part = parts.setdefault(name if name in named else OTHERS, [0] * count)
            part[(minute - start) // minutes] += bytes_sent
    return Series(start=start, minutes=minutes, parts=parts)


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a column; `kind` is its class in the style sheet."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Column:
    """One column, with the lines of its tooltip."""

    x: float
    width: float
    bars: Sequence[Bar]
    lines: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The picture, in units of its viewBox; without columns nothing was sent."""

    width: int = _WIDTH
    height: int = _HEIGHT
    top: float = 0.0  # bytes a second at the upper end of the scale
    label: str = ""
    columns: Sequence[Column] = ()
    times: Sequence[str] = ()
    legend: Sequence[tuple[str, str, int]] = ()  # class, name, bytes


def draw(shown: Series) -> Chart:
    """The series as a picture."""
    count = len(next(iter(shown.parts.values()), ()))
    if not count:
        return Chart()
    seconds = shown.minutes * 60
    highest = max(sum(part[i] for part in shown.parts.values()) for i in range(count)) / seconds
    top = _ceiling(highest)
    columns = (_column(shown, i, _WIDTH / count, top * seconds) for i in range(count))
    parts = ", ".join(f"{name} {formatting.size(sum(part))}" for name, part in shown.parts.items())
    marks = (*(count * quarter // 4 for quarter in range(4)), count)
    return Chart(
        top=top,
        label=f"{formatting.size(shown.total)} sent, at most {formatting.rate(highest)}: {parts}",
        columns=[column for column in columns if column.bars],
        times=[f"{shown.time_of(mark):%H:%M}" for mark in marks],
        legend=[
            (_class(name, number), name, sum(part))
            for number, (name, part) in enumerate(shown.parts.items())
        ],
    )


def _column(shown: Series, index: int, width: float, full: float) -> Column:
    y = float(_HEIGHT)
    bars = []
    lines = []
    for number, (name, part) in enumerate(shown.parts.items()):
        if part[index]:
            height = part[index] / full * _HEIGHT
            y -= height
            bars.append(Bar(_class(name, number), y, height))
            lines.append(f"{name}: {formatting.size(part[index])}")
    total = sum(part[index] for part in shown.parts.values())
    rate = formatting.rate(total / shown.minutes / 60)
    return Column(
        x=(index + _GAP / 2) * width,
        width=width * (1 - _GAP),
        bars=bars,
        lines=[f"{shown.time_of(index):%H:%M} · {rate}", *lines],
    )


def _class(name: str, number: int) -> str:
    return "part-rest" if name == OTHERS and number == MAX_PARTS else f"part-{number}"


def _ceiling(value: float) -> float:
    """The least round number that is not less: ten at least, so that half of it is a number too."""
    unit = 10.0
    while unit * 10 < value:
        unit *= 10
    return next(step * unit for step in _STEPS if step * unit >= value)
