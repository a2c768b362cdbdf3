"""What colours the cells of a map, as codes: 0 is a cell that is not shown, and each further code has a colour.

Categories: code 1 is the first name. Values: code 1 is "no value", codes 2 to 255 are steps from low to high; the browser draws high codes
on top of low ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from plotly.colors import get_colorscale, sample_colorscale

from pages.parts import palette
from pages.parts.umap import top_of
from state_engine.plain import visible

STEPS: Final = 254
"""Steps of a scale of values; 254 and two other codes fill a byte."""
MOST_IN_A_BYTE: Final = 255


@dataclass(frozen=True, eq=False)
class Categories:
    """Cells coloured by a category.

    Args:
        title: what the categories are, as the page names them.
        names: of the categories, in the order of the legend.
        codes: (n,) the category of each cell, by its place in `names`.
        colours: name -> "#rrggbb", from `pages.parts.palette`, so that a name keeps its colour from page to page.
    """

    title: str
    names: Sequence[str]
    codes: NDArray[np.integer]
    colours: Mapping[str, str]

    def packed(self, shown: NDArray[np.bool_] | None) -> NDArray[np.unsignedinteger]:
        """Return (n,) the code of each cell; 0 where it is not `shown`."""
        kind = np.uint8 if len(self.names) <= MOST_IN_A_BYTE else np.uint16
        codes: NDArray[np.unsignedinteger] = (self.codes.astype(np.int64) + 1).astype(kind)
        return codes if shown is None else np.where(shown, codes, kind(0))

    def header(self, packed: NDArray[np.unsignedinteger]) -> dict[str, Any]:
        """Return what the legend and the pointer need; `packed` are the codes."""
        counts = np.bincount(packed, minlength=len(self.names) + 1)[1:]
        colours = [self.colours[name] for name in self.names]
        return {
            "kind": "categories",
            "names": list(self.names),
            "counts": counts.tolist(),
            "colours": colours,
            "title": self.title,
        }


@dataclass(frozen=True, eq=False)
class Values:
    """Cells coloured by a number.

    Args:
        title, unit: of the number.
        values: (n,), NaN where there is none.
        low, high: the ends of the colours; None: 0, and the 99.5th percentile of the cells shown.
        scale: a scale of plotly, by name or as [place, colour] pairs.
    """

    title: str
    unit: str
    values: NDArray[np.floating]
    low: float | None = None
    high: float | None = None
    scale: Any = palette.SEQUENTIAL

    def ends(self, shown: NDArray[np.bool_] | None) -> tuple[float, float]:
        """Return where the colours start and end."""
        low = 0.0 if self.low is None else self.low
        high = (
            top_of(np.asarray(self.values if shown is None else self.values[shown], np.float32))
            if self.high is None
            else self.high
        )
        return low, max(high, low + 1e-9)

    def packed(self, shown: NDArray[np.bool_] | None) -> NDArray[np.unsignedinteger]:
        """Return (n,) the code of each cell; 0 where it is not `shown`."""
        low, high = self.ends(shown)
        known = np.isfinite(self.values)
        steps = np.clip((np.where(known, self.values, low) - low) / (high - low), 0, 1) * (STEPS - 1)
        codes = np.where(known, np.rint(steps) + 2, 1).astype(np.uint8)
        return codes if shown is None else np.where(shown, codes, np.uint8(0))

    def header(self, packed: NDArray[np.unsignedinteger]) -> dict[str, Any]:
        """Return what the legend and the pointer need; `packed` are the codes."""
        low, high = self.ends(packed > 0)
        scale = get_colorscale(self.scale) if isinstance(self.scale, str) else self.scale
        steps = sample_colorscale(scale, np.linspace(0, 1, STEPS).tolist(), colortype="tuple")
        colours = [palette.MISSING, *("#" + "".join(f"{round(255 * part):02x}" for part in step) for step in steps)]
        found = {"kind": "values", "names": [], "counts": [int((packed == 1).sum())], "colours": colours}
        return found | {"title": visible(self.title), "unit": self.unit, "low": low, "high": high}
