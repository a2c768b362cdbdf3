"""A table of measured effects, and what anyone can predict from it without a network: the numbers behind the baselines.

no change                the effect is zero
mean of other contexts   the perturbation's mean effect over the contexts it was measured in, the asked one left out
likeness-weighted mean   the same, contexts weighted by how alike their control cells are (`effects.transfer`)
mean of the context      the mean effect of the context's other perturbations
ridge                    a linear map from a perturbation's features to its effect, the penalty chosen by leaving perturbations out

Why these: published re-evaluations find that large models often do not beat them (Ahlmann-Eltze et al., Nature Methods 2025).
Boundary: numpy only. Where the effects come from is decided elsewhere (`effects.means.effect_table`: training cells alone), and how one is
added to cells too (`effects.apply`).

Notation: n effects (a perturbation in a context each), g features, p width of a perturbation's features, k perturbations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from state_engine.errors import CheckpointError, ConfigError, listed

Condition = tuple[str, str]  # perturbation, context
Baseline = Literal[
    "no change",
    "mean of other contexts",
    "likeness-weighted mean",
    "mean of the context",
    "additive",
    "nearest neighbours",
    "ridge",
]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
# in units of the features' total variance, so that their scale does not matter
PENALTIES = tuple(float(v) for v in 10.0 ** np.arange(-3, 7))


@dataclass(frozen=True, eq=False)
class EffectTable:
    """Mean effects (mean perturbed cell minus mean control cell of the same context) of the cells of a training.

    Args:
        perturbations, contexts: of each row, (n,); a pair occurs once.
        cells: (n,) perturbed cells behind each row.
        effects: (n, g) float32.
        controls: context -> (g,) mean control cell; every context of a row has one.
        features: names of the g features; empty when they have none.
        errors: (n, g) float32 squared standard errors of the effects; None where they are not known.
        control_errors: context -> (g,) squared standard errors of its mean control cell; empty where they are not known.

    Raises:
        CheckpointError: the parts do not belong together.
    """

    perturbations: tuple[str, ...]
    contexts: tuple[str, ...]
    cells: np.ndarray
    effects: np.ndarray
    controls: dict[str, np.ndarray]
    features: tuple[str, ...] = ()
    errors: np.ndarray | None = None
    control_errors: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, g = self.effects.shape if self.effects.ndim == 2 else (-1, -1)
        missing = sorted(set(self.contexts) - set(self.controls))
        # not strict: lengths that differ have words of their own
        pairs = set(zip(self.perturbations, self.contexts, strict=False))
        errors = self.effects if self.errors is None else self.errors
        noise = tuple(self.control_errors.values())
        arrays = (self.effects, errors, *self.controls.values(), *noise)
        problems = {
            f"{len(self.perturbations)} labels for effects of shape {self.effects.shape}": (
                {len(self.perturbations), len(self.contexts)} != {n} or self.cells.shape != (n,)
            ),
            "standard errors of another shape than the effects, or below 0": (
                errors.shape != self.effects.shape or (self.errors is not None and bool((errors < 0).any()))
            ),
            "standard errors of controls that are not there, of another width, or below 0": (
                not set(self.control_errors) <= set(self.controls) or any(e.shape != (g,) or bool((e < 0).any()) for e in noise)
            ),
            "a perturbation occurs twice in a context": len(pairs) != len(self.perturbations),
            f"no control for {listed(missing)}": bool(missing),
            "controls and effects differ in width": any(c.shape != (g,) for c in self.controls.values()),
            f"{len(self.features)} names for {g} features": len(self.features) not in (0, g),
            "values that are not finite": not all(np.isfinite(values).all() for values in arrays),
        }
        wrong = [words for words, found in problems.items() if found]
        if wrong:
            raise CheckpointError("A table of effects contradicts itself.", f"{'; '.join(wrong)}.")

    @classmethod
    def of_pairs(
        cls,
        pairs: Sequence[Condition],
        cells: Sequence[int],
        effects: Sequence[np.ndarray],
        controls: Mapping[str, np.ndarray],
        features: tuple[str, ...],
        width: int,
        errors: Sequence[np.ndarray] | None = None,
        control_errors: Mapping[str, np.ndarray] | None = None,
    ) -> EffectTable:
        """Return the table of (perturbation, context) pairs, their cells, effects and errors (g,) in one order; `width` is g."""
        return cls(
            tuple(p for p, _ in pairs),
            tuple(c for _, c in pairs),
            np.array(cells, dtype=np.int64),
            # the shape is named because an array of no rows has no second axis
            np.array(effects, dtype=np.float32).reshape(len(pairs), width),
            {context: mean.astype(np.float32) for context, mean in controls.items()},
            features,
            None if errors is None else np.array(errors, dtype=np.float32).reshape(len(pairs), width),
            {context: values.astype(np.float32) for context, values in (control_errors or {}).items()},
        )

    def on(self, columns: Sequence[int], features: tuple[str, ...]) -> EffectTable:
        """Return the table of some of its features, in the order of their places and under these names."""
        controls = {c: values[columns] for c, values in self.controls.items()}
        errors = None if self.errors is None else self.errors[:, columns]
        noise = {c: values[columns] for c, values in self.control_errors.items()}
        labels = self.perturbations, self.contexts
        return EffectTable(*labels, self.cells, self.effects[:, columns], controls, features, errors, noise)

    @property
    def width(self) -> int:
        """g."""
        return int(self.effects.shape[1])

    @cached_property
    def _rows(self) -> dict[str, dict[str, int]]:
        """perturbation -> context -> row."""
        found: dict[str, dict[str, int]] = {}
        for row, (perturbation, context) in enumerate(zip(self.perturbations, self.contexts, strict=True)):
            found.setdefault(perturbation, {})[context] = row
        return found

    @cached_property
    def _sums(self) -> dict[str, tuple[np.ndarray, int]]:
        """context -> sum of its effects (g,) float64, and how many: means without one row cost one subtraction."""
        contexts = np.array(self.contexts, dtype=object)
        return {
            str(c): (self.effects[contexts == c].sum(axis=0, dtype=np.float64), int((contexts == c).sum()))
            for c in dict.fromkeys(self.contexts)
        }

    def effect(self, perturbation: str, context: str) -> np.ndarray | None:
        """Return the effect (g,) of exactly this pair; None when it was not trained on."""
        row = self._rows.get(perturbation, {}).get(context)
        return None if row is None else self.effects[row]

    def squared_errors(self, perturbation: str, context: str) -> np.ndarray | None:
        """Return the squared standard errors (g,) of exactly this pair; None where they, or the pair, are not known."""
        row = self._rows.get(perturbation, {}).get(context)
        return None if row is None or self.errors is None else self.errors[row]

    def contexts_of(self, perturbation: str) -> tuple[str, ...]:
        """Return the contexts in which the perturbation was trained on."""
        return tuple(self._rows.get(perturbation, {}))

    def other_contexts(self, perturbation: str, context: str) -> tuple[str, ...]:
        """Return the other contexts in which the perturbation was trained on."""
        return tuple(c for c in self._rows.get(perturbation, {}) if c != context)

    def n_perturbations(self, context: str) -> int:
        """Count the perturbations that were trained on in the context."""
        return self._sums.get(context, (None, 0))[1]

    def mean_of_perturbation(self, perturbation: str, context: str) -> np.ndarray | None:
        """Return the mean effect (g,) float32 over the other contexts, each counting once; None when there is no other."""
        rows = [row for other, row in self._rows.get(perturbation, {}).items() if other != context]
        return self.effects[rows].mean(axis=0, dtype=np.float64).astype(np.float32) if rows else None

    def mean_of_context(self, context: str, leave_out: str | None = None) -> np.ndarray | None:
        """Return the mean effect (g,) float32 of the context's perturbations, one left out; None when none is left."""
        total, n = self._sums.get(context, (np.zeros(self.width), 0))
        # one subtraction in float64 in place of a sum without the row: this is asked for each perturbation of a context
        own = self.effect(leave_out, context) if leave_out is not None else None
        if own is not None:
            total, n = total - own, n - 1
        return (total / n).astype(np.float32) if n else None

    def by_perturbation(self, context: str | None = None) -> tuple[tuple[str, ...], np.ndarray]:
        """Return labels (k,) and their effects (k, g) float32: the mean over all contexts, or those of one."""
        found = {p: [row for c, row in rows.items() if context in (None, c)] for p, rows in self._rows.items()}
        means = {p: self.effects[rows].mean(axis=0, dtype=np.float64) for p, rows in found.items() if rows}
        return tuple(means), np.array(list(means.values()), dtype=np.float32).reshape(len(means), self.width)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Ridge regression of effects on perturbation features, with an intercept: see `fit_ridge`.

    Args:
        perturbations: it was fitted on, (k,).
        weights: (p, g) float32, for centred features.
        feature_mean: (p,). effect_mean: (g,).
        left_out: (k, g) float32: the effect of each when it is left out of the fit, exactly.
        penalty: chosen among `PENALTIES`.
        errors: mean squared error of the left-out effects for each penalty.
    """

    perturbations: tuple[str, ...]
    weights: np.ndarray
    feature_mean: np.ndarray
    effect_mean: np.ndarray
    left_out: np.ndarray
    penalty: float
    errors: dict[float, float] = field(default_factory=dict)

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the effects (m, g) of feature rows (m, p)."""
        return (features - self.feature_mean) @ self.weights + self.effect_mean

    def effect(self, perturbation: str, features: np.ndarray) -> np.ndarray:
        """Return the effect (g,) of a perturbation with features (p,); its own measured effect plays no part in it."""
        if perturbation in self.perturbations:
            return self.left_out[self.perturbations.index(perturbation)]
        return self.predict(features[None])[0]


