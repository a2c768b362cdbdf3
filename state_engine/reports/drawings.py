"""Figures of a report as SVG: points, curves and bars, without a library and without a script (heat maps: `tiles`).

One path holds all points of a series, so 20,000 cells take about 200 kB. Every text of a file is escaped. Notation: n points of a series.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.reports.document import text

LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 46
MOST_POINTS: Final = 30_000  # of a figure; more are drawn by a seed
_LINE: Final = 'stroke="currentColor" stroke-opacity=".35"'
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Series:
    """Points or a curve.

    Args:
        name: for the legend; "" for none.
        x, y: (n,) what is not finite is left out.
        size: of a point, in pixels; of a curve, its width.
        labels: (n,) names of points that are written beside them, "" for none; empty for no point.
    """

    name: str
    colour: str
    x: Array
    y: Array
    size: float = 3
    opacity: float = 0.75
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its title, and its range where that is given."""

    title: str
    low: float | None = None
    high: float | None = None
    ticks: bool = True


@dataclass(frozen=True)
class Frame:
    """Where numbers lie on a drawing of some width and height."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, values: Array) -> Array:
        """Return the places of x values."""
        low, high = self.x
        return LEFT + (values - low) / (high - low) * (self.width - LEFT - RIGHT)

    def up(self, values: Array) -> Array:
        """Return the places of y values; they are counted from the top."""
        low, high = self.y
        return self.height - BOTTOM - (values - low) / (high - low) * (self.height - TOP - BOTTOM)


def points(
    series: Sequence[Series], x: Axis, y: Axis, *, size: tuple[int, int] = (640, 420), diagonal: bool = False, square: bool = False,
    lines: Sequence[tuple[str, float]] = (),
) -> str:  # fmt: skip
    """Return a scatter plot.

    Args:
        series: later ones lie on top.
        diagonal: a line where both are equal.
        square: a unit is as long on both axes.
        lines: ("x" or "y", value) of thin lines.
    """
    frame = _frame(series, x, y, size, square)
    drawn = [_axes(frame, x, y), *(_guide(frame, way, value) for way, value in lines)]
    if diagonal:
        low, high = max(frame.x[0], frame.y[0]), min(frame.x[1], frame.y[1])
        ends = np.array([low, high])
        drawn.append(_polyline(frame.across(ends), frame.up(ends), f'{_LINE} stroke-dasharray="4 4"'))
    share = MOST_POINTS / max(1, sum(len(one.x) for one in series))
    rng = np.random.default_rng(0)
    for one in series:
        chosen = np.isfinite(one.x) & np.isfinite(one.y)
        if share < 1:
            chosen &= rng.random(len(one.x)) < share
        places = zip(frame.across(one.x[chosen]), frame.up(one.y[chosen]), strict=True)
        path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in places)
        look = f'stroke="{one.colour}" stroke-width="{one.size:g}" stroke-linecap="round" stroke-opacity="{one.opacity:g}"'
        drawn.append(f'<path d="{path}" fill="none" {look}/>')
    drawn += _labels(frame, series)
    return drawing(frame.width, frame.height, drawn, _legend(series, frame))


def curves(series: Sequence[Series], x: Axis, y: Axis, *, size: tuple[int, int] = (640, 360)) -> str:
    """Return lines through points."""
    frame = _frame(series, x, y, size, False)
    drawn = [_axes(frame, x, y)]
    for one in series:
        good = np.isfinite(one.x) & np.isfinite(one.y)
        look = f'stroke="{one.colour}" stroke-width="{one.size:g}" stroke-opacity="{one.opacity:g}"'
        drawn.append(_polyline(frame.across(one.x[good]), frame.up(one.y[good]), look))
    return drawing(frame.width, frame.height, drawn, _legend(series, frame))


def bars(
    names: Sequence[str],
    values: Array,
    title: str,
    colours: Sequence[str],
    *,
    low: Array | None = None,
    high: Array | None = None,
) -> str:
    """Return horizontal bars, the first on top, with whiskers from `low` to `high` where they are given."""
    row, left, width = 24, 210, 640
    height = row * len(names) + BOTTOM
    ends = [values, *(side for side in (low, high) if side is not None)]
    low_end, high_end = _range(np.concatenate([*ends, [0.0]]), None, None)
    across = lambda v: left + (v - low_end) / (high_end - low_end) * (width - left - RIGHT)  # noqa: E731
    drawn = []
    for i, (name, value) in enumerate(zip(names, values.tolist(), strict=True)):
        y = i * row + 4
        if math.isfinite(value):
            start, stop = sorted((across(0.0), across(value)))
            drawn.append(f'<rect x="{start:.1f}" y="{y}" width="{stop - start:.1f}" height="{row - 8}" fill="{colours[i]}"/>')
        if low is not None and high is not None and np.isfinite(low[i]) and np.isfinite(high[i]):
            middle = y + (row - 8) / 2
            drawn.append(f'<path d="M{across(low[i]):.1f} {middle}H{across(high[i]):.1f}" stroke="currentColor" fill="none"/>')
        drawn.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{text(name, 32)}</text>')
    base = height - BOTTOM
    for tick in _ticks(low_end, high_end):
        drawn.append(f'<path d="M{across(tick):.1f} 0V{base + 4}" fill="none" {_LINE} stroke-width=".5"/>')
        drawn.append(f'<text x="{across(tick):.1f}" y="{base + 18}" text-anchor="middle">{tick_words(tick)}</text>')
    drawn.append(f'<text x="{(left + width) / 2:.0f}" y="{height - 8}" text-anchor="middle">{text(title)}</text>')
    return drawing(width, height, drawn)


def _frame(series: Sequence[Series], x: Axis, y: Axis, size: tuple[int, int], square: bool) -> Frame:
    across = _range(np.concatenate([np.zeros(0), *(one.x for one in series)]), x.low, x.high)
    up = _range(np.concatenate([np.zeros(0), *(one.y for one in series)]), y.low, y.high)
    width, height = size
    if square:  # one scale for both: the larger number of units a pixel
        per = max((across[1] - across[0]) / (width - LEFT - RIGHT), (up[1] - up[0]) / (height - TOP - BOTTOM))
        across = _widened(across, per * (width - LEFT - RIGHT))
        up = _widened(up, per * (height - TOP - BOTTOM))
    return Frame(width, height, across, up)


def _widened(ends: tuple[float, float], length: float) -> tuple[float, float]:
    middle = (ends[0] + ends[1]) / 2
    return middle - length / 2, middle + length / 2


def _range(values: Array, low: float | None, high: float | None) -> tuple[float, float]:
    good = values[np.isfinite(values)]
    start = float(good.min()) if len(good) else 0.0
    stop = float(good.max()) if len(good) else 1.0
    margin = (stop - start) * 0.05 or 0.5
    return (start - margin if low is None else low), (stop + margin if high is None else high)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends, about five."""
    raw = (high - low) / 5
    step = 10 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if raw <= m * step * 1.0001)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def tick_words(value: float) -> str:
    """Return a number as it stands at an axis."""
    return f"{value:.3g}".replace("-", "−") if abs(value) < 1e5 else f"{value:,.0f}"


