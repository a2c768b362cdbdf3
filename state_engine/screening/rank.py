"""Score every condition of a screen by its goal, with p from control cells, and rank them.

Notation: k perturbations, g genes, s cells of a sample, n control cells of a context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.effects.apply import applied_mean
from state_engine.metrics.rank_tests import q_values
from state_engine.prediction.draw import generator
from state_engine.progress import OnProgress, Progress
from state_engine.screening.goals import CellGoal, HeadGoal, Scored, TargetGoal
from state_engine.screening.head_cells import HeadReader
from state_engine.screening.null import control_groups, group_size, p_values
from state_engine.screening.report import COLUMNS, Made
from state_engine.screening.request import ScreenRequest
from state_engine.screening.shards import CONTROL, Block, ScreenShards
from state_engine.screening.signature import Signature

STAGE: Final = "Scoring"
JOINED: Final = "+"  # between the labels of a combination
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Goals:
    """What conditions are scored by; one of them, or none for the effect size.

    Args:
        signature: of genes. target: (t, g) target cells. head: reads probabilities.
        compare: control cells are measured, so that p can be computed.
    """

    signature: Signature | None = None
    target: NDArray[np.float32] | None = None
    head: HeadReader | None = None
    compare: bool = True


def rank(request: ScreenRequest, shards: ScreenShards, goals: Goals, on_progress: OnProgress) -> pd.DataFrame:
    """Return the ranking of all conditions, best first, without what the training knows of them."""
    parts = []
    for number, context in enumerate(shards.key.contexts):
        on_progress(Progress(STAGE, number, len(shards.key.contexts)))
        parts.append(_of_context(request, shards, goals, context, on_progress))
    table = pd.concat(parts, ignore_index=True)
    table["q"] = q_values(table["p"].to_numpy(float))
    table = table.sort_values(["score", "p"], ascending=[False, True], kind="stable", ignore_index=True)
    return table.assign(rank=np.arange(1, len(table) + 1), seen="", in_training="")[list(COLUMNS)]


def _of_context(
    request: ScreenRequest, shards: ScreenShards, goals: Goals, context: str, on_progress: OnProgress
) -> pd.DataFrame:
    block, controls = shards.read_context(context), shards.sample(context, CONTROL)
    rng = generator(request.seed, context)
    if request.needs_cells:
        table = _by_cells(request, shards, goals, context, controls, rng, on_progress)
    else:
        table = _by_effects(request, block, goals, np.asarray(controls.X), rng, on_progress)
    sizes = np.linalg.norm(block.effects.astype(np.float64), axis=1)
    facts = pd.DataFrame(
        {"perturbation": block.perturbations, "effect_size": sizes, "genes_up": block.up, "genes_down": block.down}
    )
    return table.assign(context=context).merge(facts, "left", "perturbation")


def _by_effects(
    request: ScreenRequest, block: Block, goals: Goals, controls: NDArray[np.floating], rng: np.random.Generator, on_progress: OnProgress
) -> pd.DataFrame:  # fmt: skip
    signature = goals.signature

    def score(effects: NDArray[np.floating]) -> Vector:
        return np.linalg.norm(effects.astype(np.float64), axis=1) if signature is None else signature.scores(effects)

    scores, p = score(block.effects), np.full(len(block.perturbations), np.nan)
    size = group_size(len(controls), request.cells)
    if goals.compare and size:
        null = list[Vector]()
        for groups in control_groups(len(controls), size, request.splits, rng):
            on_progress(Progress("Comparing control cells", sum(len(one) for one in null), request.splits))
            null.append(score((groups.first - groups.second) @ controls))
        p = p_values(scores, np.concatenate(null))
        p[~block.effects.any(axis=1)] = 1.0  # a prediction that does nothing
        if signature is not None:
            p = np.maximum(p, signature.permuted(block.effects, rng, on_progress))
    table = _table(block.perturbations, scores, p)
    pairs = _pairs(request, table)
    if not pairs:
        return table
    place, base = {name: i for i, name in enumerate(block.perturbations)}, controls.mean(axis=0, dtype=np.float64)
    sums = np.array([block.effects[place[a]].astype(np.float64) + block.effects[place[b]] for a, b in pairs])
    sums = np.array([applied_mean(base, effect) - base for effect in sums])
    more = _table([JOINED.join(pair) for pair in pairs], score(sums), np.full(len(pairs), np.nan), "additive assumption")
    return pd.concat([table, more], ignore_index=True)


def _by_cells(
    request: ScreenRequest, shards: ScreenShards, goals: Goals, context: str, controls: ad.AnnData, rng: np.random.Generator,
    on_progress: OnProgress,
) -> pd.DataFrame:  # fmt: skip
    of_controls = _values(goals, shards.place(context, CONTROL), controls)
    goal: CellGoal = HeadGoal(of_controls)
    if goals.target is not None:
        goal = TargetGoal(of_controls, goals.target, request.seed)
    scored: dict[str, Scored] = {}
    same = set[str]()
    for place in range(len(shards.blocks)):
        on_progress(Progress("Scoring cells", place, len(shards.blocks)))
        path = shards.place(context, place)
        stored = ad.read_h5ad(path)
        for name, cells, basal, changed in _conditions(stored, _values(goals, path, stored)):
            scored[name] = goal.score(cells, basal)
            if not changed:
                same.add(name)
    p, scores = np.full(len(scored), np.nan), np.array([one.score for one in scored.values()])
    size = group_size(controls.n_obs, request.sample)
    if goals.compare and size > 1:
        null = list[Vector]()
        for groups in control_groups(controls.n_obs, size, request.splits, rng):
            on_progress(Progress("Comparing control cells", sum(len(one) for one in null), request.splits))
            null.append(goal.null(groups))
        p = p_values(scores, np.concatenate(null))
        p[[name in same for name in scored]] = 1.0
    table = _table(list(scored), scores, p).assign(
        before=[one.before for one in scored.values()], after=[one.after for one in scored.values()]
    )
    pairs = _pairs(request, table)
    if not pairs:
        return table
    sums = {JOINED.join(pair): one for pair, one in _score_pairs(shards, goals, goal, context, pairs)}
    more = _table(list(sums), np.array([one.score for one in sums.values()]), np.full(len(sums), np.nan), "additive assumption")
    more = more.assign(before=[one.before for one in sums.values()], after=[one.after for one in sums.values()])
    return pd.concat([table, more], ignore_index=True)


def _values(goals: Goals, path: Path, cells: ad.AnnData) -> NDArray[np.floating]:
    """Return what the goal reads of stored cells: expression (n, g), or probabilities (n, 1)."""
    return np.asarray(cells.X) if goals.head is None else goals.head.values(path)


def _conditions(
    stored: ad.AnnData, values: NDArray[np.floating]
) -> Iterator[tuple[str, NDArray[np.floating], NDArray[np.floating], bool]]:
    """Yield each perturbation of a shard with what the goal reads of its cells and of their basal cells, and whether cells changed at all."""
    kind, label = (stored.obs[n].astype(str).to_numpy() for n in (keys.KIND, keys.PERTURBATION))
    basal = np.flatnonzero(kind == keys.PREDICTED_CONTROL)
    x = np.asarray(stored.X)
    for name in dict.fromkeys(label[kind == keys.PREDICTED].tolist()):
        rows = np.flatnonzero((kind == keys.PREDICTED) & (label == name))
        yield name, values[rows], values[basal[: len(rows)]], not np.array_equal(x[rows], x[basal[: len(rows)]])


def _score_pairs(
    shards: ScreenShards, goals: Goals, goal: CellGoal, context: str, pairs: list[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], Scored]]:
    """Yield the score of cells to which both effects are added: each basal cell plus what either perturbation does to it, not below 0."""
    of = {name: place for place, names in enumerate(shards.blocks) for name in names}
    stored = {place: shards.sample(context, place) for place in sorted({of[n] for pair in pairs for n in pair})}

    def rows(name: str) -> NDArray[np.int64]:
        obs = stored[of[name]].obs
        return np.flatnonzero((obs[keys.KIND] == keys.PREDICTED).to_numpy() & (obs[keys.PERTURBATION] == name).to_numpy())

    first = stored[of[pairs[0][0]]]
    at = np.flatnonzero((first.obs[keys.KIND] == keys.PREDICTED_CONTROL).to_numpy())
    basal = first[at].copy()
    before = _values_of(goals, basal)
    for a, b in pairs:
        one, other = stored[of[a]][rows(a)], stored[of[b]][rows(b)]
        both = one.copy()
        both.X = np.maximum(np.asarray(one.X) + np.asarray(other.X) - np.asarray(basal.X), 0)
        for key in both.obsm:
            both.obsm[key] = one.obsm[key] + other.obsm[key] - basal.obsm[key]
        yield (a, b), goal.score(_values_of(goals, both), before)


def _values_of(goals: Goals, cells: ad.AnnData) -> NDArray[np.floating]:
    return np.asarray(cells.X) if goals.head is None else goals.head.values_of(cells)


def _pairs(request: ScreenRequest, table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return each two of the best perturbations; combinations of the model are none of them."""
    singles = table[~table["perturbation"].str.contains(JOINED, regex=False)]
    best = singles.sort_values("score", ascending=False, kind="stable")["perturbation"].head(request.combinations)
    known = {frozenset(name.split(JOINED)) for name in table["perturbation"]}
    return [pair for pair in combinations(best.tolist(), 2) if frozenset(pair) not in known]


def _table(names: list[str] | tuple[str, ...], scores: Vector, p: Vector, made: Made = "predicted") -> pd.DataFrame:
    return pd.DataFrame({"perturbation": list(names), "score": scores, "p": p, "made": made, "before": np.nan, "after": np.nan})
