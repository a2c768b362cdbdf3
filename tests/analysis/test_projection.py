"""The projection: the same again, and the right cells."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.analysis import projection as pr
from state_engine.analysis.arrows import arrows
from state_engine.data.dataset import open_dataset
from state_engine.errors import RequestError, RunError
from state_engine.prediction.result import open_result
from state_engine.progress import Progress
from tests.prediction.make_result import make_result, write_result


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_result(tmp_path_factory.mktemp("run") / "result.h5ad", n_genes=60)


@pytest.fixture(scope="module")
def fitted(path: Path) -> pr.Projection:
    return pr.fit(path, path.parent / "projection.npz", seed=3)


def test_the_same_seed_gives_the_same_map_and_it_is_stored(path: Path, fitted: pr.Projection) -> None:
    reports: list[Progress] = []
    again = pr.fit(path, path.parent / "again.npz", seed=3, on_progress=reports.append)
    np.testing.assert_array_equal(again.xy, fitted.xy)
    stored = pr.load(path.parent / "again.npz")
    np.testing.assert_array_equal(stored.xy, fitted.xy)
    np.testing.assert_array_equal(stored.rows, fitted.rows)
    assert stored.settings == fitted.settings and stored.xy.dtype == np.float32 and stored.rows.dtype == np.int32
    assert [r.stage for r in reports][-1] == "Fitting the UMAP" and reports[-1].fraction == 1
    other = pr.fit(path, path.parent / "other.npz", seed=4)
    assert not np.array_equal(other.xy, fitted.xy)


def test_predicted_controls_are_left_out_and_contexts_lie_apart(path: Path, fitted: pr.Projection) -> None:
    obs = open_result(path).obs.iloc[fitted.rows]
    assert set(obs["kind"]) == set(pr.KINDS) and len(obs) == 2 * (30 * 2 + 50 + 30 * 2)
    assert np.isfinite(fitted.xy).all() and fitted.settings.components == 50
    centres = {c: fitted.xy[(obs["context"] == c).to_numpy()] for c in ("B", "T")}
    spread = max(v.std(axis=0).max() for v in centres.values())
    assert np.linalg.norm(centres["B"].mean(0) - centres["T"].mean(0)) > 2 * spread


def test_a_large_result_is_sampled_in_every_stratum_and_says_so(path: Path) -> None:
    result = open_result(path)
    reports: list[Progress] = []
    small = pr.fit(path, path.parent / "small.npz", seed=0, max_cells=80, on_progress=reports.append)
    assert 60 <= len(small.rows) <= 80 + 10 and small.settings.subsampled
    assert "of 340 cells, the same share of each kind, context and perturbation, since" in small.settings.note
    assert "of 340 cells" in reports[0].message
    labels = [keys.KIND, keys.CONTEXT, keys.PERTURBATION]
    shown = result.obs[result.obs["kind"].isin(pr.KINDS)]
    assert len(result.obs.iloc[small.rows][labels].drop_duplicates()) == len(shown[labels].drop_duplicates())
    assert len(arrows(result, small)) >= 0.5 * (result.obs["kind"].iloc[small.rows] == keys.PREDICTED).sum()


def test_cells_of_one_origin_are_neighbours_only_when_there_are_no_others() -> None:
    values = np.array([[0], [0.1], [0.2], [1], [2], [9]], np.float32)  # the first three come from one basal cell
    indices, distances = pr._neighbours(values, np.array([7, 7, 7, 3, 4, 5]), 3)
    assert indices[:, 0].tolist() == list(range(6)) and (distances[:, 0] == 0).all()
    assert indices[0, 1:].tolist() == [3, 4] and indices[2, 1:].tolist() == [3, 4]
    np.testing.assert_allclose(distances[0, 1:], [1, 2], atol=1e-6)
    assert set(pr._neighbours(values[:4], np.array([7, 7, 7, 3]), 3)[0][0].tolist()) >= {0, 3}


def test_predictions_without_effect_lie_among_the_control_cells(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = rng.normal(size=(60, 60))
    names = [f"c{i}" for i in range(60)]
    kinds = [(keys.PREDICTED, f"p{i}", [f"p{i} {n}" for n in names]) for i in range(20)]
    rows = [(name, p, "T", kind, basal) for kind, p, own in kinds for name, basal in zip(own, names, strict=True)]
    rows += [(n, "control", "T", keys.OBSERVED_CONTROL, n) for n in names]
    obs = pd.DataFrame(rows, columns=["name", "perturbation", "context", "kind", "basal_cell"]).set_index("name")
    x = np.vstack([cells + rng.normal(scale=0.01, size=cells.shape) for _ in range(21)])
    path = write_result(tmp_path / "r.h5ad", x, x, obs)
    xy = pr.fit(path, tmp_path / "p.npz").xy
    origin = np.tile(np.arange(60), 21)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1)[:, :30]
    assert (origin[nearest] == origin[:, None]).mean() < 0.5  # 0.67 = each origin an island of its own


def test_an_embedding_is_projected_where_there_are_no_genes(tmp_path: Path) -> None:
    path = make_result(tmp_path / "r.h5ad", embedding="X_state", decoder=False)
    projection = pr.fit(path, tmp_path / "p.npz")
    assert projection.settings.source == "X_state" and projection.settings.components == 0 and len(projection.xy) == 340


def test_too_few_cells_and_damaged_files_are_said(tmp_path: Path) -> None:
    path = make_result(tmp_path / "r.h5ad", n=1, n_control=1, contexts=("B",), observed=False)
    with pytest.raises(RequestError, match="There are 3 cells to show"):
        pr.fit(path, tmp_path / "p.npz")
    assert not (tmp_path / "p.npz").exists()
    (tmp_path / "p.npz").write_text("no")
    with pytest.raises(RunError, match="cannot be read"):
        pr.load(tmp_path / "p.npz")


def test_cells_that_are_not_fitted_are_placed_among_their_like(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 3, 900)
    centres = np.eye(3, 80) * 12
    adata = anndata.AnnData(
        np.ones((900, 2), np.float32), obsm={"X_e": (centres[groups] + rng.normal(size=(900, 80))).astype(np.float32)}
    )
    adata.obsm["X_e"][7] = np.nan
    adata.write_h5ad(tmp_path / "e.h5ad")
    data, reports = open_dataset(tmp_path / "e.h5ad"), list[Progress]()
    made = pr.fit_embedding(data, "X_e", 80, tmp_path / "p.npz", on_progress=reports.append, max_cells=300)
    assert len(made.rows) == 300 and made.settings.n_placed == 599 and "599 others placed" in made.settings.note
    assert "Placing the other cells" in [r.stage for r in reports]
    assert sorted([*made.rows, *made.placed_rows]) == [i for i in range(900) if i != 7]
    middles = np.stack([made.xy[groups[made.rows] == g].mean(0) for g in range(3)])
    nearest = np.linalg.norm(made.placed_xy[:, None] - middles, axis=2).argmin(1)
    assert (nearest == groups[made.placed_rows]).mean() > 0.99
    stored = pr.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(stored.placed_xy, made.placed_xy)
    xy = stored.everywhere(900)
    assert np.isnan(xy[7]).all() and np.isfinite(np.delete(xy, 7, axis=0)).all()
    np.testing.assert_array_equal(xy[stored.rows], stored.xy)
    read = data.read("obsm/X_e", made.rows)
    fitted = pr.place(read.copy(), 0)
    np.testing.assert_array_equal(fitted.xy, made.xy)
    # the axes are those of the fit: the two that part the groups; those of noise are found less exactly by a randomized decomposition
    np.testing.assert_allclose(fitted.reduced(read)[:, :2], fitted.values[:, :2], atol=2e-3)


def test_a_map_without_other_cells_is_stored_and_read_as_before(path: Path, fitted: pr.Projection) -> None:
    with np.load(path.parent / "projection.npz") as stored:
        assert set(stored) == {"xy", "rows", "variance", "settings"}
    assert not len(fitted.placed_rows) and "placed" not in fitted.settings.note
    assert np.isfinite(fitted.everywhere(open_result(path).n_cells)).all(axis=1).sum() == len(fitted.rows)


def test_cells_of_a_large_result_are_placed_too(path: Path) -> None:
    small = pr.fit(path, path.parent / "placed.npz", seed=0, max_cells=80)
    assert len(small.rows) + len(small.placed_rows) == 340 and np.isfinite(small.placed_xy).all()
    whole = small.whole()
    assert len(whole.rows) == 340 and (np.diff(whole.rows) > 0).all() and not len(whole.placed_rows) and whole.whole() is whole
    np.testing.assert_array_equal(whole.xy, small.everywhere(int(whole.rows.max()) + 1)[whole.rows])
    assert set(open_result(path).obs["kind"].iloc[small.placed_rows]) <= set(pr.KINDS)
