"""Mean expression of every condition of a file, in one pass over its cells; memory of one block and of the means.

Notation: k conditions, g genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from state_engine.effects.table import EffectTable
from state_engine.evaluation.files import Condition, Side


@dataclass(frozen=True, eq=False)
class Pseudobulks:
    """Means of conditions, the control of each context among them.

    Args:
        places: condition -> row.
        cells: (k,) cells behind each mean.
        means: (k, g) float64, log1p.
    """

    places: Mapping[Condition, int]
    cells: np.ndarray
    means: np.ndarray

    def __contains__(self, condition: Condition) -> bool:
        return condition in self.places

    def mean(self, perturbation: str, context: str) -> np.ndarray:
        """(g,) mean expression."""
        return np.asarray(self.means[self.places[perturbation, context]])

    def n(self, perturbation: str, context: str) -> int:
        """Cells behind it; 0 when there are none."""
        place = self.places.get((perturbation, context))
        return 0 if place is None else int(self.cells[place])


def pseudobulks(side: Side, conditions: tuple[Condition, ...], on_block: Callable[[int], None] = lambda n: None) -> Pseudobulks:
    """Means of these conditions; those without cells are left out.

    Args:
        conditions: (perturbation, context) pairs, each once.
        on_block: told how many cells were read, block by block.
    """
    rows = [side.rows(p, c) for p, c in conditions]
    kept = [i for i, r in enumerate(rows) if len(r)]
    cells = np.concatenate([rows[i] for i in kept]) if kept else np.empty(0, np.int64)
    codes = np.repeat(np.arange(len(kept)), [len(rows[i]) for i in kept])
    order = np.argsort(cells, kind="stable")
    cells, codes = cells[order], codes[order]
    sums = np.zeros((len(kept), len(side.source.columns or ())))
    done = 0
    for part, values in side.blocks(cells):
        block = codes[done : done + len(part)]
        for code in np.unique(block):
            sums[code] += values[block == code].sum(axis=0, dtype=np.float64)
        done += len(part)
        on_block(len(part))
    counts = np.bincount(codes, minlength=len(kept)).astype(np.int64)
    return Pseudobulks({conditions[i]: row for row, i in enumerate(kept)}, counts, sums / counts[:, None])


def effects_of(means: Pseudobulks, control: str, genes: tuple[str, ...]) -> EffectTable:
    """The effects of all conditions against the control of their context, as a table that baselines are made from."""
    pairs = [(p, c) for p, c in means.places if p != control and (control, c) in means]
    effects = np.array([means.mean(p, c) - means.mean(control, c) for p, c in pairs], np.float32).reshape(len(pairs), len(genes))
    controls = {c: means.mean(control, c).astype(np.float32) for p, c in means.places if p == control}
    cells = np.array([means.n(p, c) for p, c in pairs], np.int64)
    return EffectTable(tuple(p for p, _ in pairs), tuple(c for _, c in pairs), cells, effects, controls, genes)
