"""Values of a data set that pages show, read in a child process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from pages.parts import session
from state_engine.data import cell_values
from state_engine.data.dataset import Choices
from state_engine.library.foreign import call, limits_for

T = TypeVar("T")


def in_child(function: Callable[..., T], path: Path, choices: Choices, *more: object) -> T:
    """Return what a function of `cell_values` reads, in a child process."""
    return call(function, path, choices, session.settings(), *more, path=path, limits=limits_for(path))


@st.cache_data(max_entries=8, show_spinner=False)
def cell_names(path: str, written: int, choices: Choices) -> NDArray[np.object_]:
    """Return the barcodes of all cells, (n,) strings."""
    return in_child(cell_values.cell_names, Path(path), choices)
