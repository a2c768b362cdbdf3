"""Held-out cells that come back under another data set: the same condition, or the very same cells.

A clause holds out within its own data set. Another data set of the split may be a copy of the file, a part of it, or a second screen
of the same cell line; what is tested has then been seen. Boundary: names, and the values of at most a few thousand cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from state_engine.data.dataset import Dataset
from state_engine.data.files.matrices import dense
from state_engine.data.splits.held import Leak
from state_engine.plain import first_places

LOOKED_AT = 200  # held-out cells of a file that are looked for
MOST = 5_000  # cells of another file among which they are looked for
LEAST_GENES = 5  # values a cell needs to be recognised by them
TRAINED = 1
# a data set's name in the plan, one of its files, and the part of each of its cells (n,): 0 unused, 1 train, 2 val, 3 test
Source = tuple[str, Dataset, np.ndarray]


def leaks(sources: Sequence[Source], table: pd.DataFrame, control: str) -> Iterator[Leak]:
    """Yield each pair of data sets of which one trains on what the other holds out.

    Args:
        sources: the files and the parts of their cells.
        table: cells of each data set, context and perturbation by part, see `Split.table`.
        control: whose cells are trained on everywhere.
    """
    perturbed = table[table["perturbation"] != control]
    held = perturbed[(perturbed["val"] > 0) | (perturbed["test"] > 0)]
    trained = perturbed[perturbed["train"] > 0]
    both = held.merge(trained, on=["context", "perturbation"], suffixes=("", "_trained"))
    for (name, other), rows in both.groupby(["dataset", "dataset_trained"], sort=False):
        pairs = [f"{c} x {p}" for c, p in zip(rows["context"], rows["perturbation"], strict=True)]
        yield Leak(str(name), str(other), tuple(pairs))
    for source in sources:
        for other_source in sources:
            if source[1] is not other_source[1]:
                yield from _same_cells(source, other_source)


def _same_cells(held: Source, trained: Source) -> Iterator[Leak]:
    """Yield a leak where cells that one file holds out are among those that another is trained on."""
    (name, a, parts), (other, b, other_parts) = held, trained
    rows, there = np.flatnonzero(parts > TRAINED), np.flatnonzero(other_parts == TRAINED)
    if not len(rows) or not len(there) or a.expression is None or b.expression is None:
        return
    looked = np.sort(np.random.default_rng(0).permutation(rows)[:LOOKED_AT])
    # the same cells have the same names, unless somebody wrote them anew: then they are looked for in the same conditions
    named = np.isin(b.obs_names[there].astype(str), np.unique(a.obs_names[looked].astype(str)))
    alike = np.isin(_conditions(b)[there], np.unique(_conditions(a)[looked]))
    candidates = np.concatenate([there[named], there[alike & ~named]])[:MOST]
    others = set(b.genes.names)
    shared = [g for g in dict.fromkeys(a.genes.names) if g in others]
    if not len(candidates) or not shared:
        return
    here, found = _signatures(a, looked, shared), set(_signatures(b, np.sort(candidates), shared))
    same = [s for s in here if s and s in found]
    # single cells of few counts may be equal by accident
    if len(same) < max(2, 0.02 * len(here)):
        return
    equal = a.file.nbytes == b.file.nbytes and a.hash() == b.hash()
    yield Leak(name, other, (), (a.path.name, b.path.name), len(same), len(here), equal)


def _conditions(dataset: Dataset) -> np.ndarray:
    """Return perturbation and context of each cell as one string, (n,)."""
    return np.char.add(np.char.add(dataset.perturbation_labels().astype(str), "\t"), dataset.context_labels().astype(str))


def _signatures(dataset: Dataset, rows: np.ndarray, genes: list[str]) -> list[bytes]:
    """Return the values of each cell in these genes as bytes; empty for a cell that has too few to be recognised by."""
    assert dataset.expression is not None
    place = first_places(dataset.genes.names)
    columns = np.array([place[g] for g in genes])
    found: list[bytes] = []
    for _, values in dataset.iter_blocks(dataset.expression, rows, 1024):
        picked = np.ascontiguousarray(dense(values[:, columns]), dtype=np.float32)
        enough = (picked != 0).sum(axis=1) >= min(LEAST_GENES, len(genes))
        found += [row.tobytes() if known else b"" for row, known in zip(picked, enough, strict=True)]
    return found
