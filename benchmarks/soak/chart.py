"""A soak as a picture: memory and descriptors over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import floor, log10

from benchmarks.soak.course import Soak
from benchmarks.soak.samples import KINDS, Sample

_WIDTH, _LEFT, _RIGHT, _TOP = 760, 60, 110, 62
_PANEL, _GAP = 170, 44

#: Parts of each axis.
_STEPS = 5

_STYLE = """\
text{font:13px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.small{font-size:11.5px;fill:#59636e}
.grid{stroke:#8c959f;stroke-opacity:.35}.restart{fill:#8c959f;fill-opacity:.2}
.line{fill:none;stroke-width:1.5;stroke-linejoin:round}
.l0{stroke:#1f2328}.l1{stroke:#2f81f7}.l2{stroke:#bc4c00}.l3{stroke:#1a7f37}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}
.l0{stroke:#e6edf3}.l1{stroke:#4493f8}.l2{stroke:#db6d28}.l3{stroke:#3fb950}}"""


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    value: Callable[[Sample], float]


def _anonymous(kind: str) -> Callable[[Sample], float]:
    return lambda sample: (
        sum(each.memory.anonymous for each in sample.processes if each.kind == kind) / 1024
    )


_PANELS: Sequence[tuple[str, Sequence[_Line]]] = (
    (
        "anonymous memory, MiB",
        (
            _Line("all", lambda sample: sample.memory().anonymous / 1024),
            *(
                _Line(f"{kind}{'s' if kind == 'worker' else ''}", _anonymous(kind))
                for kind in KINDS
            ),
        ),
    ),
    (
        "open at the time",
        (
            _Line("descriptors", lambda sample: sample.descriptors()),
            _Line("sessions", lambda sample: sample.sessions),
            _Line("handles", lambda sample: sample.handles),
        ),
    ),
)


def as_svg(soak: Soak) -> str:
    """The picture, for light and dark pages."""
    samples = soak.samples
    height = _TOP + len(_PANELS) * (_PANEL + _GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        f"<title>{escape(_words(soak))}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="16" y="24">sftp-gateway, {soak.seconds / 3600:.2g} hours of mixed'
        " clients</text>",
        f'<text class="small" x="16" y="42">{escape(_words(soak))}; grey: workers are being'
        " replaced</text>",
    ]
    for number, (title, shown) in enumerate(_PANELS if len(samples) > 1 else ()):
        lines += _panel(_TOP + number * (_PANEL + _GAP), title, shown, samples)
    return "\n".join([*lines, "</svg>", ""])


def _words(soak: Soak) -> str:
    ledger = soak.ledger
    return (
        f"{ledger.verified / 2**30:.1f} GiB verified, {sum(ledger.done.values()):,} operations, "
        f"{len(ledger.restarts)} restarts, {ledger.errors} errors; {soak.started:%Y-%m-%d}"
    )


def _panel(
    top: int, title: str, shown: Sequence[_Line], samples: Sequence[Sample]
) -> Iterator[str]:
    bottom, across = top + _PANEL, (_WIDTH - _LEFT - _RIGHT) / samples[-1].at
    step = _step(max(line.value(each) for line in shown for each in samples))
    yield f'<text class="small" x="{_LEFT}" y="{top - 6}">{title}</text>'
    yield from _axes(bottom, step, samples[-1].at)
    for before, after in pairwise(samples):
        if before.restarting:
            x, width = _LEFT + across * before.at, across * (after.at - before.at)
            place = f'x="{x:.1f}" y="{top}" width="{width:.1f}" height="{_PANEL}"'
            yield f'<rect class="restart" {place}/>'
    ends = []
    for number, line in enumerate(shown):
        heights = [bottom - line.value(each) * _PANEL / (_STEPS * step) for each in samples]
        points = " ".join(
            f"{_LEFT + across * each.at:.1f},{y:.1f}"
            for each, y in zip(samples, heights, strict=True)
        )
        yield f'<polyline class="line l{number}" points="{points}"/>'
        ends.append(heights[-1])
    yield from _names(shown, ends)


def _axes(bottom: int, step: float, end: float) -> Iterator[str]:
    unit, seconds = ("h", 3600) if end > 2 * 3600 else ("min", 60) if end > 120 else ("s", 1)
    for tick in range(_STEPS + 1):
        y = bottom - tick * _PANEL / _STEPS
        yield f'<path class="grid" d="M{_LEFT} {y:.0f}H{_WIDTH - _RIGHT}"/>'
        place = f'x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end"'
        yield f'<text class="small" {place}>{tick * step:g}</text>'
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * tick / _STEPS
        place = f'x="{x:.0f}" y="{bottom + 16}" text-anchor="middle"'
        yield f'<text class="small" {place}>{end * tick / _STEPS / seconds:.3g} {unit}</text>'


def _names(shown: Sequence[_Line], heights: Sequence[float]) -> Iterator[str]:
    """At the ends of the lines, one below the other where those are close."""
    last = float("-inf")
    for height, number in sorted((height, number) for number, height in enumerate(heights)):
        last = max(height, last + 14)
        x = _WIDTH - _RIGHT + 8
        yield f'<path class="line l{number}" d="M{x} {last:.0f}h12"/>'
        place = f'x="{x + 16}" y="{last + 4:.0f}"'
        yield f'<text class="small" {place}>{escape(shown[number].name)}</text>'


def _step(most: float) -> float:
    """What a part of the axis stands for, so that `most` is on it: a round number."""
    part = max(most, _STEPS) / _STEPS
    power: float = 10.0 ** floor(log10(part))
    return next(power * each for each in (1, 2, 2.5, 4, 5, 10) if power * each >= part)
