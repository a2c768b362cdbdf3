"""Pretraining on variable genes alone: which they are, that the model reads no other, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.checkpoints.embedding_store import read_embedding
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import hvg_choice
from state_engine.errors import GeneError, JobCancelled, RequestError
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.sources import survey, union_of_genes
from state_engine.pretrain.variable import most_variable
from state_engine.progress import Progress, silent
from tests.pretrain.small import make_files, small_request


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_files(tmp_path_factory.mktemp("cells"))


def sources_of(*paths: Path):
    datasets = tuple(open_dataset(path, Choices()) for path in paths)
    return survey(datasets, union_of_genes(datasets), silent)


def names(sources, rows: np.ndarray) -> set[str]:
    genes = union_of_genes(tuple(s.dataset for s in sources))
    return {genes[i] for i in rows}


def test_of_one_data_set_they_are_those_of_scanpy(files: tuple[Path, Path]) -> None:
    sources = sources_of(files[0])
    rows, words = most_variable(sources, 60, 0, silent)
    frequent = {sources[0].dataset.genes.names[i] for i in np.flatnonzero(sources[0].expressing >= 5)}
    expected = hvg_choice(sources[0].dataset, 60, among=tuple(frequent)).names
    assert names(sources, rows) == set(expected) and "60 most variable" in words and (np.diff(rows) > 0).all()


def test_of_two_data_sets_a_gene_must_vary_in_both(files: tuple[Path, Path]) -> None:
    both = sources_of(*files)
    chosen = names(both, most_variable(both, 60, 0, silent)[0])
    alone = [names(one, most_variable(one, 60, 0, silent)[0]) for one in (sources_of(files[0]), sources_of(files[1]))]
    assert alone[0] & alone[1] <= chosen and chosen != alone[0] and chosen != alone[1]


def test_a_model_of_variable_genes_reads_these_alone_and_goes_on_with_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    request = replace(small_request(*files), variable_genes=50)
    card = pretrain_embedding(request, tmp_path / "whole").card
    expected = names(sources_of(*files), most_variable(sources_of(*files), 50, request.running.seed, silent)[0])
    assert set(card.vocabulary) == expected and any("50 most variable of" in note for note in card.notes)

    def stop(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.done == 3:
            raise JobCancelled("Enough.")

    with pytest.raises(JobCancelled):
        pretrain_embedding(request, tmp_path / "cut", stop)
    again = pretrain_embedding(request, tmp_path / "cut", resume=True).card
    assert (again.vocabulary, again.notes, again.weights_hash) == (card.vocabulary, card.notes, card.weights_hash)


def test_given_vectors_are_those_of_the_variable_genes(files: tuple[Path, Path], tmp_path: Path) -> None:
    genes = open_dataset(files[0], Choices()).genes.names
    given = np.random.default_rng(0).standard_normal((len(genes), 7)).astype(np.float32)
    np.save(tmp_path / "v.npy", given)
    (tmp_path / "v.txt").write_text("\n".join(genes))
    request = replace(small_request(*files, steps=1), genes=str(tmp_path / "v.npy"), variable_genes=40)
    card, _, vectors = read_embedding(pretrain_embedding(request, tmp_path / "run") and tmp_path / "run" / "model")
    assert len(card.vocabulary) == 40
    assert np.array_equal(vectors.numpy(), given[[genes.index(name) for name in card.vocabulary]])


def test_more_genes_than_there_are_and_a_model_with_its_own_are_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(GeneError, match="999,999 variable genes cannot be chosen"):
        most_variable(sources_of(files[0]), 999_999, 0, silent)
    with pytest.raises(RequestError, match="The model has its own genes"):
        replace(small_request(*files), variable_genes=5, init_from="model")
