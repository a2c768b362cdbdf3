"""The map of cells: what is sent, and what comes back."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from pages.parts import palette
from pages.parts.cellmap import Arrows, Categories, CellMap, Pick, Values, inside
from pages.parts.cellmap.packet import Frame, drawing_order, drawing_packet, points_packet
from pages.parts.cellmap.show import _pick
from state_engine.config import APP
from tests.pages.maps import unpacked

LOOK = {"height": 400, "alt": "cells", "file": "map", "axes": "UMAP"}


def cells(n: int = 1000, **changes: object) -> CellMap:
    rng = np.random.default_rng(1)
    xy = rng.normal(size=(n, 2)).astype(np.float32) * [3, 1]
    colours = palette.categories(["a", "b", "c"])
    return CellMap(xy, Categories("Letter", ["a", "b", "c"], np.arange(n) % 3, colours), **changes)  # type: ignore[arg-type]


def crossings(xy: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Points inside a polygon, one point and one edge after another."""
    found = []
    for x, y in xy.astype(float):
        within = False
        for (ax, ay), (bx, by) in zip(polygon.astype(float), np.roll(polygon.astype(float), -1, axis=0), strict=True):
            if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
                within = not within
        found.append(within)
    return np.array(found)


# What is sent


def test_places_come_back_to_a_65535th_of_the_map() -> None:
    shown = cells()
    frame = Frame.around(shown.xy)
    steps = frame.steps(shown.xy)
    assert steps.min() == 0 and steps.max() == 65_535, "the square is no larger than the cells"
    assert np.abs(frame.units(steps) - shown.xy).max() <= frame.side / 65_535
    assert Frame.around(np.zeros((3, 2))).steps(np.zeros((3, 2))).tolist() == [[0, 0]] * 3


def test_places_are_sent_in_the_order_of_drawing_with_their_details() -> None:
    kinds = pd.Categorical(np.where(np.arange(1000) < 500, "first", None), categories=["first"])
    shown = cells(details={"Half": kinds})
    id, data = points_packet(shown)
    packet, order = unpacked(data), drawing_order(1000)
    assert packet.header["id"] == id and packet.arrays["places"].dtype == np.uint16
    places = packet.arrays["places"].reshape(-1, 2)
    assert np.array_equal(places, Frame.around(shown.xy).steps(shown.xy)[order])
    names = np.array(packet.header["details"][0]["names"])[packet.arrays["detail0"]]
    assert (names == np.where(order < 500, "first", "—")).all()
    assert sorted(order) == list(range(1000)) and not np.array_equal(order, np.arange(1000))
    assert packet.header["extent"] == pytest.approx([1, np.ptp(shown.xy[:, 1]) / np.ptp(shown.xy[:, 0])], abs=1e-4)


def test_new_colours_send_one_byte_for_each_cell_and_no_places() -> None:
    n = 20_000
    shown = cells(n)
    id, places = points_packet(shown)
    drawing = drawing_packet(shown, id, LOOK)
    values = drawing_packet(CellMap(shown.xy, Values("G", "log1p", np.arange(n, dtype=float))), id, LOOK)
    assert n <= len(drawing) < n + 1000 and n <= len(values) < n + 4000 and 4 * n <= len(places) < 4 * n + 300
    assert points_packet(shown) == (id, places), "the same cells are the same bytes, which are not sent again"
    assert unpacked(drawing).header["points"] == unpacked(values).header["points"] == id


def test_a_million_cells_with_details_stay_below_ten_megabytes() -> None:
    n = 1_000_000
    many = pd.Categorical.from_codes(np.arange(n) % 300, [str(i) for i in range(300)])
    few = pd.Categorical.from_codes(np.arange(n) % 3, list("abc"))
    shown = CellMap(np.zeros((n, 2)), Values("G", "log1p", np.zeros(n)), details={"a": many, "b": few, "c": few, "d": few})
    data = points_packet(shown)[1]
    assert len(data) < 8_010_000 and [one["title"] for one in unpacked(data).header["details"]] == ["a", "b", "c"]


def test_categories_have_their_colours_and_hidden_cells_have_code_zero() -> None:
    shown = cells(shown=np.arange(1000) % 2 == 0)
    packet = unpacked(drawing_packet(shown, "p", LOOK))
    codes = np.empty(1000, int)
    codes[drawing_order(1000)] = packet.arrays["codes"]
    assert (codes == np.where(np.arange(1000) % 2 == 0, np.arange(1000) % 3 + 1, 0)).all()
    assert packet.header["counts"] == [167, 166, 167] and packet.header["colours"] == list(
        palette.categories(list("abc")).values()
    )


def test_more_categories_than_a_byte_holds_have_two() -> None:
    names = [f"guide {i}" for i in range(400)]
    colour = Categories("Guide", names, np.arange(400), palette.categories(names))
    packet = unpacked(drawing_packet(CellMap(np.random.default_rng(0).normal(size=(400, 2)), colour), "p", LOOK))
    assert packet.arrays["codes"].dtype == np.uint16 and sorted(packet.arrays["codes"]) == list(range(1, 401))


def test_values_become_steps_with_the_missing_ones_lowest() -> None:
    values = np.array([np.nan, 0.0, 1.0, 2.0, 9.0])
    colour = Values("G", "log1p", values, high=2.0)
    assert colour.packed(None).tolist() == [1, 2, 128, 255, 255]
    assert colour.packed(np.array([True, True, False, True, True])).tolist() == [1, 2, 0, 255, 255]
    header = colour.header(colour.packed(None))
    assert header["counts"] == [1] and len(header["colours"]) == 255 and header["colours"][0] == palette.MISSING
    assert header["colours"][1] == "#440154" and header["colours"][-1] == "#fde725"
    assert Values("G", "log2", values, -2, 2, palette.DIVERGING).header(np.array([1, 2]))["low"] == -2


