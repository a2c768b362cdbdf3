"""How far each condition of a result can be trusted: its band of doubt, and whether it beats the mean where it was measured.

Most of it is of mean cells, so it takes as long as reading them; genes are tested only in measured conditions whose correlation and error
say the same. A prediction is of the default output of the condition's model (corrected or
calibrated); the mean is that of the measured effects in the other contexts, else that of the other perturbations in this context, as the page
Genes tells it. Both move the mean of the measured control cells, not below 0 (`effects.apply`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.analysis.recall import moved
from state_engine.effects.apply import applied_mean
from state_engine.effects.bands import band_of_condition
from state_engine.effects.baselines import BaselineEffect, mean_of_other_contexts, mean_of_the_context
from state_engine.effects.means import Means
from state_engine.effects.scores import TOP, Scores, scores
from state_engine.effects.table import Condition
from state_engine.prediction.result import Result
from state_engine.progress import OnProgress, Progress, silent

Standing = Literal["better", "worse", "cannot be told", "no baseline", "not measured"]
STANDINGS: Final[tuple[Standing, ...]] = get_args(Standing)
_BY: Final = f"correlation, error and how many of the {TOP} genes predicted to move most did"
MEANINGS: Final[Mapping[Standing, str]] = {
    "better": f"better than the mean by one at least of {_BY}, and worse by none",
    "worse": f"worse than the mean by one at least of {_BY}, and better by none",
    "cannot be told": f"better than the mean by one of {_BY}, worse by another",
    "no baseline": "measured, but nothing else was to take a mean of",
    "not measured": "nobody measured it here",
}
Mark = Literal["", "ring", "hatch", "dot"]
MARKS: Final[Mapping[Mark, str]] = {
    "ring": "held out, and better than a mean by correlation, error or genes found, and worse by none of them",
    "hatch": "worse than a mean by correlation, error or genes found, and better by none of them",
    "dot": "in training, so agreement is recall",
}
"""What the marks of a picture of conditions mean; see `mark_of`."""
MOST_TESTED: Final = 200  # measured conditions; a test of 18,000 genes takes a second or two
CONTROLS: Final = 64  # means of control cells that are kept meanwhile, (g,) each
Vector = NDArray[np.float64]


def mark_of(exposure: str, standing: str) -> Mark:
    """Return the mark of a condition: a dot for recall, hatched for worse than the mean, a ring for held out and better."""
    if exposure == "in training":
        return "dot"
    if standing == "worse":
        return "hatch"
    return "ring" if standing == "better" and exposure == "test" else ""


def standings(
    result: Result, measured: Collection[Condition], means: Means | None = None, on_progress: OnProgress = silent
) -> pd.DataFrame:
    """Return a row for each predicted condition, in file order.

    Columns: perturbation; context; layer (the default output of the condition); band and band_share (`effects.bands.band_of_condition`); exposure
    ("" where it was not measured); standing, one of `STANDINGS`; pearson, mae and moved of the prediction, mean_pearson, mean_mae and mean_moved of
    the mean, NaN where they do not exist. moved: how many of the `TOP` largest effects moved in the measurement (`recall.moved`), counted
    where correlation and error say the same, in results with at most `MOST_TESTED` measured conditions.

    Args:
        measured: conditions to compare with (`stored.measured_conditions`).
        means: the run's `observed_means.npz`; without it there is no mean to beat.
        on_progress: called for each condition; may raise `JobCancelled`.
    """
    weighing = Weighing(result, measured, means)
    for number, (perturbation, context) in enumerate(result.conditions()):
        on_progress(Progress("Weighing each condition", number, len(result.conditions())))
        weighing.add(perturbation, context)
    return weighing.table()


class Weighing:
    """Conditions of a result weighed one after the other; who has a predicted effect at hand gives it, so that its cells are not read again.

    Args:
        result, measured, means: as of `standings`.
    """

    def __init__(self, result: Result, measured: Collection[Condition], means: Means | None = None) -> None:
        self._result, self._measured = result, measured
        self._guesses = _means([pair for pair in result.conditions() if pair in measured], result, means)
        self._rows: list[dict[str, object]] = []
        # perturbations of a context share its controls; the cells of a condition are asked for once
        self._control_mean = lru_cache(maxsize=CONTROLS)(self._mean_of)

    def _mean_of(self, rows: bytes) -> Vector:
        return self._result.mean(np.frombuffer(rows, np.int64), "corrected")

    def add(self, perturbation: str, context: str, corrected: Vector | None = None) -> None:
        """Weigh a condition.

        Args:
            corrected: (g,) its corrected effect (mean log1p, predicted minus paired control); None: it is read where it is needed.
        """
        result, condition = self._result, (perturbation, context)
        layer = result.layers(perturbation, context)[0]
        effect = corrected
        if effect is None or layer != "corrected":
            predicted = result.rows(keys.PREDICTED, context, perturbation)
            effect = result.mean(predicted, layer) - self._control_mean(result.paired_controls(predicted).tobytes())
        band, share = band_of_condition(effect, result.bands(perturbation, context) if layer == result.default_layer else None)
        row: dict[str, object] = {"perturbation": perturbation, "context": context, "layer": layer}
        row |= {"band": band, "band_share": share}
        if condition in self._measured:
            base = self._control_mean(result.rows(keys.OBSERVED_CONTROL, context).tobytes())
            truth = result.mean(result.rows(keys.OBSERVED, context, perturbation), "corrected")
            guess = self._guesses.get(condition)
            row |= {"exposure": result.exposure(perturbation, context)}
            fdr = partial(self._fdr, condition) if len(self._measured) <= MOST_TESTED else None
            row |= _against_mean(effect, None if guess is None else guess.effect.astype(np.float64), base, truth, fdr)
        else:
            row |= {"exposure": "", "standing": "not measured"}
        self._rows.append(row)

    def _fdr(self, condition: Condition) -> Vector:
        """(g,) false discovery rate of the measured change of each gene."""
        return de.differential(self._result, *condition, keys.OBSERVED_CONTROL, "observed")["fdr"].to_numpy(float)

    def table(self) -> pd.DataFrame:
        """Return what was weighed, see `standings`."""
        names = ["perturbation", "context", "layer", "band", "band_share", "exposure", "standing"]
        numbers = ["pearson", "mae", "moved", "mean_pearson", "mean_mae", "mean_moved"]
        return pd.DataFrame(self._rows, columns=[*names, *numbers]).astype(dict.fromkeys(("band_share", *numbers), float))


def _means(conditions: list[Condition], result: Result, means: Means | None) -> dict[Condition, BaselineEffect]:
    """Return the mean that each condition has to beat, where there is one."""
    if means is None or not conditions:
        return {}
    table = means.on(result.genes).effects(de.MIN_CELLS)
    return {**mean_of_the_context(table, conditions), **mean_of_other_contexts(table, conditions)}


def _against_mean(
    effect: Vector, guess: Vector | None, base: Vector, truth: Vector, fdr: Callable[[], Vector] | None
) -> dict[str, object]:
    """Return the numbers of a prediction and of the mean, and what they say together.

    `fdr` tests the measured genes, where that can decide; None: they are not counted.
    """
    own = _agreement(effect, base, truth)
    found: dict[str, object] = {"standing": "no baseline", "pearson": own.pearson, "mae": own.mae}
    if guess is None:
        return found
    other = _agreement(guess, base, truth)
    found |= {"mean_pearson": other.pearson, "mean_mae": other.mae}
    # the larger the better; a correlation that does not exist, of effects that are the same for every gene, decides nothing
    leads = [own.pearson - other.pearson, other.mae - own.mae]
    if fdr is not None and (standing_of(leads) != "cannot be told" or not any(leads)):
        called = fdr()
        # as the comparison of the page Genes counts: on the measured control, not below 0
        counts = [moved(applied_mean(base, one) - base, truth - base, called) for one in (effect, guess)]
        leads.append(counts[0] - counts[1])
        found |= {"moved": counts[0], "mean_moved": counts[1]}
    return found | {"standing": standing_of(leads)}


def standing_of(leads: Sequence[float]) -> Standing:
    """Return what numbers say together, each the lead of a prediction over the mean: above 0 where it is better, NaN where nobody can tell."""
    if any(leads) and all(lead >= 0 for lead in leads):
        return "better"
    return "worse" if any(leads) and all(lead <= 0 for lead in leads) else "cannot be told"


def _agreement(effect: Vector, base: Vector, truth: Vector) -> Scores:
    predicted = applied_mean(base, effect)
    return scores(predicted, truth, base, predicted - base)
