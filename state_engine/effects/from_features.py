"""What perturbation features say of an effect: a ridge regression on the effects that a table has, no network.

For a perturbation that no context was trained on, nothing else speaks of it itself. The regression is fitted on the context's own effects where
it has enough of them, else on effects averaged over contexts; whatever is asked for is left out of its own fit (exactly, in closed form).
Boundary: numpy only.

Notation: p features of a perturbation, g features of expression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from state_engine.effects.table import EffectTable, Ridge, fit_ridge

LEAST: Final = 4  # perturbations with features that a regression is fitted on


class FromFeatures:
    """Effects by regression on perturbation features.

    Args:
        table: effects to fit.
        vectors: label -> features (p,).
    """

    def __init__(self, table: EffectTable, vectors: Mapping[str, np.ndarray]) -> None:
        self.table = table
        self.vectors = dict(vectors)
        self._fits: dict[str | None, Ridge | None] = {}

    def effect(self, perturbation: str, context: str) -> np.ndarray | None:
        """Return the effect (g,) of a perturbation in a context; None without features of it, or enough perturbations to fit on."""
        if perturbation not in self.vectors:
            return None
        fitted = self._fit(context) or self._fit(None)
        return None if fitted is None else fitted.effect(perturbation, self.vectors[perturbation])

    def _fit(self, context: str | None) -> Ridge | None:
        """Return the regression on the effects of a context, or (None) on those averaged over contexts."""
        if context not in self._fits:
            self._fits[context] = self._fitted(*self.table.by_perturbation(context))
        return self._fits[context]

    def _fitted(self, labels: Sequence[str], effects: np.ndarray) -> Ridge | None:
        known = [i for i, label in enumerate(labels) if label in self.vectors]
        if len(known) < LEAST:
            return None
        names = tuple(labels[i] for i in known)
        return fit_ridge(names, np.array([self.vectors[name] for name in names]), effects[known])
