"""The baselines of an evaluation: their effects where they exist, the reason where they do not, and the cells they predict.

What a baseline says is decided in `effects.baselines`, how its effect becomes a mean cell or cells in `effects.apply`. Effects come from
the training cells of a run or model, or from the measured file itself; the scored condition is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from state_engine.data.cell_sets import draw_basal
from state_engine.effects.apply import Moving, applied_mean, apply_effect
from state_engine.effects.baselines import (
    COMBINED,
    Effects,
    additive,
    likeness_weighted_mean,
    mean_of_other_contexts,
    mean_of_the_context,
    nearest_neighbours,
    no_change,
    ridge_on_features,
)
from state_engine.effects.means import Means
from state_engine.effects.table import Baseline, Condition, EffectTable
from state_engine.effects.transfer import Likeness
from state_engine.errors import GeneError, StateError, listed
from state_engine.evaluation.compared import ComparedFiles
from state_engine.plain import agreed, first_places, part_of

ELSEWHERE: Final = "measured elsewhere"
"""The baseline of another screen (`evaluation.elsewhere`)."""


@dataclass(frozen=True, eq=False)
class EvaluatedBaseline:
    """One baseline.

    Args:
        name: one of `BASELINES`, or `ELSEWHERE`.
        effects: condition -> (g,), where it exists.
        reason: why it does not exist somewhere, a sentence; "" when it does everywhere.
        behind: condition -> measured conditions behind the effect, for the means.
    """

    name: Baseline | Literal["measured elsewhere"]
    effects: Mapping[Condition, np.ndarray]
    reason: str = ""
    behind: Mapping[Condition, int] | None = None


@dataclass(frozen=True, eq=False)
class EffectSource:
    """Where the effects of the baselines come from, in words, and whether that is the measured file itself."""

    table: EffectTable
    words: str
    own: bool


def on_genes(table: EffectTable, genes: tuple[str, ...], name: str) -> EffectTable:
    """Return a table on the compared genes, in their order.

    Raises:
        GeneError: some are not in it.
    """
    place = first_places(table.features)
    missing = [g for g in genes if g not in place]
    if missing:
        raise GeneError(
            f"The effects of {name} do not have the compared genes.",
            f"{len(missing):,} of {len(genes):,} {agreed(len(missing), 'is', 'are')} not among its {len(place):,} features: {listed(missing)}.",
            "Leave out the run (--effects), or compare on its genes.",
        )
    # columns of the table in the order of the files, so that effects add to means gene by gene
    return table.on([place[g] for g in genes], genes)


def baselines_of(
    files: ComparedFiles,
    real: Means,
    source: EffectSource,
    features: tuple[tuple[str, ...], np.ndarray] | None,
    why_no_features: str,
) -> tuple[EvaluatedBaseline, ...]:
    """Return every baseline, with the effects that exist.

    Args:
        files: what is compared.
        real: means of the measured cells; the control of each scored context among them.
        source: effects to take means of.
        features: labels (k,) and features (k, p) of perturbations, None for none; `why_no_features` then says why.
    """
    table, asked = source.table, files.conditions
    where = "measured" if source.own else "in the training cells"
    elsewhere = f"was not {where} in any other context"
    likeness = Likeness(table, {c: real.mean(files.control, c) for c in files.contexts})
    found = [
        _baseline(files, "no change", no_change(asked, len(files.genes)), ""),
        _baseline(files, "mean of other contexts", mean_of_other_contexts(table, asked), elsewhere),
        _baseline(files, "likeness-weighted mean", likeness_weighted_mean(likeness, asked), elsewhere),
        _baseline(
            files, "mean of the context", mean_of_the_context(table, asked), f"has no other perturbation {where} in its context"
        ),
        _baseline(
            files,
            "nearest neighbours",
            nearest_neighbours(table, asked),
            f"was not {where} in other contexts beside other perturbations",
        ),
    ]
    if any(COMBINED in p for p, _ in asked):
        found.append(_baseline(files, "additive", additive(table, asked), f"is no combination of perturbations {where}"))
    if features is None:
        return (*found, EvaluatedBaseline("ridge", {}, why_no_features))
    try:
        ridge = ridge_on_features(table, dict(zip(*features, strict=True)), asked)
    except StateError as error:
        return (*found, EvaluatedBaseline("ridge", {}, f"{error.what} {error.why}"))
    return (*found, _baseline(files, "ridge", ridge, "has no features"))


def _baseline(files: ComparedFiles, name: Baseline, effects: Effects, lacking: str) -> EvaluatedBaseline:
    """Return a baseline with the reason why some conditions have none: each of them `lacking`, the end of a sentence."""
    missing = [pair for pair in files.conditions if pair not in effects]
    behind = {pair: e.behind for pair, e in effects.items() if e.behind is not None}
    reason = ""
    if missing and len(missing) == len(files.conditions):
        reason = f"No scored condition: each {lacking}."
    elif missing:
        shown = listed([" in ".join(pair) for pair in missing], 3)
        has = agreed(len(missing), "has", "have")
        reason = f"{part_of(len(missing), len(files.conditions), 'condition')} {has} none: {shown} {lacking}."
    return EvaluatedBaseline(name, {pair: e.effect.astype(np.float64) for pair, e in effects.items()}, reason, behind or None)


def baseline_means(files: ComparedFiles, means: Means, baseline: EvaluatedBaseline, context: str) -> dict[str, np.ndarray]:
    """Return perturbation -> (g,) mean expression that a baseline predicts: the control mean of the context and its effect."""
    control = means.mean(files.control, context)
    there = [p for p in files.of(context) if (p, context) in baseline.effects]
    return {p: applied_mean(control, baseline.effects[p, context]) for p in there}


def baseline_spread(
    means: Means, spread: np.ndarray, baseline: EvaluatedBaseline, condition: Condition, control: str
) -> np.ndarray:
    """Return the standard deviation (g,) among the cells that a baseline predicts, by that of the control cells `spread` (g,)."""
    mean = means.mean(control, condition[1])
    # an effect moves each gene of all cells by one affine rule, so two points tell what it does to distances
    moved = apply_effect(np.stack([mean, mean + spread]), baseline.effects[condition], mean)
    return np.asarray(moved[1] - moved[0])


def baseline_cells(files: ComparedFiles, effect: np.ndarray, context: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n control cells of the context, drawn by the seed, moved by the effect as in a prediction, (n, g) float32, and their rows (n,)."""
    # as many as were measured, by the caller's n: tests for differential expression find more genes among more cells
    rows = draw_basal(files.real.rows(files.control, context), n, np.random.default_rng(seed))
    # a cell may be drawn several times, and is read once
    unique, back = np.unique(rows, return_inverse=True)
    values = np.concatenate([v for _, v in files.real.blocks(unique)])[back]
    added = apply_effect(values, effect.astype(np.float32))
    return Moving.of(values, None, seed).cells(values, added, ("", context)), rows
