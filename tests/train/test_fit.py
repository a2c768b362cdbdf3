"""Training: it learns, repeats itself, goes on where it was stopped, and says what is wrong."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.checkpoints.arc.read import read_arc
from state_engine.checkpoints.load import card_of, load_model
from state_engine.checkpoints.recognise import what_is
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import Choices
from state_engine.data.splits.apply import Split
from state_engine.data.splits.plan import FewShot, SplitPlan
from state_engine.effects.store import load_effects
from state_engine.errors import CheckpointError, ConfigError, GeneError, JobCancelled, RequestError, RunError, StateError
from state_engine.progress import Progress
from state_engine.train.cross_fit import cross_fit
from state_engine.train.curves import LOG, VALIDATION, read_curve
from state_engine.train.fit import train_transition
from state_engine.train.place import AGAIN
from state_engine.train.run_folder import open_training_split, read_record
from tests.train.small import NAME, SMALL, make_data, opened


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def split(path) -> Split:
    return opened(path)


@pytest.fixture(scope="module")
def trained(split, tmp_path_factory) -> Path:
    """A small training whose folder is looked at from several sides."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_transition(split, SMALL.with_settings(checkpoint_every=3, validate_every=2), folder)
    return folder


def test_it_saves_a_model_that_says_what_it_is(split, trained):
    card = read_card(trained / "model")
    assert card.control == card.perturbations[0] == "control" and len(card.perturbations) == 15
    genes = split.sources[0].dataset.genes.names
    assert len(card.input_genes) == 60 == len(card.output_genes) and set(card.input_genes) <= set(genes)
    assert (card.input_key, card.scale, card.attention, card.set_size) == ("X_hvg", "log1p", "full", 8)
    assert (card.log_base, card.depth, read_record(trained).depth) == (math.e, 1e4, 1e4)
    assert card.contexts == ("CD14 monocyte", "CD4 T", "CD8 T", "NK") and card.batches == ("batch 1", "batch 2")
    assert (card.perturbation_key, card.context_key, card.batch_key) == ("perturbation", "cell_type", "batch")
    assert (card.training.data, card.training.steps) == ("d", 4)
    assert [str(held) for held in card.training.held_out] == ["B", "NK x IFN-beta", "NK x TNF"]
    scores = card.training.flat()
    assert {"mae_raw", "mae_corrected", "mae_mean", "mae_none", "NK x IFN-beta: r_paired", "B x TNF: mae_raw"} <= set(scores)
    assert "validation mae_corrected" in scores and not any("NK x TNF" in name for name in scores)
    assert scores["mae_corrected"] == card.training.scores["mae_corrected"]
    assert load_model(trained / "model").module.config == card.config


def test_the_folder_of_the_training_is_a_model_too(trained):
    card = read_card(trained / "model")
    assert read_card(trained) == card == card_of(trained) == load_model(trained).card
    assert what_is(trained).kind == "store"
    effects = load_effects(trained)
    assert ("IFN-beta", "NK") not in zip(effects.perturbations, effects.contexts, strict=True) and "B" not in effects.controls
    theirs, weights, _ = read_arc(trained)  # what arc-state reads
    ours = load_model(trained).module.state_dict()
    assert theirs.input_genes == card.input_genes and theirs.perturbations == card.perturbations
    assert all(weights[name].equal(value) for name, value in ours.items())


def test_the_curves_have_every_step_and_what_was_measured(trained):
    log, validation = read_curve(trained / LOG), read_curve(trained / VALIDATION)
    assert log["step"] == [1, 2, 3, 4] and list(log) == ["step", "loss", "learning_rate", "gradient_norm", "seconds"]
    assert log["seconds"] == sorted(log["seconds"]) and min(log["gradient_norm"]) > 0
    assert log["learning_rate"] == pytest.approx([1e-3 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)], rel=1e-4)
    assert validation["step"] == [2, 4] and {"loss", "mae_raw", "mae_corrected", "mae_none"} < set(validation)


