"""A training on cells that were read at different depths sees them at one depth, the same at each time; others are trained as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.screens import write_screen
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.depth import compare_file
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.equal_depth import depths_of
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.effects.store import load_effects
from state_engine.evaluation.held_out import evaluate_held_out
from state_engine.evaluation.request import HeldOutRequest
from state_engine.train import once
from state_engine.train.cells import TrainingCells
from state_engine.train.fit import train_transition
from state_engine.train.report import card_lines
from state_engine.train.run_folder import open_training_split, read_record
from tests.train.small import SMALL

CHOICES = Choices(perturbation_key="condition", control="control", context_key="cell_type")
REQUEST = SMALL.with_settings(hvgs=0)


def split_of(path: Path) -> Split:
    plan = SplitPlan((("data", str(path)),), ("data",), zeroshot=(ZeroShot("data", "type 1", "test"),))
    return apply_plan(plan, [("data", open_dataset(path, CHOICES))])


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return split_of(write_screen("depth-confounded", tmp_path_factory.mktemp("screen") / "s.h5ad", 0))


@pytest.fixture(scope="module")
def trained(confounded: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train_transition(confounded, REQUEST, folder)
    return folder


def seen(split: Split, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> TrainingCells:
    """The cells that a training of no step learns from."""
    found: list[TrainingCells] = []

    def taken(*args: object) -> TrainingCells:
        found.append(read(*args))
        return found[-1]

    read = once.read_training_cells
    monkeypatch.setattr(once, "read_training_cells", taken)
    train_transition(split, REQUEST.with_settings(steps=1, **settings), folder)
    monkeypatch.undo()
    return found[0]


def test_the_training_sees_equal_depths(confounded: Split, trained: Path) -> None:
    before = {d.context: d.fold for d in depths_of(confounded)}
    after = {d.context: d.fold for d in depths_of(open_training_split(trained))}
    assert {c for c, fold in before.items() if fold > 1.5} == {"type 1", "type 3", "type 5"}
    assert max(after.values()) < 1.25 and all(after[c] == before[c] for c in ("type 0", "type 2", "type 4"))


def test_what_is_learnt_are_the_thinned_counts(confounded: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Genes per cell rise with depth alone: as many in control and perturbed cells after thinning, and many more without."""
    ratio = {}
    for way in ("auto", "off"):
        cells = seen(confounded, tmp_path / way, monkeypatch, equalise_depth=way)
        groups = [g for g in cells.groups["train"] if g.context == "type 3" and g.perturbation]
        expressed = [(cells.features.gather(rows) > 0).mean() for g in groups for rows in (g.cells, g.controls)]
        ratio[way] = np.mean(expressed[::2]) / np.mean(expressed[1::2])
    assert ratio["auto"] == pytest.approx(1, abs=0.05) and ratio["off"] > 1.2


def test_it_is_the_same_at_each_time(confounded: Split, trained: Path, tmp_path: Path) -> None:
    again = train_transition(split_of(confounded.sources[0].dataset.path), REQUEST, tmp_path / "again")
    assert again.weights_hash == read_card(trained / "model").weights_hash
    one, other = (load_effects(folder) for folder in (trained, tmp_path / "again"))
    assert (one.effects == other.effects).all()


def test_it_is_recorded_and_told(trained: Path) -> None:
    record, card = read_record(trained), read_card(trained / "model")
    assert [d.context for d in record.equal_depth.contexts] == ["type 1", "type 3", "type 5"]
    assert record.equal_depth.seed == REQUEST.run.seed and card.training.equal_depth == record.equal_depth
    assert record.equal_depth.words in record.notes and any(
        record.equal_depth.words in line for line in card_lines(card, trained)
    )


def test_off_leaves_the_counts_and_warns(confounded: Split, tmp_path: Path) -> None:
    card = train_transition(confounded, REQUEST.with_settings(equalise_depth="off"), tmp_path / "run")
    assert not card.training.equal_depth.contexts
    assert any("equalise_depth is off" in note and "4.0-fold" in note for note in card.notes)


def test_nothing_changes_where_depths_are_alike(tmp_path: Path) -> None:
    split = split_of(write_screen("context-free", tmp_path / "s.h5ad", 0))
    assert max(d.fold for d in compare_file(split.sources[0].dataset)) < 1.5
    cards = [train_transition(split, REQUEST.with_settings(equalise_depth=w), tmp_path / w) for w in ("auto", "off")]
    assert cards[0].weights_hash == cards[1].weights_hash and cards[0].training == cards[1].training
    assert not any("depth" in note for note in cards[0].notes)


def test_a_training_that_goes_on_reads_what_it_read(confounded: Split, trained: Path, tmp_path: Path) -> None:
    request = REQUEST.with_settings(checkpoint_every=2, schedule="constant", steps=2)
    train_transition(confounded, request, tmp_path / "run")
    card = train_transition(confounded, request.with_settings(steps=4), tmp_path / "run", resume=True)
    whole = train_transition(confounded, request.with_settings(steps=4), tmp_path / "whole")
    assert card.weights_hash == whole.weights_hash and card.training.equal_depth == whole.training.equal_depth


def test_the_held_out_cells_are_compared_at_one_depth(trained: Path, tmp_path: Path) -> None:
    found = evaluate_held_out(HeldOutRequest(run=str(trained), profile="minimal"), tmp_path / "test")
    assert "Counts are thinned as in the training" in found.held_out and "type 1: control cells" in found.held_out
    real = open_dataset(tmp_path / "test" / "real.h5ad")
    deep = {}
    for label in ("control", "P1"):
        values = real.read("X", real.rows(label, "type 1"))
        deep[label] = (values > 0).mean()
    assert deep["P1"] / deep["control"] == pytest.approx(1, abs=0.08)
    assert isinstance(pd.read_csv(tmp_path / "test" / "metrics.csv"), pd.DataFrame)


def test_a_split_given_beside_the_model_is_thinned_too(trained: Path, confounded: Split, tmp_path: Path) -> None:
    from state_engine.data.splits.plan import plan_text

    request = HeldOutRequest(
        model=str(trained / "model"), split=plan_text(replace(confounded.plan)), choices=CHOICES, profile="minimal"
    )
    found = evaluate_held_out(request, tmp_path / "test")
    assert "Counts are thinned as in the training" in found.held_out