def test_selection_arrows_and_outline_are_sent_in_the_same_square() -> None:
    shown = cells()
    chosen = shown.xy[:, 0] > 0
    arrows = Arrows(shown.xy[:3], shown.xy[3:6], ["one", "two", "<b>\u202ethree"])
    packet = unpacked(drawing_packet(CellMap(shown.xy, shown.colour, None, chosen, shown.xy[:4], (arrows,)), "p", LOOK))
    bits = np.unpackbits(packet.arrays["chosen"])[:1000].astype(bool)
    assert np.array_equal(bits, chosen[drawing_order(1000)])
    steps = Frame.around(shown.xy).steps(shown.xy)
    assert np.array_equal(packet.arrays["arrows0"].reshape(-1, 4), np.hstack([steps[:3], steps[3:6]]))
    assert np.array_equal(packet.arrays["outline"].reshape(-1, 2), steps[:4])
    assert packet.header["arrows"][0]["words"][2] == "<b>\\u202ethree", "letters that turn the text around are written out"


def test_places_that_are_kept_are_those_of_the_array_and_its_details() -> None:
    first, other = cells(), cells()
    other = CellMap(other.xy + 1, other.colour, details={"Half": pd.Categorical(["x"] * 1000)})
    ids = [points_packet(one)[0] for one in (first, other, first, other)]
    assert ids[:2] == ids[2:] and points_packet(first) == points_packet(CellMap(first.xy.copy(), first.colour))
    changed = CellMap(first.xy, first.colour, details={"Half": pd.Categorical(["x"] * 999 + ["y"])})
    assert points_packet(changed)[0] != ids[0] and points_packet(first)[0] == ids[0]


# What comes back


def test_selection_is_that_of_the_reference() -> None:
    rng = np.random.default_rng(2)
    xy = rng.normal(size=(3000, 2)).astype(np.float32)
    for corners in (3, 7, 40):
        polygon = rng.normal(size=(corners, 2)).astype(np.float32)  # crosses itself
        assert np.array_equal(inside(xy, polygon), crossings(xy, polygon))
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(6)), -1).reshape(-1, 2).astype(np.float32)
    square = np.array([[1, 1], [4, 1], [4, 4], [1, 4]], np.float32)  # cells on edges and corners
    assert np.array_equal(inside(grid, square), crossings(grid, square))
    assert not inside(grid, square[:2]).any() and not inside(grid[:0], square).any()


def test_corners_from_the_browser_become_units_of_the_map() -> None:
    shown = cells()
    frame = Frame.around(shown.xy)
    flat = frame.steps(np.array([[-9, -9], [9, -9], [9, 9]])).ravel().tolist()
    pick = _pick({"corners": flat, "hidden": [], "span": [0, 1]}, frame)
    assert pick is not None and np.abs(pick.outline - [[-9, -9], [9, -9], [9, 9]]).max() < 1e-3
    for wrong in (None, {}, {"corners": [1, 2, 3], "hidden": [], "span": [0, 1]}, {"corners": "abc", "hidden": [], "span": [0, 1]},
                  {"corners": [1, 2, 3, 4], "hidden": [], "span": [0, 1]}, {"corners": [0, 1] * 5000, "hidden": [], "span": [0, 1]},
                  {"corners": flat, "hidden": ["x"], "span": [0, 1]}, {"corners": flat, "hidden": [], "span": [0]}):  # fmt: skip
        assert _pick(wrong, frame) is None


def test_cells_that_cannot_be_seen_are_not_selected() -> None:
    everything = np.array([[-99, -99], [99, -99], [99, 99], [-99, 99]], np.float32)
    shown = cells(shown=np.arange(1000) < 600)
    assert Pick(everything).of(shown).sum() == 600 and Pick(everything).left_out(shown) is None
    assert Pick(everything, hidden=(1,)).of(shown).sum() == 400, "the legend hid the first category"
    values = CellMap(shown.xy, Values("G", "log1p", np.linspace(0, 1, 1000), high=1.0))
    low = Pick(everything, span=(0.0, 0.5)).of(values)
    assert low[:495].all() and not low[505:].any()
    missing = CellMap(shown.xy, Values("G", "log1p", np.full(1000, np.nan)))
    assert Pick(everything, span=(0.4, 0.5)).of(missing).all(), "a cell without a value has its own entry in the legend"
    assert not Pick(everything, (1,), (0.4, 0.5)).of(missing).any()


# The files of the component


def test_the_component_is_whole_and_its_lock_names_no_host() -> None:
    place = APP / "assets" / "map"
    assert {"map.js", "view.js", "view.html", "map.css", "LICENSES.txt"} <= {path.name for path in place.iterdir()}
    assert (
        "regl" in (place / "LICENSES.txt").read_text() and "Permission is hereby granted" in (place / "LICENSES.txt").read_text()
    )
    lock = json.loads((place / "build" / "package-lock.json").read_text())
    wanted = json.loads((place / "build" / "package.json").read_text())["dependencies"]
    assert lock["packages"]["node_modules/regl"]["version"] == wanted["regl"]
    assert not any("resolved" in package for package in lock["packages"].values()), "the lock file names no place to load from"


def test_the_built_script_is_that_of_its_sources() -> None:
    build = APP / "assets" / "map" / "build"
    sources = [*sorted((build / "src").glob("*.js")), build / "package-lock.json"]
    found = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    first = (APP / "assets" / "map" / "map.js").read_text().splitlines()[0]
    assert f"sources {found}" in first, "run assets/map/build/build.sh"
