"""Features as models read them: the same numbers as scanpy, genes at their places."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import scanpy
import scipy.sparse as sp

from state_engine.data import expression
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import (
    FeatureSource,
    hvg_choice,
    iter_features,
    match_genes,
    normalise,
    read_features,
    rescale,
)
from state_engine.data.files.matrices import dense
from state_engine.data.scale import ScaleDecision
from state_engine.errors import GeneError, RepresentationError, ScaleError
from tests.data.good_files import cells, counts, write


def scanpys(x: np.ndarray) -> np.ndarray:
    made = anndata.AnnData(sp.csr_matrix(x))
    scanpy.pp.normalize_total(made, target_sum=1e4)
    scanpy.pp.log1p(made)
    return made.X.toarray()


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
@pytest.mark.parametrize("make", [sp.csr_matrix, np.asarray])
def test_normalise_equals_scanpy(make: type) -> None:
    x = counts(200, 300)
    x[7] = 0
    got = normalise(make(x))
    assert got.dtype == np.float32
    np.testing.assert_allclose(dense(got), scanpys(x), rtol=0, atol=1e-6)
    assert not dense(got)[7].any()


def test_normalise_leaves_its_input_alone() -> None:
    x = sp.csr_matrix(counts())
    before = x.toarray()
    normalise(x)
    np.testing.assert_array_equal(x.toarray(), before)


def test_kang_equals_scanpy(real_data: Path) -> None:
    data = open_dataset(real_data / "kang_ifnb.h5ad")
    truth = scanpys(anndata.read_h5ad(data.path).X.toarray())
    got = read_features(data, FeatureSource("X", None, True, 0), np.arange(data.n_cells))
    np.testing.assert_allclose(got, truth, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_features_are_normalised_over_all_genes_and_missing_ones_are_zero(layout: str, tmp_path: Path) -> None:
    data = open_dataset(write(cells(layout=layout), tmp_path / "x.h5ad"))
    match = match_genes(data, ("TNF", "NOT_A_GENE", "STAT1"))
    source = FeatureSource("X", tuple(match.columns.tolist()), True, 1)
    rows = np.array([5, 2, 2, 50])
    expected = scanpys(counts())[rows][:, [10, 0]]
    got = read_features(data, source, rows)
    assert got.dtype == np.float32
    assert got.shape == (4, 3)
    np.testing.assert_allclose(got[:, [0, 2]], expected, atol=1e-6)
    assert not got[:, 1].any()
    blocks = list(iter_features(data, source, rows, block=3))
    np.testing.assert_array_equal(np.concatenate([v for _, v in blocks]), got)
    np.testing.assert_array_equal(np.concatenate([r for r, _ in blocks]), rows)


def test_embeddings_come_as_they_are(tmp_path: Path) -> None:
    made = cells()
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    got = read_features(data, FeatureSource("obsm/X_state"), np.array([3, 1]))
    np.testing.assert_array_equal(got, made.obsm["X_state"][[3, 1]].astype(np.float32))


def test_a_source_that_miscounts_is_refused() -> None:
    with pytest.raises(RepresentationError, match="1 features are missing, not 0"):
        FeatureSource("X", (0, -1), True, 0)


def kang_hvgs_by_scanpy(data: Dataset, n: int) -> list[str]:
    made = anndata.read_h5ad(data.path)
    scanpy.pp.normalize_total(made, target_sum=1e4)
    scanpy.pp.log1p(made)
    scanpy.pp.highly_variable_genes(made, flavor="seurat", n_top_genes=n)
    return made.var_names[made.var.highly_variable].tolist()


def test_hvgs_are_scanpys_in_file_order(real_data: Path) -> None:
    data = open_dataset(real_data / "kang_ifnb.h5ad")
    chosen = hvg_choice(data, 500).names
    assert list(chosen) == kang_hvgs_by_scanpy(data, 500)
    method = hvg_choice(data, 500).method
    assert "flavor seurat, on log1p of counts at depth 10,000, 1,975 of 1,975 cells" in method


def test_hvgs_of_many_cells_come_from_a_seeded_sample(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expression, "HVG_CELLS", 800)
    data = open_dataset(real_data / "kang_ifnb.h5ad")
    first, again, other = hvg_choice(data, 300), hvg_choice(data, 300), hvg_choice(data, 300, seed=1)
    assert first == again
    assert first.names != other.names
    assert "800 of 1,975 cells (seed 0)" in first.method


def test_hvgs_that_cannot_be_chosen(tmp_path: Path) -> None:
    data = open_dataset(write(cells(), tmp_path / "x.h5ad"))
    assert hvg_choice(data, 12).names == data.genes.names
    for n in (0, 13):
        with pytest.raises(GeneError, match="12 different genes"):
            hvg_choice(data, n)
    made = cells()
    made.X = sp.csr_matrix(made.X.toarray() - 1)
    with pytest.raises(ScaleError):
        hvg_choice(open_dataset(write(made, tmp_path / "scaled.h5ad")), 5)


# ---- depths ----


def at_depth(x: np.ndarray, depth: float) -> np.ndarray:
    return np.log1p(x / x.sum(1, keepdims=True) * depth).astype(np.float32)


@pytest.mark.parametrize("make", [sp.csr_matrix, np.asarray])
@pytest.mark.parametrize(("own", "wanted"), [(1e6, 1e4), (1e4, 1e6), (2_000.0, 1e4)])
def test_log1p_values_of_one_depth_become_those_of_another(make: type, own: float, wanted: float) -> None:
    x = counts(80, 200, 3)
    got = rescale(make(at_depth(x, own)), wanted / own)
    assert got.dtype == np.float32 and sp.issparse(got) == (make is sp.csr_matrix)
    np.testing.assert_allclose(dense(got), at_depth(x, wanted), rtol=3e-6, atol=1e-6)


def test_negative_values_of_a_raw_output_are_brought_along_as_far_as_there_is_a_logarithm() -> None:
    np.testing.assert_allclose(
        rescale(np.array([[-0.1, 1.0]], np.float32), 0.5), np.log1p(np.expm1([[-0.1, 1.0]]) / 2), atol=1e-6
    )
    with pytest.raises(ScaleError, match=r"go down to -0\.1"):
        rescale(np.array([[-0.1, 1.0]], np.float32), 100)


def test_a_source_at_a_depth(tmp_path: Path) -> None:
    x, wanted = counts(60, 12), 1e4
    x[:, 0] += 1
    made = cells()
    made.X = sp.csr_matrix(at_depth(x, 1e6))
    data = open_dataset(write(made, tmp_path / "deep.h5ad"))
    source = FeatureSource("X", tuple(range(5))).at_depth(data.scale, wanted)
    assert source.factor == pytest.approx(0.01) and source.depth_of(data.scale) == pytest.approx(wanted)
    np.testing.assert_allclose(read_features(data, source, np.arange(60)), at_depth(x, wanted)[:, :5], rtol=1e-5, atol=1e-6)
    assert FeatureSource("X").at_depth(data.scale, 1.03e6) == FeatureSource("X")  # the same depth but for rounding
    assert FeatureSource("X").at_depth(data.scale, None) == FeatureSource("X")
    assert FeatureSource("X", normalise=True).at_depth(ScaleDecision("counts", ()), 1e6).depth == 1e6


def test_the_depth_can_be_said_and_what_it_cannot_be_is_refused(tmp_path: Path) -> None:
    made, x = cells(), counts(60, 40, 3)
    made.X = sp.csr_matrix(at_depth(x, 1e6)[:, :12])  # of some genes: the cells share no sum
    path = write(made, tmp_path / "some.h5ad")
    data = open_dataset(path)
    assert data.scale.depth is None and data.scale.excludes(1e4) and not data.scale.excludes(1e6)
    with pytest.raises(ScaleError, match=r"not of 10,000 per cell.*--depth"):
        FeatureSource("X").at_depth(data.scale, 1e4)
    said = open_dataset(path, Choices(depth=1e6))
    assert said.scale.evidence[0] == "You set the depth to 1,000,000 per cell."
    source = FeatureSource("X").at_depth(said.scale, 1e4)
    np.testing.assert_allclose(read_features(said, source, np.arange(60)), at_depth(x, 1e4)[:, :12], rtol=1e-5, atol=1e-6)


def test_a_choice_of_genes_leaves_the_number_of_threads(tmp_path: Path) -> None:
    """Compiled loops that start two threads do not give torch two as well, or a training afterwards would have other last bits."""
    cells = np.random.default_rng(0).poisson(2.0, (40, 30)).astype(np.float32)
    anndata.AnnData(cells).write_h5ad(tmp_path / "cells.h5ad")
    code = (
        "import sys, torch, numba\n"
        "from pathlib import Path\n"
        "from state_engine.data.dataset import open_dataset\n"
        "from state_engine.data.expression import hvg_choice\n"
        "hvg_choice(open_dataset(Path(sys.argv[1])), 10)\n"
        "print(numba.threading_layer(), numba.get_num_threads(), torch.get_num_threads())\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": "omp"}
    command = [sys.executable, "-c", code, str(tmp_path / "cells.h5ad")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["omp", "2", "1"], done.stderr
