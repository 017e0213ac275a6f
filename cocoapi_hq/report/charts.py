"""Small charts as inline SVG: lines, grouped bars, intervals. No scripts, no external resources."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

#: Colours of series, told apart by people with colour-blindness too.
PALETTE = ("#2563a8", "#d97706", "#0f8a6a", "#a8387a", "#6d5bd0", "#6b7280")
_GRID, _AXIS, _TEXT = "#e6e8ec", "#b6bcc6", "#5b6472"


@dataclass(frozen=True)
class Line:
    """A series of a line chart: points (x, y) in data units."""

    label: str
    points: Sequence[tuple[float, float]]
    color: str
    dashed: bool = False
    marks: bool = True


@dataclass(frozen=True)
class Bar:
    """One bar: a value, what is written at its end, its colour; None draws nothing but the note."""

    value: float | None
    note: str
    color: str


def _text(x: float, y: float, value: str, anchor: str = "middle", **style: str) -> str:
    extra = "".join(f' {k.replace("_", "-")}="{escape(v)}"' for k, v in style.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(value)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{width:.0f}px">{"".join(parts)}</svg>'
    )


def legend(entries: Sequence[tuple[str, str, bool]]) -> str:
    """Labels with a stroke of their colour; entries are (label, colour, dashed)."""
    items = [
        '<span class="key"><svg viewBox="0 0 26 10" style="width:26px">'
        f'<line x1="1" y1="5" x2="25" y2="5" stroke="{color}" stroke-width="3"'
        f"{_dashes(dashed)}/></svg>{escape(label)}</span>"
        for label, color, dashed in entries
    ]
    return f'<div class="legend">{"".join(items)}</div>'


def _dashes(dashed: bool) -> str:
    return ' stroke-dasharray="6 4"' if dashed else ""


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_ticks: Sequence[float],
    width: float = 640,
    height: float = 320,
    small: bool = False,
) -> str:
    """Lines over a grid; y is a percentage from 0 to 100.

    Args:
        lines: the series.
        title: for screen readers; small charts also show it.
        x_label: name of the x axis.
        y_label: name of the y axis.
        x_ticks: labelled positions, ascending; the axis spans them.
        width: pixels.
        height: pixels.
        small: draw for a grid of many charts, with few labels.

    Returns:
        An ``svg`` element.
    """
    left, right, top, bottom = (32.0, 16.0, 24.0, 18.0) if small else (52.0, 18.0, 14.0, 44.0)
    low, high = x_ticks[0], x_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        share = (x - low) / (high - low)
        return (
            left + share * (width - left - right),
            top + (1 - y / 100) * (height - top - bottom),
        )

    parts = []
    for level in (0, 50, 100) if small else range(0, 101, 20):
        (x0, py), (x1, _) = at(low, level), at(high, level)
        color = _AXIS if level == 0 else _GRID
        parts.append(
            f'<line x1="{x0:.1f}" y1="{py:.1f}" x2="{x1:.1f}" y2="{py:.1f}" stroke="{color}"/>'
        )
        parts.append(_text(x0 - 6, py + 4, str(level), "end", fill=_TEXT))
    for x in x_ticks:
        px, py = at(x, 0)
        parts.append(_text(px, py + (13 if small else 18), f"{x:g}", fill=_TEXT))
    if small:
        parts.append(_text(left, 14, title, "start", fill="#1d2430", font_weight="600"))
    else:
        parts.append(_text((left + width - right) / 2, height - 8, x_label, fill=_TEXT))
        middle = (top + height - bottom) / 2
        turn = f"rotate(-90 14 {middle:.1f})"
        parts.append(_text(14, middle, y_label, fill=_TEXT, transform=turn))
    for line in lines:
        parts += _series(line, [at(x, y) for x, y in line.points], 1.8 if small else 2.4)
    return _svg(width, height, parts, title)


def _series(line: Line, points: Sequence[tuple[float, float]], stroke: float) -> Iterator[str]:
    """A line through points in pixels, with its marks."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield (
        f'<polyline points="{path}" fill="none" stroke="{line.color}" stroke-width="{stroke}" '
        f'stroke-linejoin="round"{_dashes(line.dashed)}/>'
    )
    for (x, y), (vx, vy) in zip(points, line.points if line.marks else (), strict=False):
        hint = escape(f"{line.label}: {vy:.1f} at {vx:g}")
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.4" fill="#fff" stroke="{line.color}" '
            f'stroke-width="2"><title>{hint}</title></circle>'
        )


