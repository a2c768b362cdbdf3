"""Whether a predicted effect is nearest to its own perturbation's measured effect: PDS and centroid accuracy. Boundary: numpy.

PDS and centroid accuracy are the share of the other perturbations whose measured effect is farther from the prediction than its own;
a tie counts half, so that predictions that are all alike score 0.5. 1 is perfect.
Sources: the Virtual Cell Challenge (PDS by L1); Systema, Vinas Torne et al. 2025 (centroid accuracy: Euclidean distance).

Notation: k perturbations of a context, g genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np

Distance = Literal["l1", "l2", "cosine"]
AMPLITUDES: Final = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


def retrieval(
    predicted: Mapping[str, np.ndarray],
    measured: Mapping[str, np.ndarray],
    genes: tuple[str, ...],
    distance: Distance,
    amplitude: float = 1.0,
) -> dict[str, float]:
    """Return, for each predicted perturbation, the share of the others that are farther away than its own measured effect.

    Args:
        predicted, measured: perturbation -> effect (g,).
        genes: names of the g genes; a perturbation named like one is compared without it.
        distance: by which effects are compared.
        amplitude: factor on the predicted effects.
    """
    names = list(measured)
    if len(names) < 2:
        return {}
    real = np.stack([measured[name] for name in names])  # (k, g)
    place = {gene: i for i, gene in enumerate(genes)}
    found = {}
    for name, effect in predicted.items():
        gaps = _distances(amplitude * effect, real, distance, place.get(name))
        own = gaps[names.index(name)]
        others = np.delete(gaps, names.index(name))
        found[name] = float(((others > own).sum() + (others == own).sum() / 2) / len(others))
    return found


def best_amplitude(
    predicted: Mapping[str, np.ndarray], measured: Mapping[str, np.ndarray], genes: tuple[str, ...]
) -> tuple[float, float] | None:
    """Return the factor on all predicted effects with the best PDS by L1, and that PDS; None where there is no PDS.

    The distance L1 rewards effects of the right size; how much is to be gained by the factor alone says how far a low PDS is one of size.
    """
    scores = {}
    for amplitude in AMPLITUDES:
        values = retrieval(predicted, measured, genes, "l1", amplitude)
        if not values:
            return None
        scores[amplitude] = float(np.mean(list(values.values())))
    # of equal ones the factor nearest to 1: nothing is to be gained by changing more
    return max(scores.items(), key=lambda item: (item[1], -abs(np.log(item[0]))))


def _distances(effect: np.ndarray, real: np.ndarray, distance: Distance, left_out: int | None) -> np.ndarray:
    """Return the distance (k,) of an effect (g,) to each measured effect (k, g), without the gene at `left_out`."""
    if left_out is not None:
        effect, real = np.delete(effect, left_out), np.delete(real, left_out, axis=1)
    if distance == "l1":
        return np.asarray(np.abs(real - effect).sum(axis=1))
    if distance == "l2":
        return np.asarray(np.linalg.norm(real - effect, axis=1))
    sizes = np.linalg.norm(real, axis=1) * np.linalg.norm(effect)
    cosines = np.divide(real @ effect, sizes, out=np.zeros(len(real)), where=sizes > 0)
    return np.asarray(1 - cosines)
