"""Data sets of a pretraining: genes matched by name, and what cannot be pretrained on, each its own sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from state_engine.checkpoints.arc.perturbation_vectors import TEXT, TORCH
from state_engine.checkpoints.gene_vectors import read_gene_vectors
from state_engine.data.dataset import Choices
from state_engine.data.ensembl import identifiers_of
from state_engine.errors import DataError, EmptyDataError, GeneError, RequestError, ScaleError, StateError, UnreadableFileError
from state_engine.models.embedding_config import EmbeddingConfig
from state_engine.pretrain.co_expression import gene_vectors
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.mini_batches import CellReader, CellStream
from state_engine.pretrain.request import PretrainRequest, Schedule, Task
from state_engine.pretrain.sources import held_back, open_all, survey, union_of_genes, without_rare
from state_engine.progress import silent
from tests.pretrain.small import make_files, small_request

ROOT = Path(__file__).resolve().parents[2]
SYMBOLS = ("TP53", "CD3D", "CD3E", "CD8A", "MS4A1", "NKG7", "GNLY", "LYZ", "CD14", "FCGR3A", "PPBP", "IL7R", "CCR7", "S100A4", "CST3",
           "FCER1A", "CD79A", "GZMB", "PRF1", "IFNG")  # fmt: skip


def write(path: Path, values: np.ndarray, names: tuple[str, ...] | list[str]) -> Path:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(values))])
    anndata.AnnData(sp.csr_matrix(values.astype(np.float32)), obs=obs, var=pd.DataFrame(index=list(names))).write_h5ad(path)
    return path


def counts(seed: int = 0, cells: int = 60, genes: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).poisson(2.0, (cells, genes))


def test_genes_of_files_are_matched_by_name(tmp_path: Path) -> None:
    """One file names symbols, another Ensembl identifiers with versions, in another order and without two genes."""
    one = write(tmp_path / "one.h5ad", counts(), SYMBOLS)
    order = [5, 3, 0, *range(7, 20)]
    names = [f"{identifiers_of([SYMBOLS[i]])[0]}.7" for i in order]
    two = write(tmp_path / "two.h5ad", counts(1)[:, order], names)
    datasets = open_all((str(one), str(two)), Choices())
    vocabulary = union_of_genes(datasets)
    assert vocabulary == SYMBOLS
    sources = survey(datasets, vocabulary, silent)
    assert [vocabulary[r] for r in sources[1].genes.rows] == [SYMBOLS[i] for i in sorted(order)]
    right = np.zeros(20, np.int64)
    right[order] = (counts(1)[:, order] > 0).sum(0)
    assert sources[1].expressing.tolist() == right.tolist()


def test_a_task_has_the_measured_values_of_its_genes(tmp_path: Path) -> None:
    values = counts(3, 40) * (np.random.default_rng(1).random((40, 20)) < 0.5)
    values[7] = 0
    path = write(tmp_path / "one.h5ad", values, SYMBOLS)
    sources = survey(open_all((str(path),), Choices()), SYMBOLS, silent)
    assert 7 not in sources[0].rows and len(sources[0].rows) == 39
    reader = CellReader(sources, EmbeddingConfig(20, 4, 8, 1, 2, 16, 8, 6), Task(4, 3, 5), 0)
    stream = CellStream(reader, [sources[0].rows], 16)
    cells = stream.step(2)
    logged = np.log1p(values)
    known = logged[logged.any(axis=1)]
    percent = -np.sort(-100 * known / known.sum(axis=1, keepdims=True), axis=1)[:, :5]
    for counts_, genes, measured in zip(cells.counts, cells.genes, cells.values, strict=True):
        distance = np.abs(percent - counts_[1:]).max(axis=1)
        lines = known[distance < 1e-3]
        assert len(lines) and any(np.allclose(measured, line[genes]) for line in lines)
        assert (measured[:4] > 0).all() and (measured[4:7] == 0).all()
    assert (cells.genes[:, 7:] == cells.genes[0, 7:]).all() and (cells.rows[:, 0] == 20).all()
    again = CellStream(reader, [sources[0].rows], 16).step(2)
    assert np.array_equal(again.genes, cells.genes) and np.array_equal(again.rows, cells.rows)
    halves = [stream.step(2, share) for share in (slice(0, 8), slice(8, 16))]
    together = np.concatenate([h.values for h in halves])
    assert sorted(map(tuple, together)) == sorted(map(tuple, cells.values))  # devices share a step without loss


def test_vectors_tell_genes_that_vary_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    programs = np.repeat(rng.gamma(1.0, 3.0, (300, 4)), 5, axis=1)  # four programs of five genes
    path = write(tmp_path / "one.h5ad", rng.poisson(programs), SYMBOLS)
    sources = survey(open_all((str(path),), Choices()), SYMBOLS, silent)
    vectors = gene_vectors(sources, [sources[0].rows], 3, 0, silent)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness, same = vectors @ vectors.T, np.equal.outer(np.arange(20) // 5, np.arange(20) // 5)
    assert likeness[same].min() > 0.8 > likeness[~same].max()


def write_vectors(path: Path, values: np.ndarray, header: str = "") -> None:
    """A table of vectors of `SYMBOLS` in the format that the ending names."""
    if path.suffix in TORCH:
        torch.save({name: torch.from_numpy(row) for name, row in zip(SYMBOLS, values, strict=True)}, path)
    elif path.suffix == ".npy":
        np.save(path, values)
        path.with_suffix(".txt").write_text("\n".join(SYMBOLS))
    else:
        between = "\t" if path.suffix == ".tsv" else ","
        lines = [between.join((n, *map(repr, r.tolist()))) for n, r in zip(SYMBOLS, values, strict=True)]
        path.write_text("\n".join([header.replace(",", between), *lines] if header else lines))


def test_vectors_are_read_from_each_kind_of_file(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    told = (ROOT / "docs" / "pretraining.md").read_text()
    for ending in (*TORCH, *TEXT, ".npy"):
        for header in ("", "gene,a,b,c,d,e,f", ",0,1,2,3,4,5") if ending in TEXT else ("",):
            write_vectors(tmp_path / f"v{ending}", values, header)
            found = read_gene_vectors(tmp_path / f"v{ending}")
            assert found.names == SYMBOLS and np.array_equal(found.values, values), (ending, header)
        assert f"`{ending}`" in told
    np.savez(tmp_path / "v.npz", values=values)
    with pytest.raises(UnreadableFileError, match=r"v\.npz is not a file of gene vectors.*\.npy"):
        read_gene_vectors(tmp_path / "v.npz")
    data = write(tmp_path / "one.h5ad", counts(), SYMBOLS)
    request = small_request(data, steps=1)
    made = pretrain_embedding(PretrainRequest((str(data),), genes=str(tmp_path / "v.npy"), sizes=request.sizes, task=request.task,
                                              schedule=request.schedule, running=request.running), tmp_path / "run")  # fmt: skip
    assert made.card.vocabulary == SYMBOLS and made.card.config.token_dim == 6


def bad_file(folder: Path, kind: str) -> tuple[Path, ...]:
    good = write(folder / "good.h5ad", counts(), SYMBOLS)
    values = counts().astype(np.float32)
    names: list[str] = list(SYMBOLS)
    if kind == "NaN":
        values[3, 4] = np.nan
    elif kind == "fractions":
        values = values * 37.3 - 20
    elif kind == "other genes":
        names = [f"FLY{i}" for i in range(20)]
    elif kind == "nothing expressed":
        values[:] = 0
    elif kind == "empty":
        values = values[:0]
    elif kind == "one gene":
        return (write(folder / "bad.h5ad", values[:, :1], names[:1]),)
    bad = write(folder / "bad.h5ad", values, names)
    if kind == "text numbers":
        with h5py.File(bad, "r+") as file:
            attributes = dict(file["X"].attrs)
            del file["X"]
            file.create_dataset("X", data=values.astype("S4")).attrs.update(attributes)
    elif kind in ("no bytes", "cut"):
        bad.write_bytes(bad.read_bytes()[: 0 if kind == "no bytes" else bad.stat().st_size // 2])
    return good, bad


BAD: dict[str, tuple[type[StateError], str]] = {
    "NaN": (ScaleError, "bad.h5ad"),
    "fractions": (ScaleError, "bad.h5ad"),
    "other genes": (GeneError, "bad.h5ad: 0 of 20 genes"),
    "nothing expressed": (DataError, ""),
    "empty": (EmptyDataError, "bad.h5ad has no cells"),
    "one gene": (GeneError, "There is 1 gene to learn from"),
    "text numbers": (DataError, "bad.h5ad: X holds no numbers"),
    "no bytes": (DataError, "bad.h5ad is empty"),
    "cut": (DataError, "bad.h5ad is cut off"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_pretrained_on_is_a_sentence(kind: str, tmp_path: Path) -> None:
    error, words = BAD[kind]
    with pytest.raises(error) as caught:
        pretrain_embedding(small_request(*bad_file(tmp_path, kind)), tmp_path / "run")
    assert words in f"{caught.value.what} {caught.value.why}" and caught.value.fix
    assert not (tmp_path / "run" / "model").exists()


def test_data_sets_without_a_common_gene_are_a_sentence(tmp_path: Path) -> None:
    """Each shares genes with the vectors, and none with the other."""
    write_vectors(tmp_path / "v.csv", np.eye(20, dtype=np.float32))
    halves = [write(tmp_path / f"{i}.h5ad", counts()[:, :10], SYMBOLS[10 * i : 10 * i + 10]) for i in (0, 1)]
    request = replace(small_request(*halves, steps=1), genes=str(tmp_path / "v.csv"))
    with pytest.raises(GeneError, match="No gene is in all of the data sets"):
        pretrain_embedding(request, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_wrong_requests_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(EmptyDataError, match="no data set"):
        open_all((), Choices())
    with pytest.raises(RequestError, match="named twice"):
        PretrainRequest(("a", "a"))
    with pytest.raises(RequestError, match="start from are both named"):
        PretrainRequest(("a",), genes="v", init_from="m")
    with pytest.raises(RequestError, match="cannot share"):
        PretrainRequest(("a",), schedule=Schedule(cells_per_step=9), running=small_request(devices=2, steps=2).running)
    for name, text, said in (
        ("v.txt", "", ""),
        ("v.npy", "x", "names of the genes"),
        ("v.xlsx", "x", "not a file of gene vectors"),
    ):
        (tmp_path / name).write_text(text)
        if said:
            (tmp_path / "v.txt").unlink(missing_ok=True)
            with pytest.raises(UnreadableFileError, match=said):
                read_gene_vectors(tmp_path / name)


def test_matrices_that_are_empty_cut_or_too_large_for_their_type_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("A\n")
    with (tmp_path / "v.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)})
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_gene_vectors(tmp_path / "v.npy")
    (tmp_path / "v.npy").write_bytes(b"")
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_gene_vectors(tmp_path / "v.npy")
    np.save(tmp_path / "v.npy", np.array([[1e300, 1.0]]))
    with pytest.raises(UnreadableFileError, match="not finite"):
        read_gene_vectors(tmp_path / "v.npy")


def test_rare_genes_and_validation_cells_are_left_out(tmp_path: Path) -> None:
    files = make_files(tmp_path, 120)
    datasets = open_all(tuple(map(str, files)), Choices())
    vocabulary = union_of_genes(datasets)
    all_genes = survey(datasets, vocabulary, silent)
    names, sources = without_rare(all_genes, vocabulary)
    total = sum(s.expressing for s in all_genes)
    assert names == tuple(n for n, k in zip(vocabulary, total, strict=True) if k >= 5)
    assert [vocabulary.index(names[r]) for r in sources[1].genes.rows] == [
        r for r in all_genes[1].genes.rows.tolist() if total[r] >= 5
    ]
    train, validation = held_back(sources, 0.2, 0)
    for source, one, other in zip(sources, train, validation, strict=True):
        assert not set(one) & set(other) and len(one) + len(other) == len(source.rows) and len(other) == 24
