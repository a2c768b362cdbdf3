"""State Embedding beside stored numbers of the reference: the network, the sentences, the whole way from a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import yaml
from safetensors.torch import save_file

from state_engine.checkpoints.arc.pickles import load_torch
from state_engine.checkpoints.embedding_store import LoadedEmbedding, convert_embedding, load_embedding
from state_engine.data.cell_sentences import SentenceMaker
from state_engine.data.gene_vocabulary import map_genes
from state_engine.data.genes import gene_names
from state_engine.embedding.embed import EmbedRequest, embed
from tests.parity.embedding_variants import SMALL

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "embedding"
TOLERANCE = 1e-4
MAIN = "two_layers"


@pytest.fixture(scope="module")
def cells() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "cells.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model() -> LoadedEmbedding:
    return load_embedding(FIXTURES / MAIN)


def write(path: Path, values: np.ndarray, names: list[str], **columns: list[str]) -> Path:
    var = pd.DataFrame(columns, index=names)
    anndata.AnnData(sp.csr_matrix(values), var=var).write_h5ad(path)
    return path


def expected(name: str) -> np.ndarray:
    with np.load(FIXTURES / name) as file:
        return file["X_state"]


def worst(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max())


def embedded(data: Path, folder: Path, output: Path) -> np.ndarray:
    embed(EmbedRequest(str(data), str(folder), device="cpu"), output)
    return np.load(output)


def as_safetensors(checkpoint: Path, folder: Path) -> Path:
    """The other layout: weights, configuration and gene vectors in files of their own."""
    loaded = load_torch(checkpoint)
    folder.mkdir()
    save_file({name: tensor.clone().contiguous() for name, tensor in loaded["state_dict"].items()}, folder / "model.safetensors")
    (folder / "config.yaml").write_text(loaded["cfg_yaml"])
    torch.save(loaded["protein_embeds_dict"], folder / "protein_embeddings.pt")
    return folder


def genes(values: np.ndarray) -> list[str]:
    return [f"G{i}" for i in range(values.shape[1])]


@pytest.mark.parametrize("layout", ["ckpt", "safetensors", "bare", "ours"])
@pytest.mark.parametrize("name", SMALL)
def test_from_a_file_to_the_numbers_of_the_reference(name, layout, cells, tmp_path):
    folder = FIXTURES / name
    if layout == "safetensors":
        folder = as_safetensors(folder / "se.ckpt", tmp_path / "model")
    elif layout == "bare":
        folder = as_safetensors(folder / "se.ckpt", tmp_path / "model")
        (folder / "model.safetensors").unlink()
        torch.save(load_torch(FIXTURES / name / "se.ckpt")["state_dict"], folder / "weights.pt")
    elif layout == "ours":
        convert_embedding(folder, tmp_path / "model")
        folder = tmp_path / "model"
    data = write(tmp_path / "cells.h5ad", cells["values"], genes(cells["values"]))
    right = expected(f"{name}/expected.npz")
    assert worst(embedded(data, folder, tmp_path / "out.npy"), right) < TOLERANCE
    assert right[:, :-10].std(axis=0).max() > 0.01  # the cells are not all alike


def test_names_in_a_column_and_ensembl_in_the_index(cells, tmp_path):
    """The reference finds the column of gene names; the other column has identifiers of genes that no model knows."""
    values = cells["values"]
    others = [f"ENSG{i:011d}" for i in range(values.shape[1])]
    data = write(tmp_path / "cells.h5ad", values, others, gene_name=genes(values))
    assert worst(embedded(data, FIXTURES / MAIN, tmp_path / "out.npy"), expected(f"{MAIN}/expected.npz")) < TOLERANCE


def test_real_symbols_under_ensembl_identifiers_with_versions(cells, tmp_path):
    """A model whose genes are called as real ones, given the same cells under Ensembl identifiers."""
    from state_engine.data.ensembl import _tables

    values = cells["values"]
    real = [(number, symbol) for number, symbol in _tables()[0].items() if _tables()[1][symbol] == number][: values.shape[1]]
    folder = as_safetensors(FIXTURES / MAIN / "se.ckpt", tmp_path / "model")
    vectors = load_torch(folder / "protein_embeddings.pt")
    named = {real[int(name[1:])][1]: vector.clone() for name, vector in vectors.items()}
    (folder / "protein_embeddings.pt").unlink()  # it is mapped into memory
    torch.save(named, folder / "protein_embeddings.pt")
    data = write(tmp_path / "cells.h5ad", values, [f"ENSG{number:011d}.{i}" for i, (number, _) in enumerate(real)])
    assert worst(embedded(data, folder, tmp_path / "out.npy"), expected(f"{MAIN}/expected.npz")) < TOLERANCE


def test_genes_in_another_order_move_the_embedding_as_they_move_the_reference(cells, tmp_path):
    """CLS carries the amount of gene number 3 in file order: the reference's slip, kept for its weights."""
    order = cells["order"]
    data = write(tmp_path / "cells.h5ad", cells["values"][:, order], [f"G{i}" for i in order])
    moved = embedded(data, FIXTURES / MAIN, tmp_path / "out.npy")
    assert worst(moved, expected("order.npz")) < TOLERANCE
    assert worst(moved, expected(f"{MAIN}/expected.npz")) > 100 * TOLERANCE


