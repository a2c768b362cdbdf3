"""From a data set's expression to the features that a model reads: normalisation, gene columns, highly variable genes.

Source: scanpy's normalize_total and log1p (same numbers), scanpy's highly_variable_genes (called).
Boundary: knows which columns and which scale are wanted; what a model wants is decided elsewhere.

Notation: m cells, g genes of the file, w features of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from state_engine.data.dataset import Dataset
from state_engine.data.files.matrices import dense
from state_engine.data.genes import GeneMatch, match_names
from state_engine.data.scale import DEPTH as DEPTH
from state_engine.data.scale import ScaleDecision, same_depth
from state_engine.data.usable_values import ValueCheck
from state_engine.device import start_compiled_threads
from state_engine.errors import GeneError, RepresentationError, ScaleError

HVG_CELLS = 20_000


@dataclass(frozen=True)
class FeatureSource:
    """How a model's input features are made from a data set.

    Args:
        representation: "X", "layers/NAME" or "obsm/NAME".
        columns: (w,) the column of each feature, -1 for a gene that the data lack (filled with 0); None: all columns as they are.
        normalise: counts become log1p of `depth`, the depth being that of the cell over ALL columns of the representation.
        n_missing: how many columns are -1.
        depth: sum to which a cell's counts are brought.
        factor: log1p values of one depth are brought to another: by this the values are multiplied while the logarithm is undone.
    """

    representation: str
    columns: tuple[int, ...] | None = None
    normalise: bool = False
    n_missing: int = 0
    depth: float = DEPTH
    factor: float = 1.0

    def __post_init__(self) -> None:
        missing = sum(c < 0 for c in self.columns or ())
        if missing != self.n_missing:
            raise RepresentationError(f"{missing:,} features are missing, not {self.n_missing:,}.")

    def at_depth(self, scale: ScaleDecision, depth: float | None) -> FeatureSource:
        """Return the same, brought to a depth where that is exact: counts always, log1p values whose own depth is known.

        Args:
            scale: of the representation.
            depth: wanted; None leaves log1p values as they are and brings counts to the usual one.

        Raises:
            ScaleError: the values are not of that depth, and what their own one is, is not known.
        """
        if self.normalise:
            # exactly the usual depth where the other is the same but for rounding
            return self if depth is None or same_depth(depth, DEPTH) else replace(self, depth=depth)
        if depth is None or scale.scale != "log1p":
            return self
        if scale.depth is not None:
            return self if same_depth(scale.depth, depth) else replace(self, factor=depth / scale.depth)
        if scale.excludes(depth):
            raise ScaleError(
                f"The log1p values are not of {depth:,.0f} per cell.",
                f"A cell's genes sum to {scale.cell_sum:,.0f} (median) once the log1p is undone, and what all of its genes summed to "
                "is not known, so the values cannot be brought to that depth.",
                "Say what they were normalised to (--depth), or give counts, or all genes.",
            )
        return self

    def depth_of(self, scale: ScaleDecision) -> float | None:
        """Return the depth of what is read: None for values that are not log1p, or whose depth is not known."""
        if self.normalise:
            return self.depth
        return scale.depth * self.factor if scale.scale == "log1p" and scale.depth else None


def normalise(values: np.ndarray | sp.csr_matrix, depth: float = DEPTH) -> np.ndarray | sp.csr_matrix:
    """Counts (m, g) to log1p of a depth, float32; sparse stays sparse. A cell without counts stays zero."""
    factors = depth_factors(values, depth)
    if isinstance(values, np.ndarray):
        return np.log1p(values.astype(np.float32) * factors[:, None])
    scaled = values.data.astype(np.float32) * np.repeat(factors, np.diff(values.indptr))
    return sp.csr_matrix((np.log1p(scaled), values.indices, values.indptr), shape=values.shape)


def depth_factors(values: np.ndarray | sp.csr_matrix, depth: float = DEPTH) -> np.ndarray:
    """Return what the counts of each cell (m,) are multiplied by to sum to a depth, float32; 1 for a cell without counts."""
    sums = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
    return (depth / np.where(sums > 0, sums, depth)).astype(np.float32)


def rescale(values: np.ndarray | sp.csr_matrix, factor: float) -> np.ndarray | sp.csr_matrix:
    """Bring log1p values (m, g) of one depth to another, `factor` times it, float32; sparse stays sparse.

    Exact: the logarithm is undone, the amounts are multiplied, and the logarithm is taken again. Raw outputs of a model may be slightly
    negative, which has no meaning as an amount; they are brought along as far as a logarithm exists.

    Raises:
        ScaleError: values so negative that none exists.
    """
    stored = values if isinstance(values, np.ndarray) else values.data
    amounts = np.expm1(stored, dtype=np.float64) * factor
    if amounts.size and amounts.min() <= -1:
        raise ScaleError(
            "Negative values cannot be brought to another depth.",
            f"They go down to {stored.min():.3g}: no amount of a gene is negative.",
            "Compare values of one depth, or leave this layer out.",
        )
    scaled = np.log1p(amounts).astype(np.float32)
    if isinstance(values, np.ndarray):
        return scaled
    return sp.csr_matrix((scaled, values.indices, values.indptr), shape=values.shape)


def as_log1p(values: np.ndarray | sp.csr_matrix, source: FeatureSource) -> np.ndarray | sp.csr_matrix:
    """Return stored rows, with all their columns, on the scale that a source asks for."""
    if source.normalise:
        return normalise(values, source.depth)
    return values if source.factor == 1 else rescale(values, source.factor)


def match_genes(dataset: Dataset, wanted: tuple[str, ...]) -> GeneMatch:
    """Where the wanted genes are in the data set; the column of names that matches most of them is used."""
    return match_names(dataset.genes, wanted)


def read_features(dataset: Dataset, source: FeatureSource, rows: np.ndarray) -> np.ndarray:
    """Return the features of some cells.

    Args:
        dataset: the data.
        source: how they are made.
        rows: (m,) cells, any order, repeats allowed.

    Returns:
        (m, w) float32.

    Raises:
        RepresentationError: values that are used are NaN or infinite. ScaleError: expression is negative.
    """
    values = dataset.read_stored(source.representation, rows)
    check = value_check(dataset, source)
    check.add(np.asarray(rows), values)
    check.require_usable()
    return _features(values, source)


def iter_features(
    dataset: Dataset, source: FeatureSource, rows: np.ndarray | None = None, block: int = 4096, checked: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the same in blocks: pairs (row numbers (b,), features (b, w)); memory of one block.

    Args:
        dataset, source, rows: as for `read_features`; None for all cells in file order.
        block: cells at a time.
        checked: False for whoever looks at the values in another way.

    Raises:
        RepresentationError, ScaleError: as `read_features`, once all cells were looked at; nothing is yielded from the first such block on.
    """
    check = value_check(dataset, source)
    for part, values in dataset.iter_blocks(source.representation, rows, block):
        if checked:
            check.add(part, values)
        if not check.found:
            yield part, _features(values, source)
    check.require_usable()


