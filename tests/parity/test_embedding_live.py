"""State Embedding beside the reference itself: models and cells made anew, both layouts, embedded by both programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from state_engine.embedding.embed import EmbedRequest, embed
from tests.parity.embedding_variants import LARGER
from tests.parity.make_embedding_fixtures import embedding_of, make_jobs, run_peer, transform_arguments
from tests.parity.test_embedding_fixtures import TOLERANCE, as_safetensors

pytestmark = [pytest.mark.parity, pytest.mark.slow]
CELLS = 60


@pytest.fixture(scope="module")
def work(peer_python: Path, oracle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cells, and for every variant a model and what the reference made of the cells."""
    folder = tmp_path_factory.mktemp("embedding")
    data = folder / "cells.h5ad"
    arguments = [str(data), "--cells", str(CELLS), "--genes", "900", "--hvg", "10", "--dense-sentences"]
    jobs: list[dict] = [{"kind": "script", "path": str(oracle / "make_cells.py"), "arguments": arguments}]
    for seed, (name, variant) in enumerate(LARGER.items(), 100):
        jobs += make_jobs(variant, oracle, folder / name, seed)
        jobs.append({"kind": "transform", "arguments": transform_arguments(folder / name, data, folder / f"{name}.h5ad")})
    run_peer(peer_python, jobs, folder)
    return folder


@pytest.mark.parametrize("layout", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", LARGER)
def test_embeddings_are_those_of_the_reference(name: str, layout: str, work: Path, tmp_path: Path) -> None:
    folder = work / name if layout == "ckpt" else as_safetensors(work / name / "se.ckpt", tmp_path / "model")
    embed(EmbedRequest(str(work / "cells.h5ad"), str(folder), device="cpu"), tmp_path / "ours.h5ad")
    ours, theirs = embedding_of(tmp_path / "ours.h5ad"), embedding_of(work / f"{name}.h5ad")
    assert ours.shape == theirs.shape == (CELLS, LARGER[name].d_model + 10)
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert theirs.std(axis=0).max() > 0.01
