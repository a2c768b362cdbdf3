"""The small trainer: it learns, repeats itself, keeps held-out cells out, and says what is wrong with a request."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.checkpoints.store import load_model, read_card
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.expression import FeatureSource
from state_engine.data.synthetic import Design, write_simulated
from state_engine.errors import CheckpointError, ConfigError, GeneError, JobCancelled, LabelError, UnknownLabelError
from state_engine.train.cells import held_out_cells, read_training_cells
from state_engine.train.transition import LOSSES_FILE, HeldOut, TrainRequest, train_transition
from state_engine.values import from_plain, to_plain

BLOCK = HeldOut("NK", "IFN-beta")
SMALL = TrainRequest(
    hvgs=60, hold_out=(BLOCK,), steps=4, sets_a_step=2, set_size=8, hidden=16, layers=1, heads=2, device="cpu", data_name="d"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return open_dataset(write_simulated(tmp_path_factory.mktemp("data") / "pbmc.h5ad", Design(n_cells=500)))


def losses_file(model: Path) -> list[list[str]]:
    return list(csv.reader((model / LOSSES_FILE).read_text().splitlines()))


def test_it_saves_a_model_that_says_what_it_is(dataset, tmp_path: Path):
    card = train_transition(dataset, SMALL, tmp_path / "model")
    assert card == read_card(tmp_path / "model")
    assert card.control == card.perturbations[0] == "control" and len(card.perturbations) == 15
    assert len(card.input_genes) == 60 == len(card.output_genes) and set(card.input_genes) <= set(dataset.genes.names)
    assert (card.input_key, card.scale, card.attention, card.set_size) == ("X_hvg", "log1p", "full", 8)
    assert card.contexts == dataset.contexts and card.batches == ("batch 1", "batch 2")
    assert (card.perturbation_key, card.context_key, card.batch_key) == ("perturbation", "cell_type", "batch")
    assert (card.training.data, card.training.steps, card.training.held_out) == ("d", 4, ("NK x IFN-beta",))
    assert {"mae_raw", "mae_corrected", "mae_mean", "mae_none", "NK x IFN-beta: r_paired"} <= set(card.training.scores)
    rows = losses_file(tmp_path / "model")
    assert rows[0] == ["step", "loss"] and [r[0] for r in rows[1:]] == ["1", "2", "3", "4"]
    assert load_model(tmp_path / "model").module.config == card.config


def test_the_seed_decides_the_weights(dataset, tmp_path: Path):
    seeds = [3, 3, 4]
    hashes = [train_transition(dataset, replace(SMALL, seed=s), tmp_path / str(i)).weights_hash for i, s in enumerate(seeds)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_loss_falls(dataset, tmp_path: Path):
    told = []
    request = replace(SMALL, steps=40, learning_rate=2e-2)
    train_transition(dataset, request, tmp_path / "model", told.append)
    losses = [float(loss) for _, loss in losses_file(tmp_path / "model")[1:]]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    steps = [p for p in told if p.stage == "Training"]
    assert [p.done for p in steps] == list(range(1, 41)) and sum(bool(p.message) for p in steps) == 10


def source(dataset: Dataset) -> FeatureSource:
    return FeatureSource("X", (0, 1), normalise=True)


def test_a_held_out_block_is_in_no_training_group(dataset):
    cells = read_training_cells(dataset, source(dataset), (BLOCK,))
    label = cells.perturbations.index("IFN-beta")
    assert not [g for g in cells.groups if g.context == "NK" and g.perturbation == label]
    assert [g for g in cells.groups if g.context == "NK" and g.perturbation == 0]
    (test,) = cells.tests
    assert (test.context, test.perturbation, len(test.cells)) == ("NK", label, len(dataset.rows("IFN-beta", "NK")))
    trained = np.concatenate([g.cells for g in cells.groups])
    assert not set(test.cells) & set(trained) and len(set(trained)) == len(trained) == 500 - len(test.cells)


def test_a_held_out_context_goes_with_its_controls(dataset):
    cells = read_training_cells(dataset, source(dataset), (HeldOut("NK"),))
    assert "NK" not in cells.contexts and len(cells.tests) == 14
    used = np.concatenate([np.concatenate([g.cells, g.controls]) for g in cells.groups])
    assert not set(cells.tests[0].controls) & set(used)


def test_groups_have_one_perturbation_and_context_and_the_controls_of_it(dataset):
    every = FeatureSource("X", None, normalise=True)
    cells = read_training_cells(dataset, every, match_batches=True)
    p, c, b = dataset.perturbation_labels(), dataset.context_labels(), dataset.batch_labels()
    for group in cells.groups:  # all cells are read here, so rows are those of the file
        assert set(p[group.cells]) == {cells.perturbations[group.perturbation]}
        assert set(c[group.cells]) == set(c[group.controls]) == {group.context}
        assert set(p[group.controls]) == {"control"} and set(b[group.cells]) == set(b[group.controls])
    assert len({(g.perturbation, g.context) for g in cells.groups}) == 15 * 5 < len(cells.groups)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (HeldOut("NK cell"), "'NK cell' matches no cell"),
        (HeldOut("NK", "IFNb"), "'NK x IFNb' matches no cell"),
        (HeldOut("NK", "control"), "'NK x control' is the control"),
    ],
)
def test_a_block_that_selects_nothing_is_an_error(dataset, block, message):
    with pytest.raises(UnknownLabelError, match=message):
        held_out_cells(dataset, (BLOCK, block))


def test_a_perturbation_held_out_everywhere_is_an_error(dataset):
    blocks = tuple(HeldOut(c, "TNF") for c in dataset.contexts)
    with pytest.raises(UnknownLabelError, match="No other context teaches the perturbation of B x TNF"):
        read_training_cells(dataset, source(dataset), blocks)


def test_nothing_left_to_train_on_is_an_error(dataset):
    with pytest.raises(LabelError, match="Nothing is left"):
        read_training_cells(dataset, source(dataset), tuple(HeldOut(c) for c in dataset.contexts))


def test_a_context_without_controls_is_left_out_and_said(dataset, tmp_path: Path):
    import anndata

    data = anndata.read_h5ad(dataset.path)
    bare = (data.obs["perturbation"] == "control") & (data.obs["cell_type"] == "B")
    data[~bare].write_h5ad(tmp_path / "bare.h5ad")
    opened = open_dataset(tmp_path / "bare.h5ad")
    cells = read_training_cells(opened, source(opened))
    assert cells.notes == ("Left out, since they have no controls: B.",) and "B" not in cells.contexts


def test_genes_can_be_named_and_must_be_there(dataset, tmp_path: Path):
    named = replace(SMALL, genes=("ISG15", "MX1", "ACTB"))
    card = train_transition(dataset, named, tmp_path / "model")
    assert card.input_genes == ("ISG15", "MX1", "ACTB")
    with pytest.raises(GeneError, match="no gene NOSUCHGENE"):
        train_transition(dataset, replace(named, genes=("ISG15", "NOSUCHGENE")), tmp_path / "other")


def test_counts_that_are_not_normalised_are_said_to_be_counts(dataset, tmp_path: Path):
    raw = open_dataset(dataset.path, Choices(normalise=False))
    assert train_transition(raw, SMALL, tmp_path / "model").scale == "counts"


def test_a_cancelled_training_leaves_nothing(dataset, tmp_path: Path):
    def cancel(progress):
        if progress.done == 2:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        train_transition(dataset, SMALL, tmp_path / "model", cancel)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_written_over(dataset, tmp_path: Path):
    with pytest.raises(CheckpointError, match="is there already"):
        train_transition(dataset, SMALL, tmp_path)


def test_an_embedding_can_be_trained(dataset, tmp_path: Path):
    import anndata

    data = anndata.read_h5ad(dataset.path)
    data.obsm["X_pca"] = np.random.default_rng(0).normal(size=(data.n_obs, 12)).astype(np.float32)
    data.write_h5ad(tmp_path / "e.h5ad")
    card = train_transition(open_dataset(tmp_path / "e.h5ad"), replace(SMALL, embedding="X_pca"), tmp_path / "model")
    assert card.reads_embedding and (card.input_key, card.input_genes, card.scale) == ("X_pca", None, None)
    assert not card.config.final_relu and card.config.output_dim == 12


def test_bf16_trains_in_float32_weights(dataset, tmp_path: Path):
    train_transition(dataset, replace(SMALL, precision="bf16"), tmp_path / "model")
    weights = load_model(tmp_path / "model").module.state_dict()
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}


def test_a_request_survives_json_and_refuses_nonsense():
    assert from_plain(TrainRequest, to_plain(SMALL)) == SMALL
    with pytest.raises(ConfigError, match="unknown fields: epochs"):
        from_plain(TrainRequest, {"epochs": 3})
    with pytest.raises(ConfigError, match="steps must be positive"):
        TrainRequest(steps=0)
    with pytest.raises(ConfigError, match="cannot be shared by 3 heads"):
        TrainRequest(hidden=128, heads=3)
