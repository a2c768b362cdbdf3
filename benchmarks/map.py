"""How long a map of a million cells takes in Chromium: ours (`pages.parts.cellmap`) and plotly's scattergl, one after the other in the same run.

Each is a page of its own with the same cells: coloured by a category, then by a gene, then drawn around, which must answer with the number of
cells and their composition. Messages of the websocket are counted at the browser, both ways. Chromium has no graphics processor here: plotly's
WebGL is SwiftShader's, ours is painted by the processor (assets/map/build/src/raster.js), or with `--webgl` by SwiftShader, too. The load of the
machine is printed before and after.

    python benchmarks/map.py [--cells 1000000] [--only map|plotly] [--patience 120]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Error, Page, sync_playwright  # noqa: E402

from tests.browser.app import CHROMIUM, FLAGS, running_app, settle  # noqa: E402

SHARED = """
import sys
sys.path.insert(0, {root!r})
import numpy as np, pandas as pd, streamlit as st
from pages.parts import palette
NAMES = [f"type {{i}}" for i in range(12)]
COLOURS = palette.categories(NAMES)

@st.cache_resource
def cells():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 12, {cells})
    centre = np.stack([np.cos(np.arange(12)), np.sin(np.arange(12))], 1) * 6
    xy = (centre[codes] + rng.normal(0, 1.1, ({cells}, 2))).astype(np.float32)
    gene = np.maximum(rng.normal(codes / 4, 1), 0).astype(np.float32)
    return xy, codes, gene

@st.cache_resource
def labels():
    return pd.DataFrame({{"kind": pd.Categorical.from_codes(cells()[1], NAMES)}})

def answer(chosen):
    counts = np.bincount(cells()[1][chosen], minlength=12)
    st.markdown(f"selected {{int(chosen.sum())}} cells")
    st.dataframe(pd.DataFrame({{"label": NAMES, "cells": counts, "share": counts / max(1, counts.sum())}}))
"""
OURS = """
from pages.parts.cellmap import Categories, CellMap, Values, draw_map, inside
@st.fragment
def page():
    xy, codes, gene = cells()
    by = st.radio("colour", ["category", "gene"], key="colour")
    outline = st.session_state.get("outline")
    chosen = None if outline is None else inside(xy, outline)
    colour = Categories("Type", NAMES, codes, COLOURS) if by == "category" else Values("Gene", "log1p", gene)
    shown = CellMap(xy, colour, None, chosen, outline)
    draw_map("map", shown, height=600, on_pick=lambda pick: st.session_state.__setitem__("outline", pick.outline))
    if chosen is not None:
        answer(chosen)
page()
"""
PLOTLY = """
import plotly.graph_objects as go
from pages.parts.cellmap import inside
from pages.parts.cellmap.polygon import outline as corners
@st.fragment
def page():
    xy, codes, gene = cells()
    by = st.radio("colour", ["category", "gene"], key="colour")
    figure = go.Figure()
    if by == "category":
        for i, name in enumerate(NAMES):
            some = codes == i
            figure.add_scattergl(x=xy[some, 0], y=xy[some, 1], mode="markers", name=name, marker={{"color": COLOURS[name], "size": 2}})
    else:
        figure.add_scattergl(x=xy[:, 0], y=xy[:, 1], mode="markers", marker={{"color": gene, "colorscale": "Viridis", "size": 2}})
    figure.update_layout(height=600, dragmode="lasso", title=by, showlegend=False, hovermode=False)
    event = st.plotly_chart(figure, key="chart", on_select="rerun", selection_mode=("lasso",))
    line = corners(event)
    if line is not None:
        answer(inside(xy, line))
page()
"""
# until the picture is on the screen: the graphics memory is read back
FINISHED = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const roots = [document, ...[...document.querySelectorAll('*')].map((e) => e.shadowRoot).filter(Boolean)];
  for (const canvas of roots.flatMap((root) => [...root.querySelectorAll('canvas')])) {
    const gl = canvas.getContext('webgl') ?? canvas.getContext('webgl2');
    gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  }
  done();
})))"""
OUR_STATE = """() => { const map = [...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.cell-map')).find(Boolean);
  return map && map.dataset.painted === map.dataset.drawn ? `${map.querySelector('.scale') ? 'gene' : 'category'}` : ''; }"""
PLOTLY_STATE = """() => { const plot = document.querySelector('.js-plotly-plot');
  return plot && plot.calcdata && plot.querySelector('canvas') && plot._fullLayout ? plot._fullLayout.title.text.replace(/<[^>]*>/g, '') : ''; }"""


