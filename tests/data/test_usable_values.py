"""NaN, infinity and negative values that no sample saw: refused by name, with counts, before a result exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine import keys
from state_engine.analysis.differential import differential
from state_engine.challenge.scored_cells import read_measured
from state_engine.challenge.spec import load_rules
from state_engine.data import scale
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import FeatureSource, iter_features, read_features
from state_engine.data.variable_genes import add_hvgs
from state_engine.errors import RepresentationError, RequestError, ScaleError
from state_engine.prediction import measured_cells
from state_engine.prediction.compatibility import check_compatibility, require_compatible
from state_engine.prediction.predict import predict
from state_engine.prediction.replay import replay
from state_engine.prediction.request import PredictionRequest, ReplayRequest
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result
from tests.small import write_cells, write_model
from tests.train.test_bad_training_input import split_of, train


@pytest.fixture(autouse=True)
def sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scale is decided on the first 20 cells, as in a file of which the damage lies far from every sample."""
    monkeypatch.setattr(scale, "sample_rows", lambda n_cells, n_genes: np.arange(20))


def spoil(value: float, sparse: bool = False, gene: int = 5) -> Callable[[anndata.AnnData], anndata.AnnData]:
    """Put a value in one gene of three late control cells."""

    def change(cells: anndata.AnnData) -> anndata.AnnData:
        values = cells.X.toarray()
        late = np.flatnonzero(cells.obs["perturbation"] == "control")[-3:]
        values[late, gene] = value
        cells.X = sp.csr_matrix(values) if sparse else values
        return cells

    return change


def spoiled(folder: Path, value: float, sparse: bool = False) -> Path:
    path = write_cells(folder / "cells.h5ad", counts=False)
    cells = spoil(value, sparse)(anndata.read_h5ad(path))
    cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("value", "error"),
    [(np.nan, RepresentationError), (np.inf, RepresentationError), (-3.0, ScaleError), (1e30, RepresentationError)],
)
def test_predict_refuses_with_counts(tmp_path: Path, value: float, error: type[Exception], sparse: bool) -> None:
    write_model(tmp_path / "model")
    data = spoiled(tmp_path, value, sparse)
    names = anndata.read_h5ad(data).obs.query("perturbation == 'control'").index[-3:]
    request = PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1",), cells=200, observed=200, device="cpu")
    for method in ("model", "no change"):
        with pytest.raises(error, match=rf"3 of \d+ cells that were looked at, such as {', '.join(names)}.*1 of 24 genes.*GENE5"):
            predict(replace(request, method=method), tmp_path / "r.h5ad")
        assert not (tmp_path / "r.h5ad").exists()


def test_values_that_are_not_used_are_no_reason_to_refuse(tmp_path: Path) -> None:
    data = open_dataset(spoiled(tmp_path, np.nan))
    rows = np.arange(data.n_cells)
    assert sum(len(part) for part, _ in iter_features(data, FeatureSource("X", (0, -1, 4), n_missing=1), rows)) == 160
    read_features(data, FeatureSource("X"), np.flatnonzero(data.perturbation_labels() != "control"))
    with pytest.raises(RepresentationError, match="3 of 160 cells"):
        list(iter_features(data, FeatureSource("X", (0, 5)), rows, block=8))
    with pytest.raises(RepresentationError, match="3 of 160 cells"):
        read_features(data, FeatureSource("X", (0, 5)), rows)


def test_an_embedding_may_be_negative(tmp_path: Path) -> None:
    data = open_dataset(write_cells(tmp_path / "cells.h5ad", embedding=6))
    assert read_features(data, FeatureSource("obsm/X_state"), np.arange(data.n_cells)).min() < 0


@pytest.mark.parametrize("representation", ["X", "obsm/X_state"])
def test_no_cell_has_values_like_1e30(tmp_path: Path, representation: str) -> None:
    path = write_cells(tmp_path / "cells.h5ad", embedding=6)
    cells = anndata.read_h5ad(path)
    values = cells.X.toarray() if representation == "X" else cells.obsm["X_state"]
    values[-1, 2] = 1e30
    cells.X, cells.obsm["X_state"] = (values, cells.obsm["X_state"]) if representation == "X" else (cells.X, values)
    cells.write_h5ad(path)
    with pytest.raises(RepresentationError, match=r"has values above 1e\+1[28].*1 of 160 cells"):
        read_features(open_dataset(path), FeatureSource(representation, normalise=representation == "X"), np.arange(160))


