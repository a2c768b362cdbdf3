"""How alike the effects of the perturbations of a screen are: clustered correlations, and whether they can be told apart at all.

Notation: k perturbations, g genes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.analysis.resemblance import MOST, Resemblance, correlations, resemblance_of
from state_engine.effects.store import load_effects
from state_engine.errors import StateError
from state_engine.screening.report import Similarity

MOST_CLUSTERED: Final = 2000  # perturbations; those with the largest effects


def similarity_of(perturbations: tuple[str, ...], effects: NDArray[np.floating]) -> Similarity:
    """Return the correlation of effects (k, g), in the order of an average linkage on 1 - r.

    Of more than `MOST_CLUSTERED` the largest effects are taken.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    size = np.linalg.norm(effects, axis=1)
    taken = np.sort(np.argsort(-size, kind="stable")[:MOST_CLUSTERED])
    values = effects[taken].astype(np.float64)
    flat = np.ptp(values, axis=1) == 0
    values -= values.mean(axis=1, keepdims=True)
    values /= np.where(flat, 1, np.linalg.norm(values, axis=1))[:, None]
    r = np.clip(values @ values.T, -1, 1)
    r[flat], r[:, flat] = np.nan, np.nan
    names = [perturbations[i] for i in taken]
    if len(names) > 2:
        far = 1 - np.nan_to_num(r)
        np.fill_diagonal(far, 0)
        order = leaves_list(linkage(squareform(far, checks=False), "average"))
        names, r = [names[i] for i in order], r[np.ix_(order, order)]
    return Similarity(tuple(names), r.astype(np.float32))


def resemblance_of_screen(effects: dict[str, NDArray[np.floating]], model: Path) -> Resemblance | None:
    """Return how alike predicted effects are, beside the effects that the model was trained on where these are saved with it.

    Args:
        effects: context -> (k, g).
        model: its folder.
    """
    predicted = [r for values in effects.values() for r in correlations(values[:MOST])]
    measured = list[float]()
    try:
        table = load_effects(model)
    except StateError:  # damaged: whoever needs the numbers is told
        table = None
    for context in dict.fromkeys(table.contexts) if table is not None else ():
        assert table is not None
        measured += correlations(table.by_perturbation(context)[1][:MOST])
    return resemblance_of(predicted, measured)