class Watched:
    """A page whose messages are counted."""

    def __init__(self, page: Page, state: str, stage: str) -> None:
        self.page, self.state, self.stage = page, state, stage
        self.frames: list[tuple[str, int]] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: Any) -> None:
        socket.on("framereceived", lambda data: self.frames.append(("down", len(data))))
        socket.on("framesent", lambda data: self.frames.append(("up", len(data))))

    def take(self, act: Callable[[], object], until: Callable[[], object]) -> dict[str, Any]:
        """Do something and wait for it; return seconds, bytes up and down, and the largest message."""
        self.frames.clear()
        began = time.monotonic()
        try:
            act()
            until()
            self.page.evaluate(FINISHED)
        except Error as error:
            return {"seconds": None, "why": str(error).splitlines()[0]}
        took = time.monotonic() - began
        self.page.wait_for_timeout(1500)
        up, down = (sum(n for way, n in self.frames if way == wanted) for wanted in ("up", "down"))
        return {"seconds": round(took, 2), "up": up, "down": down, "largest": max((n for _, n in self.frames), default=0)}

    def shows(self, colour: str) -> None:
        """Wait until the map has a colour."""
        self.page.wait_for_function(f"({self.state})() === {colour!r}")

    def around(self) -> None:
        """Draw around the middle third of the map."""
        box = self.page.locator(self.stage).first.bounding_box()
        assert box is not None
        corners = [(0.33, 0.33), (0.66, 0.33), (0.66, 0.66), (0.33, 0.66), (0.33, 0.34)]
        at = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in corners]
        self.page.mouse.move(*at[0])
        self.page.mouse.down()
        for point in at[1:]:
            self.page.mouse.move(*point, steps=4)

    def heap(self) -> float:
        """Return what the page holds after a garbage collection, in MB: objects, and the arrays outside of them."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        usage = session.send("Runtime.getHeapUsage")
        return float((usage["usedSize"] + usage.get("backingStorageSize", 0)) / 1e6)


def measured(address: str, page: Page, state: str, stage: str) -> dict[str, Any]:
    """Return what each step of a page took."""
    watched = Watched(page, state, stage)
    found = {"first draw": watched.take(lambda: page.goto(address), lambda: watched.shows("category"))}
    if found["first draw"]["seconds"] is None:
        return found
    settle(page)
    for name, colour in (("colour by gene", "gene"), ("colour by category", "category")):
        at = page.locator("label[data-testid=stRadioOption], [data-testid=stRadio] label", has_text=colour).last
        found[name] = watched.take(at.click, lambda colour=colour: watched.shows(colour))  # type: ignore[misc]
        settle(page)
    watched.around()
    found["lasso to count and composition"] = watched.take(
        page.mouse.up, lambda: page.wait_for_selector("text=/selected [1-9][0-9]* cells/")
    )
    try:
        found["heap MB"] = {"seconds": round(watched.heap(), 1)}
    except Error as error:
        found["heap MB"] = {"seconds": None, "why": str(error).splitlines()[0]}
    return found


def main() -> None:
    """Run both pages and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["map", "plotly"])
    parser.add_argument("--patience", type=float, default=120, help="seconds that one step may take")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.cells:,} cells")
    pages = {"map": (OURS, OUR_STATE, ".cell-map .cells"), "plotly": (PLOTLY, PLOTLY_STATE, ".nsewdrag")}
    found: dict[str, dict[str, Any]] = {}
    for name, (script, state, stage) in pages.items():
        if options.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            tree = Path(folder)
            (tree / "app.py").write_text((SHARED + script).format(root=str(ROOT), cells=options.cells))
            with running_app(tree, tree, ("--server.headless=true", "--browser.gatherUsageStats=false")) as server:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--enable-precise-memory-info"])
                page = browser.new_page(viewport={"width": 1200, "height": 900})
                page.set_default_timeout(options.patience * 1000)
                page.goto(f"{server.address}/_stcore/health")  # the browser has started
                found[name] = measured(server.address, page, state, stage)
                print(name, json.dumps(found[name]), flush=True)
                browser.close()
    print(f"load {os.getloadavg()[0]:.1f}")
    print("\n| | " + " | ".join(f"{name}: s | up | down | largest" for name in found) + " |")
    print("|---" * (1 + 4 * len(found)) + "|")
    for step in next(iter(found.values())):
        cells = [found[name].get(step, {}) for name in found]
        row = [
            str(part.get(key, part.get("why", "-") if key == "seconds" else ""))
            for part in cells
            for key in ("seconds", "up", "down", "largest")
        ]
        print(f"| {step} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
