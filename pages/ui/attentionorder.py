"""Orders and groups of the cells of a set: by batch, distance, a gene or attention. A set has no order of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pages.ui import attentionchart as chart
from pages.ui import attentionnumbers as numbers
from state_engine.attention_maps import AttentionMaps

SORTS = ("Order in the set", "Batch", "Distance to the set's mean", "A gene", "Attention received")
MOST_CLUSTERS = 4


@dataclass(frozen=True)
class Sorting:
    """An order of the set's cells, (s,) positions; the strip above the map; groups of cells: (s,) codes and their names."""

    order: NDArray[np.int64]
    strip: chart.Strip | None
    codes: NDArray[np.int64]
    groups: tuple[str, ...]


def sort_cells(maps: AttentionMaps, by: str, gene: str = "", layer: int | None = None, head: int | None = None) -> Sorting:
    """The order, the strip and the groups of a way to sort; groups are clusters where sorting suggests none."""
    if by == "Batch":
        names = tuple(sorted(set(maps.batches.tolist())))
        codes = np.searchsorted(np.array(names), maps.batches)
        order = np.argsort(codes, kind="stable")
        return Sorting(order, chart.Strip(codes[order].astype(np.float32), "batch", names), codes, names)
    if by == SORTS[0]:
        codes, names = _clusters(maps)
        return Sorting(np.arange(len(maps.cells)), None, codes, names)
    if by == "A gene":
        values, name = maps.basal[:, maps.genes.tolist().index(gene)], gene
    elif by == "Attention received":
        values, name = numbers.received(numbers.chosen_map(maps.perturbed, layer, head)), "attention received"
    else:
        values, name = numbers.distance_to_mean(maps.basal), "distance"
    order = np.argsort(values, kind="stable")
    strip = chart.Strip(values[order].astype(np.float32), name)
    if by == "Distance to the set's mean":
        codes, names = _clusters(maps)
        return Sorting(order, strip, codes, names)
    quarters = tuple(f"{name}: {part}" for part in ("lowest quarter", "second", "third", "highest quarter"))
    return Sorting(order, strip, numbers.quarters(values), quarters)


def _clusters(maps: AttentionMaps) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    codes = numbers.clusters(maps.basal, min(MOST_CLUSTERS, len(maps.cells)))
    counts = np.bincount(codes)
    return codes, tuple(f"cluster {i + 1} ({n:,})" for i, n in enumerate(counts))
