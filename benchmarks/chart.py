"""A run as a picture: the gateway's main rates, where OpenSSH's are 1."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from benchmarks.peers import GATEWAY
from benchmarks.report import Run, Spread

#: Rates that have a bar, with what the picture calls them.
_BARS = {
    "sequential": "one big file, sshfs",
    "get": "one big file, sftp",
    "small": "small files, 1 reader",
    "small_8": "small files, 8 readers",
    "walk": "walk of a tree, with stat",
    "random": "random 4 KiB reads",
    "mounts_8": "8 mounts at once",
    "logins": "logins at once",
}

#: Where the axis ends: a longer bar is cut off there and says so.
_AXIS = 4.0

_WIDTH, _LEFT, _TOP, _ROW = 760, 200, 66, 30
_UNIT = (_WIDTH - _LEFT - 90) / _AXIS

_STYLE = """\
text{font:13px ui-sans-serif,system-ui,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:15px;font-weight:600}.value{font-weight:600}.small{font-size:11.5px;fill:#59636e}
.bar{fill:#2f81f7}.slower{fill:#bc4c00}.grid{stroke:#8c959f;stroke-opacity:.35}
.one{stroke:#1f2328;stroke-width:1.5}.spread{stroke:#1f2328;stroke-opacity:.7}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}
.one,.spread{stroke:#e6edf3}.bar{fill:#4493f8}.slower{fill:#db6d28}}"""


def as_svg(run: Run) -> str:
    """The picture, for light and dark pages; without bars where nothing was measured."""
    bars = [*_measured(run)]
    height = _TOP + _ROW * len(bars) + 34
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
            f"<title>{escape(_words(bars))}</title>",
            f"<style>{_STYLE}</style>",
            '<text class="title" x="16" y="24">sftp-gateway, where OpenSSH is 1 '
            "(more is faster)</text>",
            f'<text class="small" x="16" y="42">{escape(_facts(run))}</text>',
            *_axis(len(bars)),
            *(line for row, bar in enumerate(bars) for line in _bar(row, *bar)),
            "</svg>",
            "",
        ]
    )


def _measured(run: Run) -> Iterator[tuple[str, Spread]]:
    for name, label in _BARS.items():
        measurement = run.measurement(name)
        found = measurement.ratio(GATEWAY, run.baseline) if measurement else None
        if found is not None:
            yield label, found


def _words(bars: list[tuple[str, Spread]]) -> str:
    """For who cannot see it."""
    said = "; ".join(f"{label} {found.median:.2f}" for label, found in bars)
    return f"Rates of sftp-gateway as multiples of OpenSSH's: {said}"


def _facts(run: Run) -> str:
    machine = run.machine
    return (
        f"{machine['cpu']}, {machine['cores']} cores, loopback, each server's default cipher; "
        f"medians of {run.rounds} rounds, lines from least to greatest; {run.date[:10]}"
    )


def _axis(rows: int) -> Iterator[str]:
    bottom = _TOP + _ROW * rows
    for tick in range(int(_AXIS) + 1):
        x, kind = _x(tick), "one" if tick == 1 else "grid"
        yield f'<path class="{kind}" d="M{x:.1f} {_TOP - 8}V{bottom}"/>'
        place = f'x="{x:.1f}" y="{bottom + 18}" text-anchor="middle"'
        yield f'<text class="small" {place}>{tick}</text>'


def _bar(row: int, label: str, found: Spread) -> Iterator[str]:
    top = _TOP + _ROW * row
    middle, end = top + 10, _x(found.median)
    kind = "bar" if found.median >= 1 else "bar slower"
    cut = found.median > _AXIS
    yield f'<text x="{_LEFT - 10}" y="{middle + 5}" text-anchor="end">{escape(label)}</text>'
    yield f'<rect class="{kind}" x="{_LEFT}" y="{top}" width="{end - _LEFT:.1f}" height="20"/>'
    if cut:
        yield f'<path class="{kind}" d="M{end:.1f} {top}l10 10l-10 10z"/>'
    else:
        yield f'<path class="spread" d="M{_x(found.min):.1f} {middle}H{_x(found.max):.1f}"/>'
    # Behind all that is drawn, the line of the 1 too.
    value_x = end + 16 if cut else max(end, _x(found.max), _x(1)) + 6
    yield f'<text class="value" x="{value_x:.1f}" y="{middle + 5}">{found.median:.2f}</text>'


def _x(ratio: float) -> float:
    return _LEFT + min(ratio, _AXIS) * _UNIT
