"""Two-dimensional maps (PCA, then UMAP): of the cells of a result, and of an embedding. `analysis.arrows` says where cells go on them.

Which cells: predicted (corrected expression, or the predicted embedding), observed control and observed. Predicted control cells
are left out: corrected, they are their basal cells again. Distances on a UMAP are qualitative: arrows show where, not how much.

The neighbour graph is exact (brute force on the principal components) instead of approximate: up to 20,000 cells that is
quicker, as nothing has to be compiled for it, and it has no randomness of its own. Cells that come from the same basal cell (the
cell itself, its prediction under each perturbation, repeated draws) are not each other's neighbours: they are nearly the same
vector, and would else fill each other's neighbourhoods and drift off as islands of one cell.

Of more than `MAX_CELLS` cells a sample is fitted and shown; each other cell is placed afterwards at the weighted mean of the places of its
nearest fitted cells (weights fall with the distance beyond the nearest), block by block, and is not fitted itself.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine import keys
from state_engine.data.dataset import Dataset
from state_engine.device import start_compiled_threads
from state_engine.errors import RequestError, RunError
from state_engine.files import parse_json, replacing
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress, silent

MAX_CELLS: Final = 20_000
MIN_CELLS: Final = 10
COMPONENTS: Final = 50
NEIGHBOURS: Final = 15
MIN_DISTANCE: Final = 0.3
EPOCHS: Final = 200
EMBEDDING_BLOCK: Final = 8192
"""Rows of an embedding that are read at a time."""
PLACED_BLOCK: Final = 2048
"""Cells that are placed at a time: so many rows of all genes are in memory."""
MOST_RELATIVES: Final = 500
"""Cells of the same origin that are looked past when neighbours are searched."""
Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]
KINDS: Final = (keys.PREDICTED, keys.OBSERVED_CONTROL, keys.OBSERVED)


@dataclass(frozen=True)
class Settings:
    """How a projection was fitted; stored with it.

    Args:
        seed: of the subsample, the PCA and the UMAP.
        source: "expression" (corrected, log1p) or the name of the embedding.
        n_available: cells of the kinds that are shown.
        n_shown: cells in the projection.
        subsampled: True when not all are shown; then the same share of each kind, context and perturbation was drawn.
        components: principal components; 0 when the features were used as they are.
        neighbours, min_distance, epochs: UMAP's.
        n_placed: cells that were placed among the fitted ones afterwards.
    """

    seed: int
    source: str
    n_available: int
    n_shown: int
    subsampled: bool
    components: int
    neighbours: int
    min_distance: float = MIN_DISTANCE
    epochs: int = EPOCHS
    n_placed: int = 0

    @property
    def note(self) -> str:
        """Return the line under the figure."""
        cells = (
            f"{self.n_shown:,} of {self.n_available:,} cells, the same share of each kind, context and perturbation, since a map of all takes longer"
            if self.subsampled
            else f"{self.n_shown:,} cells"
        )
        if self.n_placed:
            cells += f", {self.n_placed:,} others placed among their nearest"
        return f"UMAP of {self.components or 'all'} principal components of {self.source}; {cells}; seed {self.seed}"


@dataclass(frozen=True)
class Projection:
    """Where each cell lies.

    Args:
        xy: (n, 2) float32, UMAP units.
        rows: (n,) int32, the cells' rows in the result, ascending.
        variance: (components,) share of the variance in each principal component, 0 to 1.
        settings: how it was fitted.
        placed_xy, placed_rows: (m, 2) and (m,), the same of cells that were not fitted but placed among these, ascending.
    """

    xy: NDArray[np.float32]
    rows: NDArray[np.int32]
    variance: NDArray[np.float32]
    settings: Settings
    placed_xy: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 2), np.float32))
    placed_rows: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))

    def everywhere(self, n: int) -> NDArray[np.float32]:
        """Return the place of each of n cells, (n, 2); NaN where a cell has none."""
        xy = np.full((n, 2), np.nan, np.float32)
        xy[self.rows], xy[self.placed_rows] = self.xy, self.placed_xy
        return xy

    def whole(self) -> Projection:
        """Return all cells that have a place, fitted or placed, in the order of their rows."""
        if not len(self.placed_rows):
            return self
        rows, xy = np.concatenate([self.rows, self.placed_rows]), np.concatenate([self.xy, self.placed_xy])
        order = np.argsort(rows, kind="stable")
        return Projection(xy[order], rows[order], self.variance, self.settings)

    def save(self, path: Path) -> None:
        """Write an .npz; it appears only when complete."""
        settings = json.dumps(asdict(self.settings))
        with replacing(path) as beside, beside.open("wb") as file:
            parts = {"xy": self.xy, "rows": self.rows, "variance": self.variance}
            if len(self.placed_rows):
                parts |= {"placed_xy": self.placed_xy, "placed_rows": self.placed_rows}
            np.savez(file, **parts, settings=settings)  # type: ignore[arg-type]


def load(path: Path) -> Projection:
    """Return a stored projection; light, for pages.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            settings = Settings(**parse_json(str(stored["settings"])))
            more = (stored["placed_xy"], stored["placed_rows"]) if "placed_rows" in stored else ()
            return Projection(stored["xy"], stored["rows"], stored["variance"], settings, *more)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"The projection {path.name} cannot be read.", "It is missing or damaged.", "Fit it again.") from error


