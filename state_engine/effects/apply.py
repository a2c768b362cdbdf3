"""Add an effect to cells: the one rule of the program, for the baselines, the calibrated prediction and every score of them.

A mean effect is a statement about the mean cell, so **the mean moves as the effect says, and no further than 0**:

    mean cell    max(mean + effect, 0)                         `applied_mean`
    cells        moved so that their mean becomes just that    `apply_effect`

Why not each cell cut at 0: a gene that most cells lack would keep nearly all of its expression, however large the negative effect, so
the score of a baseline would tell how many zeros cells have and not what the baseline predicts (PARITY.md, "One rule for effects").
The effect of a network is another matter: it predicts one for each cell, and each cell is cut at 0 (`paired_cells`).
Where it is known what all genes of a cell sum to, no gene is put above that (`below_total`), and no cell of a mixture sums to more (`within_total`).
Boundary: numpy only, except `paired_cells`, which takes tensors too.

Notation: n cells, g features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 1e-4  # sums of float32 values come out a little beside their total

Cells = TypeVar("Cells", np.ndarray, "Tensor")


def applied_mean(mean: np.ndarray, effect: np.ndarray, *, nonnegative: bool = True) -> np.ndarray:
    """Return the mean cell (g,) after an effect.

    Args:
        mean, effect: (g,).
        nonnegative: the values are expression; False for an embedding, which has no lowest value.
    """
    moved = mean + effect
    return np.maximum(moved, 0) if nonnegative else moved


def apply_effect(
    cells: np.ndarray, effect: np.ndarray, mean: np.ndarray | None = None, *, nonnegative: bool = True
) -> np.ndarray:
    """Return cells moved so that their mean becomes `applied_mean(mean, effect)`.

    Features that go up are added to. Expression that goes down is scaled, which leaves a 0 a 0 and keeps every value at 0 or above.

    Args:
        cells: (n, g).
        effect: (g,).
        mean: (g,) mean of all cells of the condition when `cells` are a part of them; None: of these cells.
        nonnegative: the values are expression.
    """
    if not nonnegative:
        return (cells + effect).astype(cells.dtype, copy=False)
    if mean is None:
        mean = cells.mean(axis=0, dtype=np.float64)
    moved = cells + np.maximum(effect, 0)
    # the share of its mean that a falling feature keeps; a feature that no cell has cannot fall
    share = np.maximum(mean + effect, 0) / np.where(mean > 0, mean, 1)
    moved *= np.where((effect < 0) & (mean > 0), share, 1).astype(cells.dtype)
    return moved.astype(cells.dtype, copy=False)


def paired_cells(basal: Cells, perturbed: Cells, control: Cells) -> Cells:
    """Return basal cells plus their own predicted effects, (n, g): predicted under the perturbation minus under the control.

    Expression is cut at 0 by the caller, in each cell.
    """
    return basal + (perturbed - control)


def below_total(cells: np.ndarray, total: float | None) -> np.ndarray:
    """Return log1p cells (n, g) in which no gene holds more than all genes of a measured cell together.

    Effects are added to logarithms, so a gene that a cell expresses strongly already can come out above everything that was read of it. Other
    values stay as they are, to the bit.

    Args:
        cells: (n, g) log1p expression.
        total: what the natural values of all genes of a cell sum to; None where that is not known.
    """
    return cells if total is None else np.minimum(cells, cells.dtype.type(np.log1p(total)))


def within_total(cells: np.ndarray, total: float | None) -> np.ndarray:
    """Return log1p cells (n, g) of which none holds more than a measured cell can: those that do are scaled back to the total.

    Only downwards: cells that sum to less stay as they are, to the bit. Scaling these up too made mean cells worse (the error on seven real
    cell types by 0.5 to 6 %; downwards alone between 3 % better and 0.3 % worse).

    Args:
        cells: (n, g) log1p expression.
        total: what the natural values of all genes of a cell sum to; None where that is not known.
    """
    if total is None:
        return cells
    # in float64: expm1 of a predicted value may be beyond float32
    natural = np.expm1(cells, dtype=np.float64)
    sums = natural.sum(axis=1)
    over = sums > total * (1 + ROUNDING)
    natural[over] *= (total / sums[over])[:, None]
    return np.where(over[:, None], np.log1p(natural), cells).astype(cells.dtype)