def value_check(dataset: Dataset, source: FeatureSource) -> ValueCheck:
    """Return the check of the values that a source uses: all of a cell's where its depth is their sum, else those of its columns."""
    return ValueCheck(dataset, source.representation, None if source.normalise else source.columns)


def _features(values: np.ndarray | sp.csr_matrix, source: FeatureSource) -> np.ndarray:
    values = as_log1p(values, source)
    if source.columns is None:
        return dense(values)
    columns = np.asarray(source.columns, dtype=np.int64)
    there = columns >= 0
    picked = dense(values[:, columns[there]])
    if there.all():
        return np.ascontiguousarray(picked)
    out = np.zeros((values.shape[0], len(columns)), dtype=np.float32)
    out[:, there] = picked
    return out


@dataclass(frozen=True)
class HvgChoice:
    """Highly variable genes, and how they were chosen: a sentence for the run's record."""

    names: tuple[str, ...]
    method: str


def hvg_choice(
    dataset: Dataset, n: int, seed: int = 0, cells: np.ndarray | None = None, among: tuple[str, ...] | None = None,
    depth: float | None = None,
) -> HvgChoice:  # fmt: skip
    """Choose the n most variable genes with scanpy (flavor "seurat", on log1p of depth 1e4 when the data are counts).

    Beyond `HVG_CELLS` cells a random sample of that many is used. A gene name that repeats counts once, at its first place.

    Args:
        dataset: the data.
        n: how many.
        seed: of the sample.
        cells: rows to look at, sorted; None for all.
        among: names to choose from; None for all.
        depth: that counts and log1p values are brought to; None for the usual one, and log1p values as they are.

    Raises:
        ScaleError: the scale of the data set is not known, or not of that depth.
        GeneError: fewer than n genes.
        RepresentationError: the data set has no expression, or values that are not finite.
    """
    dataset.scale.require()
    if dataset.expression is None:
        raise RepresentationError(f"{dataset.path.name} has no expression.", "It has no X and no layers.")
    first = different_genes(dataset, among)
    if not 0 < n <= len(first):
        raise GeneError(f"{n:,} genes cannot be chosen.", f"The data set has {len(first):,} different genes.", "Ask for fewer.")
    spread, words = gene_dispersions(dataset, first, seed, cells, depth)
    chosen = np.sort(first[np.argsort(-spread, kind="stable")[:n]])
    return HvgChoice(tuple(dataset.genes.names[i] for i in chosen), f"{n:,} of {len(first):,} genes by {words}")


