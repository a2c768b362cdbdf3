"""How well a model predicts what it never saw, beside three baselines that anyone could compute.

raw        the predicted cells as they come out
corrected  each control cell plus its own effect (predicted under the perturbation minus under the control), cut at 0
mean       the mean control plus the mean effect of the other contexts, not below 0 (`effects.apply`)
likeness   the same with the other contexts weighted by how alike their control cells are (`effects.transfer`)
none       the control: nothing changes

MAE compares mean cells, r (Pearson) compares effects (perturbed minus control), both over all features. A corrected mean cell is the mean
control plus the mean paired effect, not below 0, as where a prediction is evaluated; `r_paired` is of that effect. The control cells are those
that a prediction with this seed starts from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from state_engine.checkpoints.card import ConditionScores
from state_engine.effects.apply import applied_mean, paired_cells
from state_engine.effects.scores import Scores, scores
from state_engine.effects.table import EffectTable
from state_engine.effects.transfer import Likeness
from state_engine.models.transition import TransitionModel
from state_engine.prediction.draw import MOST_SCORED
from state_engine.prediction.draw import basal as basal_cells
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.cells import Group, TrainingCells

CELLS_A_PASS = 2048


@dataclass(frozen=True)
class HeldOutScore:
    """Scores of one held-out block; `n_cells` were observed. r is NaN when an effect does not vary, and so is what needs a mean
    effect of other contexts where there is none."""

    context: str
    perturbation: str
    n_cells: int
    mae_raw: float
    mae_corrected: float
    mae_mean: float
    mae_none: float
    r_raw: float
    r_paired: float
    r_mean: float
    mae_likeness: float = float("nan")
    r_likeness: float = float("nan")


METRICS = tuple(f.name for f in fields(HeldOutScore) if f.name.startswith(("mae_", "r_")))


def score_groups(
    model: TransitionModel,
    vectors: Tensor,
    cells: TrainingCells,
    groups: Sequence[Group],
    seed: int,
    on_progress: OnProgress = silent,
) -> tuple[HeldOutScore, ...]:
    """Score held-out groups.

    Args:
        model: in eval mode.
        vectors: (labels, p) of the perturbations.
        cells: what it was trained with.
        groups: which ones; groups of one perturbation and context (of several batches) are scored together.
        seed: of the order of the controls.
        on_progress: told once per block.
    """
    blocks: dict[tuple[str, int], list[Group]] = {}
    for group in groups:
        blocks.setdefault((group.context, group.perturbation), []).append(group)
    scores, likeness = [], Likeness(trained_effects(cells)) if blocks else None
    for number, same in enumerate(blocks.values()):
        on_progress(Progress("Scoring held-out cells", number, len(blocks)))
        whole = Group(
            same[0].perturbation, same[0].context, _together(g.cells for g in same), _together(g.controls for g in same)
        )
        assert likeness is not None
        scores.append(_score(model, vectors, cells, whole, seed, likeness))
    return tuple(scores)


def summarise(scores: tuple[HeldOutScore, ...]) -> dict[str, float]:
    """Return the mean of each metric over the blocks; numbers that are not defined are left out, of a mean too."""
    found: dict[str, float] = {}
    for metric in METRICS:
        values = [v for s in scores if np.isfinite(v := getattr(s, metric))]
        if values:
            found[metric] = round(float(np.mean(values)), 6)
    return found


def by_condition(scores: tuple[HeldOutScore, ...]) -> tuple[ConditionScores, ...]:
    """Return the metrics of each block, where they are defined."""
    found = []
    for s in scores:
        values = {metric: round(v, 6) for metric in METRICS if np.isfinite(v := getattr(s, metric))}
        found.append(ConditionScores(s.context, s.perturbation, values))
    return tuple(found)


def _score(
    model: TransitionModel, vectors: Tensor, cells: TrainingCells, group: Group, seed: int, likeness: Likeness
) -> HeldOutScore:
    pool, size = group.controls, model.config.set_size
    n = min(len(pool), MOST_SCORED)
    # whole sets, as in training: the surplus is predicted too and then cut off
    rows = basal_cells(seed, group.context, pool, n, size)
    basal, batches = cells.features.gather(rows), np.maximum(cells.batch[rows], 0)
    perturbed = _predict(model, basal, batches, vectors[group.perturbation])[:n]
    under_control = _predict(model, basal, batches, vectors[0])[:n]
    corrected = paired_cells(basal[:n], perturbed, under_control)
    expression = model.config.final_relu  # expression is not negative, embeddings may be
    if expression:
        corrected = np.maximum(corrected, 0.0)
    control, truth = mean_cell(cells, pool), mean_cell(cells, group.cells)
    raw = scores(perturbed.mean(axis=0), truth, control)
    # between the same cells, so that it does not matter which controls were drawn
    effect = corrected.mean(axis=0, dtype=np.float64) - basal[:n].mean(axis=0, dtype=np.float64)
    paired = scores(applied_mean(control, effect, nonnegative=expression), truth, control)
    usual = mean_effect(cells, group)
    mean = Scores(float("nan"), float("nan"), float("nan"))
    if usual is not None:
        mean = scores(applied_mean(control, usual, nonnegative=expression), truth, control)
    label = cells.perturbations[group.perturbation]
    weighted = likeness.likeness_weighted(label, group.context, control)
    alike = mean
    if weighted is not None:
        alike = scores(applied_mean(control, weighted.effect, nonnegative=expression), truth, control)
    return HeldOutScore(
        context=group.context,
        perturbation=label,
        n_cells=len(group.cells),
        mae_raw=raw.mae,
        mae_corrected=paired.mae,
        mae_mean=mean.mae,
        mae_none=scores(control, truth, control).mae,
        r_raw=raw.pearson,
        r_paired=paired.pearson,
        r_mean=mean.pearson,
        mae_likeness=alike.mae,
        r_likeness=alike.pearson,
    )


def mean_effect(cells: TrainingCells, group: Group) -> np.ndarray | None:
    """Return the mean effect (g,) of the group's perturbation over the other trained contexts; None without any."""
    by_context: dict[str, list[Group]] = {}
    for other in cells.groups["train"]:
        if other.perturbation == group.perturbation and other.context != group.context:
            by_context.setdefault(other.context, []).append(other)
    effects = []
    for _, same in sorted(by_context.items()):
        perturbed, controls = _together(g.cells for g in same), _together(g.controls for g in same)
        effects.append(mean_cell(cells, perturbed) - mean_cell(cells, controls))
    return np.mean(effects, axis=0) if effects else None


