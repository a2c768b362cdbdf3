"""Embedding a file: what it must not depend on, what the output holds, and what is said when something is odd."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.embedding_record import EMBEDDINGS, embedding_facts
from state_engine.embedding import forward as embed_forward
from state_engine.embedding.embed import EmbedRequest, EmbedSummary, embed
from state_engine.embedding.forward import EmbeddingRunner, Timing, stream
from state_engine.embedding.request import gene_map_of, sentence_maker
from state_engine.errors import DeviceError, GeneError, JobCancelled, RequestError, ScaleError
from state_engine.progress import Progress
from tests.devices import DEVICES
from tests.small import GENES, write_cells
from tests.small_embedding import write_embedding_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "se"
    write_embedding_model(folder)
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "cells.h5ad")


def run(cells: Path, model: Path, output: Path, **changes: object) -> tuple[np.ndarray, EmbedSummary]:
    fields: dict = {"data": str(cells), "model": str(model), "device": "cpu"}
    made = embed(EmbedRequest(**(fields | changes)), output)
    if output.suffix == ".npy":
        return np.load(output), made
    return anndata.read_h5ad(output).obsm[changes.get("key", "X_state")], made


def test_the_copy_holds_everything_and_the_embedding(cells: Path, model: Path, tmp_path: Path) -> None:
    values, made = run(cells, model, tmp_path / "out.h5ad")
    before, after = anndata.read_h5ad(cells), anndata.read_h5ad(tmp_path / "out.h5ad")
    assert (before.X != after.X).nnz == 0 and before.obs.equals(after.obs) and before.var.equals(after.var)
    assert values.shape == (160, 18) and values.dtype == np.float32
    assert np.allclose(np.linalg.norm(values[:, :8], axis=1), 1, atol=1e-5) and values.std(axis=0).min() > 0.01
    assert (made.cells, made.empty, made.width, made.cell_width, made.overlap, made.scale) == (160, 0, 18, 8, 1.0, "counts")
    assert open_dataset(tmp_path / "out.h5ad").representation("obsm/X_state").width == 18


def test_the_file_says_how_it_was_made(cells: Path, model: Path, tmp_path: Path) -> None:
    run(cells, model, tmp_path / "out.h5ad", seed=5)
    card, facts = load_embedding(model).card, embedding_facts(tmp_path / "out.h5ad", "X_state")
    assert facts is not None
    assert (facts.model, facts.vocabulary, facts.model_name) == (card.weights_hash, card.vocabulary_hash, "Tiny SE")
    assert (facts.data_hash, facts.cell_width) == (open_dataset(cells).hash(), 8)
    assert (facts.scale, facts.seed, facts.simulated) == ("counts", 5, False)
    run(tmp_path / "out.h5ad", model, tmp_path / "more.h5ad", key="X_other")
    with h5py.File(tmp_path / "more.h5ad") as file:
        records = json.loads(file[f"uns/{EMBEDDINGS}"][()])
    assert sorted(records) == ["X_other", "X_state"] and records["X_state"]["seed"] == 5
    assert records["X_other"]["genes"].startswith("24 of 24 genes")


def test_in_its_own_place_and_again(cells: Path, model: Path) -> None:
    first, _ = run(cells, model, cells)
    second, _ = run(cells, model, cells)
    assert np.array_equal(first, second)


def test_npy_has_the_same_rows_and_a_record_beside(cells: Path, model: Path, tmp_path: Path) -> None:
    one, _ = run(cells, model, tmp_path / "a.h5ad")
    other, _ = run(cells, model, tmp_path / "a.npy")
    assert np.array_equal(one, other)
    assert json.loads((tmp_path / "a.json").read_text())["key"] == "X_state"


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batch_sizes_do_not_matter(size: int, cells: Path, model: Path, tmp_path: Path) -> None:
    usual, made = run(cells, model, tmp_path / "usual.npy")
    other, _ = run(cells, model, tmp_path / "other.npy", batch_size=size)
    assert made.batch_size > 64
    assert np.abs(usual - other).max() < 1e-5


def test_shards_are_the_whole(cells: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to share the cells out, in blocks of other sizes: sentences are bit-equal, embeddings within 1e-5."""
    usual, _ = run(cells, model, tmp_path / "usual.npy")
    loaded, dataset = load_embedding(model), open_dataset(cells)
    maker = sentence_maker(dataset, loaded.card, gene_map_of(dataset, loaded.card), 0)
    runner = EmbeddingRunner(loaded.module)
    whole = next(iter(stream(dataset, maker, Timing())))
    monkeypatch.setattr(embed_forward, "VALUES_A_BLOCK", 1)  # 64 cells a block, the least
    for shards in ([np.arange(0, 90), np.arange(90, 160)], [np.arange(k, 160, 3) for k in range(3)]):
        got = np.empty_like(usual)
        for shard in shards:
            for part in runner.run(stream(dataset, maker, Timing(), shard)):
                made = part.sentences
                assert np.array_equal(made.rows, whole.rows[made.cells]) and np.array_equal(made.counts, whole.counts[made.cells])
                got[made.cells] = part.embedding
        assert np.abs(got - usual).max() < 1e-5


