"""The chart of what was sent: columns of stacked parts, as SVG that its page gives the width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftp_gateway.observability import formatting
from sftp_gateway.observability.web.markup import Html, fill, join

#: Parts that have a colour of their own; what is left is one part more.
MOST_PARTS: Final = 5
OTHERS: Final = "others"

#: Minutes of a column, by the hours that are shown.
COLUMNS: Final[Mapping[int, int]] = {1: 1, 6: 5, 24: 15}

_WIDTH: Final = 1000
_HEIGHT: Final = 100
_GAP: Final = 0.18  # of a column's width

#: Rates that the scale may end at, in units of a power of ten.
_STEPS: Final = (1, 2, 4, 6, 8, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Bytes by column, oldest first, for each part; those of most bytes first."""

    start: int  # the first column's minute since 1970
    minutes: int  # of a column
    parts: Mapping[str, Sequence[int]]

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
    named = [name for name, _ in totals.most_common(MOST_PARTS)]
    parts: dict[str, list[int]] = {name: [0] * count for name in named}
    for (minute, name), bytes_sent in sent.items():
        if start <= minute < start + count * minutes:
            part = parts.setdefault(name if name in named else OTHERS, [0] * count)
            part[(minute - start) // minutes] += bytes_sent
    return Series(start=start, minutes=minutes, parts=parts)


def draw(shown: Series) -> Html:
    """The picture, with its scales; nothing where nothing was sent."""
    columns = len(next(iter(shown.parts.values()), ()))
    if not columns:
        return Html('<p class="empty">Nothing was sent in this time.</p>')
    seconds = shown.minutes * 60
    highest = max(sum(part[i] for part in shown.parts.values()) for i in range(columns))
    top = _ceiling(highest / seconds)
    width = _WIDTH / columns
    bars = join(_column(shown, i, width, top * seconds) for i in range(columns))
    return fill(
        '<div class="chart"><div class="scale" aria-hidden="true"><span>{top}</span>'
        "<span>{middle}</span><span>0</span></div>"
        '<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" '
        'aria-label="{label}">{grid}{bars}</svg>'
        '<div class="hours" aria-hidden="true">{hours}</div></div>{legend}',
        top=formatting.rate(top),
        middle=formatting.rate(top / 2),
        width=_WIDTH,
        height=_HEIGHT,
        label=_summary(shown, highest / seconds),
        grid=Html(
            "".join(
                f'<line class="grid" x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/>' for y in (0, 50, 100)
            )
        ),
        bars=bars,
        hours=_hours(shown, columns),
        legend=_legend(shown),
    )


def _column(shown: Series, index: int, width: float, full: float) -> Html:
    """One column, with what it says when it is pointed at."""
    sent = {name: part[index] for name, part in shown.parts.items() if part[index]}
    if not sent:
        return Html("")
    y = float(_HEIGHT)
    rectangles = []
    for number, (name, part) in enumerate(shown.parts.items()):
        height = part[index] / full * _HEIGHT
        if not height:
            continue
        y -= height
        rectangles.append(
            f'<rect class="{_class(name, number)}" x="{(index + _GAP / 2) * width:.2f}" '
            f'y="{y:.2f}" width="{width * (1 - _GAP):.2f}" height="{height:.2f}"/>'
        )
    start = datetime.fromtimestamp((shown.start + index * shown.minutes) * 60).astimezone()
    lines = [f"{start:%H:%M} · {formatting.rate(sum(sent.values()) / shown.minutes / 60)}"]
    lines += [f"{name}: {formatting.size(count)}" for name, count in sent.items()]
    title = Html("\n").join(fill("{line}", line=line) for line in lines)
    return fill(
        "<g><title>{title}</title>{bars}</g>", title=Html(title), bars=Html("".join(rectangles))
    )


def _legend(shown: Series) -> Html:
    items = join(
        fill(
            '<li><svg class="swatch {kind}" viewBox="0 0 10 10" aria-hidden="true">'
            '<rect width="10" height="10" rx="2"/></svg><bdi>{name}</bdi> '
            "<b>{sent}</b></li>",
            kind=_class(name, number),
            name=name,
            sent=formatting.size(sum(part)),
        )
        for number, (name, part) in enumerate(shown.parts.items())
    )
    return fill('<ul class="legend">{items}</ul>', items=items)


def _class(name: str, number: int) -> str:
    return "part-rest" if name == OTHERS and number == MOST_PARTS else f"part-{number}"


def _hours(shown: Series, columns: int) -> Html:
    """Four times below the columns, and the end of the last."""
    marks = (*(columns * quarter // 4 for quarter in range(4)), columns)
    times = [
        datetime.fromtimestamp((shown.start + mark * shown.minutes) * 60).astimezone()
        for mark in marks
    ]
    return join(fill("<span>{time}</span>", time=f"{time:%H:%M}") for time in times)


def _summary(shown: Series, highest: float) -> str:
    parts = ", ".join(f"{name} {formatting.size(sum(part))}" for name, part in shown.parts.items())
    return f"{formatting.size(shown.total)} sent, at most {formatting.rate(highest)}: {parts}"


def _ceiling(value: float) -> float:
    """The least round number that is not less: ten at least, so that half of it is a number too."""
    unit = 10.0
    while unit * 10 < value:
        unit *= 10
    return next(step * unit for step in _STEPS if step * unit >= value)