def fit_ridge(perturbations: tuple[str, ...], features: np.ndarray, effects: np.ndarray) -> Ridge:
    """Fit by singular values; the penalty with the smallest leave-one-out error over perturbations (closed form, exact).

    Args:
        perturbations: (k,) labels, each once.
        features: (k, p). effects: (k, g).

    Raises:
        ConfigError: fewer than three perturbations, or shapes that do not belong together.
    """
    k = len(perturbations)
    if k < 3 or features.shape[0] != k or effects.shape[0] != k or len(set(perturbations)) != k:
        raise ConfigError(
            f"A ridge regression cannot be fitted on {k} perturbations, {len(features)} features and {len(effects)} effects.",
            "It needs three different perturbations or more, with features and an effect each.",
        )
    # one decomposition serves all penalties: each only shrinks the singular values in another way
    x, y = features.astype(np.float64), effects.astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    # features that do not vary have no variance to measure a penalty in; any unit does then
    unit = float((s**2).sum()) / k or 1.0
    target = u.T @ (y - y_mean)
    best: tuple[float, float, np.ndarray] | None = None
    errors: dict[float, float] = {}
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty * unit)
        left_out = _left_out(u, shrink, target, y, y_mean)
        errors[penalty] = float(np.square(left_out - y).mean())
        if best is None or errors[penalty] < best[0]:
            best = errors[penalty], penalty, left_out
    assert best is not None
    weights = vt.T @ ((s / (s**2 + best[1] * unit))[:, None] * target)
    return Ridge(
        perturbations,
        weights.astype(np.float32),
        x_mean.astype(np.float32),
        y_mean.astype(np.float32),
        best[2].astype(np.float32),
        best[1],
        errors,
    )


def _left_out(u: np.ndarray, shrink: np.ndarray, target: np.ndarray, y: np.ndarray, y_mean: np.ndarray) -> np.ndarray:
    """Each row's prediction from a fit without it: y - (y - fitted) / (1 - leverage), the intercept's 1 / k included."""
    fitted = (u * shrink) @ target + y_mean
    leverage = np.square(u) @ shrink + 1 / len(y)
    # leverage 1: the fit goes through the row, and nothing is known without it
    return y - (y - fitted) / np.maximum(1 - leverage, 1e-12)[:, None]
