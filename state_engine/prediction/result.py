"""Read a result file (`result.h5ad` of a run) without loading it: labels, chosen rows, one gene for all cells, means of groups.

Light on purpose (h5py, numpy, pandas): pages use it too. It knows the layout that the predict verb writes (see `open_result`),
keeps no file handle, and holds nothing but the labels. A page has the file read in a child process (`Result.ask`): a run's folder may
have been copied from anywhere, or be damaged.

Notation: n cells (rows), g genes. Expression is log1p of normalised counts unless a docstring says otherwise; "natural" means
before the logarithm, so counts per 10,000 when the data were normalised to that depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.checkpoints.card import Bands
from state_engine.data.files.frames import read_frame, read_names
from state_engine.effects.exposure import Exposure, TrainedOn
from state_engine.errors import GeneError, RequestError, RunError, StateError, listed, may_be, near_each
from state_engine.files import parse_json
from state_engine.plain import distinct, from_plain

Layer = Literal["corrected", "raw", "calibrated"]
LAYERS: Final = ("corrected", "raw", "calibrated")
BLOCK: Final = 2048
"""Rows held in memory at a time when a mean is taken."""
_REQUIRED: Final = (keys.PERTURBATION, keys.CONTEXT, keys.KIND)


@dataclass(frozen=True)
class Result:
    """A result file, described. Values are read when asked for.

    Args:
        path: the .h5ad file.
        obs: labels of the n cells, in file order; text columns are categoricals; the index holds the cells' names.
        genes: the g gene names of X, empty when the model predicts an embedding and has no decoder.
        embedding: name in obsm of the predicted embedding, None when the model predicts expression only.
        embedding_width: its number of dimensions, 0 without one.
        manifest: how it came about; empty when the file has none.
        ask: calls a function that reads the file, in another process; None calls it here.
    """

    path: Path
    obs: pd.DataFrame
    genes: tuple[str, ...]
    embedding: str | None
    embedding_width: int
    manifest: Mapping[str, Any]
    _columns: Mapping[str, int] = field(repr=False, compare=False)
    ask: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @property
    def n_cells(self) -> int:
        return len(self.obs)

    @property
    def n_genes(self) -> int:
        return len(self.genes)

    @property
    def has_expression(self) -> bool:
        """False when the result is an embedding only; gene questions then have no answer."""
        return bool(self.genes)

    @cached_property
    def has_raw(self) -> bool:
        """Whether the raw prediction is there beside the corrected one."""
        return bool(self._asked(has_values, _dataset("raw")))

    @cached_property
    def has_calibrated(self) -> bool:
        """Whether a calibrated prediction of expression is there, for some conditions at least."""
        return bool(self._asked(has_values, _dataset("calibrated")))

    def exposure(self, perturbation: str, context: str) -> Exposure:
        """Return whether agreement with measured cells of a condition is a test of the model; results of before say "not known"."""
        rows = self.manifest.get("exposure")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, list) and row[:2] == [perturbation, context] and row[2:] in (["test"], ["in training"]):
                return "test" if row[2] == "test" else "in training"
        return "not known"

    def bands(self, perturbation: str, context: str) -> Bands | None:
        """Return how often the direction of genes of the default output holds, as left-out conditions said; results of before do not say."""
        facts = self.manifest.get("bands")
        if not isinstance(facts, dict):
            return None
        for row in facts.get("of", []):
            if row[:2] == [perturbation, context]:
                try:
                    return from_plain(Bands, facts["kinds"][row[2]])
                except (StateError, LookupError, TypeError):  # a manifest that somebody wrote
                    return None
        return None

    def trained_on(self) -> dict[tuple[str, str], TrainedOn]:
        """Return what of each condition the model was trained on, where that is known; results of before do not say."""
        rows = self.manifest.get("trained_on")
        found = {}
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, list) and len(row) == 5 and all(isinstance(v, bool) for v in row[2:]):
                found[str(row[0]), str(row[1])] = TrainedOn(*row[2:])
        return found

    def is_calibrated(self, perturbation: str, context: str) -> bool:
        """Whether a calibrated prediction of this condition is there; it is not where no other context has its effect."""
        condition = perturbation, context
        if condition not in self._calibrated:
            rows = self.rows(keys.PREDICTED, context, perturbation)
            there = bool(len(rows)) and self.has_expression and self.has_calibrated
            # a condition is calibrated as a whole or not at all: its first cell tells
            self._calibrated[condition] = there and bool(np.isfinite(self.read(rows[:1], layer="calibrated")).all())
        return self._calibrated[condition]

    @cached_property
    def _calibrated(self) -> dict[tuple[str, str], bool]:
        """Hold the answers of `is_calibrated`: each costs a call of the child process."""
        return {}

    def layers(self, perturbation: str | None = None, context: str | None = None) -> tuple[Layer, ...]:
        """Return the kinds of predicted expression that are there: of one condition, or (None) of any."""
        found: list[Layer] = ["corrected"]
        if self.has_raw:
            found.append("raw")
        if self.has_calibrated and (perturbation is None or context is None or self.is_calibrated(perturbation, context)):
            # what is recommended comes first
            found.insert(0 if self.recommends_calibrated else len(found), "calibrated")
        return tuple(found)

    @property
    def default_layer(self) -> Layer:
        """The kind of predicted expression that is the default output."""
        return "calibrated" if self.recommends_calibrated else "corrected"

    @property
    def recommends_calibrated(self) -> bool:
        """Whether the calibrated prediction is the default output: X, or the embedding itself."""
        facts = self.manifest.get("calibration")
        return isinstance(facts, dict) and bool(facts.get("chosen"))

    def mask(self, kind: str | None = None, context: str | None = None, perturbation: str | None = None) -> NDArray[np.bool_]:
        """Return (n,) True for the cells with all the given labels; None admits every label."""
        chosen = np.ones(self.n_cells, bool)
        for column, label in ((keys.KIND, kind), (keys.CONTEXT, context), (keys.PERTURBATION, perturbation)):
            if label is not None:
                chosen &= np.asarray(self.obs[column] == label)
        return chosen

    def rows(self, kind: str | None = None, context: str | None = None, perturbation: str | None = None) -> NDArray[np.int64]:
        """Return the rows of the cells with all the given labels, in file order."""
        return np.flatnonzero(self.mask(kind, context, perturbation))

    def conditions(self, kind: str = keys.PREDICTED) -> list[tuple[str, str]]:
        """Return the (perturbation, context) pairs that have cells of this kind, in file order."""
        labels = self.obs.loc[self.mask(kind), [keys.PERTURBATION, keys.CONTEXT]].drop_duplicates()
        return [(str(p), str(c)) for p, c in labels.itertuples(index=False)]

    def paired_controls(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each predicted row the predicted control row of the same basal cell in the same context.

        A basal cell that was drawn several times is matched draw by draw, in file order.

        Raises:
            RequestError: the result has no predicted control, or not for all of these basal cells.
        """
        columns = [keys.CONTEXT, keys.BASAL_CELL]
        if keys.BASAL_CELL not in self.obs:
            raise _unpaired(len(rows), len(rows))
        frame = self.obs[columns].astype(str)
        control = self.rows(keys.PREDICTED_CONTROL)
        left, right = frame.iloc[rows].copy(), frame.iloc[control].copy()
        groups = self.obs[keys.PERTURBATION].astype(str).iloc[rows].to_numpy()
        # how often the basal cell came before: of each perturbation here, of the one control below
        left["draw"] = left.assign(group=groups).groupby(["group", *columns]).cumcount()
        right["draw"] = right.groupby(columns).cumcount()
        lookup = pd.Series(control, index=pd.MultiIndex.from_frame(right))
        # float, because a missing partner is NaN
        found = lookup.reindex(pd.MultiIndex.from_frame(left)).to_numpy(float)
        if np.isnan(found).any():
            raise _unpaired(int(np.isnan(found).sum()), len(rows))
        return found.astype(np.int64)

    def column(self, gene: str) -> int:
        """Return the column of a gene.

        Raises:
            GeneError: the result does not have it.
        """
        if gene not in self._columns:
            raise _no_gene(gene, self)
        return self._columns[gene]

    def gene(self, gene: str, layer: Layer = "corrected") -> NDArray[np.float32]:
        """Return the expression (n,) (log1p) of one gene in all cells.

        Raises:
            GeneError: the result does not have it.
            RunError: the file is damaged.
        """
        return np.asarray(self._asked(read_column, _dataset(layer), self.column(gene)), np.float32)

    def read(
        self, rows: NDArray[np.int64], genes: Sequence[str] | None = None, layer: Layer = "corrected"
    ) -> NDArray[np.float32]:
        """Return (len(rows), g or len(genes)) expression (log1p), rows in the given order, repeats allowed.

        Raises:
            GeneError: a gene is not in the result.
            RunError: the file is damaged.
        """
        columns = None if genes is None else np.array([self.column(g) for g in genes], np.int64)
        # whole rows, genes chosen after: h5py is slow at scattered columns
        values = np.asarray(self._asked(read_rows, _dataset(layer), np.asarray(rows, np.int64)), np.float32)
        return values if columns is None else values[:, columns]

    def block(self, rows: NDArray[np.int64], genes: slice, layer: Layer = "corrected") -> NDArray[np.float32]:
        """Return (len(rows), b) expression (log1p) of genes that follow one another: of many cells, a part of the genes fits into memory."""
        start, stop, _ = genes.indices(self.n_genes)
        return np.asarray(self._asked(read_block, _dataset(layer), np.asarray(rows, np.int64), start, stop), np.float32)

    def features(self, rows: NDArray[np.int64], layer: Layer = "corrected") -> NDArray[np.float32]:
        """Return what was predicted: (len(rows), width) of the embedding when the model predicts one, else expression (log1p)."""
        if self.embedding is None:
            return self.read(rows, layer=layer)
        name = f"obsm/{self.embedding}_{layer}"
        return np.asarray(self._asked(read_rows, name, np.asarray(rows, np.int64)), np.float32)

    def mean(self, rows: NDArray[np.int64], layer: Layer = "corrected", natural: bool = False) -> NDArray[np.float64]:
        """Return the pseudobulk (g,): the mean of log1p expression, or of natural values (expm1 of each cell's) when `natural`.

        Raises:
            RequestError: no rows, so there is no mean.
        """
        if not len(rows):
            raise RequestError("There are no cells to average.", "The chosen group is empty.")
        return np.asarray(self._asked(read_mean, _dataset(layer), np.asarray(rows, np.int64), natural), np.float64)

    def _asked(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Return function(path, *arguments), from where the file is read."""
        return function(self.path, *arguments) if self.ask is None else self.ask(function, self.path, *arguments)


def has_values(path: Path, name: str) -> bool:
    """Return whether a matrix is in a result file."""
    with _opened(path) as file:
        return name in file


def read_column(path: Path, name: str, column: int) -> NDArray[np.float32]:
    """Return (n,) one column of a matrix of a result file."""
    with _opened(path) as file:
        return np.asarray(_matrix(file, name)[:, column], np.float32)


def read_rows(path: Path, name: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return rows of a matrix of a result file, in any order, repeats allowed."""
    with _opened(path) as file:
        return _read_rows(_matrix(file, name), rows)


def read_block(path: Path, name: str, rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.float32]:
    """Return rows, in any order, of some columns that follow one another, of a matrix of a result file."""
    with _opened(path) as file:
        return _read_rows(_matrix(file, name), rows, slice(start, stop))


def read_mean(path: Path, name: str, rows: NDArray[np.int64], natural: bool) -> NDArray[np.float64]:
    """Return (g,) the mean of rows of a matrix of a result file; of expm1 of its values when `natural`."""
    total = np.zeros(0)
    with _opened(path) as file:
        # a running float64 sum, as float32 loses digits over many cells; all rows need not fit into memory
        for start in range(0, len(rows), BLOCK):
            values = _read_rows(_matrix(file, name), rows[start : start + BLOCK])
            summed = (np.expm1(values.astype(np.float64)) if natural else values).sum(axis=0, dtype=np.float64)
            total = total + summed if start else summed
    return total / len(rows)


def open_result(path: Path) -> Result:
    """Open a result file.

    Layout: X expression, float32, dense: corrected, or calibrated where that is the default output (layers/corrected is there then);
    layers/raw and layers/calibrated of the same shape, each where it was kept (NaN
    in rows without a calibrated prediction); obs with perturbation, context, kind, basal_cell; obsm/NAME and obsm/NAME_raw when the
    model predicts an embedding; uns/state_explorer the manifest as JSON.

    Raises:
        RunError: the file is missing, truncated, or not such a file.
    """
    path = Path(path)
    with _opened(path) as file:
        for name in ("X", "obs", "var"):
            if name not in file:
                raise _damaged(path, f"It has no '{name}'.")
        if not isinstance(file["X"], h5py.Dataset):
            raise _damaged(path, "Its X is sparse; results hold dense expression.")
        obs = read_frame(file["obs"])
        missing = [name for name in _REQUIRED if name not in obs]
        if missing:
            raise _damaged(path, f"Its obs lacks {listed(missing)}.")
        genes = tuple(distinct(map(str, read_names(file["var"])), "gene"))
        embedding, width = _find_embedding(file)
        manifest = _read_manifest(file, path)
        shape = file["X"].shape
    if shape != (len(obs), len(genes)):
        raise _damaged(path, f"X has shape {shape}, the labels are of {len(obs):,} cells and {len(genes):,} genes.")
    return Result(path, obs, genes, embedding, width, manifest, {name: i for i, name in enumerate(genes)})


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise RunError(
            f"There is no file {path}.",
            "It should be the result of a prediction (result.h5ad of its run, or what predict --output wrote).",
            "Check the path, or run the prediction again.",
        )
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _damaged(path, "It is truncated, still being written, or not HDF5.") from error


def _damaged(path: Path, why: str) -> RunError:
    return RunError(f"{path.name} cannot be read as a result.", why, "Run the prediction again.")


def _unpaired(missing: int, asked: int) -> RequestError:
    return RequestError(
        "There is no paired predicted control.",
        f"{missing:,} of {asked:,} predicted cells have no prediction of their basal cell under the control label.",
        "Compare with the measured control, or predict again (paired).",
    )


def _no_gene(gene: str, result: Result) -> GeneError:
    if not result.has_expression:
        return GeneError(f"There is no expression of '{gene}'.", "The model predicts an embedding and has no gene decoder.")
    has = f"It has {result.n_genes:,} genes, such as {listed(result.genes[:3])}."
    return GeneError(f"'{gene}' is not in the result.", has, may_be(near_each([gene], result.genes)))


def _dataset(layer: Layer) -> str:
    if layer not in LAYERS:
        raise RequestError(f"There is no layer '{layer}'.", f"Known: {', '.join(LAYERS)}.")
    return f"layers/{layer}"


def _matrix(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a layer of a result; the corrected prediction is X (or the embedding itself) where nothing else is the default output."""
    if name in file or not name.endswith("corrected"):
        return file[name]
    return file["X" if name.startswith("layers/") else name.removesuffix("_corrected")]


def _read_rows(data: h5py.Dataset, rows: NDArray[np.int64], columns: slice = slice(None)) -> NDArray[np.float32]:
    """Return rows in any order. Consecutive ones are read together, because HDF5 is slow at single rows."""
    # h5py takes ascending rows without repeats; `back` restores the order that was asked for
    unique, back = np.unique(rows, return_inverse=True)
    values = np.empty((len(unique), len(range(*columns.indices(data.shape[1])))), np.float32)
    for first, last in _ranges(unique):
        start, stop = int(unique[first]), int(unique[last]) + 1
        values[first : last + 1] = data[start:stop, columns][unique[first : last + 1] - start]
    return values if len(unique) == len(rows) and (np.diff(back) > 0).all() else values[back]


def _ranges(rows: NDArray[np.int64], gap: int = 16) -> Iterator[tuple[int, int]]:
    """Yield (first, last) positions of runs of sorted rows; holes up to `gap` rows are read over."""
    if not len(rows):
        return
    # a break lies after position i where the next row is further than `gap`
    breaks = np.flatnonzero(np.diff(rows) > gap)
    yield from zip(np.r_[0, breaks + 1].tolist(), np.r_[breaks, len(rows) - 1].tolist(), strict=True)


def _find_embedding(file: h5py.File) -> tuple[str | None, int]:
    """Return the embedding that has a raw partner; a projection stored beside it has none."""
    group = file.get("obsm", {})
    for name in group:
        if f"{name}_raw" in group:
            return str(name), int(group[name].shape[1])
    return None, 0


def _read_manifest(file: h5py.File, path: Path) -> dict[str, Any]:
    item = file.get(f"uns/{keys.MANIFEST}")
    if item is None:
        return {}
    try:
        plain = parse_json(item.asstr()[()])
    except (ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, "Its manifest is not JSON.") from error
    return plain if isinstance(plain, dict) else {"manifest": plain}
