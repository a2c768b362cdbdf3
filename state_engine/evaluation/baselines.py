"""Simple guesses that every prediction is put beside: no change, the two mean effects, a ridge regression on perturbation features.

An effect is added to measured control cells and clipped at 0 in each, as a model's is: the clipping alone changes scores. Effects come
from the training cells of a run or model, or from the measured file itself, the scored condition left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from state_engine.data.cell_sets import draw_basal
from state_engine.effects.pseudobulks import Pseudobulks
from state_engine.effects.table import BASELINES, Baseline, EffectTable, Ridge, fit_ridge
from state_engine.errors import GeneError, StateError, listed
from state_engine.evaluation.files import ComparedFiles, Condition

# control cells that the part of an effect lost by clipping is measured on
CLIPPING_CELLS = 512


@dataclass(frozen=True, eq=False)
class Guess:
    """One baseline.

    Args:
        name: one of `BASELINES`.
        effects: condition -> (g,), where it exists.
        reason: why it does not exist somewhere, a sentence; "" when it does everywhere.
        behind: condition -> measured conditions behind the effect, for the means.
    """

    name: Baseline
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
    """A table on the compared genes, in their order.

    Raises:
        GeneError: some are not in it.
    """
    place = {gene: i for i, gene in enumerate(table.features)}
    missing = [g for g in genes if g not in place]
    if missing:
        raise GeneError(
            f"The effects of {name} do not have the compared genes.",
            f"{len(missing):,} of {len(genes):,} are not among its {len(place):,} features: {listed(missing)}.",
            "Leave out the run (--effects), or compare on its genes.",
        )
    columns = [place[g] for g in genes]
    controls = {c: values[columns] for c, values in table.controls.items()}
    return EffectTable(table.perturbations, table.contexts, table.cells, table.effects[:, columns], controls, genes)


def guesses(
    files: ComparedFiles, source: EffectSource, features: tuple[tuple[str, ...], np.ndarray] | None, why_no_features: str
) -> tuple[Guess, ...]:
    """Every baseline, with the effects that exist.

    Args:
        files: what is compared.
        source: effects to take means of.
        features: labels (k,) and features (k, p) of perturbations, None for none; `why_no_features` then says why.
    """
    table, found = source.table, dict.fromkeys(BASELINES, Guess("no change", {}))
    zero = np.zeros(len(files.genes))
    found["no change"] = Guess("no change", dict.fromkeys(files.conditions, zero))
    others, contexts = {}, {}
    n_others, n_contexts = {}, {}
    for p, c in files.conditions:
        mean = table.mean_of_perturbation(p, c)
        if mean is not None:
            others[p, c], n_others[p, c] = mean.astype(np.float64), len(table.other_contexts(p, c))
        mean = table.mean_of_context(c, leave_out=p)
        if mean is not None:
            n = sum(x == c for x in table.contexts) - (table.effect(p, c) is not None)
            contexts[p, c], n_contexts[p, c] = mean.astype(np.float64), n
    where = "measured" if source.own else "in the training cells"
    name: Baseline = "mean of other contexts"
    found[name] = Guess(name, others, _lacking(files, others, f"was not {where} in any other context"), n_others)
    name = "mean of the context"
    found[name] = Guess(
        name, contexts, _lacking(files, contexts, f"has no other perturbation {where} in its context"), n_contexts
    )
    found["ridge"] = _ridge(files, table, features, why_no_features)
    return tuple(found.values())


def _lacking(files: ComparedFiles, found: Mapping[Condition, np.ndarray], what: str) -> str:
    missing = [pair for pair in files.conditions if pair not in found]
    if not missing:
        return ""
    if len(missing) == len(files.conditions):
        return f"No scored condition: each {what}."
    return f"{len(missing):,} of {len(files.conditions):,} conditions have none: {listed([' in '.join(p) for p in missing], 3)} {what}."


def _ridge(
    files: ComparedFiles, table: EffectTable, features: tuple[tuple[str, ...], np.ndarray] | None, why_no_features: str
) -> Guess:
    if features is None:
        return Guess("ridge", {}, why_no_features)
    labels, effects = table.by_perturbation()
    rows = dict(zip(*features, strict=True))
    known = [i for i, label in enumerate(labels) if label in rows]
    try:
        ridge: Ridge = fit_ridge(
            tuple(labels[i] for i in known), np.array([rows[labels[i]] for i in known]), effects[np.array(known, int)]
        )
    except StateError as error:
        return Guess("ridge", {}, f"{error.what} {error.why}")
    found = {(p, c): ridge.effect(p, rows[p]).astype(np.float64) for p, c in files.conditions if p in rows}
    return Guess("ridge", found, _lacking(files, found, "has no features"))


def applied_means(files: ComparedFiles, means: Pseudobulks, guess: Guess, context: str, seed: int) -> dict[str, np.ndarray]:
    """perturbation -> (g,) mean expression after the effect: control mean + effect + what clipping at 0 takes back.

    The last part is measured on up to `CLIPPING_CELLS` control cells of the context; the control mean is that of all.
    """
    control = means.mean(files.control, context)
    cells = control_cells(files, context, CLIPPING_CELLS, seed)
    out = {}
    for p in files.of(context):
        effect = guess.effects.get((p, context))
        if effect is None:
            continue
        mean = control + effect
        down = np.flatnonzero(effect < 0)
        mean[down] += np.maximum(-effect[down] - cells[:, down], 0).mean(axis=0)
        out[p] = mean
    return out


def control_cells(files: ComparedFiles, context: str, most: int, seed: int) -> np.ndarray:
    """Up to `most` measured control cells of a context, (m, g) float32; all of them when there are no more."""
    pool = files.real.rows(files.control, context)
    rows = pool if len(pool) <= most else np.sort(draw_basal(pool, most, np.random.default_rng(seed)))
    return np.concatenate([values for _, values in files.real.blocks(rows)])


def guessed_cells(files: ComparedFiles, effect: np.ndarray, context: str, n: int, seed: int) -> np.ndarray:
    """n control cells of the context with the effect added, clipped at 0: (n, g) float32."""
    rows = draw_basal(files.real.rows(files.control, context), n, np.random.default_rng(seed))
    unique, back = np.unique(rows, return_inverse=True)
    values = np.concatenate([v for _, v in files.real.blocks(unique)])[back]
    return np.maximum(values + effect.astype(np.float32), 0)
