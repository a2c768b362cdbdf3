"""Would it hold in a replicate? Four named bands of predicted genes, from how often the predicted direction held on left-out conditions.

The direction of a gene holds when the measured effect of a condition that the prediction knew nothing of has the sign of the predicted one. How
often it does rises with the size of the predicted effect (on the mean cell, log1p); that curve is fitted on left-out conditions, each with the
same weight, and cut at three shares. Of the scores tried (the effect, in units of the gene's spread or of the root of its mean, the
fold change) the plain effect tells best which directions hold.

What a band says is of the cells and the laboratory that were left out: a replicate of another laboratory may agree less.
Boundary: numpy and scikit-learn's isotonic regression. Notation: k conditions, g genes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from state_engine.checkpoints.card import Bands
from state_engine.effects.scores import TOP, largest

Band = Literal["very likely", "likely", "uncertain", "by chance", "not calibrated"]

BANDS: Final[tuple[Band, ...]] = ("very likely", "likely", "uncertain", "by chance")
NOT_CALIBRATED: Final[Band] = "not calibrated"
LEVELS: Final = (0.9, 0.75, 0.6)
"""Share of directions that hold, at least, at the edge of the first three bands."""
BIN: Final = 25  # genes of a condition whose directions are counted together: fewer would be a matter of luck
TENTH: Final = 0.1
SENTENCES: Final[dict[Band, str]] = {
    "very likely": "At least 9 in 10 genes with an effect of this size went the predicted way in conditions that were left out.",
    "likely": "Between 3 in 4 and 9 in 10 genes with an effect of this size went the predicted way in conditions that were left out.",
    "uncertain": "Between 6 in 10 and 3 in 4 genes with an effect of this size went the predicted way in conditions that were left out.",
    "by chance": "The direction of an effect this small held hardly more often than that of a coin in conditions that were left out.",
    "not calibrated": "No left-out condition says how often such a prediction holds.",
}


def fit_bands(
    predicted: Sequence[NDArray[np.floating]], measured: Sequence[NDArray[np.floating]], origin: str = ""
) -> Bands | None:
    """Return the bands that conditions tell, which the predictions knew nothing of; None without any gene that moves.

    Args:
        predicted, measured: effects (g,) on the mean cell (log1p) of each condition.
        origin: what was left out, for people.
    """
    pairs = [(np.abs(d), _holds(d, o), d != 0) for d, o in zip(predicted, measured, strict=True)]
    told = [(size[moves], holds[moves]) for size, holds, moves in pairs if moves.any()]
    if not told:
        return None
    edges = tuple(_edge(told, level) for level in LEVELS)
    made = Bands(edges, (), None, len(told), len(predicted[0]), origin)
    shares = np.full((len(told), len(BANDS)), np.nan)
    for row, (size, hold) in enumerate(told):
        places = _places(size, made)
        for place in np.unique(places):
            shares[row, place] = hold[places == place].mean()
    means = tuple(_mean(shares[:, place]) for place in range(len(BANDS)))
    first = shares[np.isfinite(shares[:, 0]), 0]
    return Bands(edges, means, round(float(first.min()), 4) if len(first) else None, len(told), len(predicted[0]), origin)


def bands_of(effect: NDArray[np.floating], bands: Bands | None) -> NDArray[np.str_]:
    """Return the band of each gene (g,) by its predicted effect on the mean cell (log1p)."""
    if bands is None:
        return np.full(len(effect), NOT_CALIBRATED)
    return np.array(BANDS)[_places(np.abs(effect), bands)]


def band_of_condition(effect: NDArray[np.floating], bands: Bands | None, top: int = TOP) -> tuple[Band, float | None]:
    """Return the band of a condition, and the share of its `top` largest predicted effects whose direction is expected to hold."""
    if bands is None:
        return NOT_CALIBRATED, None
    known = [0.5 if share is None else share for share in bands.shares]
    share = float(np.mean(np.array(known)[_places(np.abs(effect[largest(effect, top)]), bands)]))
    return next((band for band, level in zip(BANDS, LEVELS, strict=False) if share >= level), BANDS[-1]), share


def words(bands: Bands | None) -> str:
    """Return where the bands come from, in a sentence."""
    if bands is None:
        return "Not calibrated: no left-out condition says how often a prediction of this model holds."
    share = bands.shares[0]
    held = (
        "no predicted effect is large enough for 'very likely'"
        if share is None
        else f"{share:.0%} of 'very likely' genes went the predicted way"
    )
    conditions = f"{bands.conditions:,} {bands.origin or 'left-out conditions'}"
    return f"Calibrated on {conditions}: {held}" + (
        f" ({bands.lowest:.0%} where fewest did)." if bands.lowest is not None else "."
    )


def _holds(predicted: NDArray[np.floating], measured: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray((np.sign(predicted) == np.sign(measured)) & (measured != 0))


def _edge(told: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_]]], level: float) -> float | None:
    """Return the smallest effect from which on directions hold often enough: genes of that size by the fitted curve, and in nearly every
    condition all genes from there up. The second asks for conditions to come, which are not their mean.
    """
    from sklearn.isotonic import IsotonicRegression

    sizes, holds = (np.concatenate([pair[i] for pair in told]) for i in (0, 1))
    weights = np.concatenate([np.full(len(size), 1 / len(size)) for size, _ in told])
    # from the largest down, in bins, so that a handful of genes at the top cannot decide
    order, width = np.argsort(-sizes, kind="stable"), BIN * len(told)
    starts = np.arange(0, max(1, len(order) - width // 2), width)
    weight = np.add.reduceat(weights[order], starts)
    share = np.add.reduceat((weights * holds)[order], starts) / weight
    least = np.minimum.reduceat(sizes[order], starts)
    fitted = IsotonicRegression(increasing=False).fit_transform(np.arange(len(share)), share, sample_weight=weight)
    enough = [edge for edge in least[fitted >= level].tolist() if _in_nearly_all(told, edge) >= level]
    return float(f"{min(enough):.4g}") if enough else None


def _in_nearly_all(told: Sequence[tuple[NDArray[np.floating], NDArray[np.bool_]]], edge: float) -> float:
    """Return the share of directions that hold from an effect up, in the condition below which a tenth of the conditions lie."""
    shares = [float(hold[size >= edge].mean()) for size, hold in told if (size >= edge).any()]
    return float(np.quantile(shares, TENTH, method="lower")) if shares else 0.0


def _places(sizes: NDArray[np.floating], bands: Bands) -> NDArray[np.int64]:
    """Return the place of each gene's band (g,), 0 for the first."""
    place = np.full(len(sizes), len(BANDS) - 1)
    for number in reversed(range(len(LEVELS))):
        edge = bands.edges[number]
        if edge is not None:
            place[sizes >= edge] = number
    return place


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[np.isfinite(values)]
    return round(float(there.mean()), 4) if len(there) else None
