"""Figures of a report with a tile for each row and column, as SVG: numbers with their scale and marks, or categories with their legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from state_engine.reports.document import text
from state_engine.reports.drawings import Array, drawing, tick_words

_ROWS: Final = 190  # pixels for the names of rows
_WITH_LEGEND: Final = 640


@dataclass(frozen=True)
class Tile:
    """A cell of a picture of rows by columns: its colour, what the pointer says, and a mark on it."""

    colour: str
    words: str
    mark: str = ""


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Array,
    colour: tuple[str, str],
    title: str = "",
    marks: Sequence[Sequence[str]] = (),
    meanings: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a heat map of (r, c) values from `colour`[0] (0) to `colour`[1] (the largest), with its scale; what is not finite is hatched grey.

    Args:
        title: of the scale.
        marks: of each cell, "ring", "hatch", "dot" or ""; none at all.
        meanings: of the marks, for the legend; only those that occur are in it.
    """
    largest = float(np.nanmax(values, initial=0)) or 1.0
    tiles: list[list[Tile | None]] = []
    for i, row in enumerate(rows):
        tiles.append([])
        for j, column in enumerate(columns):
            value, mark = float(values[i, j]), marks[i][j] if marks else ""
            words = f"{row} in {column}: {value:.2f}" + (f", {meanings[mark]}" if mark in meanings else "")
            known = Tile(_mixed(*colour, max(0.0, value) / largest), words, mark) if math.isfinite(value) else None
            tiles[-1].append(known)
    scale = (
        f'<defs><linearGradient id="scale"><stop offset="0" stop-color="{colour[0]}"/><stop offset="1" stop-color="{colour[1]}"/>'
        "</linearGradient></defs>"
    )
    found = {
        mark: words for mark, words in meanings.items() if any(tile and tile.mark == mark for line in tiles for tile in line)
    }

    def below(y: int) -> tuple[str, int]:
        bar = f'{scale}<rect x="{_ROWS}" y="{y}" width="150" height="10" fill="url(#scale)"/>'
        ends = f'<text x="{_ROWS}" y="{y + 23}">0</text><text x="{_ROWS + 150}" y="{y + 23}" text-anchor="end">{tick_words(largest)}</text>'
        lines = [_mark_line(mark, words, y + 42 + 18 * place) for place, (mark, words) in enumerate(found.items())]
        return f'{bar}{ends}<text x="{_ROWS + 158}" y="{y + 10}">{text(title, 60)}</text>{"".join(lines)}', 30 + 18 * len(lines)

    return tile_map(rows, columns, tiles, below)


def categories(rows: Sequence[str], columns: Sequence[str], names: Sequence[Sequence[str]], colours: Mapping[str, str]) -> str:
    """Return a picture of (r, c) categories with a legend of those that occur; a name without a colour is hatched grey."""
    tiles = [
        [
            Tile(colours[name], f"{row} in {column}: {name}") if name in colours else None
            for column, name in zip(columns, line, strict=True)
        ]
        for row, line in zip(rows, names, strict=True)
    ]
    found = [(name, colour) for name, colour in colours.items() if any(name in line for line in names)]

    def below(y: int) -> tuple[str, int]:
        lines = [
            f'<rect x="{_ROWS}" y="{y + 18 * place}" width="11" height="11" fill="{colour}"/><text x="{_ROWS + 18}" y="{y + 10 + 18 * place}">'
            f"{text(name, 40)}</text>"
            for place, (name, colour) in enumerate(found)
        ]
        return "".join(lines), 18 * len(lines)

    return tile_map(rows, columns, tiles, below)


def tile_map(
    rows: Sequence[str], columns: Sequence[str], tiles: Sequence[Sequence[Tile | None]], below: Callable[[int], tuple[str, int]]
) -> str:
    """Return rows by columns of tiles, None being hatched grey.

    Args:
        below: returns what lies under the tiles from a height on, and how high it is.
    """
    side, left, top = 26, _ROWS, 110
    end = top + side * len(rows) + 8
    drawn = [
        '<defs><pattern id="none" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V5" stroke="#9aa0a3"/></pattern></defs>'
    ]
    for i, row in enumerate(rows):
        drawn.append(f'<text x="{left - 6}" y="{top + i * side + 17}" text-anchor="end">{text(row, 28)}</text>')
        for j, column in enumerate(columns):
            tile = tiles[i][j]
            words = f"{row} in {column}: none" if tile is None else tile.words
            drawn.append(
                f'<rect x="{left + j * side}" y="{top + i * side}" width="{side - 1}" height="{side - 1}" '
                f'fill="{"url(#none)" if tile is None else tile.colour}"><title>{text(words)}</title></rect>'
            )
            if tile is not None:
                drawn.append(_mark(tile.mark, left + j * side + 12, top + i * side + 12, _ink(tile.colour)))
    for j, column in enumerate(columns):
        x, y = left + j * side + 15, top - 6
        drawn.append(f'<text transform="rotate(-50 {x} {y})" x="{x}" y="{y}">{text(column, 22)}</text>')
    legend, more = below(end)
    return drawing(max(left + side * len(columns) + 20, _WITH_LEGEND), end + more + 8, [*drawn, legend])


def _mark(mark: str, x: float, y: float, ink: str) -> str:
    """Return a mark around the middle of a tile."""
    if mark == "hatch":
        lines = "".join(f"M{x + shift - 8} {y + 8}L{x + shift + 8} {y - 8}" for shift in (-8, 0, 8))
        return f'<path d="{lines}" stroke="{ink}" stroke-opacity=".7" fill="none"/>'
    if mark == "ring":
        return f'<circle cx="{x}" cy="{y}" r="6" fill="none" stroke="{ink}" stroke-width="2"/>'
    return f'<circle cx="{x}" cy="{y}" r="2.5" fill="{ink}"/>' if mark == "dot" else ""


def _mark_line(mark: str, words: str, y: int) -> str:
    """Return a line of the legend."""
    return f'{_mark(mark, _ROWS + 9, y - 4, "currentColor")}<text x="{_ROWS + 28}" y="{y}">{text(words, 70)}</text>'


def _ink(colour: str) -> str:
    """Return the colour of marks that are seen on another."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#1c2321" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "#ffffff"


def _mixed(low: str, high: str, part: float) -> str:
    """Return the colour between two."""
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (low, high)]
    return "#" + "".join(f"{round(a + (b - a) * min(1.0, part)):02x}" for a, b in zip(*ends, strict=True))
