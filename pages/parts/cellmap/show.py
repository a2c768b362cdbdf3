"""Show a map of cells on a page, with what lies around it, and take what was drawn on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from pages.parts.cellmap.colours import STEPS, Values
from pages.parts.cellmap.packet import CellMap, Frame, drawing_packet, points_packet
from pages.parts.cellmap.polygon import inside
from pages.parts.figures import csv_button
from pages.parts.format import md, sentences
from state_engine.config import APP

MOST_CORNERS: Final = 2000
_PLACE: Final = APP / "assets" / "map"


@dataclass(frozen=True, eq=False)
class Pick:
    """What was drawn around, and what the legend took away meanwhile.

    Args:
        outline: (k, 2) corners in units of the map.
        hidden: codes that the legend hid (see `colours`).
        span: of values, the part of the scale that was shown, 0 to 1.
    """

    outline: NDArray[np.float32]
    hidden: tuple[int, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)

    def of(self, shown: CellMap) -> NDArray[np.bool_]:
        """Return (n,) True for the cells within the outline that could be seen."""
        found, left_out = inside(shown.xy, self.outline), self.left_out(shown)
        if shown.shown is not None:
            found &= shown.shown
        return found if left_out is None else found & ~left_out

    def left_out(self, shown: CellMap) -> NDArray[np.bool_] | None:
        """Return (n,) True for the cells that the legend hid; None when it hid none."""
        if not self.hidden and self.span == (0.0, 1.0):
            return None
        codes = shown.colour.packed(shown.shown)
        hidden = np.isin(codes, self.hidden)
        if isinstance(shown.colour, Values):
            low, high = (2 + (STEPS - 1) * share for share in self.span)
            hidden |= (codes > 1) & ((codes < low - 1e-6) | (codes > high + 1e-6))
        return hidden


def draw_map(
    key: str,
    shown: CellMap,
    *,
    alt: str = "",
    height: int = 560,
    axes: str = "UMAP 1 and 2",
    on_pick: Callable[[Pick], None] | None = None,
) -> None:
    """Draw a map.

    Args:
        key: unique on the page; also the name of saved figures.
        shown: the cells.
        alt: what the figure shows, for readers who do not see it.
        height: in pixels.
        axes: what the two directions are, written into saved figures.
        on_pick: called with what was drawn around, before the page runs again.
    """
    frame = Frame.around(shown.xy)
    points, places = points_packet(shown)
    # the places and the library that draws them: the same bytes as before are not sent again
    st.components.v2.component("map_points", js=(_PLACE / "map.js").read_text())(key=f"map_points_{key}", data=places)
    look = {"height": height, "alt": alt or f"Map of {shown.n_shown:,} cells", "file": key, "axes": axes}
    place = f"{key}_cells"
    view = st.components.v2.component(
        "map_view",
        html=(_PLACE / "view.html").read_text(),
        css=(_PLACE / "map.css").read_text(),
        js=(_PLACE / "view.js").read_text(),
    )

    def picked() -> None:
        pick = _pick(st.session_state[place].get("lasso"), frame)
        if pick is not None and on_pick is not None:
            on_pick(pick)

    view(key=place, data=drawing_packet(shown, points, look), on_lasso_change=picked)


def show_map(
    key: str,
    shown: CellMap,
    *,
    title: str,
    caption: str,
    table: Callable[[], pd.DataFrame],
    height: int = 560,
    on_pick: Callable[[Pick], None] | None = None,
) -> None:
    """Draw a map with its title above, caption (method and n) below, and its cells as CSV; the rest is as in `draw_map`."""
    with st.container(key=f"figure_{key}"):
        st.markdown(f"**{md(title, most=200)}**")
        draw_map(key, shown, alt=f"{title}. {caption}", height=height, on_pick=on_pick)
        st.caption(sentences(caption))
        csv_button("Data (CSV)", table, f"{key}.csv", f"{key}_csv")


def _pick(sent: Any, frame: Frame) -> Pick | None:
    """Return what the browser sent; None where it is not what a map sends."""
    try:
        corners = np.array(sent["corners"], np.int64).reshape(-1, 2)
        hidden, (low, high) = tuple(map(int, sent["hidden"])), map(float, sent["span"])
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    if not 3 <= len(corners) <= MOST_CORNERS:
        return None
    return Pick(frame.units(corners), hidden, (low, high))
