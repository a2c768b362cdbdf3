"""The colours of all pages: those with a meaning are those of reports (`state_engine.reports.colours`). Safe for colour-blind readers:
categories are Okabe-Ito's up to 8, then a longer list.
"""

from __future__ import annotations

from collections.abc import Sequence

from state_engine import keys
from state_engine.reports.colours import BAND_COLOURS as BAND_COLOURS
from state_engine.reports.colours import BLUE as BLUE
from state_engine.reports.colours import DOWN as DOWN
from state_engine.reports.colours import GREEN as GREEN
from state_engine.reports.colours import GREY as GREY
from state_engine.reports.colours import KIND as KIND
from state_engine.reports.colours import MISSING as MISSING
from state_engine.reports.colours import NOT_SIGNIFICANT as NOT_SIGNIFICANT
from state_engine.reports.colours import PALE as PALE
from state_engine.reports.colours import UP as UP
from state_engine.reports.colours import VERMILION as VERMILION

KIND_BY_WORDS = {keys.KIND_WORDS[kind]: colour for kind, colour in KIND.items()}
SEQUENTIAL = "Viridis"
DIVERGING = [[0.0, "#0072B2"], [0.25, "#7fb5d6"], [0.5, "#f2f2f0"], [0.75, "#eba679"], [1.0, "#D55E00"]]

_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#6b6b6b")
_MORE = (
    "#8c3bff", "#018700", "#00acc6", "#97ff00", "#ff7ed1", "#6b004f", "#ffa52f", "#573b00", "#005659", "#0000dd",
    "#00fdcf", "#a17569", "#bcb6ff", "#95b577", "#bf03b8", "#645474", "#790000", "#0774d8", "#fdf490", "#004b00",
)  # fmt: skip


def categories(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name.

    Names are ordered alphabetically, so that one keeps its colour between pages and runs of the same data.
    """
    ordered = sorted(set(names))
    wheel = _OKABE_ITO if len(ordered) <= len(_OKABE_ITO) else (*_OKABE_ITO, *_MORE)
    return {name: wheel[i % len(wheel)] for i, name in enumerate(ordered)}