def bar_chart(
    rows: Sequence[tuple[str, Sequence[Bar]]],
    *,
    title: str,
    limit: float,
    width: float = 640,
    label_width: float = 120,
) -> str:
    """Horizontal bars in groups.

    Args:
        rows: (label, bars) per group.
        title: for screen readers.
        limit: value at the right end of the scale.
        width: pixels.
        label_width: pixels for the labels.

    Returns:
        An ``svg`` element.
    """
    bar, gap, group = 15.0, 3.0, 12.0
    note_width = 104.0
    scale = (width - label_width - note_width) / max(limit, 1e-9)
    parts: list[str] = []
    y = 6.0
    for label, bars in rows:
        tall = len(bars) * (bar + gap) - gap
        parts.append(_text(label_width - 12, y + tall / 2 + 4, label, "end", fill="#1d2430"))
        for k, item in enumerate(bars):
            top = y + k * (bar + gap)
            length = 0.0 if item.value is None else max(0.0, item.value) * scale
            if item.value is not None:
                parts.append(
                    f'<rect x="{label_width:.1f}" y="{top:.1f}" width="{max(length, 1.5):.1f}" '
                    f'height="{bar:.1f}" rx="2.5" fill="{item.color}"/>'
                )
            parts.append(
                _text(label_width + length + 7, top + bar - 3.5, item.note, "start", fill=_TEXT)
            )
        y += tall + group
    height = y - group + 6
    axis = (
        f'<line x1="{label_width:.1f}" y1="0" x2="{label_width:.1f}" y2="{height:.1f}" '
        f'stroke="{_AXIS}"/>'
    )
    return _svg(width, height, [*parts, axis], title)


def interval_chart(
    rows: Sequence[tuple[str, float, float, float, str]], *, title: str, width: float = 640
) -> str:
    """Values with intervals, on a common scale in percent.

    Args:
        rows: (label, value, low, high, colour) in percent.
        title: for screen readers.
        width: pixels.

    Returns:
        An ``svg`` element.
    """
    left, right, step = 190.0, 24.0, 34.0
    low = max(0.0, min(r[2] for r in rows) - 1)
    high = min(100.0, max(r[3] for r in rows) + 1)
    tick: float = next(t for t in (1, 2, 5, 10, 20) if (high - low) / t <= 8 or t == 20)
    low, high = tick * math.floor(low / tick), tick * math.ceil(high / tick)
    height = 14 + step * len(rows) + 26

    def at(value: float) -> float:
        return left + (value - low) / max(high - low, 1e-9) * (width - left - right)

    parts = []
    for k in range(round((high - low) / tick) + 1):
        value = low + tick * k
        x = at(value)
        parts.append(
            f'<line x1="{x:.1f}" y1="6" x2="{x:.1f}" y2="{height - 24:.1f}" stroke="{_GRID}"/>'
        )
        parts.append(_text(x, height - 8, f"{value:g}", fill=_TEXT))
    for k, (label, value, lower, upper, color) in enumerate(rows):
        y = 14 + step * (k + 0.5)
        parts.append(_text(left - 14, y + 4, label, "end", fill="#1d2430"))
        parts.append(
            f'<line x1="{at(lower):.1f}" y1="{y:.1f}" x2="{at(upper):.1f}" y2="{y:.1f}" '
            f'stroke="{color}" stroke-width="4" stroke-linecap="round" opacity="0.4"/>'
            f'<circle cx="{at(value):.1f}" cy="{y:.1f}" r="6" fill="{color}"/>'
        )
    return _svg(width, height, parts, title)
