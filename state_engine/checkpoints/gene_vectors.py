"""Files of gene vectors: gene -> vector, as ESM2's of the published models (`torch.save` of a dictionary), text or numpy.

`.pt` files pass the guarded reader of pickles. Boundary: a path in, names and a matrix out; the order of the file is the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from state_engine.checkpoints.arc.perturbation_vectors import TEXT, TORCH, read_features_file
from state_engine.data.files.text import read_names
from state_engine.errors import UnreadableFileError, listed

NUMPY = (".npy",)


@dataclass(frozen=True, eq=False)
class GeneVectors:
    """Genes and their vectors.

    Args:
        names: each once.
        values: (genes, width) float32, all finite.
        source: where they come from, for people.
    """

    names: tuple[str, ...]
    values: np.ndarray
    source: str


def read_gene_vectors(path: Path) -> GeneVectors:
    """Read the vectors of a file.

    Args:
        path: .pt, .pth or .torch (a dictionary gene -> vector); .csv, .tsv or .txt (gene, number, number, ...); or .npy (genes x
            width), with the names one per line in a .txt of the same name beside it.

    Raises:
        UnreadableFileError: not there, of another kind, not a table of vectors, or all of them 0.
        UnsafePickleError: the .pt file asks for more than numbers and containers.
        CheckpointError: the .pt file is truncated or damaged.
    """
    found = _read(path)
    if not found.values.any():
        raise UnreadableFileError(
            f"{path.name} has no vectors of genes: all of them are 0.",
            "Vectors tell genes apart.",
            "Check how the file was made.",
        )
    return found


def _read(path: Path) -> GeneVectors:
    ending = path.suffix.lower()
    if ending in NUMPY and path.is_file():
        return _read_numpy(path)
    if ending in (*TEXT, *TORCH) and path.is_file():
        found = read_features_file(path)
        return GeneVectors(found.labels, found.vectors, path.name)
    what = f"{path.name} is not a file of gene vectors." if path.is_file() else f"There is no file {path}."
    raise UnreadableFileError(what, f"Known endings: {listed([*TORCH, *TEXT, *NUMPY], 9)}.", "Check the path.")


def _read_numpy(path: Path) -> GeneVectors:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        raise UnreadableFileError(
            f"The names of the genes in {path.name} are missing.", f"{beside.name} should have them, one per line."
        )
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise UnreadableFileError(
            f"{path.name} cannot be read.", f"{error}.", "Save a matrix of numbers (genes x width)."
        ) from error
    names = tuple(read_names(beside))
    wrong = []
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        wrong.append("it is no matrix of numbers")
    elif len(values) != len(names):
        wrong.append(f"{len(values):,} rows for {len(names):,} names in {beside.name}")
    elif not (np.isfinite(values) & (np.abs(values) <= np.finfo(np.float32).max)).all():
        wrong.append("some values are not finite")
    if len(set(names)) != len(names):
        wrong.append("names of genes repeat")
    if wrong:
        raise UnreadableFileError(f"{path.name} has no vectors of genes.", f"{'; '.join(wrong)}.", "Save one row for each gene.")
    return GeneVectors(names, np.ascontiguousarray(values, np.float32), path.name)
