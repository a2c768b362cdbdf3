"""What the other contexts of a training say of a perturbation, weighted by how alike their control cells are: no network.

    likeness(c, k)   correlation of the mean control profiles of two contexts, each minus the mean profile of the contexts that teach
    weight(k)        exp(h x likeness(c, k)), over the contexts k that measured the perturbation, their sum 1
    h                that of `SHARPNESS` with the smallest squared error when each context of the table is left out in turn; at h = 0 every
                     context counts alike, which is what is found where likeness says nothing

`likeness_weighted` is that mean as it is, a baseline. `shrink` makes an effect as much smaller as its standard errors say that noise made it
larger: one of few cells, or of a perturbation that does nothing, becomes nearly nothing.

`Likeness.correction` is about the control cells themselves. A perturbed cell is predicted as a control cell plus an effect, so what the mean
control cell is off by, having few cells, is in every prediction. Gene by gene it moves towards the control cells of alike contexts as an
empirical Bayes estimate does: by the share of its difference to them that sampling explains, and never by more than its standard error.
Boundary: numpy only.

Notation: m contexts that measured a perturbation, g features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from state_engine.effects.from_features import FromFeatures
from state_engine.effects.table import EffectTable

SHARPNESS: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
MOST_PERTURBATIONS: Final = 200  # that h is chosen on; more change it by nothing one would see


@dataclass(frozen=True, eq=False)
class WeightedEffect:
    """A mean effect (g,) float64 over `behind` contexts, and its squared standard errors (g,), None where they are not known."""

    effect: np.ndarray
    errors: np.ndarray | None
    behind: int


class Likeness:
    """Weights of the contexts of a table, for any context whose mean control cell is known.

    Args:
        table: effects and mean control cells of the training cells.
        controls: context -> (g,) mean control cell of contexts that the table does not have.
        control_errors: context -> (g,) squared standard errors of these.
    """

    def __init__(
        self,
        table: EffectTable,
        controls: Mapping[str, np.ndarray] | None = None,
        control_errors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.table = table
        self._controls: dict[str, np.ndarray] = {**(controls or {}), **table.controls}
        self._errors: dict[str, np.ndarray] = {**(control_errors or {}), **table.control_errors}
        self._beyond_noise: dict[str, np.ndarray] = {}
        self._found: dict[str, dict[str, float]] = {}
        self._corrections: dict[str, np.ndarray | None] = {}

    def know(self, context: str, control: np.ndarray, errors: np.ndarray | None = None) -> None:
        """Take note of a context that the table lacks: its mean control cell (g,) and the squared standard errors of that (g,)."""
        self._controls.setdefault(context, control)
        if errors is not None:
            self._errors.setdefault(context, errors)

    @cached_property
    def h(self) -> float:
        """How much likeness counts, chosen by leaving out the contexts of the table in turn."""
        labels = list(dict.fromkeys(self.table.perturbations))[:MOST_PERTURBATIONS]
        errors = np.zeros(len(SHARPNESS))
        for label in labels:
            where = self.table.contexts_of(label)
            # with two contexts each has only the other to learn from, whatever h is
            for context in where if len(where) > 2 else ():
                others, effects = self._others(label, context)
                truth = self.table.effect(label, context)
                assert truth is not None
                means = self._weights(context, others, np.array(SHARPNESS)) @ effects
                errors += np.square(means - truth).sum(axis=1)
        return SHARPNESS[int(np.argmin(errors))]

    def between(self, context: str) -> dict[str, float]:
        """Return the other contexts of the table and how alike their control cells are, -1 to 1; 0 where that is not known."""
        if context not in self._found:
            others = [c for c in self.table.controls if c != context]
            self._found[context] = dict(zip(others, self._correlations(context, others).tolist(), strict=True))
        return self._found[context]

    def _correlations(self, context: str, others: list[str]) -> np.ndarray:
        own = self._controls.get(context)
        if own is None or not others or not own.size:  # screens may share no gene: nothing is known then
            return np.zeros(len(others))
        profiles = np.array([self._controls[c] for c in others], dtype=np.float64)
        # minus the mean profile of those that teach: what all cells share would make every context look alike
        middle = profiles.mean(axis=0)
        profiles, own = profiles - middle, own - middle
        profiles, own = profiles - profiles.mean(axis=1, keepdims=True), own - own.mean()
        sizes = np.sqrt(np.square(profiles).sum(axis=1) * (own @ own))
        return np.divide(profiles @ own, sizes, out=np.zeros(len(others)), where=sizes > 0)

    def _others(self, perturbation: str, context: str) -> tuple[list[str], np.ndarray]:
        """The other contexts that measured a perturbation, and its effects there, (m, g)."""
        others = [c for c in self.table.contexts_of(perturbation) if c != context]
        effects = [self.table.effect(perturbation, c) for c in others]
        return others, np.array(effects, dtype=np.float64).reshape(len(others), self.table.width)

    def _weights(self, context: str, others: list[str], h: np.ndarray) -> np.ndarray:
        """Weights (len(h), m), each row's sum 1."""
        likeness = np.array([self.between(context)[c] for c in others])
        weights = np.exp(h[:, None] * likeness)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def weights(self, perturbation: str, context: str) -> dict[str, float]:
        """Return how much each other context counts for a perturbation; empty where none measured it."""
        others = [c for c in self.table.contexts_of(perturbation) if c != context]
        if not others:
            return {}
        return dict(zip(others, self._weights(context, others, np.array([self.h]))[0].tolist(), strict=True))

    def likeness_weighted(self, perturbation: str, context: str, control: np.ndarray | None = None) -> WeightedEffect | None:
        """Return the perturbation's mean effect over the other contexts, weighted; None where none measured it.

        Args:
            perturbation, context: the condition; what the table has of it plays no part.
            control: (g,) mean control cell of the context, where the table lacks it.
        """
        if control is not None:
            self.know(context, control)
        others, effects = self._others(perturbation, context)
        if not others:
            return None
        weights = self._weights(context, others, np.array([self.h]))[0]
        found = [self.table.squared_errors(perturbation, c) for c in others]
        known = [e for e in found if e is not None]
        errors = np.square(weights) @ np.array(known) if len(known) == len(others) else None
        return WeightedEffect(weights @ effects, errors, len(others))

    def correction(self, context: str) -> np.ndarray | None:
        """Return how far the mean control cell of a context moves towards those of alike contexts, (g,); None where its noise is not known.

            difference x noise / (noise + spread), at most a standard error

        The noise is its squared standard error. The spread is what contexts truly differ by from those like them: the mean over the contexts of the
        table, this one included, of the squared difference less its noise.
        """
        if context not in self._corrections:
            self._corrections[context] = self._correction(context)
        return self._corrections[context]

    def _correction(self, context: str) -> np.ndarray | None:
        noise, difference = self._errors.get(context), self._from_alike(context)
        if noise is None or difference is None:
            return None
        teach = [c for c in self.table.controls if c != context and c in self._errors]
        known = [beyond for c in teach if (beyond := self._beyond(c)) is not None]
        own = np.maximum(np.square(difference) - noise, 0)
        # the mean over the others is not below 0 either, and counts as that of so many contexts
        others = len(known) * np.maximum(np.mean(known, axis=0), 0) if known else np.zeros_like(own)
        spread = (others + own) / (len(known) + 1)
        moved = np.divide(difference * noise, noise + spread, out=np.zeros_like(own), where=noise > 0)
        # a gene that stands out here alone has a small spread elsewhere, and must not be taken for noise
        return np.asarray(np.clip(moved, -np.sqrt(noise), np.sqrt(noise)))

    def _from_alike(self, context: str) -> np.ndarray | None:
        """Return the difference (g,) of the mean control cell of alike contexts to its own, in float64."""
        own, others = self._controls.get(context), [c for c in self.table.controls if c != context]
        if own is None or not others:
            return None
        profiles = np.array([self._controls[c] for c in others], dtype=np.float64)
        return np.asarray(self._weights(context, others, np.array([self.h]))[0] @ profiles - own)

    def _beyond(self, context: str) -> np.ndarray | None:
        """Return the squared difference (g,) of a context of the table to those like it, less its noise; below 0 where the noise is larger."""
        if context not in self._beyond_noise:
            difference = self._from_alike(context)
            if difference is None:
                return None
            self._beyond_noise[context] = np.square(difference) - self._errors[context]
        return self._beyond_noise[context]


