"""Which cells lie within a line that was drawn around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def inside(xy: NDArray[np.floating], polygon: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (n,) True for points inside a closed polygon of (k, 2) corners; where the polygon crosses itself, loops are holes."""
    found = np.zeros(len(xy), bool)
    if len(polygon) < 3:
        return found
    corners = polygon.astype(np.float64)
    (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
    # column by column: a reduction along rows of two takes ten times as long
    near = np.flatnonzero((xy[:, 0] >= left) & (xy[:, 0] <= right) & (xy[:, 1] >= low) & (xy[:, 1] <= high))
    # from the lowest to the highest band, so that an edge looks at the points of its own height only; 16 bits sort fastest

    def bands(heights: NDArray[np.floating]) -> NDArray[np.uint16]:
        return ((heights - low) * (65_535 / max(high - low, 1e-300))).astype(np.uint16)

    band = bands(xy[near, 1].astype(np.float64))
    order = np.argsort(band, kind="stable")
    near, band = near[order], band[order]
    x, y = xy[near, 0].astype(np.float64), xy[near, 1].astype(np.float64)
    within = np.zeros(len(near), bool)
    # a point is inside when a ray to its left crosses an odd number of edges; an edge holds its lower end and not its upper one
    for (x0, y0), (x1, y1) in zip(np.roll(corners, 1, axis=0), corners, strict=True):
        if y0 == y1:
            continue
        bottom, top = sorted((y0, y1))
        first, last = bands(np.array([bottom, top]))
        part = slice(np.searchsorted(band, first, "left"), np.searchsorted(band, last, "right"))
        crossed = x[part] < x1 + (y[part] - y1) * (x0 - x1) / (y0 - y1)
        within[part] ^= crossed & (y[part] >= bottom) & (y[part] < top)
    found[near] = within
    return found


def outline(event: Any) -> NDArray[np.float32] | None:
    """Return the corners of the lasso or box in the selection event of a plotly chart, (k, 2) data units; None without one."""
    selection = event["selection"] if event else {}
    for shape in selection.get("lasso") or []:
        return np.column_stack([shape["x"], shape["y"]]).astype(np.float32)
    for shape in selection.get("box") or []:
        (x0, x1), (y0, y1) = shape["x"], shape["y"]
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)
    return None
