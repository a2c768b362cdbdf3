"""Decoding expression from embeddings: the numbers, the read depth, and whose embedding it is."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.embedding.decode import DecodeRequest, DecodeSummary, decode
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.errors import IncompatibleError, RepresentationError, RequestError
from tests.small import GENES, write_cells
from tests.small_embedding import write_embedding_model

module = import_module("state_engine.embedding.decode")  # the package has a function of that name

WANTED = ("GENE7", "GENE2", "GENE20")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and embedded cells."""
    folder = tmp_path_factory.mktemp("decode")
    write_embedding_model(folder / "se")
    write_cells(folder / "cells.h5ad", n=50)
    embed(EmbedRequest(str(folder / "cells.h5ad"), str(folder / "se"), device="cpu"), folder / "embedded.h5ad")
    return folder


def run(made: Path, output: Path, genes: tuple[str, ...] = WANTED, **changes: object) -> DecodeSummary:
    fields: dict = {"data": str(made / "embedded.h5ad"), "model": str(made / "se"), "genes": genes, "device": "cpu"}
    return decode(DecodeRequest(**(fields | changes)), output)


def plainly(made: Path, depth: np.ndarray) -> np.ndarray:
    loaded = load_embedding(made / "se")
    values = torch.from_numpy(anndata.read_h5ad(made / "embedded.h5ad").obsm["X_state"])
    vectors = loaded.vectors[[GENES.index(name) for name in WANTED]]
    return loaded.module.decode(vectors, values[:, :8], values[:, 8:], torch.from_numpy(depth.astype(np.float32))).numpy()


def test_values_genes_and_cells(made: Path, tmp_path: Path) -> None:
    summary = run(made, tmp_path / "out.h5ad", read_depth=0.8)
    got = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert got.var_names.tolist() == list(WANTED) and summary == DecodeSummary(50, 3, 0, summary.device, ())
    assert got.obs.equals(anndata.read_h5ad(made / "cells.h5ad").obs)
    assert np.abs(got.X - plainly(made, np.full(50, 0.8))).max() < 1e-5 and got.X.std() > 0.01
    assert json.loads(got.uns["state_explorer_decoded"])["request"]["read_depth"] == 0.8


def test_read_depth_from_the_cells_themselves(made: Path, tmp_path: Path) -> None:
    run(made, tmp_path / "out.npy")
    x = np.log1p(anndata.read_h5ad(made / "cells.h5ad").X.toarray())
    depth = np.array([row[row > 0].mean() for row in x])
    assert np.abs(np.load(tmp_path / "out.npy") - plainly(made, depth)).max() < 1e-5


def test_pieces_do_not_matter(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(made, tmp_path / "usual.npy", GENES)
    for room in (1, 200, 27 * 24 * 3):
        monkeypatch.setitem(module.NUMBERS_A_PASS, "cpu", room)
        run(made, tmp_path / "other.npy", GENES)
        assert np.abs(np.load(tmp_path / "other.npy") - np.load(tmp_path / "usual.npy")).max() < 1e-5


def test_cells_without_embedding(made: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(made / "embedded.h5ad")
    data.obsm["X_state"][[4, 9]] = np.nan
    data.write_h5ad(tmp_path / "some.h5ad")
    summary = run(made, tmp_path / "out.npy", data=str(tmp_path / "some.h5ad"))
    got = np.load(tmp_path / "out.npy")
    assert summary.empty == 2 and np.flatnonzero(np.isnan(got).any(axis=1)).tolist() == [4, 9]
    assert summary.remarks[0].startswith("2 cells have no embedding")


def test_whose_embedding_it_is(made: Path, tmp_path: Path) -> None:
    write_embedding_model(tmp_path / "other", seed=3)
    with pytest.raises(IncompatibleError, match=r"made by 'Tiny SE' .*, not by 'Tiny SE'"):
        run(made, tmp_path / "out.npy", model=str(tmp_path / "other"))
    summary = run(made, tmp_path / "out.npy", model=str(tmp_path / "other"), allow_other=True)
    assert "not by 'Tiny SE'" in summary.remarks[0]
    data = anndata.read_h5ad(made / "embedded.h5ad")
    data.uns.clear()
    data.write_h5ad(tmp_path / "unknown.h5ad")
    summary = run(made, tmp_path / "out.npy", data=str(tmp_path / "unknown.h5ad"))
    assert summary.remarks == ("It is not recorded which model made obsm/X_state: 'Tiny SE' was taken at your word.",)


def test_what_cannot_be_decoded(made: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"does not know 2 of these genes: A, B"):
        run(made, tmp_path / "out.npy", ("A", "GENE1", "B"))
    with pytest.raises(RequestError, match="No genes were named"):
        run(made, tmp_path / "out.npy", ())
    with pytest.raises(RepresentationError, match="has no 'obsm/X_other'"):
        run(made, tmp_path / "out.npy", key="X_other")
    data = anndata.read_h5ad(made / "embedded.h5ad")
    data.obsm["X_short"] = data.obsm["X_state"][:, :5]
    data.write_h5ad(tmp_path / "short.h5ad")
    with pytest.raises(RepresentationError, match="is 5 wide"):
        run(made, tmp_path / "out.npy", data=str(tmp_path / "short.h5ad"), key="X_short")
    assert not (tmp_path / "out.npy").exists()
