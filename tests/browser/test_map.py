"""The map of cells in Chromium: it draws, new colours send colours only, the legend hides, and a lasso is counted by the server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page

from state_engine.config import Settings
from tests.browser.app import ROOT, Server, keep_picture, lasso, map_drawn, no_errors, running_app, settle
from tests.pages.make_run import make_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]
MAP = ".st-key-figure_map .cell-map"  # of all cells; that of one condition stands above it
MAPS = "[...document.querySelectorAll('*')].map((e) => e.shadowRoot?.querySelector('.cell-map')).filter(Boolean)"


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    return f"{server.address}/explore?run={make_run(Settings(server.settings.home)).id}"


@pytest.fixture
def frames(page: Page) -> Iterator[list[tuple[str, int]]]:
    """The messages between browser and server, as they come: direction and bytes."""
    found: list[tuple[str, int]] = []
    page.on(
        "websocket",
        lambda socket: (
            socket.on("framereceived", lambda data: found.append(("down", len(data)))),
            socket.on("framesent", lambda data: found.append(("up", len(data)))),
        ),
    )
    yield found


def picture(page: Page, canvas: str) -> NDArray[np.int64]:
    """What a canvas shows, (height, width, 4)."""
    sent = page.locator(canvas).first.evaluate("(canvas) => canvas.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.split(",")[1]))).convert("RGBA")).astype(np.int64)


def colour_by(page: Page, name: str) -> None:
    map_ = page.locator(MAP)
    before = map_.get_attribute("data-drawn")
    page.locator(".st-key-map_colour button", has_text=name).click()
    page.wait_for_function("([map, before]) => map.dataset.painted !== before", arg=[map_.element_handle(), before])
    settle(page)


def test_it_draws_recolours_filters_and_counts(page: Page, address: str, frames: list[tuple[str, int]]) -> None:
    page.goto(address)
    map_drawn(page, "map")
    no_errors(page)
    assert page.get_attribute(MAP, "data-cells") == "340"
    assert (picture(page, f"{MAP} .cells") > 0).sum() > 2000, "the cells are on the screen"
    assert max(n for _, n in frames) < 10_000_000

    frames.clear()
    colour_by(page, "Context")
    down = sum(n for way, n in frames if way == "down")
    # 340 cells and the script of the places would be 140 kB; the component of the drawing is 6 kB
    assert down < 40_000 and sum(n for way, n in frames if way == "up") < 5_000
    assert page.locator(f"{MAP} .entry").all_inner_texts() == ["B (170)", "T (170)"]

    page.locator(f"{MAP} .entry", has_text="T (170)").click()
    assert page.get_attribute(f"{MAP} .entry:nth-child(2)", "aria-pressed") == "false"
    frames.clear()
    lasso(page, "map")
    page.get_by_text("170 cells of 340 shown").wait_for()
    assert sum(n for way, n in frames if way == "up") < 5_000
    colour_by(page, "Gene")
    page.get_by_text("170 cells of 340 shown").wait_for()
    assert page.locator(f"{MAP} .scale input").count() == 2
    keep_picture(page, "map-gene-selected")


def test_the_pointer_names_a_cell_and_figures_are_saved(page: Page, address: str) -> None:
    page.goto(address)
    map_drawn(page, "map")
    page.locator(f"{MAP} .cells").evaluate("map => map.scrollIntoView({block: 'center'})")
    canvas, tip = page.locator(f"{MAP} .cells"), page.locator(f"{MAP} .tip")
    box = canvas.bounding_box()
    assert box is not None
    page.locator(".st-key-map_arrows button", has_text="None").click()
    settle(page)
    for step in range(60):  # along a line through the middle there is a cell
        page.mouse.move(box["x"] + box["width"] * (0.2 + 0.01 * step), box["y"] + box["height"] / 2)
        page.wait_for_timeout(30)
        if tip.is_visible():
            break
    words = tip.inner_text().split("\n")
    assert words[0] in ("predicted", "measured", "measured control") and words[-1] in ("B", "T") and len(words) == 4
    with page.expect_download() as download:
        page.click(f"{MAP} .tools .svg")
    drawn = ElementTree.parse(download.value.path())
    circles = drawn.findall(".//{http://www.w3.org/2000/svg}circle")
    assert download.value.suggested_filename == "map.svg" and len(circles) == 340 + 3, (
        "each cell, and three entries of the legend"
    )
    with page.expect_download() as download:
        page.click(f"{MAP} .tools .png")
    with open(download.value.path(), "rb") as file:  # noqa: PTH123
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


TWO_MAPS = """
import numpy as np, streamlit as st
from pages.parts.cellmap import Categories, CellMap, Values, draw_map
xy = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
hostile = "<img src=x onerror='document.title=1'>"
groups = Categories("Group", [hostile, "b"], np.arange(500) % 2, {hostile: "#D55E00", "b": "#0072B2"})
outline = st.session_state.get("outline")
pick = lambda found: st.session_state.__setitem__("outline", found.outline)
for key, colour, place in (("one", groups, xy), ("two", Values("G", "log1p", xy[:, 0] + 3), xy)):
    shown = CellMap(place, colour, outline=outline, link="pair")
    draw_map(key, shown if outline is None else CellMap(place, colour, None, place[:, 0] > 0, outline, link="pair"), on_pick=pick, height=300)
