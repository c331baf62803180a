"""Charts of lines as SVG, to be read on a light page and on a dark one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of middling lightness, on no ground of their own: each has a contrast of 3 to 1 with white and with near-black, as WCAG 2.2
# (1.4.11) asks of graphics.
INK = "#767676"
COLORS = ("#2f81f7", "#d2691e")

WIDTH, HEIGHT = 720, 320  # of one chart, in px
LEFT, RIGHT, TOP, BOTTOM = 80, 110, 48, 56
STEPS = 5  # at most, of the vertical axis


class Line(NamedTuple):
    """A line with its name: values, each at a labelled place."""

    name: str
    points: Sequence[tuple[str, float]]


class Chart(NamedTuple):
    """Lines over the same places, which stand at equal distances in the order given; from zero up."""

    title: str
    across: str  # what the places are
    upwards: str  # what the values are
    lines: Sequence[Line]


def draw(charts: Sequence[Chart], note: str) -> str:
    """The document: *charts* below each other, and a *note* at the foot."""
    height = HEIGHT * len(charts) + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
        f' font-family="system-ui, sans-serif" font-size="12" fill="{INK}">'
    )
    parts = [head, f"<title>{escape('; '.join(chart.title for chart in charts))}</title>"]
    for number, chart in enumerate(charts):
        parts += [f'<g transform="translate(0 {HEIGHT * number})">', *_chart(chart), "</g>"]
    parts += [_text(LEFT, height - 8, note, "start"), "</svg>"]
    return "\n".join(parts) + "\n"


def scale(largest: float) -> list[float]:
    """The round values, at equal steps from zero up, of an axis that *largest* fits on."""
    if largest <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(largest / STEPS))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power * STEPS >= largest)
    return [step * number for number in range(math.ceil(largest / step) + 1)]


def _chart(chart: Chart) -> Iterator[str]:
    values = scale(max(value for line in chart.lines for _, value in line.points))
    top = values[-1]
    yield f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(chart.title)}</text>'
    yield from _axes(chart, values)
    for line, color in zip(chart.lines, COLORS, strict=False):
        places = [(_x(at, len(line.points)), _y(value, top)) for at, (_, value) in enumerate(line.points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        for (x, y), (label, value) in zip(places, line.points, strict=True):
            told = escape(f"{line.name}, {label} {chart.across}: {value:,.0f} {chart.upwards}")
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"><title>{told}</title></circle>'
        x, y = places[-1]
        yield f'<text x="{x + 10:.1f}" y="{y + 4:.1f}" fill="{color}">{escape(line.name)}</text>'


def _axes(chart: Chart, values: Sequence[float]) -> Iterator[str]:
    for value in values:
        y = _y(value, values[-1])
        faint = "" if value == 0 else ' stroke-opacity="0.25"'
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{INK}"{faint}/>'
        yield _text(LEFT - 8, y + 4, f"{value:,.10g}", "end")
    labels = [label for label, _ in chart.lines[0].points]
    for at, label in enumerate(labels):
        yield _text(_x(at, len(labels)), HEIGHT - BOTTOM + 20, label, "middle")
    middle = (TOP + HEIGHT - BOTTOM) / 2
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 42, chart.across, "middle")
    yield f'<text transform="translate(18 {middle}) rotate(-90)" text-anchor="middle">{escape(chart.upwards)}</text>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _x(at: int, places: int) -> float:
    return LEFT + (WIDTH - RIGHT - LEFT) * (at + 0.5) / places


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top
