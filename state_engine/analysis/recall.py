"""Of the genes predicted to move most, how many did? One sentence about a prediction, from its comparison with measured cells.

A gene did when it is significant in the measurement (`metrics.rules.significant`) and went the predicted way. Baselines are counted alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.analysis.effects import LIKENESS, OTHER_CONTEXTS, OTHER_PERTURBATIONS, EffectComparison, effect_column
from state_engine.effects.scores import TOP, largest
from state_engine.metrics.rules import significant
from state_engine.plain import plural

BASELINES: Final = (OTHER_CONTEXTS, LIKENESS, OTHER_PERTURBATIONS)
"""In this order the first that exists is told beside the prediction."""
_WORDS: Final[Mapping[str, str]] = {
    OTHER_CONTEXTS: "mean of the other contexts",
    LIKENESS: "likeness-weighted mean of other contexts",
    OTHER_PERTURBATIONS: "mean of other perturbations",
}


@dataclass(frozen=True)
class Found:
    """Genes of a prediction that moved.

    Args:
        top: genes looked at, those with the largest predicted effect.
        moved: of them, those that moved the predicted way in the measurement.
        baseline: the simple prediction beside; "" without any.
        baseline_moved: of its own `top` genes.
    """

    top: int
    moved: int
    baseline: str = ""
    baseline_moved: int = 0


def found_genes(comparison: EffectComparison, method: str = "corrected", top: int = TOP) -> Found:
    """Return how many of the genes predicted to move most did, for a method and the first baseline that there is."""
    top = min(top, len(comparison.genes))
    baseline = next((name for name in BASELINES if _has(comparison, name)), "")
    moved = moved_genes(comparison, method, top) or 0
    return Found(top, moved, baseline, (moved_genes(comparison, baseline, top) or 0) if baseline else 0)


def found_words(comparison: EffectComparison, counted: Found, mark: str = "") -> str:
    """Return the sentences about them; `mark` stands around the number that they are about."""
    text = f"Of the {plural(counted.top, 'gene')} predicted to move most, {mark}{counted.moved:,} did{mark}"
    text += f" (of all {len(comparison.genes):,}, {plural(comparison.n_significant, 'gene')} moved significantly)."
    if counted.baseline:
        text += f" A {_WORDS[counted.baseline]} finds {counted.baseline_moved:,}."
    return text


def _has(comparison: EffectComparison, method: str) -> bool:
    column = effect_column(method)
    return column in comparison.genes and bool(np.isfinite(comparison.genes[column].to_numpy(float)).all())


def moved_genes(comparison: EffectComparison, method: str, top: int = TOP) -> int | None:
    """Return how many of the `top` genes that a method moves most did; None where it has no effects, or none but zeros."""
    if not _has(comparison, method) or not comparison.genes[effect_column(method)].any():
        return None
    genes = comparison.genes
    effect, measured = genes[effect_column(method)].to_numpy(float), genes["observed"].to_numpy(float)
    return moved(effect, measured, genes["observed_fdr"].to_numpy(float), top)


def moved(effect: NDArray[np.float64], measured: NDArray[np.float64], fdr: NDArray[np.float64], top: int = TOP) -> int:
    """Return how many of the `top` largest predicted effects (g,) are significant in the measurement and went the predicted way.

    Args:
        effect, measured: predicted and measured effects (log1p).
        fdr: of the measured change of each gene.
    """
    did = significant(fdr) & (np.sign(effect) == np.sign(measured)) & (effect != 0)
    return int(did[largest(effect, top)].sum())