def test_layouts_of_the_matrix_do_not_matter(cells: Path, model: Path, tmp_path: Path) -> None:
    usual, _ = run(cells, model, tmp_path / "usual.npy")
    data = anndata.read_h5ad(cells)
    for layout in (sp.csc_matrix(data.X), data.X.toarray()):
        anndata.AnnData(layout, obs=data.obs, var=data.var).write_h5ad(tmp_path / "other.h5ad")
        assert np.array_equal(run(tmp_path / "other.h5ad", model, tmp_path / "other.npy")[0], usual)


def test_empty_cells_are_nan_and_said(cells: Path, model: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(cells)
    values = data.X.toarray()
    values[[3, 70, 71, 159]] = 0
    anndata.AnnData(sp.csr_matrix(values), obs=data.obs, var=data.var).write_h5ad(tmp_path / "some.h5ad")
    for name in ("out.h5ad", "out.npy"):
        got, made = run(tmp_path / "some.h5ad", model, tmp_path / name)
        assert (
            np.flatnonzero(np.isnan(got).all(axis=1)).tolist()
            == [3, 70, 71, 159]
            == np.flatnonzero(np.isnan(got).any(axis=1)).tolist()
        )
        assert made.empty == 4
        assert made.remarks[-1].startswith(
            "4 of 160 cells express no gene that the model knows and have no embedding (NaN), such as cell-3"
        )


def test_scale_is_one_decision_and_the_users_word_counts(cells: Path, model: Path, tmp_path: Path) -> None:
    counts, _ = run(cells, model, tmp_path / "a.npy")
    as_log, made = run(cells, model, tmp_path / "b.npy", choices=Choices(scale="log1p"))
    assert made.scale == "log1p" and np.abs(counts - as_log).max() > 0.01
    data = anndata.read_h5ad(cells)
    data.X = sp.csr_matrix(np.log1p(data.X.toarray()))
    data.write_h5ad(tmp_path / "logged.h5ad")
    logged, made = run(tmp_path / "logged.h5ad", model, tmp_path / "c.npy")
    assert made.scale == "log1p" and np.abs(logged - counts).max() < 1e-5
    data.X = data.X.toarray() - 1
    data.write_h5ad(tmp_path / "centred.h5ad")
    with pytest.raises(ScaleError, match="centred or scaled"):
        run(tmp_path / "centred.h5ad", model, tmp_path / "d.npy")
    assert not (tmp_path / "d.npy").exists()


def test_overlap(cells: Path, model: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(cells)
    for matching, warned in ((20, False), (10, True), (3, None)):
        data.var_names = [*GENES[:matching], *(f"X{i}" for i in range(len(GENES) - matching))]
        data.write_h5ad(tmp_path / "other.h5ad")
        if warned is None:
            with pytest.raises(GeneError, match=r"3 of 24 genes of the file .* \(12.5 %"):
                run(tmp_path / "other.h5ad", model, tmp_path / "out.npy")
        else:
            _, made = run(tmp_path / "other.h5ad", model, tmp_path / "out.npy")
            assert any(remark.startswith("Few genes match: 10 of 24") for remark in made.remarks) is warned


def test_cancelling_leaves_nothing(cells: Path, model: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())

    def cancel(progress: Progress) -> None:
        if progress.done:
            raise JobCancelled("Stopped.")

    for name in ("out.h5ad", "out.npy"):
        with pytest.raises(JobCancelled):
            embed(EmbedRequest(str(cells), str(model), device="cpu", batch_size=4), tmp_path / name, cancel)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.h5ad"]
    assert set(threading.enumerate()) <= before


def test_progress_reaches_the_end(cells: Path, model: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    embed(EmbedRequest(str(cells), str(model), device="cpu", batch_size=50), tmp_path / "out.npy", seen.append)
    steps = [(p.done, p.total) for p in seen if p.stage == "Embedding cells"]
    assert steps == [(50, 160), (100, 160), (150, 160), (160, 160)]


class Small:
    """A forward pass that fits only a few cells."""

    def __init__(self, module: torch.nn.Module, room: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.forward, self.room, self.error, self.sizes = module.forward, room, error, list[int]()

    def __call__(self, rows: torch.Tensor, counts: torch.Tensor, **more: object) -> object:
        self.sizes.append(len(rows))
        if len(rows) > self.room:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return self.forward(rows, counts, **more)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_halves_the_pass(error: type[Exception], cells: Path, model: Path, tmp_path: Path) -> None:
    usual, _ = run(cells, model, tmp_path / "usual.npy")
    loaded = load_embedding(model)
    small = Small(loaded.module, 20, error)
    loaded.module.forward = small
    made = embed(EmbedRequest(str(cells), str(model), device="cpu", batch_size=64), tmp_path / "out.npy", loaded=loaded)
    assert small.sizes[0] == 64 and {32, 16} <= set(small.sizes) and made.batch_size == 16
    assert made.remarks == (
        "Out of memory: going on with 32 cells a pass, half as many as before.",
        "Out of memory: going on with 16 cells a pass, half as many as before.",
    )
    assert np.abs(np.load(tmp_path / "out.npy") - usual).max() < 1e-5


def test_no_room_for_one_cell(cells: Path, model: Path, tmp_path: Path) -> None:
    loaded = load_embedding(model)
    loaded.module.forward = Small(loaded.module, 0)
    with pytest.raises(DeviceError, match="One cell does not fit"):
        embed(EmbedRequest(str(cells), str(model), device="cpu"), tmp_path / "out.npy", loaded=loaded)


def test_an_error_while_reading_is_raised_here(cells: Path, model: Path, tmp_path: Path) -> None:
    data = anndata.read_h5ad(cells)
    values = data.X.toarray()
    values[-1, 0] = np.nan
    data.X = values
    data.write_h5ad(tmp_path / "nan.h5ad")
    with pytest.raises(ScaleError):
        run(tmp_path / "nan.h5ad", model, tmp_path / "out.npy", choices=Choices())


@pytest.mark.parametrize(
    ("output", "changes", "words"),
    [
        ("out.csv", {}, "must end in .h5ad or .npy"),
        ("model", {}, "must end in"),
        ("out.npy", {"key": "a/b"}, "no name of an embedding"),
        ("out.npy", {"batch_size": 0}, "--batch-size is 0"),
        ("out.npy", {"seed": -1}, "seed is -1"),
    ],
)
def test_requests_that_make_no_sense(output: str, changes: dict, words: str, cells: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        run(cells, model, tmp_path / output, **changes)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("bf16", 0.97)])
def test_a_device_gives_the_same(device: str, precision: str, least: float, cells: Path, model: Path, tmp_path: Path) -> None:
    usual, _ = run(cells, model, tmp_path / "cpu.npy")
    other, _ = run(cells, model, tmp_path / "device.npy", device=device, precision=precision)
    assert (usual[:, :8] * other[:, :8]).sum(axis=1).min() > least