LEAST_COMMON: Final = 3  # other perturbations of a context that make a common effect


@dataclass(frozen=True, eq=False)
class SharedEffects:
    """What a table says of a condition without a network, effects (g,) float64; None where it says nothing.

    Args:
        plain: mean over the other contexts.
        likeness: the same, weighted by likeness.
        transfer: the weighted one, shrunk by its standard errors.
        common: mean effect of the context's other perturbations.
        correction: what takes the noise of the context's mean control cell out (`Likeness.correction`).
        features: the effect that perturbation features tell (`effects.from_features`).
    """

    plain: np.ndarray | None
    likeness: np.ndarray | None
    transfer: np.ndarray | None
    common: np.ndarray | None
    correction: np.ndarray | None = None
    features: np.ndarray | None = None

    def parts(self) -> tuple[str, ...]:
        """Return which of the parts of a mixture are there, the network's own apart."""
        parts = {"mean": self.transfer, "common": self.common, "features": self.features}
        return tuple(name for name, there in parts.items() if there is not None)

    @property
    def new(self) -> bool:
        """Whether no other context knows the perturbation."""
        return self.transfer is None


def shared_effects(likeness: Likeness, perturbation: str, context: str, regression: FromFeatures | None = None) -> SharedEffects:
    """Return what the table says of a condition; its own measured effect plays no part.

    Args:
        likeness: of the table.
        perturbation, context: the condition.
        regression: on perturbation features, where there are any.
    """
    table = likeness.table
    weighted = likeness.likeness_weighted(perturbation, context)
    told = None if regression is None else regression.effect(perturbation, context)
    own = table.effect(perturbation, context) is not None
    enough = table.n_perturbations(context) - own >= LEAST_COMMON
    common = table.mean_of_context(context, leave_out=perturbation) if enough else None
    if weighted is None:
        return SharedEffects(None, None, None, common, likeness.correction(context), told)
    plain = table.mean_of_perturbation(perturbation, context)
    transfer = shrink(weighted.effect, weighted.errors)
    return SharedEffects(plain, weighted.effect, transfer, common, likeness.correction(context), told)


def shrink(effect: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
    """Return an effect (g,) as much smaller as sampling alone made it larger (James and Stein).

    Args:
        effect: (g,).
        errors: (g,) its squared standard errors; None: it is returned as it is.
    """
    size = float(np.square(effect, dtype=np.float64).sum())
    if errors is None or size == 0:
        return effect
    # the expected squared length of an effect that is measured is its true one plus the squared standard errors
    return effect * max(0.0, 1 - float(errors.sum()) / size)
