"""Which measured conditions can tell a model's attention mode; the comparison itself is in `attention.compare_modes`. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset
from state_engine.models.config import AttentionMode

PERTURBATIONS, CONTEXTS = 6, 3
LEAST = 10  # cells of a condition, and controls of its context


@dataclass(frozen=True)
class ModeScore:
    """Agreement of one mode with the measurement, averaged over conditions.

    Args:
        mode: the attention mode.
        conditions: perturbation x context pairs behind the averages.
        pearson: correlation of the paired predicted effect with the measured effect over all genes.
        mae: mean absolute error of the corrected pseudobulk, log1p units.
    """

    mode: AttentionMode
    conditions: int
    pearson: float
    mae: float


def measurable(dataset: Dataset, card: ModelCard) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return perturbations (most cells first) and contexts that the model knows and the data set measured well enough, a few of each."""
    table = dataset.table()
    known = [p for p in table.index if p in card.perturbations and p not in (card.control, dataset.labels.control)]
    contexts = [c for c in table.columns if len(dataset.control_rows(str(c))) >= LEAST]
    cells = table.loc[known, contexts]
    enough = cells.loc[(cells >= LEAST).any(axis=1), (cells >= LEAST).any(axis=0)]
    perturbations = enough.sum(axis=1).sort_values(ascending=False, kind="stable").index[:PERTURBATIONS]
    best = enough.sum(axis=0).sort_values(ascending=False, kind="stable").index[:CONTEXTS]
    return tuple(map(str, perturbations)), tuple(map(str, best))
