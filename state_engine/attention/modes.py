"""Which measured conditions can tell a model's attention mode; the comparison itself is in `attention.compare_modes`. No torch."""

from __future__ import annotations

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset

PERTURBATIONS, CONTEXTS = 6, 3
LEAST = 10  # cells of a condition, and controls of its context


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
