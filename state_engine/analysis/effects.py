"""How large predicted effects are, and how well they agree with what was measured, beside simple baselines.

An effect is a difference of pseudobulks, (g,) means of log1p expression: perturbed minus control. Predictions:

- "corrected": predicted minus paired predicted control (the same basal cells); its pseudobulk is observed control + effect, not under 0,
  the same footing as the baselines.
- "calibrated": the weights of the paired effect and of the mean over other training contexts were fitted on validation cells; on the
  same footing. Only where other contexts tell the effect (`state_engine.prediction.calibrated`).
- "raw": the model's output as it is; its pseudobulk is the mean of the raw predictions, its effect that minus the observed control.

Baselines: "no change" (the observed control); "mean of other contexts" (mean of the measured effects of this perturbation in
the other contexts); "likeness-weighted mean" (the same, weighted by how alike the control cells are); "mean of other perturbations"
(mean of the measured effects of the other perturbations in this context, each condition with the same weight). A mean effect moves the mean of
the basal cells as it says, not below 0 (`effects.apply`), as in every other place where baselines are scored. The measured effects may include
conditions that the model was trained on; the baselines use what the data set holds.
A number that does not exist is None with the reason, never zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.analysis import differential as de
from state_engine.effects.apply import applied_mean
from state_engine.effects.bands import bands_of
from state_engine.effects.baselines import BaselineEffect, likeness_weighted_mean, mean_of_other_contexts, mean_of_the_context
from state_engine.effects.means import Means
from state_engine.effects.scores import TOP, largest, overlap, scores, spearman
from state_engine.effects.transfer import Likeness
from state_engine.errors import RequestError
from state_engine.metrics.rank_tests import FLOOR, fold_change
from state_engine.metrics.rules import changed, detected, significant
from state_engine.plain import distinct
from state_engine.prediction.result import BLOCK, Layer, Result
from state_engine.progress import OnProgress, Progress, silent

CORRECTED: Final = "corrected"
RAW: Final = "raw"
CALIBRATED: Final = "calibrated"
NO_CHANGE: Final = "no change"
OTHER_CONTEXTS: Final = "mean of other contexts"
LIKENESS: Final = "likeness-weighted mean"
OTHER_PERTURBATIONS: Final = "mean of other perturbations"
METHODS: Final = (CORRECTED, CALIBRATED, RAW, NO_CHANGE, OTHER_CONTEXTS, LIKENESS, OTHER_PERTURBATIONS)

TOP_GENES: Final = 5  # named in a table of effects

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """How one method agrees with the measured effect; None where a number does not exist, `reason` says why.

    Args:
        method: one of `METHODS`.
        pearson, spearman: correlation of predicted and measured effects over all genes, -1 to 1.
        mae: mean absolute error of the pseudobulk over all genes, log1p units.
        direction: share of the genes significant in the measured data (FDR < 0.05) whose predicted effect has the measured sign, 0 to 1.
        overlap: share of the genes with the largest absolute measured effects that are also among the largest predicted, 0 to 1.
        n_conditions: measured conditions behind a mean baseline; None for the others.
        reason: why numbers are missing; empty when none is.
    """

    method: str
    pearson: float | None
    spearman: float | None
    mae: float | None
    direction: float | None
    overlap: float | None
    n_conditions: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class EffectComparison:
    """Predicted against measured, one perturbation in one context.

    Args:
        n_predicted, n_observed, n_control: cells (predicted, measured under the perturbation, measured control).
        n_significant: genes with FDR < 0.05 in the measured data (against the observed control).
        top: number of genes that `overlap` looks at.
        scores: a `Score` a method, in the order of `METHODS`; calibrated only where the result has any.
        genes: a row a gene: gene; observed_log2_fold_change, corrected_log2_fold_change, raw_log2_fold_change and, where there is
            one, calibrated_log2_fold_change (natural means, see `differential`); observed_fdr; and effects in log1p units: observed,
            and a column a method, missing values where it has none.
    """

    perturbation: str
    context: str
    n_predicted: int
    n_observed: int
    n_control: int
    n_significant: int
    top: int
    scores: tuple[Score, ...]
    genes: pd.DataFrame

    def table(self) -> pd.DataFrame:
        """The scores as a table, a row a method; missing numbers are NaN."""
        return pd.DataFrame([vars(score) for score in self.scores])


def compare(
    result: Result, perturbation: str, context: str, reference_means: Means | None = None, top: int = TOP
) -> EffectComparison:
    """Predicted against measured effects, for the prediction (corrected, calibrated and raw) and the baselines.

    Args:
        reference_means: the run's `observed_means.npz`; without it the mean baselines are missing.
        top: number of genes for the overlap, at most all of them.

    Raises:
        RequestError: the perturbation was not measured here, was not predicted, or a group has fewer than 3 cells.
        RunError: the means have other genes than the result.
    """
    observed = de.differential(result, perturbation, context, keys.OBSERVED_CONTROL, "observed")
    measured, control = de.groups(result, perturbation, context, keys.OBSERVED_CONTROL, "observed")
    predicted, paired = de.groups(result, perturbation, context, keys.PREDICTED_CONTROL, "corrected")
    # pseudobulks (g,) of the two observed groups: every method is compared with their difference
    base, truth = result.mean(control), result.mean(measured)
    effects: dict[str, Vector] = {
        # paired: the same basal cells on both sides, so it cancels out which of them were drawn
        CORRECTED: result.mean(predicted) - result.mean(paired),
        NO_CHANGE: np.zeros(result.n_genes),
    }
    kept = result.layers(perturbation, context)
    if "calibrated" in kept:
        effects[CALIBRATED] = result.mean(predicted, "calibrated") - result.mean(paired)
    if "raw" in kept:
        effects[RAW] = result.mean(predicted, "raw") - base
    baselines, reasons = _mean_baselines(result, perturbation, context, reference_means)
    reasons[RAW] = "The run did not keep the raw prediction."
    reasons[CALIBRATED] = f"The model was trained on '{perturbation}' in no other context."
    effects |= {method: found.effect.astype(np.float64) for method, found in baselines.items()}
    # every effect is put onto the measured control, not below 0, so that its size and its correlation are of one mean cell, as in an evaluation
    effects |= {method: applied_mean(base, effect) - base for method, effect in effects.items() if method != RAW}
    called = significant(observed["fdr"].to_numpy(float))
    top = min(top, result.n_genes)
    found = []
    methods = [m for m in METHODS if m != CALIBRATED or result.has_calibrated]  # few models are: no empty row for the others
    for method in methods:
        if method in effects:
            n = baselines[method].behind if method in baselines else None
            found.append(_score(method, effects[method], base, truth, called, top, n))
        else:
            found.append(Score(method, None, None, None, None, None, None, reasons[method]))
    genes = observed[["gene", "log2_fold_change", "fdr"]].set_axis(["gene", "observed_log2_fold_change", "observed_fdr"], axis=1)
    genes = genes.assign(
        corrected_log2_fold_change=_fold(result, predicted, paired, "corrected"),
        raw_log2_fold_change=_fold(result, predicted, control, "raw") if "raw" in kept else np.nan,
        observed=truth - base,
        **{effect_column(method): effects.get(method, np.full(result.n_genes, np.nan)) for method in methods},
    )
    if CALIBRATED in effects:
        genes.insert(4, "calibrated_log2_fold_change", _fold(result, predicted, paired, "calibrated"))
    counts = len(predicted), len(measured), len(control), int(called.sum())
    return EffectComparison(perturbation, context, *counts, top, tuple(found), genes)


def effect_column(method: str) -> str:
    """Return the column of an `EffectComparison`'s genes that has the effects of a method."""
    return method.replace(" ", "_")