def test_a_matrix_of_such_values_has_no_scale() -> None:
    decision = scale.decide_scale(np.array([1.0, 2.0, 1e30]), None, 3)
    assert decision.scale is None and "go up to 1e+30" in " ".join(decision.evidence)


def test_replay_refuses(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    cells = anndata.read_h5ad(spoiled(tmp_path, np.nan))
    cells.obsm["X_hvg"] = cells.X.copy()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(RepresentationError, match=r"obsm/X_hvg.*2 of 58 cells"):
        replay(ReplayRequest(str(tmp_path / "cells.h5ad"), str(tmp_path / "model"), device="cpu"), tmp_path / "out.h5ad")
    assert not (tmp_path / "out.h5ad").exists()


@pytest.mark.parametrize(("hvgs", "looked_at"), [(0, "3 of 160"), (8, "1 of 72")])
@pytest.mark.parametrize(("value", "error"), [(np.nan, RepresentationError), (-3.0, ScaleError)])
def test_train_refuses_before_genes_are_chosen(
    tmp_path: Path, value: float, error: type[Exception], hvgs: int, looked_at: str
) -> None:
    split = split_of(tmp_path, spoil(value))
    with pytest.raises(error, match=rf"{looked_at} cells that were looked at.*1 of 24 genes, such as GENE5"):
        train(tmp_path, split, hvgs=hvgs)


def test_differential_expression_of_a_result_that_has_nan(tmp_path: Path) -> None:
    path = make_result(tmp_path / "result.h5ad")
    obs = anndata.read_h5ad(path).obs
    at = int(
        np.flatnonzero((obs[keys.KIND] == keys.PREDICTED) & (obs[keys.PERTURBATION] == "drugA") & (obs[keys.CONTEXT] == "B"))[2]
    )
    with h5py.File(path, "r+") as file:
        file["X"][at, 3] = np.nan
    result = open_result(path)
    with pytest.raises(RequestError, match=rf"not all finite.*1 of 60 cells, in 1 of 40 genes, such as {result.genes[3]}\."):
        differential(result, "drugA", "B")


def test_a_prediction_reads_each_cell_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model")
    data = write_cells(tmp_path / "cells.h5ad")
    read = list[int]()
    before = Dataset.read_stored

    def counted(self: Dataset, representation: str, rows: np.ndarray) -> object:
        read.extend(np.asarray(rows).tolist())
        return before(self, representation, rows)

    monkeypatch.setattr(Dataset, "read_stored", counted)
    request = PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=40, observed=16, device="cpu")
    predict(request, tmp_path / "once.h5ad")
    assert len(read) == len(set(read)) > 60
    monkeypatch.setattr(measured_cells, "HELD_BYTES", 0)
    predict(request, tmp_path / "again.h5ad")
    assert np.array_equal(anndata.read_h5ad(tmp_path / "once.h5ad").X, anndata.read_h5ad(tmp_path / "again.h5ad").X)


def test_variable_genes_are_not_written_from_values_that_are_none(tmp_path: Path) -> None:
    data = open_dataset(spoiled(tmp_path, np.nan))
    with pytest.raises(RepresentationError, match=r"3 of 160 cells that were looked at.*GENE5"):
        add_hvgs(data, 8, tmp_path / "hvg.h5ad")
    assert not (tmp_path / "hvg.h5ad").exists()


def test_measured_cells_of_a_score_are_refused_by_name(tmp_path: Path) -> None:
    data = open_dataset(spoiled(tmp_path, -3.0), Choices(control="control"))
    with pytest.raises(ScaleError, match=r"3 of 160 cells that were looked at.*1 of 24 genes, such as GENE5"):
        read_measured(data, data.genes.names, load_rules("vcc2025"))


def test_cells_that_are_not_held_are_read(tmp_path: Path) -> None:
    card = write_model(tmp_path / "model")
    data = open_dataset(write_cells(tmp_path / "cells.h5ad"))
    plain = measured_cells.measured_cells(data, card, require_compatible(check_compatibility(data, card)))
    held = plain.looked_at(np.array([3, 5, 9]))
    assert held.held is not None and plain.held is None
    for rows in ([5, 9, 9], [4], [3, 159], [0, 1, 2]):
        assert np.array_equal(held.features(np.array(rows)), plain.features(np.array(rows)))
    assert np.array_equal(held.mean(data.control_rows("B")), plain.mean(data.control_rows("B")))