def test_the_folder_says_what_was_done(split, trained):
    record = read_record(trained)
    assert (record.state, record.steps, record.request.optimiser.steps) == ("done", 4, 4)
    assert record.parameters > 1000 and record.features == "memory, dense" and record.seconds > 0 and 0 <= record.waited < 1
    assert list(record.data.values()) == [split.sources[0].dataset.hash()] and record.versions["torch"]
    assert sorted(p.name for p in (trained / "checkpoints").glob("*.ckpt")) == [
        "final.ckpt", "last.ckpt", "step=3.ckpt", "step=4.ckpt",
    ]  # fmt: skip
    again = open_training_split(trained)
    assert (again.sources[0].parts == split.sources[0].parts).all()
    rows = list(csv.DictReader((trained / "split.csv").read_text().splitlines()))
    assert {(r["dataset"], r["context"]) for r in rows} == {(NAME, c) for c in split.sources[0].dataset.contexts}
    assert not list(trained.glob("cache*"))


def test_the_seed_decides_the_weights(split, trained, tmp_path: Path):
    hashes = [train_transition(split, SMALL.with_settings(seed=s), tmp_path / str(s)).weights_hash for s in (42, 4)]
    assert hashes[0] == read_card(trained / "model").weights_hash != hashes[1]


def test_the_loss_falls(split, tmp_path: Path):
    told = []
    train_transition(split, SMALL.with_settings(steps=40, learning_rate=2e-2, validate_every=10), tmp_path / "run", told.append)
    losses = read_curve(tmp_path / "run" / LOG)["loss"]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    curve = read_curve(tmp_path / "run" / VALIDATION)
    assert curve["step"] == [10, 20, 30, 40] and curve["loss"][-1] < curve["loss"][0]
    steps = [p for p in told if p.stage == "Training"]
    assert [p.done for p in steps] == list(range(1, 41)) and sum(bool(p.message) for p in steps) == 10


def stop_at(step: int):
    def on_progress(progress):
        if progress.stage == "Training" and progress.done == step:
            raise JobCancelled("Cancelled.")

    return on_progress


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(split, tmp_path: Path):
    request = SMALL.with_settings(
        dropout=0.1, ema=0.5, gene_dropout=0.1, basal_noise=0.1, warmup=2, checkpoint_every=3, validate_every=2
    )
    whole = train_transition(split, request, tmp_path / "whole")
    run = tmp_path / "run"
    with pytest.raises(JobCancelled):
        train_transition(split, request, run, stop_at(2))
    assert read_record(run).state == "cancelled" and read_curve(run / LOG)["step"] == [1, 2]
    log = run / LOG
    log.write_text(log.read_text() + "3,99,99,99,99\n4,9")  # a process that was killed wrote further than its last checkpoint
    card = train_transition(split, request, run, resume=True)
    assert card.weights_hash == whole.weights_hash
    for name in (LOG, VALIDATION):
        one, other = read_curve(run / name), read_curve(tmp_path / "whole" / name)
        seconds = one.pop("seconds")
        assert seconds == sorted(seconds) and other.pop("seconds")
        assert one == other
    assert read_record(run).state == "done"