def fit(result_path: Path, out: Path, seed: int = 0, on_progress: OnProgress = silent, max_cells: int = MAX_CELLS) -> Projection:
    """Fit the projection of a result and store it at `out` (.npz). Same file and seed, same coordinates.

    Raises:
        RequestError: fewer than 10 cells.
        RunError: the result cannot be read.
    """
    result = open_result(result_path)
    available = np.flatnonzero(result.obs[keys.KIND].isin(KINDS).to_numpy())
    if len(available) < MIN_CELLS:
        raise RequestError(
            f"There are {len(available)} cells to show.", f"A UMAP needs at least {MIN_CELLS}.", "Predict more cells."
        )
    rows = choose_cells(result, available, max_cells, np.random.default_rng(seed))
    remark = "" if len(rows) == len(available) else f"{len(rows):,} of {len(available):,} cells are shown"
    on_progress(Progress("Reading cells for the UMAP", 0, 3, remark))
    features = result.features(rows)
    on_progress(Progress("Fitting the UMAP", 1, 3))
    # the observed cell that each cell comes from: itself where it is observed, or where its basal cell is not known
    basal = basal_rows(result)
    origins = np.where(basal >= 0, basal, np.arange(result.n_cells))
    fitted = place(features, seed, origins[rows])
    others = np.setdiff1d(available, rows)
    xy = _place_others(fitted, result.features, others, on_progress)
    source = result.embedding or "corrected expression (log1p)"
    projection = _projection(fitted, _settings(seed, source, available, rows, fitted), rows, xy, others)
    projection.save(out)
    on_progress(Progress("Fitting the UMAP", 3, 3))
    return projection


def fit_embedding(
    dataset: Dataset,
    key: str,
    cell_width: int,
    out: Path,
    seed: int = 0,
    on_progress: OnProgress = silent,
    max_cells: int = MAX_CELLS,
) -> Projection:
    """Fit a map of embedded cells and store it at `out` (.npz): of the part of an embedding that describes the cell.

    Cells without an embedding are left out; of more than `max_cells` cells a random sample is shown, and the others are placed among them.

    Args:
        dataset: with `obsm/KEY`.
        cell_width: columns that describe the cell; what follows is not looked at.

    Raises:
        RequestError: fewer than 10 cells have an embedding.
        RepresentationError: no such embedding.
    """
    on_progress(Progress("Reading the embedding"))
    name = f"obsm/{key}"
    # (n,), a block at a time: an embedding of all cells need not fit into memory
    known = np.concatenate([np.isfinite(values).all(axis=1) for _, values in dataset.iter_blocks(name, block=EMBEDDING_BLOCK)])
    available = np.flatnonzero(known)
    rows = available
    if len(available) > max_cells:
        rows = np.sort(np.random.default_rng(seed).choice(available, max_cells, replace=False))
    features = dataset.read(name, rows)[:, :cell_width]
    on_progress(Progress("Fitting the UMAP"))
    fitted, others = place(features, seed), np.setdiff1d(available, rows)
    xy = _place_others(fitted, lambda part: dataset.read(name, part)[:, :cell_width], others, on_progress)
    projection = _projection(fitted, _settings(seed, f"the embedding {key}", available, rows, fitted), rows, xy, others)
    projection.save(out)
    return projection


