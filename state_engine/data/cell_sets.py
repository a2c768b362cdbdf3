"""Which cells are seen together: drawing basal cells, cutting them into sets, and the reference program's own draws.

Source: for `replay_plan` what `state tx infer` was seen to do. Boundary: row numbers and labels in, row numbers out; numpy only.
A cell set is homogeneous in context and perturbation; batch labels belong to cells, not to sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from state_engine.errors import LabelError, RequestError, listed


@dataclass(frozen=True, eq=False)
class ReplayWindow:
    """One forward pass of the reference: the cells `target` are replaced by predictions from the cells `basal`, both (s,)."""

    perturbation: str
    context: str
    target: np.ndarray
    basal: np.ndarray


def draw_basal(pool: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n cells of a pool: each once while the pool lasts, then at random with repeats.

    The same generator state and pool give the same beginning for every n.

    Raises:
        LabelError: the pool is empty.
        RequestError: n is negative.
    """
    if n < 0:
        raise RequestError(f"{n} cells cannot be drawn.", "", "Ask for one or more.")
    if n and not len(pool):
        raise LabelError(
            "There are no control cells to start from.", "The context has none.", "Choose contexts that have controls."
        )
    once = rng.permutation(np.asarray(pool, dtype=np.int64))
    if n <= len(once):
        return once[:n]
    return np.concatenate([once, rng.choice(once, n - len(once), replace=True)])


def windows(rows: np.ndarray, set_size: int) -> list[np.ndarray]:
    """Consecutive pieces of at most `set_size` cells; the last may be shorter, none is empty.

    Raises:
        RequestError: a set size below 1.
    """
    if set_size < 1:
        raise RequestError(f"A set cannot have {set_size} cells.", "", "Take a set size of 1 or more.")
    return [rows[i : i + set_size] for i in range(0, len(rows), set_size)]


def replay_plan(
    perturbations: np.ndarray, contexts: np.ndarray, control: str, set_size: int, seed: int = 42
) -> Iterator[ReplayWindow]:
    """The draws of `state tx infer`, number for number.

    Contexts in sorted order, in each its perturbations in sorted order (the control too), in each its cells in file order in
    consecutive windows; for each window as many controls of that context, with repeats; of all contexts when it has none.

    Args:
        perturbations, contexts: (n,) labels of all cells; contexts all alike when there is no context column.
        control: the control label.
        set_size: cells in a window.
        seed: of the legacy generator `numpy.random.RandomState`.

    Raises:
        LabelError: no control cells, or cells without a label.
        RequestError: a set size below 1.
    """
    for labels, what in ((perturbations, "perturbation"), (contexts, "context")):
        missing = int((labels == "").sum())
        if missing:
            raise LabelError(
                f"{missing:,} cells have no {what} label.", "A replay needs one for every cell.", "Remove those cells."
            )
    is_control = perturbations == control
    if not is_control.any():
        known = [str(p) for p in np.unique(perturbations)]
        raise LabelError(
            f"No cell has the control label '{control}'.", f"There are: {listed(known)}.", "Choose the control label."
        )
    return _replay(perturbations, contexts, is_control, set_size, np.random.RandomState(seed))


def _replay(
    perturbations: np.ndarray, contexts: np.ndarray, is_control: np.ndarray, set_size: int, rng: np.random.RandomState
) -> Iterator[ReplayWindow]:
    for context in np.unique(contexts):
        here = contexts == context
        pool = np.flatnonzero(is_control & here)
        if not len(pool):
            pool = np.flatnonzero(is_control)
        rows = np.flatnonzero(here)
        for perturbation in np.unique(perturbations[rows]):
            for target in windows(rows[perturbations[rows] == perturbation], set_size):
                yield ReplayWindow(str(perturbation), str(context), target, rng.choice(pool, size=len(target), replace=True))
