"""Draws charts of the Service dashboard from what a real Prometheus returns, as an SVG.

`python -m monitoring.picture --prometheus http://127.0.0.1:9090 --minutes 60`
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any, Final

from monitoring.generate import FOLDER

#: The charts, in this order, with the queries of the dashboard.
CHARTS: Final = (
    "Throughput by share",
    "Requests by operation",
    "Sessions, connections and open files",
    "Read latency, p50/p95/p99",
    "Page cache hit rate of reads",
    "Refused logins",
    "Requests waiting for a disk",
    "CPU usage",
    "Memory",
)

#: Colours, one per line; a chart shows only its largest series.
_COLOURS: Final = ("#2f81f7", "#bc4c00", "#2da44e", "#a475f9", "#bf8700", "#e85aad")
_COLUMNS, _WIDTH, _HEIGHT, _GAP = 3, 330, 188, 20
_LEFT, _TOP, _PLOT = 54, 32, 104

_STYLE: Final = """\
text{font:11px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#59636e}
.title{font-size:15px;font-weight:600;fill:#1f2328}.name{font-size:12.5px;font-weight:600;fill:#1f2328}
.grid{stroke:#8c959f;stroke-opacity:.35}.line{fill:none;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#9198a1}.title,.name{fill:#e6edf3}}"""


@dataclass(frozen=True)
class Line:
    """A series of a chart: its name in the legend, and points (time, value)."""

    name: str
    points: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A panel and the results of its queries."""

    title: str
    unit: str
    lines: list[Line]


@dataclass(frozen=True)
class Span:
    """A time range, in seconds since 1970."""

    start: float
    end: float

    @property
    def step(self) -> int:
        """Seconds between two points of a line."""
        return max(1, int((self.end - self.start) / 120))


def ask(url: str, span: Span) -> list[Chart]:
    """The charts, with data from a Prometheus server. Raises OSError."""
    panels = {p["title"]: p for p in json.loads((FOLDER / "service.json").read_text())["panels"]}
    charts = []
    for title in CHARTS:
        panel = panels[title]
        lines = [
            Line(_legend(target["legendFormat"], series["metric"]), _points(series["values"]))
            for target in panel["targets"]
            for series in _query(url, target["expr"], span)
        ]
        charts.append(Chart(title, panel["fieldConfig"]["defaults"]["unit"], _largest(lines)))
    return charts


def as_svg(charts: list[Chart], span: Span) -> str:
    """The SVG, for light and dark pages."""
    rows = math.ceil(len(charts) / _COLUMNS)
    width = _COLUMNS * (_WIDTH + _GAP) + _GAP
    day = datetime.fromtimestamp(span.end, UTC).date()
    said = ", ".join(chart.title for chart in charts)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {width} {rows * (_HEIGHT + _GAP) + 50}">',
        f"<title>{escape(said)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_GAP}" y="26">Dashboard "Service", as Prometheus returns it: '
        f"{(span.end - span.start) / 60:.0f} minutes on {day}</text>",
    ]
    for number, chart in enumerate(charts):
        x = _GAP + number % _COLUMNS * (_WIDTH + _GAP)
        y = 44 + number // _COLUMNS * (_HEIGHT + _GAP)
        parts += [f'<g transform="translate({x} {y})">', *_draw(chart, span), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _query(url: str, expr: str, span: Span) -> list[dict[str, Any]]:
    # As Grafana's $__rate_interval: four scrapes, and at least the step.
    window = f"{max(20, 4 * span.step)}s"
    for name, value in (("$__rate_interval", window), ("$instance", ".*"), ("$share", ".*")):
        expr = expr.replace(name, value)
    asked = urllib.parse.urlencode(
        {"query": expr, "start": span.start, "end": span.end, "step": span.step}
    )
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{asked}", timeout=30) as answer:  # noqa: S310 - the operator's own
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return found


def _points(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    return [(at, float(value)) for at, value in values if not math.isnan(float(value))]


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def _largest(lines: list[Line]) -> list[Line]:
    shown = sorted(
        (line for line in lines if line.points),
        key=lambda line: -max(value for _, value in line.points),
    )
    return shown[: len(_COLOURS)]


def _draw(chart: Chart, span: Span) -> Iterator[str]:
    most = max((value for line in chart.lines for _, value in line.points), default=0) or 1
    top = 1.0 if chart.unit == "percentunit" else _round_up(most)
    bottom, right = _TOP + _PLOT, _WIDTH - 4

    def place(at: float, value: float) -> str:
        x = _LEFT + (at - span.start) / (span.end - span.start) * (right - _LEFT)
        return f"{x:.1f} {bottom - value / top * _PLOT:.1f}"

    yield f'<text class="name" x="0" y="14">{escape(chart.title)}</text>'
    for tick in (0, 0.5, 1):
        y = bottom - tick * _PLOT
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
        text = _with_unit(tick * top, chart.unit)
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    x, y = 0.0, bottom + 20
    for colour, line in zip(_COLOURS, chart.lines, strict=False):
        path = "L".join(place(at, value) for at, value in line.points)
        yield f'<path class="line" stroke="{colour}" d="M{path}"/>'
        room = 26 + 6.2 * len(line.name)
        if x + room > _WIDTH and x:
            x, y = 0.0, y + 15
        yield f'<rect x="{x:.0f}" y="{y - 7}" width="10" height="3" fill="{colour}"/>'
        yield f'<text x="{x + 14:.0f}" y="{y - 2}">{escape(line.name)}</text>'
        x += room


def _round_up(value: float) -> float:
    """Round up to 1, 2, 5, 10, 20, 50, ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value)


def _with_unit(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "s":
        return f"{value:g} s" if value >= 1 or not value else f"{value * 1000:g} ms"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g} {letter}{_after(unit)}"
    return f"{value:g} {_after(unit)}".rstrip()


def _after(unit: str) -> str:
    return {"Bps": "B/s", "bytes": "B", "reqps": "/s", "ops": "/s"}.get(unit, "")


def main() -> int:
    """Query Prometheus and write the SVG."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.picture", description=__doc__)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--output", type=Path, default=Path("docs/monitoring.svg"))
    options = parser.parse_args()
    end = time.time()
    span = Span(end - options.minutes * 60, end)
    charts = ask(options.prometheus, span)
    if empty := [chart.title for chart in charts if not chart.lines]:
        print(f"no data for: {', '.join(empty)}", file=sys.stderr)
    options.output.write_text(as_svg(charts, span), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