def different_genes(dataset: Dataset, among: tuple[str, ...] | None = None) -> np.ndarray:
    """Return the columns of genes, ascending: a name that repeats at its first place, and only names of `among` where given."""
    names, first = np.unique(np.array(dataset.genes.names, dtype=object), return_index=True)
    if among is not None:
        first = first[np.isin(names.astype(str), np.array(among, dtype=str))]
    return np.sort(first)


def gene_dispersions(
    dataset: Dataset, columns: np.ndarray, seed: int = 0, cells: np.ndarray | None = None, depth: float | None = None
) -> tuple[np.ndarray, str]:
    """Return how much genes vary for their mean (scanpy's normalised dispersion, -inf where it has none), and how that was found.

    Args:
        dataset: the data; with expression on a known scale.
        columns: of the genes that are compared with each other.
        seed, cells, depth: see `hvg_choice`.
    """
    import anndata
    import scanpy

    start_compiled_threads()
    scale, expression = dataset.scale.require(), dataset.expression
    assert expression is not None
    rows = everywhere = np.arange(dataset.n_cells) if cells is None else cells
    if len(everywhere) > HVG_CELLS:
        rows = np.sort(np.random.default_rng(seed).choice(everywhere, HVG_CELLS, replace=False))
    source = FeatureSource(expression, normalise=scale == "counts").at_depth(dataset.scale, depth)
    check = ValueCheck(dataset, expression)
    blocks = []
    for at, stored in dataset.iter_blocks(expression, rows):
        check.add(at, stored)
        if not check.found:
            blocks.append(sp.csr_matrix(as_log1p(stored, source)))
    check.require_usable()
    values = sp.vstack(blocks, format="csr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on deprecated dtypes inside scanpy and anndata
        table = scanpy.pp.highly_variable_genes(
            anndata.AnnData(values[:, columns]), flavor="seurat", n_top_genes=len(columns), inplace=False
        )
    made = f"log1p of counts at depth {source.depth:,.0f}" if scale == "counts" else "log1p values as they are"
    if source.factor != 1:
        made = f"log1p values brought to depth {depth:,.0f}"
    words = (
        f"scanpy {_version('scanpy')} highly_variable_genes, flavor seurat, "
        f"on {made}, {len(rows):,} of {dataset.n_cells:,} cells (seed {seed})."
    )
    return table["dispersions_norm"].fillna(-np.inf).to_numpy(), words


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
