"""A report is one file without scripts and requests, and shows names as they are written."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from state_engine.reports.document import STYLE, Attachment, Figure, Lines, Points, Report, Section, Table, Words, number, render
from state_engine.reports.drawings import MOST_POINTS, Axis, Series, bars, curves, points
from state_engine.reports.tiles import categories, heat

HOSTILE = "<script>alert(1)</script><img src=http://127.0.0.2:9/x onerror=alert(2)>\"'&\u202e"


class Tags(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_report() -> str:
    x = np.arange(3.0)
    drawn = [
        points([Series(HOSTILE, "#000", x, x, labels=(HOSTILE, "", HOSTILE))], Axis(HOSTILE), Axis(HOSTILE)),
        curves([Series(HOSTILE, "#000", x, x)], Axis(HOSTILE), Axis(HOSTILE)),
        bars([HOSTILE] * 3, x, HOSTILE, ["#000"] * 3),
        heat([HOSTILE], [HOSTILE], np.ones((1, 1)), ("#ffffff", "#000000"), HOSTILE, [["ring"]], {"ring": HOSTILE}),
        categories([HOSTILE], [HOSTILE], [[HOSTILE]], {HOSTILE: "#000000"}),
    ]
    blocks = [Figure(HOSTILE, svg, HOSTILE) for svg in drawn]
    table = Table(HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE)
    more = (Words(HOSTILE), Points((HOSTILE,)), Lines(HOSTILE, HOSTILE), Attachment(HOSTILE, HOSTILE.encode(), HOSTILE))
    return render(Report(HOSTILE, HOSTILE, (HOSTILE,), (Section(HOSTILE, (*blocks, table, *more)),)))


def test_names_are_text_and_nothing_is_fetched() -> None:
    found = Tags(hostile_report())
    assert not {tag for tag, _ in found.tags} & {"script", "img", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in found.tags:
        assert not any(name.startswith("on") or name in ("src", "srcset", "action", "style") for name in attributes)
        assert re.match(r"#part-\d+$|data:application/json;base64,", attributes.get("href") or "#part-0")
    assert found.text.count("<script>alert(1)</script>") > 15 and "\\u202e" in found.text and "\u202e" not in found.text


def test_the_policy_allows_its_own_style_and_nothing_else() -> None:
    (policy,) = [a["content"] for tag, a in Tags(hostile_report()).tags if a.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["style-src"] == f"'sha256-{digest}'" and rules["img-src"] == "data:"
    assert "http" not in policy and "script-src" not in rules


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1234, "1,234"), (np.int64(-5), "−5"), (0.12345, "0.123"), (-0.5, "−0.500"), (1.2e-5, "1.2e-05"), (float("nan"), "–"), (None, "–"),
        ("-7", "-7"), (0.0, "0.000"), (2e7, "2.0e+07"), (np.float32(0.25), "0.250"), (pd.NA, "–"), (-3e-6, "−3.0e-06"),
    ],
)  # fmt: skip
def test_numbers(value: object, words: str) -> None:
    assert number(value) == words


def test_points_lie_where_numpy_says() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    x[7] = np.nan
    svg = points([Series("s", "#123456", x, y)], Axis("x", -4, 4), Axis("y", -5, 5))
    (path,) = re.findall(r'<path d="(M[^"]+h0)"', svg)
    found = np.array([[float(v) for v in pair.split()] for pair in path.replace("h0", "")[1:].split("M")])
    good = np.isfinite(x)
    # 640 x 420 with margins 64, 12 (left, right) and 12, 46 (top, bottom)
    wanted = np.c_[64 + (x[good] + 4) / 8 * (640 - 76), 420 - 46 - (y[good] + 5) / 10 * (420 - 58)]
    np.testing.assert_allclose(found, wanted, atol=0.051)


def test_many_points_are_drawn_by_a_seed() -> None:
    x = np.arange(4.0 * MOST_POINTS)
    one, other = (points([Series("", "#000", x, x)], Axis("x"), Axis("y")) for _ in range(2))
    assert one == other and abs(one.count("h0") / MOST_POINTS - 1) < 0.05 and len(one) < 800_000


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars(["a", "b", "c"], np.array([1.0, -2.0, np.nan]), "v", ["#000"] * 3)
    widths = [float(w) for w in re.findall(r'<rect x="[\d.]+" y="\d+" width="([\d.]+)"', svg)]
    assert len(widths) == 2 and abs(widths[1] / widths[0] - 2) < 0.01
    assert svg.count('text-anchor="end"') == 3


def test_a_heat_map_has_its_scale_and_the_marks_that_occur() -> None:
    meanings = {"ring": "held out and better", "hatch": "worse", "dot": "recall"}
    values, marks = np.array([[0.0, 4.0], [2.0, np.nan]]), [["dot", "ring"], ["", ""]]
    svg = heat(["a", "b"], ["x", "y"], values, ("#ffffff", "#D55E00"), "effect size (log1p)", marks, meanings)
    read = Tags(svg)
    assert "effect size (log1p)" in read.text and "04" in read.text.replace("\n", "") and "held out and better" in read.text
    assert "recall" in read.text and "worse" not in read.text
    fills = [attributes.get("fill") for tag, attributes in read.tags if tag == "rect"]
    assert fills[:4] == ["#ffffff", "#d55e00", "#eaae80", "url(#none)"] and fills[4] == "url(#scale)"
    assert "a in y: 4.00, held out and better" in read.text


def test_categories_have_a_legend_of_those_that_occur() -> None:
    read = Tags(categories(["a"], ["x", "y"], [["likely", ""]], {"likely": "#E69F00", "by chance": "#9aa0a3"}))
    assert "a in x: likely" in read.text and "a in y: none" in read.text and "by chance" not in read.text
