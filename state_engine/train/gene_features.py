"""Vectors for perturbations of genes that are trained nowhere: where each gene lies in the main variation of the training cells, or which
single perturbations a combination is made of.

The loadings of a principal component analysis say which genes vary together in cells that nobody perturbed on purpose; a perturbation is
known by those of its gene, a pair ("A+B") by their sum. Source: the linear baseline of Ahlmann-Eltze et al., Nature Methods 2025. Where some
perturbations are no genes of the data, a vector has a 1 for each part of the label that is trained: "A+B" is told by A, B and "A+C"; a label
without any such part has zeros, as the control. Vectors are made where none are given and a held-out perturbation is trained nowhere: a model
that knows labels alone could not predict it.
Boundary: training cells of a split in, vectors out.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from state_engine.data.expression import read_features
from state_engine.data.perturbation_features import PerturbationFeatures, from_vectors
from state_engine.data.splits.apply import Split
from state_engine.data.splits.choices import genes_of, parts_of
from state_engine.train.cells import expression_source

COMPONENTS: Final = 32
MOST_CELLS: Final = 2000


def gene_features(split: Split, seed: int) -> PerturbationFeatures | None:
    """Return vectors of all perturbations of a split; None where none is needed, or nothing is known of those that are trained nowhere.

    Args:
        split: that is trained on.
        seed: of the draw of at most `MOST_CELLS` training cells.
    """
    table = split.table()
    perturbed = table[table["perturbation"] != split.control]
    trained = set(perturbed[perturbed["train"] > 0]["perturbation"])
    held = set(perturbed[(perturbed["val"] > 0) | (perturbed["test"] > 0)]["perturbation"])
    genes = tuple(dict.fromkeys(split.genes))
    parts = {label: genes_of(label, genes) for label in sorted(trained | held)}
    if held <= trained:
        return None
    if not all(parts.values()):
        return _of_parts(split.control, trained, held)
    largest = max(split.sources, key=lambda source: len(source.rows("train")))
    rows = np.random.default_rng(seed).permutation(largest.rows("train"))[:MOST_CELLS]
    cells = read_features(largest.dataset, expression_source(largest.dataset, genes), np.sort(rows)).astype(np.float64)
    cells -= cells.mean(axis=0)
    # of few cells and many genes: the components of cells first, then what each gene contributes to them
    values, vectors = np.linalg.eigh(cells @ cells.T)
    most = min(COMPONENTS, len(values))
    loadings = cells.T @ vectors[:, ::-1][:, :most] / np.sqrt(len(cells))
    place = {gene: i for i, gene in enumerate(genes)}
    found = {label: loadings[[place[g] for g in own]].sum(axis=0) for label, own in parts.items()}
    # of the size of one-hot vectors, whatever the genes vary by
    size = float(np.sqrt(np.mean([v @ v for v in found.values()]))) or 1.0
    made = {label: vector / size for label, vector in found.items()}
    return from_vectors(made, f"{most} principal components of the training cells' genes").with_zeros((split.control,))


def _of_parts(control: str, trained: set[str], held: set[str]) -> PerturbationFeatures | None:
    """Return a 1 for each trained part of a label; None where no held-out perturbation that is trained nowhere shares one."""
    known = sorted({part for label in trained for part in parts_of(label)})
    if not any(set(parts_of(label)) & set(known) for label in held - trained):
        return None
    rows = {label: np.isin(known, parts_of(label)).astype(np.float32) for label in sorted(trained | held)}
    return from_vectors(rows, f"{len(known)} parts of the labels").with_zeros((control,))
