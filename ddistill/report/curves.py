"""Line charts as inline SVG: small, sharp, and coloured by the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 38
TICKS = 5
UNITS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Curve:
    """A line: its name, colour and points (x, y)."""

    name: str
    color: str
    points: list[tuple[float, float]]


def chart(name: str, curves: Sequence[Curve], x_label: str, y_label: str, levels: Sequence[tuple[float, str]]) -> str:
    """An SVG of all curves on the same axes; ``levels`` are dashed horizontal lines (value, colour)."""
    points = [point for curve in curves for point in curve.points]
    xs, ys = [x for x, _ in points], [y for _, y in points] + [level for level, _ in levels]
    x_ticks, y_ticks = ticks(min(0.0, *xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(x_ticks[0], min(xs)), max(x_ticks[-1], max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1.0)
        up = (y - y_low) / ((y_high - y_low) or 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">']
    for tick in y_ticks:
        x, y = place(x_low, tick)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x_ticks:
        x, y = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{short(tick)}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="{LEFT - 44}" y="{TOP}" class="unit">{escape(y_label)}</text>')
    for level, color in levels:
        _, y = place(x_low, level)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{color}" '
            f'stroke-dasharray="3 4" opacity=".8"><title>random real images: {level:.1f} %</title></line>'
        )
    for curve in curves:
        placed = [place(x, y) for x, y in curve.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{curve.color}" stroke-width="2"/>')
        if len(placed) <= 30:
            for (x, y), (value_x, value_y) in zip(placed, curve.points, strict=True):
                label = escape(f"{curve.name}: {short(value_x)}, {value_y:.4g}")
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.color}"><title>{label}</title></circle>'
                )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``.

    >>> ticks(0.0, 42.0)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    span = (high - low) or abs(high) or 1.0
    raw = span / (TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.8)
    first = math.floor(low / step + 1e-9) if low < 0 else math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)] or [low]


def short(value: float) -> str:
    """A number with a unit prefix: 1.2k, 45P.

    >>> short(1234.0), short(0.25), short(4.5e16)
    ('1.2k', '0.25', '45P')
    """
    for size, prefix in UNITS:
        if abs(value) >= size:
            return f"{value / size:.{3 if abs(value) >= 100 * size else 2}g}{prefix}"
    return f"{value:.4g}"
