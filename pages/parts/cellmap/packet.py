"""What is sent to the browser: the places of cells, once, and one drawing of them, as bytes.

Places are whole numbers of 16 bits in a square around all cells (`Frame`): a step of it is a 65,535th of the map, less than a pixel until one
looks a hundred times closer. Cells are sent in a random order that is always the same, which is the order in which they are drawn, so that
neither the order of the file nor the size of a group decides what is seen. Notation: n cells.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from threading import Lock
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pages.parts.cellmap.colours import Categories, Values
from pages.parts.umap import look
from state_engine.plain import visible

FULL: Final = 65_535
MOST_DETAIL_BYTES: Final = 8_000_000
"""Of what is sent once; details that would exceed it are left out, so that no message has more than 10 MB."""
FADE: Final = 0.1
"""Opacity of cells that are not selected, relative to those that are."""
MOST_KEPT: Final = 4
"""Maps whose places are kept as bytes."""
_KEPT: dict[tuple[int, str], tuple[Any, ...]] = {}
_LOCK: Final = Lock()
_KINDS: Final = {"uint8": "u1", "uint16": "u2", "int32": "i4"}


@dataclass(frozen=True)
class Frame:
    """The square around all cells, in units of the map: its lower left corner and the length of its sides."""

    x: float
    y: float
    side: float

    @classmethod
    def around(cls, xy: NDArray[np.floating]) -> Frame:
        """Return the square around (n, 2) places."""
        if not len(xy):
            return cls(0.0, 0.0, 1.0)
        # column by column: a reduction along rows of two takes thirty times as long
        (x, right), (y, top) = ((float(column.min()), float(column.max())) for column in xy.T)
        return cls(x, y, max(right - x, top - y) or 1.0)

    def steps(self, xy: NDArray[np.floating]) -> NDArray[np.int32]:
        """Return places as whole numbers, 0 to 65,535 within the square."""
        return np.rint((xy - np.array([self.x, self.y])) / self.side * FULL).astype(np.int32)

    def units(self, steps: NDArray[np.integer]) -> NDArray[np.float32]:
        """Return whole numbers as places."""
        return (steps * (self.side / FULL) + np.array([self.x, self.y])).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Arrows:
    """Arrows on a map, all in one look.

    Args:
        start, end: (m, 2) in units of the map.
        words: of each arrow, shown by the pointer at its head; none: not shown.
        colour: "#rrggbb"; "": that of the text.
        width, opacity, dashed, heads: how they are drawn.
    """

    start: NDArray[np.floating]
    end: NDArray[np.floating]
    words: Sequence[str] = ()
    colour: str = ""
    width: float = 1.2
    opacity: float = 0.9
    dashed: bool = False
    heads: bool = True


@dataclass(frozen=True, eq=False)
class CellMap:
    """What a map shows.

    Args:
        xy: (n, 2) where the cells lie, an array that nobody changes. Its places are sent once; filters belong into `shown`.
        colour: what colours them.
        shown: (n,) False for cells that a filter takes away; None: all are shown.
        chosen: (n,) True for selected cells, the others fade; None: no selection.
        outline: (k, 2) corners of the selection, in units of the map.
        arrows: groups of them.
        details: labels of each cell that the pointer shows below its colour, (n,) each; sent once.
        link: maps with the same word here move together; "" alone.
    """

    xy: NDArray[np.floating]
    colour: Categories | Values
    shown: NDArray[np.bool_] | None = None
    chosen: NDArray[np.bool_] | None = None
    outline: NDArray[np.floating] | None = None
    arrows: Sequence[Arrows] = ()
    details: Mapping[str, pd.Categorical] = field(default_factory=dict)
    link: str = ""

    @property
    def n_shown(self) -> int:
        """Return how many cells pass the filters."""
        return len(self.xy) if self.shown is None else int(self.shown.sum())


@lru_cache(maxsize=8)
def drawing_order(n: int) -> NDArray[np.int32]:
    """Return the order in which n cells are sent and drawn."""
    order = np.random.default_rng(0).permutation(n).astype(np.int32)
    order.flags.writeable = False  # all callers have the same one
    return order


def packed(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a header and arrays as bytes: four with the length of the header, the header, the arrays, each from a multiple of four."""
    listed = [{"name": name, "kind": _KINDS[part.dtype.name], "length": part.size} for name, part in arrays.items()]
    text = json.dumps({**header, "arrays": listed}, separators=(",", ":")).encode()
    pieces = [len(text).to_bytes(4, "little"), text]
    for part in arrays.values():
        pieces += [b"\0" * (-sum(map(len, pieces)) % 4), np.ascontiguousarray(part).tobytes()]
    return b"".join(pieces)


