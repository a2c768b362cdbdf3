"""The same cells stored in several ways: every reader gives the numbers of the tidy file.

A sparse matrix may hold entries twice (their sum counts), out of order, or as zeros, by cell or by gene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from state_engine.analysis.differential import differential
from state_engine.attention.cell_set import AttentionRequest, attention_of_set
from state_engine.challenge.contents import make_plan
from state_engine.challenge.scored_cells import read_measured
from state_engine.challenge.source import SubmissionSource
from state_engine.challenge.spec import load_challenge
from state_engine.config import Settings
from state_engine.data.cell_values import gene_values
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import FeatureSource, hvg_choice
from state_engine.data.files.safety import check_file
from state_engine.data.scale import scale_of_file
from state_engine.data.splits.leaks import _signatures
from state_engine.data.variable_genes import add_hvgs
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.evaluation.files import open_files
from state_engine.evaluation.request import EvaluationRequest, PredictedFile
from state_engine.prediction.measured_means import measure
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.train.cell_features import read_cell_features
from tests.small import GENES, write_cells, write_model
from tests.small_embedding import write_embedding_model

COLUMNS = Choices("perturbation", "control", "cell_type", "")


def untidy(values: np.ndarray, by_gene: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """data, indices, indptr of a matrix whose entries lie in two parts, backwards, with zeros between them."""
    data, indices, starts = list[float](), list[int](), [0]
    for line in values.T if by_gene else values:
        at = np.flatnonzero(line)[::-1]
        zero = np.flatnonzero(line == 0)[:2]
        data += [*(line[at] - 1), *np.ones(len(at)), *np.zeros(len(zero))]
        indices += [*at, *at, *zero]
        starts.append(len(data))
    return np.array(data, np.float32), np.array(indices, np.int32), np.array(starts, np.int64)


def store(path: Path, to: Path, how: str) -> Path:
    """Write a file's cells with X stored in another way; "plain" is tidy CSR."""
    cells = anndata.read_h5ad(path)
    values = cells.X.toarray()
    cells.X = sp.csc_matrix(values) if how.endswith("csc") else sp.csr_matrix(values)
    cells.write_h5ad(to)
    if how.startswith("untidy"):
        with h5py.File(to, "r+") as file:
            for name, part in zip(("data", "indices", "indptr"), untidy(values, how.endswith("csc")), strict=True):
                del file["X"][name]
                file["X"][name] = part
    return to


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    write_model(folder / "model")
    write_embedding_model(folder / "se")
    source = write_cells(folder / "source.h5ad", n=120)
    found = {how: store(source, folder / f"{how}.h5ad", how) for how in ("plain", "csc", "untidy csr", "untidy csc")}
    assert (anndata.read_h5ad(found["untidy csc"]).X.toarray() == anndata.read_h5ad(found["plain"]).X.toarray()).all()
    return found | {"folder": folder}


def prediction(path: Path) -> PredictionRequest:
    model = str(path.parent / "model")
    return PredictionRequest(str(path), model, ("IFNB1",), ("B",), 16, observed=16, choices=COLUMNS, device="cpu")


def predicted(path: Path, folder: Path) -> np.ndarray:
    predict(prediction(path), folder / "r.h5ad")
    return np.asarray(anndata.read_h5ad(folder / "r.h5ad").X)


def compared_groups(path: Path, folder: Path) -> np.ndarray:
    predict(prediction(path), folder / "r.h5ad")
    result = open_result(folder / "r.h5ad")
    table = differential(result, "IFNB1", "B", "observed control", "observed")
    return table.drop(columns="gene").to_numpy()


def averaged(path: Path, folder: Path) -> np.ndarray:
    from state_engine.checkpoints.load import card_of

    means = measure(prediction(path), card_of(path.parent / "model"), folder / "means.npz")
    assert means is not None
    return means.mean("IFNB1", "B")


def mapped(path: Path, folder: Path) -> np.ndarray:
    attention_of_set(AttentionRequest(prediction(path), "IFNB1", "B"), folder / "maps.npz")
    return np.load(folder / "maps.npz")["perturbed"]


def trained_on(path: Path, folder: Path, memory: float = 1e9) -> np.ndarray:
    data = open_dataset(path, COLUMNS)
    source = FeatureSource("X", tuple(range(0, 24, 2)), normalise=True)
    cells = read_cell_features([(data, source, np.arange(data.n_cells))], folder, memory)
    return cells.gather(np.arange(data.n_cells))