def test_going_on_needs_a_beginning_and_the_same_settings(split, trained, tmp_path: Path):
    with pytest.raises(RunError, match="No training was begun"):
        train_transition(split, SMALL, tmp_path / "none", resume=True)
    with pytest.raises(JobCancelled):
        train_transition(split, SMALL, tmp_path / "run", stop_at(1))
    with pytest.raises(ConfigError, match="layers was 1 and is 2"):
        train_transition(split, SMALL.with_settings(layers=2), tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="the learning rate falls to 0"):
        train_transition(split, SMALL.with_settings(steps=9), tmp_path / "run", resume=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        train_transition(split, SMALL, tmp_path / "run", resume=True)


def test_a_training_that_fell_before_its_first_checkpoint_begins_again(split, trained, tmp_path: Path):
    """As one that was killed there: it can neither be begun in its folder nor go on otherwise."""

    def fall(progress: Progress) -> None:
        if progress.stage == "Training" and progress.done == 1:
            raise RuntimeError("the power went")

    folder, said = tmp_path / "run", list[str]()
    with pytest.raises(RuntimeError):
        train_transition(split, SMALL, folder, fall)
    assert read_record(folder).state == "failed" and not list((folder / "checkpoints").glob("*.ckpt"))
    with pytest.raises(ConfigError, match="layers was 1 and is 2"):
        train_transition(split, SMALL.with_settings(layers=2), folder, resume=True)
    card = train_transition(split, SMALL, folder, lambda progress: said.append(progress.message), resume=True)
    assert AGAIN in said and card.weights_hash == read_card(trained / "model").weights_hash
    assert read_curve(folder / LOG)["step"] == read_curve(trained / LOG)["step"] and read_record(folder).state == "done"


def test_a_training_is_not_written_over(split, trained, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"is there already. Go on with it \(resume\)"):
        train_transition(split, SMALL, trained)
    with pytest.raises(CheckpointError, match=r"is there already\. Choose another"):
        train_transition(split, SMALL, trained.parent)


def test_an_empty_folder_is_filled_and_one_training_at_a_time_works_in_it(split, tmp_path: Path):
    """Neither a second one, one that would go on, nor a calibration; the lock of a process that died holds nobody up."""
    folder, said = tmp_path / "run", list[str]()
    folder.mkdir()
    (folder / "lock").touch()

    def meanwhile(progress: Progress) -> None:
        if progress.stage != "Training" or progress.done != 2 or said:
            return
        for work in (
            lambda: train_transition(split, SMALL, folder),
            lambda: train_transition(split, SMALL, folder, resume=True),
            lambda: cross_fit(folder),
        ):
            with pytest.raises(StateError) as caught:
                work()
            said.append(str(caught.value))

    train_transition(split, SMALL.with_settings(steps=3), folder, meanwhile)
    assert "is there already" in said[0] and all("Another process trains in" in words for words in said[1:])
    assert len(said) == 3 and read_record(folder).state == "done" and not (folder / "lock").exists()


def test_a_training_writes_into_nothing_that_it_reads(split, trained, tmp_path: Path):
    before = sorted(trained.rglob("*"))
    for inside in (trained / "more", trained / "model" / "more"):
        with pytest.raises(RequestError, match="written over an input"):
            train_transition(split, SMALL, inside, init_from=trained)
    with pytest.raises(RequestError, match="written over an input"):
        train_transition(split, SMALL, split.sources[0].dataset.path)
    assert sorted(trained.rglob("*")) == before


def test_genes_can_be_named_and_must_be_there(split, tmp_path: Path):
    named = SMALL.with_settings(steps=1, genes=("ISG15", "MX1", "ACTB"))
    card = train_transition(split, named, tmp_path / "run")
    assert card.input_genes == ("ISG15", "MX1", "ACTB")
    with pytest.raises(GeneError, match="no gene NOSUCHGENE"):
        train_transition(split, named.with_settings(genes=("ISG15", "NOSUCHGENE")), tmp_path / "other")
    assert json.loads((tmp_path / "other" / "training.json").read_text())["state"] == "failed"


def test_counts_that_are_not_normalised_are_said_to_be_counts(path, tmp_path: Path):
    raw = opened(path, Choices(normalise=False))
    assert train_transition(raw, SMALL.with_settings(steps=1), tmp_path / "run").scale == "counts"


def test_bf16_trains_in_float32_weights(split, tmp_path: Path):
    train_transition(split, SMALL.with_settings(steps=1, precision="bf16"), tmp_path / "run")
    weights = load_model(tmp_path / "run" / "model").module.state_dict()
    assert {str(w.dtype) for w in weights.values()} == {"torch.float32"}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Split:
    import anndata

    folder = tmp_path_factory.mktemp("embedded")
    data = anndata.read_h5ad(make_data(folder))
    data.obsm["X_pca"] = np.random.default_rng(0).normal(size=(data.n_obs, 12)).astype(np.float32)
    data.write_h5ad(folder / "e.h5ad")
    return opened(folder / "e.h5ad")


def test_an_embedding_can_be_trained(embedded, tmp_path: Path):
    card = train_transition(embedded, SMALL.with_settings(embedding="X_pca"), tmp_path / "run")
    assert card.reads_embedding and (card.input_key, card.input_genes, card.scale) == ("X_pca", None, None)
    assert not card.config.final_relu and card.config.output_dim == 12 and card.output_genes is None


def test_a_gene_decoder_learns_expression_beside(embedded, tmp_path: Path):
    request = SMALL.with_settings(embedding="X_pca", gene_decoder=True, decoder_hidden=(16, 16), decoder_detach=True)
    card = train_transition(embedded, request, tmp_path / "run")
    assert card.config.decoder.genes == 60 == len(card.output_genes) and card.input_genes is None
    log = read_curve(tmp_path / "run" / LOG)
    assert log["loss"] == pytest.approx([d + e for d, e in zip(log["distance"], log["decoder"], strict=True)], rel=1e-4)


def test_every_part_of_the_loss_is_logged_and_added_with_its_weight(split, tmp_path: Path):
    request = SMALL.with_settings(
        control_mapping="batch", batch_token=True, confidence_token=True, l1=0.5, effect_weight=2.0, loss="combined",
        loss_chunks=2, shuffle_chunks=True, steps=2, set_size=20,
    )  # fmt: skip
    card = train_transition(split, request, tmp_path / "run")
    assert card.config.batch_token and card.config.confidence_token
    log = read_curve(tmp_path / "run" / LOG)
    weights = {"distance": 1, "effect": 2.0, "change": 0.5, "confidence": 0.01, "batch_token": 0.1}
    assert [c for c in log if c in weights] == list(weights)
    for step in range(2):
        assert log["loss"][step] == pytest.approx(sum(w * log[n][step] for n, w in weights.items()), rel=1e-4)


def test_sets_of_all_sizes_and_filled_ones_can_be_trained(split, tmp_path: Path):
    request = SMALL.with_settings(
        set_size=50, batch_encoder=True, confidence_token=True, paired=True, gene_dropout=0.1, basal_noise=0.1
    )
    hashes = {
        train_transition(split, request.with_settings(fill=fill), tmp_path / str(fill)).weights_hash for fill in (True, False)
    }
    assert len(hashes) == 2


def test_a_batch_encoder_learns_the_batches_of_all_cells(split, tmp_path: Path):
    card = train_transition(split, SMALL.with_settings(batch_encoder=True, steps=1), tmp_path / "run")
    assert card.config.batch_dim == 2 == len(card.batches)


def test_frozen_parts_stay_as_they_were(split, tmp_path: Path):
    cards = [SMALL.with_settings(freeze=("backbone", "basal_encoder.0"), steps=s, checkpoint_every=0) for s in (1, 3)]
    weights = []
    for request in cards:
        train_transition(split, request, tmp_path / str(request.optimiser.steps))
        weights.append(load_model(tmp_path / str(request.optimiser.steps) / "model").module.state_dict())
    same = {name for name in weights[0] if weights[0][name].equal(weights[1][name])}
    assert same == {n for n in weights[0] if n.startswith(("backbone.", "basal_encoder.0."))}
    with pytest.raises(ConfigError, match="No part of the network is called 'backbones'"):
        train_transition(split, SMALL.with_settings(freeze=("backbones",)), tmp_path / "wrong")


def test_adapters_are_trained_and_merged(split, tmp_path: Path):
    request = SMALL.with_settings(
        lora_rank=2, lora_feed=True, freeze=("basal_encoder",), ema=0.5, learning_rate=0.05, checkpoint_every=3
    )
    card = train_transition(split, request, tmp_path / "run")
    assert "Adapters of rank 2 were trained and merged." in card.notes
    plain = train_transition(split, SMALL.with_settings(steps=1, freeze=("backbone", "basal_encoder")), tmp_path / "plain")
    one, other = (load_model(tmp_path / name).module.state_dict() for name in ("run", "plain"))
    assert one.keys() == other.keys() and plain.config == card.config
    changed = {name for name in one if not one[name].equal(other[name])}
    linears = {n for n in one if n.startswith("backbone.layers.") and "norm" not in n}
    assert linears <= changed and not {n for n in changed if "norm" in n or n.startswith("basal_encoder")}


@pytest.fixture(scope="module")
def features(split, tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    labels = [p for p in split.sources[0].dataset.perturbations if p not in ("control", "TNF")]
    path = tmp_path_factory.mktemp("features") / "vectors.csv"
    path.write_text("\n".join(",".join([label, *(f"{v:.4f}" for v in rng.normal(size=5))]) for label in [*labels, "NEW"]))
    return path


def test_with_feature_vectors_the_model_knows_labels_that_it_never_saw(split, features, tmp_path: Path):
    card = train_transition(split, SMALL.with_settings(features=str(features)), tmp_path / "run")
    assert card.perturbation_encoding == "features" and card.config.perturbation_dim == 5
    assert card.perturbations[0] == "control" and card.perturbations[-1] == "NEW" and card.unseen == ("NEW",)
    assert "TNF" not in card.perturbations and any("no feature vector: TNF" in note for note in card.notes)
    vectors = load_model(tmp_path / "run").perturbation_features
    assert vectors.shape == (len(card.perturbations), 5) and not vectors[0].any() and vectors[1:].any(dim=1).all()
    assert not any("TNF" in name for name in card.training.flat())


def test_a_training_starts_from_another_model_and_says_what_was_matched(path, split, trained, tmp_path: Path):
    fewer = FewShot(NAME, "NK", test=("IFN-beta",))
    contexts = tuple(FewShot(NAME, c, test=("TNF",)) for c in split.sources[0].dataset.contexts if c != "NK")
    other = opened(path, plan=SplitPlan(((NAME, "x"),), (NAME,), fewshot=(replace(fewer, test=("IFN-beta", "TNF")), *contexts)))
    frozen = SMALL.with_settings(steps=1, hvgs=30, freeze=("backbone", "perturbation_encoder"))
    card = train_transition(other, frozen, tmp_path / "run", init_from=trained)
    before, after = load_model(trained), load_model(tmp_path / "run")
    assert card.input_genes == before.card.input_genes and "TNF" not in card.perturbations
    assert {"Dropped perturbation, 1: TNF.", "14 of 14 perturbations are known to it."} <= set(card.notes)
    one, two = before.module.state_dict(), after.module.state_dict()
    kept = [before.card.perturbations.index(p) for p in card.perturbations]
    name = "perturbation_encoder.0.weight"
    assert two[name].equal(one[name][:, kept]) and two["backbone.norm.weight"].equal(one["backbone.norm.weight"])
    with pytest.raises(CheckpointError, match="The network of the start is another one"):
        train_transition(split, SMALL.with_settings(hidden=32), tmp_path / "wide", init_from=trained)


def test_going_on_keeps_genes_and_notes_of_the_beginning(split, trained, tmp_path: Path):
    with pytest.raises(JobCancelled):
        train_transition(split, SMALL, tmp_path / "run", stop_at(2), init_from=trained)
    begun = read_record(tmp_path / "run")
    card = train_transition(split, SMALL, tmp_path / "run", resume=True)
    assert card.input_genes == begun.genes == read_card(trained).input_genes
    assert begun.notes and card.notes[: len(begun.notes)] == begun.notes
