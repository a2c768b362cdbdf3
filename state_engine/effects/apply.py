"""Add an effect to cells: the one rule of the program, for the baselines, the calibrated prediction and every score of them.

A mean effect is a statement about the mean cell, so **the mean moves as the effect says, and no further than 0**:

    mean cell    max(mean + effect, 0)                         `applied_mean`
    cells        moved so that their mean becomes just that    `apply_effect`, `Moving.cells`

Why not each cell cut at 0: a gene that most cells lack would keep nearly all of its expression, however large the negative effect, so
the score of a baseline would tell how many zeros cells have and not what the baseline predicts (PARITY.md, "One rule for effects").
The effect of a network is another matter: it predicts one for each cell, and each cell is cut at 0 (`paired_cells`).
Where it is known what all genes of a cell sum to, no gene is put above that (`below_total`), and no cell of a mixture sums to more
(`within_total`); a baseline's mean is its number wherever it is scored, so its cells are not scaled. Cells of mixtures and baselines get to
their mean by whole molecules where measured cells show what one is (`effects.molecules`): that is closer to measured cells than the effect
added to each (benchmarks/RESULTS.md, "How an effect is put onto cells").
Boundary: numpy only, except `paired_cells`, which takes tensors too.

Notation: n cells, g features.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from state_engine.effects.molecules import molecule, moved_to, whole_molecules

if TYPE_CHECKING:
    from torch import Tensor

MOST_FOLD = 3.0  # of what cells hold, that an effect may give them by molecules
FILLS = 4  # times that cells with room take what others could not hold
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


Way = Literal["molecules", "added"]


@dataclass(frozen=True)
class Moving:
    """How cells of a mixture or a baseline get to their mean.

    Args:
        way: by whole molecules, or the effect added to each cell (`apply_effect`).
        total: what the natural values of all genes of a cell sum to; None where that is not known.
        seed: of the draws.
    """

    way: Way = "added"
    total: float | None = None
    seed: int = 0

    @classmethod
    def of(cls, cells: np.ndarray, total: float | None, seed: int) -> Moving:
        """Return the way that suits cells like these (n, g): molecules where their log1p values are those of counts."""
        return cls("molecules" if whole_molecules(cells) else "added", total, seed)

    def cells(
        self, cells: np.ndarray, added: np.ndarray, condition: tuple[str, str], first: int = 0, measured: np.ndarray | None = None,
        *, within: bool = False,
    ) -> np.ndarray:  # fmt: skip
        """Return log1p cells (n, g) with the mean of other ones, no gene of which is above the total.

        Args:
            cells: control cells.
            added: the same with the effect added to each, see `apply_effect`.
            condition: perturbation and context, whose draws are its own.
            first: number of the first of these cells in the condition.
            measured: the control cells as measured, which show what a molecule is; None: they are these.
            within: no cell sums to more than the total either, see `within_total`; a baseline's mean is its number, wherever it is scored.
        """

        def possible(moved: np.ndarray) -> np.ndarray:
            moved = below_total(moved, self.total)
            return within_total(moved, self.total) if within else moved

        if self.way == "added" or np.array_equal(cells, added):
            return possible(added)
        most = np.inf if self.total is None else self.total
        target = (possible(added) if within else added).mean(axis=0, dtype=np.float64)
        draws = np.random.default_rng([self.seed, *(zlib.crc32(label.encode()) for label in condition), first])
        target = np.minimum(target, np.log1p(most))
        if np.expm1(target).sum() > MOST_FOLD * np.expm1(cells, dtype=np.float64).sum(axis=1).mean():
            return possible(added)  # no cell holds so much: its molecules would be without number
        step = molecule(cells if measured is None else measured)
        moved = possible(moved_to(cells, target, draws, most, step))
        for _ in range(FILLS if within and self.total is not None else 0):
            # cells above the total were scaled back: what the mean lacks since goes to cells that have room
            room = np.flatnonzero(np.expm1(moved, dtype=np.float64).sum(axis=1) < most * (1 - ROUNDING))
            lacking = target - moved.mean(axis=0, dtype=np.float64)
            if not len(room) or np.abs(lacking).max() < ROUNDING / 100:
                break
            short = lacking * (len(moved) / len(room))
            part = np.maximum(moved[room].mean(axis=0, dtype=np.float64) + short, 0)
            moved[room] = possible(moved_to(moved[room], part, draws, most, step[room]))
        return moved


ADDED = Moving()


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
