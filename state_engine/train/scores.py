"""How well a model predicts what it never saw, beside two baselines that anyone could compute.

raw        the predicted cells as they come out
corrected  each control cell plus its own effect (predicted under the perturbation minus under the control), clipped at 0
mean       the control plus the mean effect of the other contexts, clipped at 0
none       the control: nothing changes

MAE compares mean cells, r (Pearson) compares effects (perturbed minus control), both over all features. `r_paired` is the
correlation of the mean paired effect.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch

from state_engine.data.cell_sets import draw_basal
from state_engine.models.transition import TransitionModel
from state_engine.train.cells import Group, TrainingCells

CELLS_A_PASS = 2048


@dataclass(frozen=True)
class HeldOutScore:
    """Scores of one held-out block; `n_cells` were observed. r is NaN when an effect does not vary."""

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


METRICS = tuple(f.name for f in fields(HeldOutScore) if f.name.startswith(("mae_", "r_")))


def score_held_out(model: TransitionModel, cells: TrainingCells, set_size: int, seed: int) -> tuple[HeldOutScore, ...]:
    """Score every held-out group.

    Args:
        model: in eval mode.
        cells: what it was trained with.
        set_size: cells in a set; controls are predicted in whole sets.
        seed: of the order of the controls.
    """
    return tuple(_score(model, cells, group, set_size, seed) for group in cells.tests)


def summarise(scores: tuple[HeldOutScore, ...]) -> dict[str, float]:
    """Flat, for a card: each metric's mean over the blocks ("mae_corrected"), then a block's own ("NK x TNF: mae_corrected").

    A correlation that is not defined is left out.
    """
    if not scores:
        return {}
    flat = {m: float(np.mean([getattr(s, m) for s in scores])) for m in METRICS}
    flat |= {f"{s.context} x {s.perturbation}: {m}": getattr(s, m) for s in scores for m in METRICS}
    return {name: round(value, 6) for name, value in flat.items() if np.isfinite(value)}


def _score(model: TransitionModel, cells: TrainingCells, group: Group, set_size: int, seed: int) -> HeldOutScore:
    pool = group.controls
    basal = draw_basal(pool, -(-len(pool) // set_size) * set_size, np.random.default_rng(seed))
    perturbed = _predict(model, cells.values[basal], group.perturbation, set_size)[: len(pool)]
    effect = perturbed - _predict(model, cells.values[basal], 0, set_size)[: len(pool)]
    lowest = 0.0 if model.config.final_relu else -np.inf  # expression is not negative, embeddings may be
    corrected = np.maximum(cells.values[basal[: len(pool)]] + effect, lowest).mean(axis=0)
    control, truth = cells.values[pool].mean(axis=0), cells.values[group.cells].mean(axis=0)
    raw, usual = perturbed.mean(axis=0), mean_effect(cells, group)
    return HeldOutScore(
        context=group.context,
        perturbation=cells.perturbations[group.perturbation],
        n_cells=len(group.cells),
        mae_raw=_mae(raw, truth),
        mae_corrected=_mae(corrected, truth),
        mae_mean=_mae(np.maximum(control + usual, lowest), truth),
        mae_none=_mae(control, truth),
        r_raw=_pearson(raw - control, truth - control),
        r_paired=_pearson(effect.mean(axis=0), truth - control),
        r_mean=_pearson(usual, truth - control),
    )


def mean_effect(cells: TrainingCells, group: Group) -> np.ndarray:
    """Mean over the trained contexts other than the group's own of the effect of its perturbation: (g,)."""
    others = [g for g in cells.groups if g.perturbation == group.perturbation and g.context != group.context]
    effects = []
    for context in sorted({g.context for g in others}):
        same = [g for g in others if g.context == context]
        perturbed = cells.values[np.concatenate([g.cells for g in same])].mean(axis=0)
        controls = cells.values[np.unique(np.concatenate([g.controls for g in same]))].mean(axis=0)
        effects.append(perturbed - controls)
    return np.mean(effects, axis=0)


@torch.inference_mode()
def _predict(model: TransitionModel, basal: np.ndarray, perturbation: int, set_size: int) -> np.ndarray:
    """Cells (n, g), n a multiple of the set size, under one perturbation: (n, o)."""
    device = next(model.parameters()).device
    sets = torch.from_numpy(basal).unflatten(0, (-1, set_size))
    one_hot = torch.zeros(1, model.config.perturbation_dim, device=device)
    one_hot[0, perturbation] = 1
    parts = []
    for part in sets.split(max(1, CELLS_A_PASS // set_size)):
        output = model(part.to(device), one_hot.expand(len(part), -1), attention="full")
        parts.append(output.predicted.flatten(0, 1).float().cpu().numpy())
    return np.concatenate(parts)


def _mae(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")