def evaluated(path: Path, folder: Path) -> np.ndarray:
    asked = EvaluationRequest((PredictedFile(str(path)),), str(path.parent / "plain.h5ad"), COLUMNS)
    side = next(iter(open_files(asked).predicted.values()))[0]
    return np.concatenate([values for _, values in side.blocks(side.rows("IFNB1", "B"))])


def packed(path: Path, folder: Path) -> np.ndarray:
    spec = load_challenge("vcc2026")
    plan = make_plan(SubmissionSource(path, "perturbation", "cell_type"), replace(spec, genes=GENES))
    return np.vstack([block.toarray() for block, _ in plan.blocks(folder)])


def scored(path: Path, folder: Path) -> np.ndarray:
    cells, _ = read_measured(open_dataset(path, COLUMNS), GENES, load_challenge("vcc2025").rules)
    return np.asarray(cells.X.toarray())


def variable(path: Path, folder: Path) -> np.ndarray:
    add_hvgs(open_dataset(path, COLUMNS), 8, folder / "hvg.h5ad")
    return np.asarray(anndata.read_h5ad(folder / "hvg.h5ad").obsm["X_hvg"])


def shown(path: Path, folder: Path) -> np.ndarray:
    return gene_values(path, COLUMNS, Settings(home=folder), 3, np.arange(120))


def embedded(path: Path, folder: Path) -> np.ndarray:
    embed(EmbedRequest(str(path), str(path.parent / "se"), COLUMNS, device="cpu"), folder / "e.npy")
    return np.load(folder / "e.npy")


def compared_cells(path: Path, folder: Path) -> np.ndarray:
    return np.array([len(set(_signatures(open_dataset(path), np.arange(120), list(GENES))))])


READERS: dict[str, Callable[[Path, Path], np.ndarray]] = {
    "prediction": predicted,
    "differential expression": compared_groups,
    "measured means": averaged,
    "attention maps": mapped,
    "training": trained_on,
    "training, sparse": lambda path, folder: trained_on(path, folder, 20_000),
    "training, in files": lambda path, folder: trained_on(path, folder, 2_000),
    "evaluation": evaluated,
    "submission": packed,
    "score": scored,
    "variable genes": variable,
    "values on a page": shown,
    "embedding": embedded,
    "leaks": compared_cells,
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_gives_the_numbers_of_the_tidy_file(files: dict[str, Path], reader: str, tmp_path: Path) -> None:
    right = READERS[reader](files["plain"], tmp_path)
    assert right.size
    for how in ("csc", "untidy csr", "untidy csc"):
        folder = tmp_path / how
        folder.mkdir()
        np.testing.assert_allclose(READERS[reader](files[how], folder), right, rtol=0, atol=1e-6, err_msg=how)


@pytest.mark.parametrize("whole", [10, 4_000_000])
def test_the_scale_is_decided_from_sums(files: dict[str, Path], whole: int) -> None:
    for how in ("plain", "csc", "untidy csr", "untidy csc"):
        found = scale_of_file(check_file(files[how]), "X", False, None, whole=whole * 20)
        assert found.scale == "counts" and not any("presence" in e for e in found.evidence), how
    assert hvg_choice(open_dataset(files["untidy csr"]), 8).names == hvg_choice(open_dataset(files["plain"]), 8).names


def test_molecules_of_a_large_matrix_by_gene_are_counts_and_no_presence(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "plain.h5ad")
    values = anndata.read_h5ad(path).X.toarray().astype(int)
    ones = [(cell, gene) for gene in range(values.shape[1]) for cell in range(len(values)) for _ in range(values[cell, gene])]
    with h5py.File(store(path, tmp_path / "ones.h5ad", "csc"), "r+") as file:
        for name in ("data", "indices", "indptr"):
            del file["X"][name]
        file["X/data"] = np.ones(len(ones), np.float32)
        file["X/indices"] = np.array([cell for cell, _ in ones], np.int32)
        file["X/indptr"] = np.concatenate([[0], np.cumsum(values.sum(0))])
    found = scale_of_file(check_file(tmp_path / "ones.h5ad"), "X", False, None, whole=8_000)
    assert found.scale == "counts" and not any("presence" in e for e in found.evidence)