def trained_effects(cells: TrainingCells) -> EffectTable:
    """Return the effects of the trained groups, those of several batches together, and the mean controls of their contexts."""
    groups: dict[tuple[str, str], list[Group]] = {}
    for group in cells.groups["train"]:
        groups.setdefault((cells.perturbations[group.perturbation], group.context), []).append(group)
    controls = {}
    for context in dict.fromkeys(context for _, context in groups):
        here = [g.controls for (_, c), same in groups.items() if c == context for g in same]
        controls[context] = mean_cell(cells, _together(here))
    # the control label is trained like a perturbation, and has no effect
    pairs = [pair for pair in groups if pair[0] != cells.perturbations[0]]
    rows = [_together(g.cells for g in groups[pair]) for pair in pairs]
    effects = [mean_cell(cells, own) - controls[c] for own, (_, c) in zip(rows, pairs, strict=True)]
    return EffectTable.of_pairs(pairs, [len(own) for own in rows], effects, controls, (), cells.features.width)


def mean_cell(cells: TrainingCells, rows: np.ndarray) -> np.ndarray:
    """Return the mean of cells (g,) float32, block by block."""
    # float64: the sum of thousands of float32 cells would lose the digits in which effects lie
    total = np.zeros(cells.features.width)
    for start in range(0, len(rows), CELLS_A_PASS):
        total += cells.features.gather(rows[start : start + CELLS_A_PASS]).sum(axis=0, dtype=np.float64)
    return (total / len(rows)).astype(np.float32)


def _together(parts: Iterable[np.ndarray]) -> np.ndarray:
    # each cell once: groups of several batches can share their controls
    return np.unique(np.concatenate(list(parts)))


@torch.inference_mode()
def _predict(model: TransitionModel, basal: np.ndarray, batches: np.ndarray, vector: Tensor) -> np.ndarray:
    """Cells (n, g), n a multiple of the set size, under one perturbation's vector (p,): (n, o)."""
    device, size = vector.device, model.config.set_size
    sets = torch.from_numpy(basal).unflatten(0, (-1, size))
    indices = torch.from_numpy(batches.astype(np.int64)).unflatten(0, (-1, size))
    parts = []
    step = max(1, CELLS_A_PASS // size)
    for part, batch in zip(sets.split(step), indices.split(step), strict=True):
        given = batch.to(device) if model.batch_encoder is not None else None
        output = model(part.to(device), vector.expand(len(part), -1), given, attention="full")
        parts.append(output.predicted.flatten(0, 1).float().cpu().numpy())
    return np.concatenate(parts)