def _axes(frame: Frame, x: Axis, y: Axis) -> str:
    base, right = frame.height - BOTTOM, frame.width - RIGHT
    found = [f'<path d="M{LEFT} {TOP}V{base}H{right}" fill="none" {_LINE}/>']
    for tick in _ticks(*frame.x) if x.ticks else ():
        at = float(frame.across(np.array(tick)))
        found.append(f'<text x="{at:.1f}" y="{base + 16}" text-anchor="middle">{tick_words(tick)}</text>')
    for tick in _ticks(*frame.y) if y.ticks else ():
        at = float(frame.up(np.array(tick)))
        found.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick_words(tick)}</text>')
    middle = (TOP + base) / 2
    found.append(f'<text x="{(LEFT + right) / 2:.0f}" y="{frame.height - 10}" text-anchor="middle">{text(x.title)}</text>')
    found.append(
        f'<text transform="rotate(-90 16 {middle:.0f})" x="16" y="{middle:.0f}" text-anchor="middle">{text(y.title)}</text>'
    )
    return "".join(found)


def _guide(frame: Frame, way: str, value: float) -> str:
    at = np.array(value)
    if way == "x":
        return (
            f'<path d="M{float(frame.across(at)):.1f} {TOP}V{frame.height - BOTTOM}" fill="none" {_LINE} stroke-dasharray="2 3"/>'
        )
    return f'<path d="M{LEFT} {float(frame.up(at)):.1f}H{frame.width - RIGHT}" fill="none" {_LINE} stroke-dasharray="2 3"/>'


def _polyline(x: Array, y: Array, look: str) -> str:
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))
    return f'<path d="M{path}" fill="none" {look}/>' if path else ""


def _labels(frame: Frame, series: Sequence[Series]) -> list[str]:
    """Return names beside their points, the first given first; one that would lie on another is left out."""
    boxes, found = list[tuple[float, float, float]](), []
    for one in series:
        for name, x, y in zip(one.labels, frame.across(one.x), frame.up(one.y), strict=False):
            if not name or not (np.isfinite(x) and np.isfinite(y)):
                continue
            wide, left = 6.2 * min(len(name), 24), x > frame.width * 0.72
            start = x - 5 - wide if left else x + 5
            if any(abs(y - b) < 12 and start < a + w and a < start + wide for a, b, w in boxes):
                continue
            boxes.append((start, y, wide))
            anchor = "end" if left else "start"
            found.append(
                f'<text x="{x - 5 if left else x + 5:.1f}" y="{y + 3:.1f}" text-anchor="{anchor}">{text(name, 24)}</text>'
            )
    return found


def _legend(series: Iterable[Series], frame: Frame) -> tuple[str, int]:
    """Return the legend below the figure, lines of coloured dots with names, and its height."""
    x, y, found = float(LEFT), frame.height + 14, []
    for one in series:
        if not one.name:
            continue
        wide = 24 + 6.2 * min(len(one.name), 40)
        if x + wide > frame.width:
            x, y = float(LEFT), y + 18
        found.append(f'<circle cx="{x + 5:.0f}" cy="{y - 4}" r="4.5" fill="{one.colour}"/>')
        found.append(f'<text x="{x + 14:.0f}" y="{y}">{text(one.name, 40)}</text>')
        x += wide + 8
    return ("".join(found), y + 8 - frame.height) if found else ("", 0)


def drawing(width: int, height: int, drawn: Sequence[str], legend: tuple[str, int] = ("", 0)) -> str:
    """Return a figure of what is drawn, and of a legend below with its height."""
    below, more = legend
    box = f'viewBox="0 0 {width} {height + more}" width="{width}" height="{height + more}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img">{"".join(drawn)}{below}</svg>'
