"""A prediction in shards has the numbers of a prediction in one piece, interrupted or not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.errors import JobCancelled
from state_engine.prediction import sources
from state_engine.prediction.in_shards import packed, unpacked
from state_engine.prediction.predict import predict
from state_engine.prediction.request import CellCount, PredictionRequest
from state_engine.prediction.sources import PredictedBlock
from state_engine.progress import Progress
from state_engine.shards.ledger import log_lines
from state_engine.shards.run import InShards
from tests.small import embedding_changes, write_cells, write_model


def same(one: Path, other: Path) -> bool:
    """Whether two results agree in every number and label."""
    a, b = anndata.read_h5ad(one), anndata.read_h5ad(other)
    assert list(a.layers) == list(b.layers) and list(a.obsm) == list(b.obsm) and a.obs.equals(b.obs)
    pairs = [(a.X, b.X), *((a.layers[k], b.layers[k]) for k in a.layers), *((a.obsm[k], b.obsm[k]) for k in a.obsm)]
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs) and a.uns["state_explorer"] == b.uns["state_explorer"]


def asked(folder: Path, **changes: object) -> PredictionRequest:
    write_model(folder / "model")
    data = write_cells(folder / "cells.h5ad")
    request = PredictionRequest(
        str(data), str(folder / "model"), ("IFNB1", "TNF", "JUN,FOS"), cells=40, observed=16, device="cpu"
    )
    return replace(request, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"keep_raw": False},
        {"cells_of": (CellCount("TNF", 9),)},
        {"set_size": 5, "cells": 23},
    ],
    ids=["all", "no raw", "fewer cells", "sets that are not full"],
)
def test_shards_change_no_number(tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    request = asked(tmp_path, **changes)
    monkeypatch.setattr(sources, "HELD_BYTES", 2000)  # several parts of a context
    predict(request, tmp_path / "whole.h5ad")
    for size in (1, 8000, 1 << 20):
        shards = InShards(tmp_path / f"shards-{size}", size=size)
        predict(request, tmp_path / "parts.h5ad", shards=shards)
        assert same(tmp_path / "whole.h5ad", tmp_path / "parts.h5ad")
        assert not list(shards.folder.glob("*.shard"))
    assert len({line["done"] for line in log_lines(tmp_path / "shards-1") if "done" in line}) > 6


def test_a_model_of_embeddings_too(tmp_path: Path) -> None:
    changes = embedding_changes()
    write_model(tmp_path / "model", **changes)
    data = write_cells(tmp_path / "cells.h5ad", embedding=changes["input_dim"])
    request = PredictionRequest(str(data), str(tmp_path / "model"), ("IFNB1", "TNF"), cells=20, observed=8, device="cpu")
    predict(request, tmp_path / "whole.h5ad")
    predict(request, tmp_path / "parts.h5ad", shards=InShards(tmp_path / "shards", size=1))
    assert same(tmp_path / "whole.h5ad", tmp_path / "parts.h5ad")


def test_an_interrupted_prediction_goes_on(tmp_path: Path) -> None:
    request = asked(tmp_path)
    shards = InShards(tmp_path / "shards", size=1)
    predict(request, tmp_path / "whole.h5ad")
    seen: list[int] = []

    def stop(progress: Progress) -> None:
        if progress.stage == sources.STAGE:
            seen.append(progress.done)
            if progress.done >= 20:
                raise JobCancelled("Stopped by the test.")

    with pytest.raises(JobCancelled):
        predict(request, tmp_path / "parts.h5ad", stop, shards=shards)
    assert not (tmp_path / "parts.h5ad").exists() and list(shards.folder.glob("*.shard"))
    assert seen == sorted(seen)
    predict(request, tmp_path / "parts.h5ad", shards=shards)
    assert same(tmp_path / "whole.h5ad", tmp_path / "parts.h5ad")
    done = Counter(line["done"] for line in log_lines(shards.folder) if "done" in line)
    assert set(done.values()) == {1} and len(done) == 6


def test_another_request_begins_from_the_start(tmp_path: Path) -> None:
    request = asked(tmp_path)
    shards = InShards(tmp_path / "shards", size=1)

    def stop(progress: Progress) -> None:
        if progress.stage == sources.STAGE and progress.done >= 12:
            raise JobCancelled("Stopped by the test.")

    with pytest.raises(JobCancelled):
        predict(request, tmp_path / "parts.h5ad", stop, shards=shards)
    other = replace(request, seed=7)
    predict(other, tmp_path / "whole.h5ad")
    predict(other, tmp_path / "parts.h5ad", shards=shards)
    assert same(tmp_path / "whole.h5ad", tmp_path / "parts.h5ad")


def test_blocks_come_out_as_they_went_in() -> None:
    rng = np.random.default_rng(0)
    pairs = [(rng.random((n, 3), np.float32), rng.random((n, 3), np.float32)) for n in (2, 4)]
    blocks = [PredictedBlock(7 * i, pair, pair, confidence=i / 3) for i, pair in enumerate(pairs)]
    for block, found in zip(blocks, unpacked(packed(blocks, keep_raw=True)), strict=True):
        assert (block.start, block.cells, block.confidence) == (found.start, found.cells, found.confidence)
        assert found.expression is not None and found.embedding is not None
        assert np.array_equal(block.expression, found.expression) and np.array_equal(block.embedding, found.embedding)