def _projection(fitted: Fitted, settings: Settings, rows: np.ndarray, xy: np.ndarray, others: np.ndarray) -> Projection:
    return Projection(fitted.xy, rows.astype(np.int32), fitted.variance, settings, xy, others.astype(np.int32))


def _settings(seed: int, source: str, available: np.ndarray, rows: np.ndarray, fitted: Fitted) -> Settings:
    """Return what a map records of itself: `rows` are shown of the `available` cells, and the others are placed."""
    return Settings(
        seed=seed,
        source=source,
        n_available=len(available),
        n_shown=len(rows),
        subsampled=len(rows) < len(available),
        components=len(fitted.variance),
        neighbours=fitted.neighbours,
        n_placed=len(available) - len(rows),
    )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted map, and what places other cells on it.

    Args:
        xy: (n, 2) UMAP units.
        variance: (components,) share of the variance in each.
        neighbours: of each cell.
        values: (n, components) the cells as neighbours were searched among them.
        mean, axes: (w,) and (components, w) of the principal components; None where the features are used as they are.
    """

    xy: NDArray[np.float32]
    variance: NDArray[np.float32]
    neighbours: int
    values: NDArray[np.float32]
    mean: NDArray[np.float32] | None = None
    axes: NDArray[np.float32] | None = None

    def reduced(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return other features (m, w) as `values` are."""
        if self.mean is None or self.axes is None:
            return features
        return np.asarray(features @ self.axes.T - self.mean @ self.axes.T, np.float32)


