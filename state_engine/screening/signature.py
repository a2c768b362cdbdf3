"""A signature as weights of genes, and how much effects are like it: Pearson's correlation, with p from control cells and from permuted genes.

Genes up have weight 1, genes down -1, all other genes of the model 0. A measured effect has its log2 fold changes as weights, and only its genes
are looked at. A correlation does not depend on how large effects are; the effect size stands beside it.

p is the larger of two: of control cells against control cells (`screening.null`), whose noise moves genes together, and of the same effect
with the genes' names permuted, which says whether these genes are special in it. A score has to be rare in both.

Notation: g genes of the model, u genes looked at, k effects, B comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from state_engine.errors import GeneError, listed, may_be, near_each
from state_engine.plain import agreed, part_of, plural
from state_engine.progress import OnProgress, Progress, silent
from state_engine.screening.null import AT_ONCE, Groups, p_values
from state_engine.screening.request import ScreenRequest

PERMUTATIONS: Final = 2000  # of the genes' names
LEAST_GENES: Final = 3  # of a signature that the model predicts
Matrix = NDArray[np.floating]
Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Signature:
    """Weights of genes.

    Args:
        columns: (u,) places of the genes that are looked at.
        weights: (u,) float64.
        known: genes of the request that the model has.
        missing: those that it has not.
    """

    columns: NDArray[np.int64]
    weights: Vector
    known: int
    missing: tuple[str, ...]

    def remark(self) -> str:
        """Return how many genes match, in a sentence."""
        asked = self.known + len(self.missing)
        if not self.missing:
            return f"All {asked:,} genes of the goal are predicted by the model."
        said = f"{part_of(self.known, asked, 'gene')} of the goal {agreed(self.known, 'is', 'are')}"
        return f"{said} predicted by the model; not {listed(self.missing)}."

    def scores(self, effects: Matrix) -> Vector:
        """Return the correlation of effects (k, g) with the signature, (k,); 0 for an effect that is the same everywhere."""
        return _correlations(effects[:, self.columns], self.weights)

    def null(self, groups: Groups, controls: Matrix) -> Vector:
        """Return the same of control cells (n, g) against control cells, (b,)."""
        mine = controls[:, self.columns]
        return _correlations((groups.first - groups.second) @ mine, self.weights)

    def permuted(self, effects: Matrix, rng: np.random.Generator, on_progress: OnProgress = silent) -> Vector:
        """Return p of effects (k, g) by permuted names of genes, (k,); 1 for an effect that is the same everywhere."""
        mine = _standard(effects[:, self.columns])
        weights = _standard(self.weights[None])[0]
        null = np.empty((PERMUTATIONS, len(mine)))
        for start in range(0, PERMUTATIONS, AT_ONCE):
            on_progress(Progress("Permuting genes", start, PERMUTATIONS))
            b = min(AT_ONCE, PERMUTATIONS - start)
            shuffled = rng.permuted(np.tile(weights, (b, 1)), axis=1)
            null[start : start + b] = shuffled @ mine.T
        scores = mine @ weights
        flat = ~mine.any(axis=1)
        p = np.array([p_values(scores[i : i + 1], null[:, i])[0] for i in range(len(mine))])
        return np.where(flat, 1.0, p)


def goal_places(wanted: Iterable[str], genes: Sequence[str]) -> dict[str, int]:
    """Return where the genes of a goal are among those of a model, as they are spelled, else in capitals; without those not there."""
    place, by_upper = {g: i for i, g in enumerate(genes)}, {g.upper(): i for i, g in reversed([*enumerate(genes)])}
    found = {gene: place.get(gene, by_upper.get(gene.upper())) for gene in wanted}
    return {gene: at for gene, at in found.items() if at is not None}


def signature_of(request: ScreenRequest, genes: tuple[str, ...]) -> Signature:
    """Return the signature of a request among the genes that the model predicts.

    Raises:
        GeneError: too few of its genes are there; names that are spelled nearly so are told.
    """
    wanted = dict.fromkeys(request.up_genes, 1.0) | dict.fromkeys(request.down_genes, -1.0)
    wanted = wanted or {c.gene: c.log2_fold_change for c in request.changes}
    places = goal_places(wanted, genes)
    found = {places[gene]: weight for gene, weight in wanted.items() if gene in places}
    missing = [gene for gene in wanted if gene not in places]
    if len(found) < LEAST_GENES:
        gone = f" Not among its {len(genes):,} genes: {listed(missing)}." if missing else ""
        raise GeneError(
            f"The model predicts {len(found):,} of the {plural(len(wanted), 'gene')} of the goal.",
            f"At least {LEAST_GENES} are needed.{gone}",
            may_be(near_each(missing[:50], genes)) or f"It predicts genes such as {listed(genes[:3])}.",
        )
    only = request.goal == "explanation"
    columns = np.array(sorted(found) if only else range(len(genes)), np.int64)
    weights = np.array([found.get(int(i), 0.0) for i in columns])
    if np.ptp(weights) == 0:
        raise GeneError(
            "All genes of the goal have the same weight.",
            "A correlation compares genes that go one way with others.",
            "Name genes that go up or down, not all of them.",
        )
    return Signature(columns, -weights if request.opposite else weights, len(found), tuple(missing))


def _standard(rows: Matrix) -> Vector:
    """Return rows with mean 0 and length 1; a row that is the same everywhere becomes 0."""
    # in float64, and by range: the deviations of equal values from their rounded mean need not be exactly 0
    values = rows.astype(np.float64)
    flat = np.ptp(values, axis=1) == 0
    values -= values.mean(axis=1, keepdims=True)
    size = np.linalg.norm(values, axis=1)
    values[flat | (size == 0)] = 0
    return values / np.where(size > 0, size, 1)[:, None]


def _correlations(rows: Matrix, weights: Vector) -> Vector:
    return np.asarray(_standard(rows) @ _standard(weights[None])[0])
