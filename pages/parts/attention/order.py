"""Orders and groups of the cells of a set: by batch, distance, a gene or attention. A set has no order of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pages.parts.attention import charts as chart
from pages.parts.attention import numbers
from state_engine.attention.maps import AttentionMaps

SORTS = ("Order in the set", "Batch", "Distance to the set's mean", "A gene", "Attention received")
QUARTERS = ("lowest", "second", "third", "highest")
MOST_CLUSTERS = 4


@dataclass(frozen=True)
class Sorting:
    """An order of the set's cells, (s,) positions; the strip above the map; groups of cells: (s,) codes, their names, and what they
    are."""

    order: NDArray[np.int64]
    strip: chart.Strip | None
    codes: NDArray[np.int64]
    groups: tuple[str, ...]
    about: str


def sort_cells(maps: AttentionMaps, by: str, gene: str = "", layer: int | None = None, head: int | None = None) -> Sorting:
    """The order, the strip and the groups of a way to sort; groups are clusters where sorting suggests none."""
    if by == "Batch":
        names = tuple(sorted(set(maps.batches.tolist())))
        codes = np.searchsorted(np.array(names), maps.batches)
        order = np.argsort(codes, kind="stable")
        return Sorting(order, chart.Strip(codes[order].astype(np.float32), "batch", names), codes, names, "Groups are batches.")
    if by == SORTS[0]:
        return Sorting(np.arange(len(maps.cells)), None, *_clusters(maps))
    if by == "A gene":
        values, name = maps.basal[:, maps.genes.tolist().index(gene)], gene
    elif by == "Attention received":
        values, name = numbers.received(numbers.chosen_map(maps.perturbed, layer, head)), "attention received"
    else:
        values, name = numbers.distance_to_mean(maps.basal), "distance"
    order = np.argsort(values, kind="stable")
    strip = chart.Strip(values[order].astype(np.float32), name)
    if by == "Distance to the set's mean":
        return Sorting(order, strip, *_clusters(maps))
    # equal values share a quarter, so that a gene that few cells express has fewer than four
    present, codes = np.unique(numbers.quarters(values), return_inverse=True)
    return Sorting(order, strip, codes, tuple(QUARTERS[i] for i in present), f"Groups are quarters of the cells by {name}.")


def _clusters(maps: AttentionMaps) -> tuple[NDArray[np.int64], tuple[str, ...], str]:
    codes = numbers.clusters(maps.basal, min(MOST_CLUSTERS, len(maps.cells)))
    counts = np.bincount(codes)
    names = tuple(f"cluster {i + 1} ({n:,})" for i, n in enumerate(counts))
    return codes, names, "Groups are k-means clusters of the basal cells in the model's input."