def _place_others(
    fitted: Fitted, read: Callable[[NDArray[np.int64]], NDArray[np.float32]], others: NDArray[np.int64], on_progress: OnProgress
) -> NDArray[np.float32]:
    """Return (m, 2) where cells lie that were not fitted; they are read block by block."""
    from sklearn.neighbors import NearestNeighbors

    xy = np.empty((len(others), 2), np.float32)
    if not len(others):
        return xy
    search = NearestNeighbors(n_neighbors=fitted.neighbours, algorithm="brute").fit(fitted.values)
    for start in range(0, len(others), PLACED_BLOCK):
        on_progress(Progress("Placing the other cells", start, len(others)))
        part = slice(start, start + PLACED_BLOCK)
        distances, nearest = search.kneighbors(fitted.reduced(read(others[part])))
        # as UMAP weighs neighbours: the nearest counts whole, the others by how much farther they are
        beyond = distances - distances[:, :1]
        weights = np.exp(-beyond / np.maximum(beyond.mean(axis=1, keepdims=True), 1e-12))
        xy[part] = (weights[:, :, None] * fitted.xy[nearest]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    return xy


def place(features: NDArray[np.float32], seed: int, origins: NDArray[np.int64] | None = None) -> Fitted:
    """Return the map of any features (n, w); these are centred in their place, since a copy of many genes is large.

    Args:
        features: of the cells.
        seed: of the PCA and the UMAP.
        origins: (n,) which cells come from the same basal cell; None: each is its own.

    Raises:
        RequestError: fewer than 10 cells.
    """
    if len(features) < MIN_CELLS:
        raise RequestError(f"There are {len(features)} cells to show.", f"A UMAP needs at least {MIN_CELLS}.", "Take more cells.")
    components, variance, *back = _principal_components(features, seed)
    n = min(NEIGHBOURS, len(features) - 1)
    own = np.arange(len(features)) if origins is None else origins
    return Fitted(_umap(components, _neighbours(components, own, n), seed), variance, n, components, *back)


def choose_cells(result: Result, rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return at most about `most` of the rows, sorted: the same share of each kind x context x perturbation, at least one cell of each.

    Predicted cells are drawn first; among observed controls their basal cells come before others, so that arrows have both ends.
    """
    if len(rows) <= most:
        return rows
    labels = result.obs.iloc[rows][[keys.KIND, keys.CONTEXT, keys.PERTURBATION]].astype(str)
    strata: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for key, positions in labels.groupby(list(labels)).indices.items():
        strata[cast(tuple[str, ...], key)] = rows[positions]
    share = most / len(rows)
    wanted = basal_rows(result)
    chosen: list[NDArray[np.int64]] = []
    preferred: set[int] = set()
    # predicted strata first (False sorts before True): they decide which basal cells are preferred
    for key in sorted(strata, key=lambda k: (k[0] != keys.PREDICTED, k)):
        members = rng.permutation(strata[key])
        # a stable sort keeps the random order within preferred and other cells
        members = members[np.argsort([int(m) not in preferred for m in members], kind="stable")]
        part = members[: max(1, int(len(members) * share))]
        if key[0] == keys.PREDICTED:
            preferred.update(wanted[part].tolist())
        chosen.append(part)
    return np.sort(np.concatenate(chosen))


def basal_rows(result: Result) -> NDArray[np.int64]:
    """Return (n,) the row of the observed control cell that each predicted cell started from, -1 where there is none."""
    basal = np.full(result.n_cells, -1, np.int64)
    if keys.BASAL_CELL not in result.obs:
        return basal
    control, predicted = result.rows(keys.OBSERVED_CONTROL), result.rows(keys.PREDICTED)
    if keys.BASAL_ROW in result.obs:
        # the cell's row in the data set: names of cells may repeat
        at = pd.Series(control, index=result.obs[keys.BASAL_ROW].to_numpy()[control])
        basal[predicted] = at.reindex(result.obs[keys.BASAL_ROW].to_numpy()[predicted], fill_value=-1).to_numpy()
        return basal
    frame = result.obs[[keys.CONTEXT, keys.BASAL_CELL]].astype(str)
    own = frame[keys.BASAL_CELL].iloc[control].to_numpy()
    # where the basal_cell of a control is empty, its own name stands in
    names = np.where((own == "") | (own == "nan"), np.asarray(result.obs.index)[control].astype(str), own)
    index = pd.MultiIndex.from_arrays([frame[keys.CONTEXT].iloc[control].to_numpy(), names])
    lookup = pd.Series(control, index=index)
    lookup = lookup[~index.duplicated()]
    # float, because a missing partner is NaN until it becomes -1
    found = lookup.reindex(pd.MultiIndex.from_frame(frame.iloc[predicted])).to_numpy(float)
    basal[predicted] = np.where(np.isnan(found), -1, found).astype(np.int64)
    return basal


def _principal_components(features: NDArray[np.float32], seed: int) -> tuple[NDArray[np.float32], ...]:
    """Return (n, components), the share of variance of each, the mean (w,) and the axes (components, w).

    Features of 50 or fewer dimensions are used as they are: then there are neither mean nor axes.
    """
    from sklearn.decomposition import PCA

    if features.shape[1] <= COMPONENTS:
        return features, np.empty(0, np.float32)
    pca = PCA(min(COMPONENTS, len(features) - 1), svd_solver="randomized", random_state=seed, copy=False)
    components = pca.fit_transform(features).astype(np.float32)
    return components, *(np.asarray(v, np.float32) for v in (pca.explained_variance_ratio_, pca.mean_, pca.components_))


def _neighbours(values: NDArray[np.float32], origins: NDArray[np.int64], n: int) -> Neighbours:
    """Return (cells, n) nearest cells of another origin with their distances, each cell itself first; of the same origin only when
    there are no others."""
    from sklearn.neighbors import NearestNeighbors

    relatives = int(np.unique(origins, return_counts=True)[1].max()) - 1
    # so many more are searched that n of another origin remain after relatives are put last
    k = min(n + min(relatives, MOST_RELATIVES), len(values))
    distances, indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(values).kneighbors(values)
    own = np.arange(len(values))[:, None]
    # 0 the cell itself, 1 cells of another origin, 2 relatives; the stable sort keeps nearest first within each
    rank = np.where(indices == own, 0, np.where(origins[indices] == origins[:, None], 2, 1))
    order = np.argsort(rank, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1).astype(np.float32)


def _umap(values: NDArray[np.float32], neighbours: Neighbours, seed: int) -> NDArray[np.float32]:
    """Return the UMAP (n, 2) of the values from their exact neighbours; started from two principal components, which is stable and quick."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ImportWarning)  # no TensorFlow, not needed
        warnings.filterwarnings("ignore", message=".*knn_search_index.*")  # no new cells are added later
        start_compiled_threads()
        import umap

        model = umap.UMAP(
            n_neighbors=neighbours[0].shape[1],
            min_dist=MIN_DISTANCE,
            n_epochs=EPOCHS,
            init="pca",
            random_state=seed,
            n_jobs=1,
            precomputed_knn=neighbours,
        )
        return np.asarray(model.fit_transform(values), np.float32)