def points_packet(shown: CellMap) -> tuple[str, bytes]:
    """Return the places of cells and their details as bytes, and their id; those of the last few maps are kept, by the array of places."""
    about = hashlib.sha256()
    for title, column in shown.details.items():
        about.update(repr((title, list(column.categories))).encode())
        about.update(np.ascontiguousarray(column.codes).tobytes())
    key = (id(shown.xy), about.hexdigest())
    with _LOCK:
        array, *found = _KEPT.get(key, (None,))
        if array is not None and array() is shown.xy:
            return found[0], found[1]
    id_, data = _points_packet(shown)
    with _LOCK:
        _KEPT[key] = (weakref.ref(shown.xy), id_, data)
        while len(_KEPT) > MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
    return id_, data


def _points_packet(shown: CellMap) -> tuple[str, bytes]:
    frame, order = Frame.around(shown.xy), drawing_order(len(shown.xy))
    steps = frame.steps(shown.xy)
    arrays: dict[str, NDArray[Any]] = {"places": steps[order].astype(np.uint16)}
    details: list[dict[str, Any]] = []
    sent = arrays["places"].nbytes
    for title, column in shown.details.items():
        # a label that a cell does not have is the last name
        names = [*map(visible, column.categories), "—"]
        codes = np.where(column.codes < 0, len(names) - 1, column.codes)
        part = codes[order].astype(np.uint8 if len(names) <= 256 else np.uint16)
        if (sent := sent + part.nbytes) > MOST_DETAIL_BYTES:
            break
        arrays[f"detail{len(details)}"] = part
        details.append({"title": title, "names": names})
    # the part of the square that holds cells, 0 to 1
    extent = (steps.max(axis=0) / FULL).tolist() if len(steps) else [1.0, 1.0]
    header = {"details": details, "extent": extent}
    digest = hashlib.sha256(json.dumps(header).encode())
    for part in arrays.values():
        digest.update(part.tobytes())
    id_ = digest.hexdigest()[:24]
    return id_, packed({"id": id_, **header}, arrays)


def drawing_packet(shown: CellMap, points: str, look_: Mapping[str, Any]) -> bytes:
    """Return one drawing of the cells as bytes; `points` is the id of their places, `look_` what the page says of the figure."""
    frame, order = Frame.around(shown.xy), drawing_order(len(shown.xy))
    codes = shown.colour.packed(shown.shown)
    style = look(shown.n_shown, False)
    opacity = style.opacity if isinstance(shown.colour, Categories) else max(style.opacity, 0.8)
    arrays: dict[str, NDArray[Any]] = {"codes": codes[order]}
    if shown.chosen is not None:
        arrays["chosen"] = np.packbits(shown.chosen[order])
    if shown.outline is not None:
        arrays["outline"] = frame.steps(shown.outline).ravel()
    groups = []
    for k, group in enumerate(shown.arrows):
        arrays[f"arrows{k}"] = np.hstack([frame.steps(group.start), frame.steps(group.end)]).ravel()
        groups.append(
            {
                "words": [visible(word) for word in group.words], "colour": group.colour, "width": group.width, "opacity": group.opacity,
                "dashed": group.dashed, "heads": group.heads,
            }
        )  # fmt: skip
    header = {
        "points": points, "size": round(style.size, 2), "opacity": round(opacity, 3), "fade": FADE, "arrows": groups, "link": shown.link,
        "colouring": f"{type(shown.colour).__name__} {shown.colour.title}",
    }  # fmt: skip
    return packed({**header, **shown.colour.header(codes), **look_}, arrays)
