"""The mean effects of a training's own cells: what the baselines know, and no more.

Only cells of the part "train" enter, controls too: of a context held out whole nothing is in the table, of a context held out in
part the perturbations that stayed. Effects are taken within a data set (its cells minus its controls of the context), then
averaged over data sets by cells, so that differences between laboratories do not count as effects.

Notation: n effects, g features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from state_engine.data.expression import FeatureSource, iter_features
from state_engine.effects.table import EffectTable
from state_engine.errors import ConfigError
from state_engine.progress import OnProgress, Progress, silent

if TYPE_CHECKING:
    from state_engine.data.dataset import Dataset
    from state_engine.data.splits.apply import Part, Split

Pair = tuple[str, str]  # perturbation, context


@dataclass(eq=False)
class Sums:
    """Sums of cells by (perturbation, context), float64: {pair: (g,)}, and how many cells they are of."""

    width: int
    totals: dict[Pair, np.ndarray] = field(default_factory=dict)
    cells: dict[Pair, int] = field(default_factory=dict)

    def add(self, dataset: Dataset, rows: np.ndarray, values: np.ndarray) -> None:
        """Adds a block: rows of the data set (b,), their features (b, g). Cells that lack a label are left out."""
        names_p, p = dataset.coded(dataset.labels.perturbation_key)
        names_c, c = dataset.coded(dataset.labels.context_key)
        codes = p[rows] * len(names_c) + c[rows]
        order = np.argsort(codes, kind="stable")
        groups, starts = np.unique(codes[order], return_index=True)
        sums = np.add.reduceat(values[order].astype(np.float64), starts, axis=0)
        for group, total, n in zip(groups.tolist(), sums, np.diff([*starts, len(rows)]).tolist(), strict=True):
            pair = names_p[group // len(names_c)], names_c[group % len(names_c)]
            if all(pair):
                self.totals[pair] = self.totals.get(pair, 0) + total
                self.cells[pair] = self.cells.get(pair, 0) + n

    def mean(self, pair: Pair) -> np.ndarray:
        """(g,) mean cell of a pair."""
        return self.totals[pair] / self.cells[pair]


def effect_table(
    split: Split,
    source: FeatureSource | Sequence[FeatureSource],
    features: tuple[str, ...] = (),
    on_progress: OnProgress = silent,
) -> EffectTable:
    """Mean effects of the training cells, in one pass over them.

    Args:
        split: which cells are trained on.
        source: how features are made; one for all files, or one for each of `split.sources` (genes lie elsewhere in each).
        features: their names, saved with the table.
        on_progress: told once a block.

    Returns:
        A row for each perturbation and context that has perturbed cells and controls among the training cells, by name. Memory:
        one block and a float64 row for each of them.

    Raises:
        ConfigError: another number of feature sources than of files.
    """
    found = part_sums(split, source, "train", on_progress)
    effects: dict[Pair, list[tuple[np.ndarray, int]]] = {}
    controls: dict[str, list[tuple[np.ndarray, int]]] = {}
    for sums in found.values():
        for pair, n in sums.cells.items():
            label, context = pair
            if label == split.control:
                controls.setdefault(context, []).append((sums.mean(pair), n))
            elif (split.control, context) in sums.cells:
                effects.setdefault(pair, []).append((sums.mean(pair) - sums.mean((split.control, context)), n))
    pairs = sorted(effects)
    width = next(iter(found.values())).width
    return EffectTable(
        tuple(p for p, _ in pairs),
        tuple(c for _, c in pairs),
        np.array([sum(n for _, n in effects[pair]) for pair in pairs], dtype=np.int64),
        np.array([_weighted(effects[pair]) for pair in pairs], dtype=np.float32).reshape(len(pairs), width),
        {context: _weighted(controls[context]).astype(np.float32) for context in sorted(controls)},
        features,
    )


def part_sums(
    split: Split, source: FeatureSource | Sequence[FeatureSource], part: Part, on_progress: OnProgress = silent
) -> dict[str, Sums]:
    """Sums of the cells of a part, by name of the data set; its files are summed together.

    Raises:
        ConfigError: another number of feature sources than of files.
    """
    each = [source] * len(split.sources) if isinstance(source, FeatureSource) else list(source)
    if len(each) != len(split.sources):
        raise ConfigError(f"There are {len(each)} feature sources for {len(split.sources)} files.", "Each file needs one.")
    total, done = sum(len(s.rows(part)) for s in split.sources), 0
    found: dict[str, Sums] = {}
    for at, features in zip(split.sources, each, strict=True):
        width = len(features.columns) if features.columns else at.dataset.representation(features.representation).width
        sums = found.setdefault(at.name, Sums(width))
        for rows, values in iter_features(at.dataset, features, at.rows(part)):
            sums.add(at.dataset, rows, values)
            done += len(rows)
            on_progress(Progress("Averaging measured cells", done, total))
    return found


def _weighted(parts: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """Mean of vectors (g,), weighted by cells."""
    return np.average([values for values, _ in parts], axis=0, weights=[n for _, n in parts])
