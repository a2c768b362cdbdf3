"""Do the predictions of different perturbations look alike? The median correlation of their effects, beside that of measured ones.

A network that has learnt one shift for every perturbation predicts effects that are correlated near 1, whatever they should be; measured
effects of the same perturbations seldom are. Mean cells only, so it takes seconds.

Notation: k perturbations of a context, g genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from state_engine import keys
from state_engine.plain import read_json_as
from state_engine.prediction.result import Layer, Result

RESEMBLANCE: Final = "resemblance.json"  # in a run's folder
FEWEST: Final = 3  # perturbations of a context
LEAST_CELLS: Final = 10  # of a measured condition, whose mean is noise otherwise
ALIKE: Final = 0.9
MOST: Final = 200  # perturbations of a context; the first are taken


@dataclass(frozen=True)
class Resemblance:
    """How alike effects are.

    Args:
        predicted: median Pearson correlation of the predicted effects of two perturbations in one context.
        pairs: of perturbations behind it.
        measured: the same of measured effects; None where fewer than three perturbations of a context were measured.
        measured_pairs: behind that.
    """

    predicted: float
    pairs: int
    measured: float | None = None
    measured_pairs: int = 0

    @property
    def alike(self) -> bool:
        """Whether a reader has to be warned: predictions are nearly the same, and measured ones are not or are not known."""
        return self.predicted >= ALIKE and (self.measured is None or self.measured < self.predicted - 0.1)

    def words(self) -> str:
        """Return a sentence with the numbers."""
        text = f"Predictions of different perturbations: median correlation of their effects {self.predicted:.2f}"
        text += f"; of measured ones {self.measured:.2f}." if self.measured is not None else "."
        if self.alike:
            text += " They hardly differ, so what is special about a perturbation is not in this prediction."
        return text


def resemblance(result: Result, layer: Layer = "corrected") -> Resemblance | None:
    """Return how alike the effects of a result are; None where no context has three perturbations, or there are no genes.

    Args:
        result: of a prediction.
        layer: which expression of it.
    """
    if not result.has_expression:
        return None
    predicted, measured = list[float](), list[float]()
    contexts = dict.fromkeys(c for _, c in result.conditions())
    for context in contexts:
        control = result.rows(keys.PREDICTED_CONTROL, context)
        predicted += _correlations(result, keys.PREDICTED, context, control, layer)
        observed = result.rows(keys.OBSERVED_CONTROL, context)
        measured += _correlations(result, keys.OBSERVED, context, observed, "corrected", LEAST_CELLS)
    return resemblance_of(predicted, measured)


def resemblance_of(predicted: list[float], measured: list[float]) -> Resemblance | None:
    """Return the medians of correlations of predicted and of measured effects; None without predicted ones."""
    if not predicted:
        return None
    known = float(np.median(measured)) if measured else None
    return Resemblance(float(np.median(predicted)), len(predicted), known, len(measured))


def _correlations(result: Result, kind: str, context: str, control: np.ndarray, layer: Layer, least: int = 1) -> list[float]:
    """Return the Pearson correlations of the effects of each two perturbations of a context."""
    there = [p for p, c in result.conditions(kind) if c == context][:MOST]
    rows = [result.rows(kind, context, p) for p in there]
    rows = [found for found in rows if len(found) >= least]
    if len(rows) < FEWEST or len(control) < least or not len(control):
        return []
    base = result.mean(control, layer)
    return correlations(np.stack([result.mean(found, layer) - base for found in rows]))


def correlations(effects: np.ndarray) -> list[float]:
    """Return the Pearson correlations of each two effects (k, g); none where fewer than three change anything."""
    effects = effects[np.ptp(effects, axis=1) > 0]  # no change has no correlation
    if len(effects) < FEWEST:
        return []
    # each pair once: above the diagonal
    return np.corrcoef(effects)[np.triu_indices(len(effects), 1)].tolist()


def read_resemblance(folder: Path) -> Resemblance | None:
    """Return what a run's folder holds of it; None where there is nothing.

    Raises:
        RunError: the file is damaged.
    """
    return read_json_as(Resemblance, folder / RESEMBLANCE, "resemblance", "Run the prediction again.")