"""


def test_linked_maps_move_and_are_selected_together_and_names_are_text(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{TWO_MAPS}")
    with running_app(tmp_path, tmp_path) as server:
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(server.address)
        page.wait_for_function(f"{MAPS}.length === 2 && {MAPS}.every((map) => map.dataset.painted)")
        first = page.get_attribute(".cell-map >> nth=0", "data-view")
        assert first == page.get_attribute(".cell-map >> nth=1", "data-view")
        page.locator(".cell-map").first.locator(".closer").click()
        page.wait_for_function(f"(before) => {MAPS}.every((map) => map.dataset.view !== before)", arg=first)
        views = [page.get_attribute(f".cell-map >> nth={i}", "data-view") for i in (0, 1)]
        assert views[0] == views[1], "zooming into one shows the same part of the other"
        page.locator(".cell-map").last.locator(".home").click()
        page.wait_for_function(f"(before) => {MAPS}.every((map) => map.dataset.view === before)", arg=first)
        box = page.locator(".cell-map .cells").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.mouse.down()
        for x, y in ((300, 20), (300, 250), (20, 250)):
            page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
        page.mouse.up()
        page.wait_for_function(f"{MAPS}.every((map) => map.dataset.painted > 1)")
        assert "<img" in page.locator(".cell-map .entry").first.inner_text() and page.locator(".cell-map img").count() == 0
        page.close()


FOUR_MAPS = """
import numpy as np, streamlit as st
from pages.parts import palette
from pages.parts.cellmap import Categories, CellMap, Values, draw_map
names = ["a", "b", "c"]
for n in (900, 60_000):  # large cells are circles, small ones squares
    xy = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    groups = Categories("Group", names, np.arange(n) % 3, palette.categories(names))
    draw_map(f"groups{n}", CellMap(xy, groups, chosen=xy[:, 0] > 0), height=300)
    draw_map(f"values{n}", CellMap(xy, Values("G", "log1p", xy[:, 0] + 3)), height=300)
"""
# a browser that has WebGL by a graphics processor, as far as it says; one that has none
GRAPHICS = """const real = WebGLRenderingContext.prototype.getParameter;
WebGLRenderingContext.prototype.getParameter = function (which) { return which === 0x9246 ? "a graphics processor" : real.call(this, which); }"""
WITHOUT = """const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) { return kind.startsWith("webgl") ? null : real.call(this, kind, ...more); }"""


def test_the_processor_draws_what_webgl_draws(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{FOUR_MAPS}")
    maps = [f".st-key-{kind}{n}_cells" for n in (900, 60_000) for kind in ("groups", "values")]
    seen: dict[str, list[NDArray[np.int64]]] = {}
    with running_app(tmp_path, tmp_path) as server:
        for name, script in (("webgl", GRAPHICS), ("processor", WITHOUT), ("software", "")):
            page = browser.new_page(viewport={"width": 1000, "height": 900})
            page.set_default_timeout(120_000)
            page.add_init_script(script)
            page.goto(server.address)
            page.wait_for_function(f"{MAPS}.length === 4 && {MAPS}.every((map) => map.dataset.painted)")
            wanted = "webgl" if name == "webgl" else "processor"
            assert {page.get_attribute(f"{one} .cell-map", "data-painter") for one in maps} == {wanted}
            seen[name] = [picture(page, f"{one} .cells") for one in maps]
            page.close()
    for one, other, same in zip(seen["webgl"], seen["processor"], seen["software"], strict=True):
        assert (one[..., 3] > 0).mean() > 0.03 and np.array_equal(other, same)
        # both round to bytes, and WebGL to parts of pixels, each in its own way; colours as they lie on a white page
        ours, theirs = (255 + (part[..., :3] - 255) * part[..., 3:] / 255 for part in (other, one))
        apart, moved = (np.abs(np.roll(ours, k, axis=0) - theirs).max(axis=-1) for k in (0, 1))
        assert apart.mean() < 2 and (apart > 12).mean() < (moved > 12).mean() / 8, (
            "edges lie as WebGL draws them: one pixel beside is 10 to 48 times as much"
        )


def test_without_webgl_the_map_can_be_used_as_with_it(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, color_scheme="dark")
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.add_init_script(WITHOUT)
    page.goto(address)
    map_drawn(page, "map")
    no_errors(page)
    page.locator(f"{MAP} .closer").click()
    page.locator(f"{MAP} .home").click()
    page.locator(f"{MAP} .entry").first.click()
    assert page.get_attribute(f"{MAP} .entry >> nth=0", "aria-pressed") == "false"
    page.locator(f"{MAP} .entry").first.click()
    lasso(page, "map")
    page.get_by_text("340 cells of 340 shown").wait_for()
    keep_picture(page, "map-without-webgl")
    context.close()
