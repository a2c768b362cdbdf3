"""How much of the network's effect, of the transferred one and of the common one to use: weights by bounded least squares.

    calibrated effect = paired x (the network's paired effect)
                      + mean x (what the other contexts say of the perturbation: `effects.transfer`)
                      + common x (the mean effect of the context's other perturbations)
                      + features x (the effect that a ridge regression on perturbation features tells: `effects.from_features`)
                      + correction x (what takes the noise of the context's mean control cell out: `Likeness.correction`)

The weights minimise the mean squared error of effects over conditions, plus a pull towards an even prior that is worth one condition: with
many conditions the data decide, with few the prior has its say. No weight is negative, and those of the effects of the perturbation
itself (all but the common one) add up to 1 at most: guesses of the same thing are averaged, not added. The correction is not weighed, its
size follows from the noise: it is added as a whole, or not at all. The minimum is found exactly, by looking at every face of the region that
these bounds leave.
Boundary: numpy only.

Notation: k conditions, g features, n cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType
from typing import Final

import numpy as np

from state_engine.effects.apply import applied_mean
from state_engine.errors import ConfigError

PARTS: Final = ("paired", "mean", "common", "features")
# Each part alike, and less than all of them together: noise in the measurement makes any effect look larger than it is. A prior that believed
# the network alone was worth two conditions, and left the other contexts next to nothing wherever few conditions could be weighed.
PRIOR = (0.4, 0.4)
PRIOR_CONDITIONS = 1.0
BOUNDS = (0.0, 1.0)
TOGETHER = 1.0


@dataclass(frozen=True)
class Mixture:
    """The weights of the paired effect, of the transferred effect (the mean over other contexts), of the common effect, of what perturbation
    features tell, and of the correction."""

    paired: float
    mean: float
    common: float = 0.0
    features: float = 0.0
    correction: float = 0.0

    def weights(self) -> tuple[float, ...]:
        """Return the weights in the order of `PARTS`."""
        return self.paired, self.mean, self.common, self.features


# what each effect alone would be, by the name of its score
ALONE: Final[Mapping[str, Mixture]] = MappingProxyType(
    {
        "none": Mixture(0.0, 0.0),
        "corrected": Mixture(1.0, 0.0),
        "transfer": Mixture(0.0, 1.0),
        "common": Mixture(0.0, 0.0, 1.0),
        "features": Mixture(0.0, 0.0, features=1.0),
    }
)


@dataclass(frozen=True, eq=False)
class Condition:
    """One perturbation in one context: effects (g,) as the network pairs them, as other contexts had them, as measured.

    Args:
        context, perturbation: its labels.
        paired, mean, observed: effects on the mean cell; mean is None where no other context knows the perturbation.
        control: (g,) mean control cell; to score what the cells become.
        cells: measured perturbed cells.
        common: (g,) mean effect of the context's other trained perturbations; None without enough of them.
        baselines: further effects (g,) to be scored beside, by the name of their score.
        correction: (g,) of the noise of the mean control cell; None where it is not known.
        features: (g,) effect that perturbation features tell; None without any.
    """

    context: str
    perturbation: str
    paired: np.ndarray
    mean: np.ndarray | None
    observed: np.ndarray
    control: np.ndarray
    cells: int
    common: np.ndarray | None = None
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    correction: np.ndarray | None = None
    features: np.ndarray | None = None

    def parts(self) -> tuple[str, ...]:
        """Return which of `PARTS` there are."""
        return tuple(name for name in PARTS if getattr(self, name) is not None)

    def corrected_by(self, weight: float) -> np.ndarray:
        """Return so much of the correction, (g,) float64; 0 where it is not known."""
        return weight * (np.zeros(len(self.observed)) if self.correction is None else self.correction.astype(np.float64))

    def stacked(self) -> np.ndarray:
        """Return the effects (4, g) float64 in the order of `PARTS`; one that is not there is 0."""
        effects = [self.paired, self.mean, self.common, self.features]
        nothing = np.zeros_like(self.paired)
        return np.stack([nothing if effect is None else effect for effect in effects]).astype(np.float64)


def even_prior(parts: Sequence[str]) -> tuple[float, ...]:
    """Return the prior for some of `PARTS`: what the two of `PRIOR` add up to, shared alike."""
    return (sum(PRIOR) / len(parts),) * len(parts)


def fit_mixture(
    conditions: Sequence[Condition],
    prior: tuple[float, ...] | None = None,
    worth: float = PRIOR_CONDITIONS,
    bounds: tuple[float, float] = BOUNDS,
    together: float = TOGETHER,
    parts: tuple[str, ...] = ("paired", "mean"),
    correction: float = 0.0,
) -> Mixture:
    """Return the weights that fit the measured effects best; each condition counts once, its features alike.

    Args:
        conditions: to fit on.
        prior: weights of the parts towards which the fit is pulled; None: `even_prior`.
        worth: how many conditions, with effects as large as the measured ones, the prior weighs as.
        bounds: of each weight.
        together: largest sum of the weights of the paired and the transferred effect, and of what features tell.
        parts: of `PARTS`, those that may be used; the others get 0.
        correction: of the noise of control cells, 0 or 1: the weights are those of what it leaves.

    Raises:
        ConfigError: no conditions, or nothing in them that moves.
    """
    if not conditions:
        raise ConfigError("Weights cannot be fitted.", "There is no condition to fit them on.")
    used = [PARTS.index(name) for name in parts]
    gram, target, size = np.zeros((len(used), len(used))), np.zeros(len(used)), 0.0
    for condition in conditions:
        x = condition.stacked()[used]
        gram += x @ x.T
        target += x @ (condition.observed - condition.corrected_by(correction))
        size += float(np.square(condition.observed, dtype=np.float64).sum())
    if not np.diag(gram).any():
        raise ConfigError("Weights cannot be fitted.", "Neither the model nor the other contexts show any effect.")
    # in the size of the measured effects, so that effects that are far too large do not outweigh the prior by their size
    pull = worth * size / len(conditions)
    gram, target = gram + pull * np.eye(len(used)), target + pull * np.array(prior or even_prior(parts))
    limited = np.array([name != "common" for name in parts])
    found = minimum(gram, target, bounds, limited, together)
    weights = dict.fromkeys(PARTS, 0.0) | dict(zip(parts, found.tolist(), strict=True))
    return Mixture(**weights, correction=correction)


def minimum(
    gram: np.ndarray, target: np.ndarray, bounds: tuple[float, float], limited: np.ndarray, together: float
) -> np.ndarray:
    """Return where w gram w / 2 - target w is smallest, each weight within bounds and the sum of the limited ones at most `together`.

    The minimum of a convex function in a polytope is the free minimum of one of its faces: all are tried, and those within it compared.

    Args:
        gram: (k, k). target: (k,). limited: (k,) bool.
    """
    best, least = np.full(len(target), bounds[0]), np.inf
    for states in product((*bounds, None), repeat=len(target)):
        free = np.array([s is None for s in states])
        start = np.array([0.0 if s is None else s for s in states])
        for point in _on_face(gram, target, start, free, limited, together):
            inside = (point >= bounds[0] - 1e-12).all() and (point <= bounds[1] + 1e-12).all()
            value = float(point @ gram @ point / 2 - target @ point)
            if inside and point[limited].sum() <= together + 1e-9 and value < least:
                best, least = point, value
    return np.clip(best, *bounds)


def _on_face(
    gram: np.ndarray, target: np.ndarray, start: np.ndarray, free: np.ndarray, limited: np.ndarray, together: float
) -> list[np.ndarray]:
    """Return the minimum over the free weights, the others as they start; and the one where the limited ones add up to `together`."""
    n, along = int(free.sum()), (limited & free)[free].astype(np.float64)
    slope = (target - gram @ start)[free]
    inner = gram[np.ix_(free, free)]
    found = []
    for tight in (False, True) if along.any() else (False,):
        system = np.zeros((n + tight, n + tight))
        system[:n, :n] = inner
        side = np.concatenate([slope, [together - start[limited].sum()] * tight])
        if tight:  # the multiplier of the sum is one more unknown
            system[n, :n] = system[:n, n] = along
        point = start.copy()
        point[free] = np.linalg.lstsq(system, side, rcond=None)[0][:n]
        found.append(point)
    return found


def mixed_effect(condition: Condition, mixture: Mixture) -> np.ndarray:
    """Return the effect (g,) that the weights give."""
    weights = np.array(mixture.weights())
    return np.asarray(weights @ condition.stacked() + condition.corrected_by(mixture.correction))


def mixed_mean(condition: Condition, mixture: Mixture, *, nonnegative: bool) -> np.ndarray:
    """Return the mean cell (g,) that the weights give.

    Args:
        condition: effects and the mean control cell.
        mixture: the weights.
        nonnegative: the values are expression; False for an embedding.
    """
    return applied_mean(condition.control, mixed_effect(condition, mixture), nonnegative=nonnegative)
