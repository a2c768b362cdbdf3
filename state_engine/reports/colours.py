"""The colours of figures, each with one meaning, for pages and reports. Safe for colour-blind readers.

Vermilion: predicted, up. Blue: measured, down. Green: in both, or chosen. Grey: control, not significant. MISSING is never a colour of zero.
"""

from __future__ import annotations

from typing import Final

from state_engine import keys

VERMILION: Final = "#D55E00"
BLUE: Final = "#0072B2"
GREEN: Final = "#009E73"
GREY: Final = "#9aa0a3"
PALE: Final = "#D9B59B"
UP: Final = VERMILION
DOWN: Final = BLUE
NOT_SIGNIFICANT: Final = "#a7adb0"
MISSING: Final = "#d5d8d9"
BAND_COLOURS: Final = {"very likely": VERMILION, "likely": "#E69F00", "uncertain": "#56B4E9", "by chance": GREY}
KIND: Final = {keys.OBSERVED_CONTROL: GREY, keys.PREDICTED: VERMILION, keys.OBSERVED: BLUE, keys.PREDICTED_CONTROL: PALE}