def effect_sizes(result: Result, layer: Layer = "corrected", on_progress: OnProgress = silent) -> pd.DataFrame:
    """Return every predicted condition, the largest effect first.

    Columns: perturbation; context; n_cells (predicted); effect_size (Euclidean length of the effect over all genes, log1p units; it grows with
    the number of genes, so compare within a run); n_up, n_down (genes that change against the paired predicted control, by the rule of
    `differential.directions` for predicted cells); top_genes (five largest absolute effects, with their sign); leading_gene (the first of
    them, "" without any effect; not in tables of earlier versions).

    Args:
        on_progress: called for each condition; may raise `JobCancelled`.

    Raises:
        RequestError: the result has no genes or no paired control.
    """
    return effect_tables(result, layer, on_progress)[0]


def effect_tables(
    result: Result,
    layer: Layer = "corrected",
    on_progress: OnProgress = silent,
    each: Callable[[ConditionEffect], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the sizes of all effects, see `effect_sizes`, and the log2 fold change of each gene (a column) in each condition (a row).

    The rows of the second are in file order, its first columns perturbation and context. Cells are read once for both.

    Args:
        each: called with the effect of each condition, in file order, for what else is made of it.

    Raises:
        RequestError: as `effect_sizes`.
    """
    if not result.has_expression:
        raise RequestError("There are no genes to rank.", "The model predicts an embedding and has no gene decoder.")
    rows, folds = [], []
    for one in condition_effects(result, layer, on_progress):
        size = float(np.linalg.norm(one.effect))
        top = [i for i in largest(one.effect, TOP_GENES) if one.effect[i] != 0]
        words = ", ".join(f"{result.genes[i]} {'+' if one.effect[i] > 0 else '−'}" for i in top)
        leading = result.genes[top[0]] if top else ""
        rows.append((one.perturbation, one.context, one.cells, size, one.up, one.down, words, leading))
        if each is not None:
            each(one)
        folds.append(one.fold.astype(np.float32))
    names = ["perturbation", "context", "n_cells", "effect_size", "n_up", "n_down", "top_genes", "leading_gene"]
    table = pd.DataFrame(rows, columns=names).astype({"n_up": "Int64", "n_down": "Int64"})
    changes = pd.concat(
        [table[["perturbation", "context"]], pd.DataFrame(np.array(folds).reshape(len(rows), result.n_genes))], axis=1
    ).set_axis(distinct(["perturbation", "context", *result.genes], "gene"), axis=1)
    return table.sort_values("effect_size", ascending=False, kind="stable", ignore_index=True), changes


@dataclass(frozen=True, eq=False)
class ConditionEffect:
    """The predicted effect of one perturbation in one context, against the paired predicted control.

    Args:
        perturbation, context: the condition.
        cells: predicted ones.
        effect: (g,) difference of the mean log1p expression.
        fold: (g,) log2 fold change of the natural means.
        up, down: genes that change, by `metrics.rules.changed` of genes that are detected.
    """

    perturbation: str
    context: str
    cells: int
    effect: Vector
    fold: Vector
    up: int
    down: int


def condition_effects(result: Result, layer: Layer = "corrected", on_progress: OnProgress = silent) -> Iterator[ConditionEffect]:
    """Yield the effect of every predicted condition, in file order; the control cells are read once for each context.

    Args:
        on_progress: called for each condition; may raise `JobCancelled`.

    Raises:
        RequestError: there is no paired control.
    """
    seen: dict[bytes, _Cells] = {}
    total = len(result.conditions())
    for number, (perturbation, context, predicted, paired) in enumerate(_pairs(result, layer)):
        on_progress(Progress("Measuring effects", number, total))
        key = paired.tobytes()  # the same basal cells serve every perturbation of a context
        if key not in seen:
            seen[key] = _cells(result, paired, layer)
        own, control = _cells(result, predicted, layer), seen[key]
        effect, fold = own.mean - control.mean, fold_change(own.natural, control.natural)
        calls = changed(fold, detected(own.fraction, control.fraction))
        counts = int((calls > 0).sum()), int((calls < 0).sum())
        yield ConditionEffect(perturbation, context, len(predicted), effect, fold, *counts)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Of a group of cells, (g,) each: mean log1p and mean natural expression, and the share of cells not under the detection floor."""

    mean: Vector
    natural: Vector
    fraction: Vector


def _cells(result: Result, rows: NDArray[np.int64], layer: Layer) -> _Cells:
    """Read the cells once, a block at a time."""
    sums = np.zeros((3, result.n_genes))
    for start in range(0, len(rows), BLOCK):
        values = result.read(rows[start : start + BLOCK], layer=layer)
        sums[0] += values.sum(axis=0, dtype=np.float64)
        sums[1] += np.expm1(values).sum(axis=0, dtype=np.float64)
        sums[2] += (values >= FLOOR).sum(axis=0)
    return _Cells(*sums / len(rows))


def gene_ranking(result: Result, gene: str, layer: Layer = "corrected") -> pd.DataFrame:
    """Which perturbation moves this gene: every predicted condition, the largest absolute log2 fold change first.

    Columns: perturbation; context; n_cells; mean_perturbed, mean_reference (mean log1p of predicted cells and of their paired predicted
    control); effect (their difference); log2_fold_change (of natural means, see `differential`); band (whether the direction would hold in a
    replicate, `effects.bands`: "not calibrated" but for the default output of a calibrated model).

    Raises:
        GeneError: the result does not have the gene.
        RequestError: there is no paired control.
    """
    values = result.gene(gene, layer).astype(np.float64)
    rows = []
    for perturbation, context, predicted, paired in _pairs(result, layer):
        x, y = values[predicted], values[paired]
        # the mean of expm1, not expm1 of the mean: fold changes are ratios of arithmetic means of counts
        fold = float(fold_change(np.expm1(x).mean(), np.expm1(y).mean()))
        bands = result.bands(perturbation, context) if layer == result.default_layer else None
        effect = x.mean() - y.mean()
        band = str(bands_of(np.array([effect]), bands)[0])
        rows.append((perturbation, context, len(x), x.mean(), y.mean(), effect, fold, band))
    names = ["perturbation", "context", "n_cells", "mean_perturbed", "mean_reference", "effect", "log2_fold_change", "band"]
    return pd.DataFrame(rows, columns=names).sort_values(
        "log2_fold_change", key=np.abs, ascending=False, kind="stable", ignore_index=True
    )


def _pairs(result: Result, layer: Layer) -> Iterator[tuple[str, str, NDArray[np.int64], NDArray[np.int64]]]:
    """perturbation, context, predicted rows, their paired control rows, of every predicted condition that has this layer."""
    everything = result.rows(keys.PREDICTED)
    # row of a prediction -> row of its control; all are matched at once, since matching goes through a table of the whole file
    paired = np.full(result.n_cells, -1, np.int64)
    paired[everything] = result.paired_controls(everything)
    for perturbation, context in result.conditions():
        predicted = result.rows(keys.PREDICTED, context, perturbation)
        if layer == "calibrated" and not result.is_calibrated(perturbation, context):
            continue
        yield perturbation, context, predicted, paired[predicted]


def _mean_baselines(
    result: Result, perturbation: str, context: str, means: Means | None
) -> tuple[dict[str, BaselineEffect], dict[str, str]]:
    """Return the mean baselines that exist, and the reasons why others do not."""
    if means is None:
        return {}, dict.fromkeys((OTHER_CONTEXTS, LIKENESS, OTHER_PERTURBATIONS), "The run has no means of the measured cells.")
    table, condition = means.on(result.genes).effects(de.MIN_CELLS), (perturbation, context)
    found = {
        OTHER_CONTEXTS: mean_of_other_contexts(table, [condition]),
        LIKENESS: likeness_weighted_mean(Likeness(table), [condition]),
        OTHER_PERTURBATIONS: mean_of_the_context(table, [condition]),
    }
    elsewhere = f"'{perturbation}' was measured with a control in no other context."
    reasons = {
        OTHER_CONTEXTS: elsewhere,
        LIKENESS: elsewhere,
        OTHER_PERTURBATIONS: f"No other perturbation was measured with a control in '{context}'.",
    }
    there = {method: effects[condition] for method, effects in found.items() if effects}
    return there, {method: reasons[method] for method in found if method not in there}


def _score(method: str, effect: Vector, base: Vector, truth: Vector, called: NDArray[np.bool_], top: int, n: int | None) -> Score:
    """Return the numbers of one method. `base` and `truth` are the pseudobulks of observed control and of the measured perturbation."""
    predicted = applied_mean(base, effect, nonnegative=method != RAW)
    measured = truth - base
    agreement = scores(predicted, truth, base, effect)
    # a constant has no variance: Pearson and Spearman would divide by 0
    if np.ptp(effect) == 0:
        reason = "The same effect for every gene has no direction and no order."
        return Score(method, None, None, agreement.mae, None, None, n, reason)
    direction, reason = None, "No gene is significant in the measured data."
    if called.any():
        # only genes with a significant change: the sign of noise is a coin toss
        direction, reason = float((np.sign(effect) == np.sign(measured))[called].mean()), ""
    if np.ptp(measured) == 0:
        reason = "The measured effect is the same for every gene."
        return Score(method, None, None, agreement.mae, direction, None, n, reason)
    shared = overlap(effect, measured, top)
    return Score(method, agreement.pearson, spearman(effect, measured), agreement.mae, direction, shared, n, reason)


def _fold(result: Result, rows: NDArray[np.int64], reference: NDArray[np.int64], layer: Layer) -> Vector:
    mean, base = result.mean(rows, layer, natural=True), result.mean(reference, layer, natural=True)
    return fold_change(mean, base)
