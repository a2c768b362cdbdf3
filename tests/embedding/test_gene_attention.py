"""What CLS attends to, averaged over groups: against a plain sum over cells, and what is written."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from state_engine.checkpoints.embedding_store import load_embedding
from state_engine.data.dataset import open_dataset
from state_engine.embedding.embed import EmbedRequest
from state_engine.embedding.forward import Timing, stream
from state_engine.embedding.gene_attention import cls_attention
from state_engine.embedding.gene_attention_table import load_cls_attention
from state_engine.embedding.request import gene_map_of, sentence_maker
from state_engine.errors import JobCancelled, LabelError, RequestError
from state_engine.progress import Progress
from tests.small import GENES, write_cells
from tests.small_embedding import write_embedding_model

module = import_module("state_engine.embedding.gene_attention")  # the package has a function of that name


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> EmbedRequest:
    folder = tmp_path_factory.mktemp("cls")
    write_embedding_model(folder / "se", tokens=30)
    return EmbedRequest(str(write_cells(folder / "cells.h5ad", n=60)), str(folder / "se"), device="cpu", batch_size=7)


def test_means_are_those_of_the_cells(request_: EmbedRequest) -> None:
    made = cls_attention(request_, "cell_type")
    assert made.groups.tolist() == ["B", "NK"] and (made.layers, made.heads) == (2, 2)
    assert sorted(made.genes) == sorted(GENES)  # so few that all are kept
    loaded, dataset = load_embedding(Path(request_.model)), open_dataset(request_.data)
    maker = sentence_maker(dataset, loaded.card, gene_map_of(dataset, loaded.card), 0)
    labels = np.array(dataset.columns["cell_type"])
    (block,) = stream(dataset, maker, Timing())
    seen = loaded.module(torch.from_numpy(block.rows), torch.from_numpy(block.counts), attention=True).cls_attention
    for at, group in enumerate(made.groups):
        cells = np.flatnonzero(labels == group)
        assert made.cells[at] == len(cells)
        total = np.zeros(len(GENES))
        filling = 0.0
        for cell in cells:
            for position in range(1, 30):
                weight = float(seen[1][cell, 0, position])
                if position <= block.expressed[cell]:
                    total[block.rows[cell, position]] += weight
                else:
                    filling += weight
        rows = [GENES.index(name) for name in made.genes]
        np.testing.assert_allclose(made.attention[at, 1, 0], total[rows] / len(cells), rtol=1e-4, atol=1e-7)
        assert made.unexpressed[at, 1, 0] == pytest.approx(filling / len(cells), rel=1e-4)
        assert made.cls[at, 1, 0] == pytest.approx(float(seen[1][cells, 0, 0].mean()), rel=1e-4)
    whole = made.attention.sum(axis=3) + made.cls + made.dataset + made.unexpressed
    np.testing.assert_allclose(whole, 1, atol=1e-5)


def test_only_the_first_genes_are_kept(request_: EmbedRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cls_attention(request_, "cell_type")
    monkeypatch.setattr(module, "TOP_A_HEAD", 2)
    monkeypatch.setattr(module, "TOP", 3)
    few = cls_attention(request_, "cell_type")
    assert 3 <= len(few.genes) < len(GENES)
    for group in few.groups:
        assert few.top(group, 1, 1, 2)["gene"].tolist() == whole.top(group, 1, 1, 2)["gene"].tolist()
        assert few.top(group, n=3)["gene"].tolist() == whole.top(group, n=3)["gene"].tolist()


def test_files(request_: EmbedRequest, tmp_path: Path) -> None:
    made = cls_attention(request_, "cell_type", tmp_path / "a.npz")
    again = load_cls_attention(tmp_path / "a.npz")
    assert np.array_equal(made.attention, again.attention) and again.about["group_key"] == "cell_type"
    cls_attention(request_, None, tmp_path / "a.csv")
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.columns.tolist() == ["group", "layer", "head", "rank", "gene", "attention", "cells_with_gene"]
    assert set(table["group"]) == {"all cells"} and len(table) == 20 * (1 + 4)
    first = table[(table["layer"] == "2") & (table["head"] == "1")]
    assert first["attention"].is_monotonic_decreasing and first["rank"].tolist() == list(range(1, 21))


def test_a_group_is_sampled_by_the_seed(request_: EmbedRequest) -> None:
    one, same = (cls_attention(request_, "cell_type", cells_a_group=5, groups=("NK",)) for _ in range(2))
    assert one.cells.tolist() == [5] and np.array_equal(one.attention, same.attention)
    assert not np.allclose(one.attention, cls_attention(request_, "cell_type", groups=("NK",)).attention)


def test_what_cannot_be_averaged(request_: EmbedRequest, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no column 'nothing'"):
        cls_attention(request_, "nothing")
    with pytest.raises(LabelError, match="labelled T"):
        cls_attention(request_, "cell_type", groups=("T",))
    with pytest.raises(RequestError, match=r"must end in \.npz or \.csv"):
        cls_attention(request_, None, tmp_path / "a.txt")


def test_cancelling_leaves_nothing(request_: EmbedRequest, tmp_path: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.done:
            raise JobCancelled("Stopped.")

    with pytest.raises(JobCancelled):
        cls_attention(request_, "cell_type", tmp_path / "a.npz", cancel)
    assert not list(tmp_path.iterdir())