def test_the_order_of_genes_matters_through_cls_alone(cells, model):
    order, names = cells["order"], genes(cells["values"])
    made = []
    for columns in (np.arange(len(order)), order):
        map_ = map_genes(gene_names({"": tuple(names[i] for i in columns)}), model.card.vocabulary)
        made.append(SentenceMaker(map_, "log1p", 16).make(cells["values"][:, columns], np.arange(24)))
    assert (made[0].rows == made[1].rows).all() and (made[0].counts[:, 1:] == made[1].counts[:, 1:]).all()
    assert (made[0].counts[:, 0] != made[1].counts[:, 0]).all()


def tokens_to_rows(tokens: np.ndarray, model: LoadedEmbedding) -> np.ndarray:
    """Rows of the vocabulary from the vectors that reached the reference's encoder; position 0 is CLS, the last the data set's."""
    known = torch.nn.functional.normalize(model.vectors, dim=1).numpy()
    rows = (tokens[:, :-1] @ known.T).argmax(axis=2)
    assert np.abs(known[rows[:, 1:]] - tokens[:, 1:-1]).max() < 1e-5
    rows[:, 0] = model.module.cls_row
    return rows


def test_the_same_sentences_give_the_same_embeddings(model):
    """Sparse cells as the reference drew them, with ties and filling."""
    with np.load(FIXTURES / "sentences.npz") as seen:
        rows = tokens_to_rows(seen["tokens"], model)
        out = model.module(torch.from_numpy(rows), torch.from_numpy(seen["counts"]))
        assert worst(out.embedding.numpy(), seen["X_state"]) < 1e-5


def test_sentences_of_sparse_cells_are_those_of_the_reference_but_for_what_it_draws(cells, model):
    """The expressed genes, their order and their counts; the reference's cell without expression is not asked for."""
    map_ = map_genes(gene_names({"": tuple(genes(cells["sparse"]))}), model.card.vocabulary)
    made = SentenceMaker(map_, "log1p", model.card.config.tokens).make(cells["sparse"], np.arange(len(cells["sparse"])))
    with np.load(FIXTURES / "sentences.npz") as seen:
        theirs, counts = tokens_to_rows(seen["tokens"], model), seen["counts"]
    assert made.empty.tolist() == [5]
    assert worst(made.counts, counts[made.cells]) < 1e-4
    for row, cell, n in zip(made.rows, made.cells, made.expressed, strict=True):
        assert row[1 : n + 1].tolist() == theirs[cell, 1 : n + 1].tolist()
        assert not set(row[n + 1 :]) & set(row[: n + 1])
    assert made.expressed.min() < 15


def test_the_expression_decoder_says_what_the_reference_says(model):
    """Input and output as the reference's decoder had them: gene vectors not normalised, cell, read depth, data set."""
    with np.load(FIXTURES / "decoded.npz") as seen:
        pairs, vectors = torch.from_numpy(seen["pairs"]), torch.from_numpy(seen["genes"])
        cell, depth, dataset = pairs[:, 0, 16:32], pairs[:, 0, 32], pairs[:, 0, 33:]
        assert torch.equal(vectors[:60], model.vectors)  # 90 genes of the file, of which the model knows 60
        got = model.module.decode(vectors, cell, dataset, depth)
        assert worst(got.numpy(), seen["expected"]) < TOLERANCE
        assert seen["expected"].std() > 0.1


@pytest.mark.parametrize("change", ["cls count", "gene order", "weights"])
def test_the_comparison_would_notice(change, cells, model):
    map_ = map_genes(gene_names({"": tuple(genes(cells["values"]))}), model.card.vocabulary)
    made = SentenceMaker(map_, "log1p", 16, cls_gene=None if change == "cls count" else 3).make(cells["values"], np.arange(24))
    rows = torch.from_numpy(made.rows)
    if change == "gene order":
        rows[:, 1:] = rows[:, 1:].flip(1)
    wrong = load_embedding(FIXTURES / MAIN).module
    if change == "weights":
        wrong.layers[1].down.weight.data.mul_(0.9)
    out = wrong(rows, torch.from_numpy(made.counts)).embedding.numpy()
    assert worst(out, expected(f"{MAIN}/expected.npz")) > 100 * TOLERANCE


def test_bf16_is_near(cells, tmp_path):
    data = write(tmp_path / "cells.h5ad", cells["values"], genes(cells["values"]))
    request = EmbedRequest(str(data), str(FIXTURES / "four_layers"), device="cpu", precision="bf16")
    embed(request, tmp_path / "out.npy")
    right, got = expected("four_layers/expected.npz"), np.load(tmp_path / "out.npy")
    cosine = (got[:, :16] * right[:, :16]).sum(1)
    assert cosine.min() > 0.99 and worst(got, right) > 0  # eight bits of mantissa, four layers


def test_configuration_beside_or_in_the_hyper_parameters(tmp_path):
    """Where a checkpoint has no text of its configuration, its hyper-parameters or the file beside it have it."""
    loaded = load_torch(FIXTURES / MAIN / "se.ckpt")
    one = load_embedding(FIXTURES / MAIN).card
    plain = {name: loaded[name] for name in ("state_dict", "protein_embeds_dict")}
    hyper = {"cfg": yaml.safe_load(loaded["cfg_yaml"])}
    (tmp_path / "hyper").mkdir()
    torch.save({**plain, "hyper_parameters": hyper}, tmp_path / "hyper" / "se.ckpt")
    (tmp_path / "beside").mkdir()
    torch.save(plain, tmp_path / "beside" / "se.ckpt")
    (tmp_path / "beside" / "config.yaml").write_text(loaded["cfg_yaml"])
    for folder in ("hyper", "beside"):
        other = load_embedding(tmp_path / folder).card
        assert dataclasses.replace(other, name=one.name, notes=one.notes, source=one.source) == one
