"""Contexts left out in turn: which ones can be, that held-out cells play no part, and a run that is calibrated so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main
from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.splits.apply import TEST, TRAIN, UNUSED, VAL, Split, apply_plan
from state_engine.data.splits.plan import SplitPlan, ZeroShot
from state_engine.effects.store import load_effects
from state_engine.errors import JobCancelled, RunError
from state_engine.train import conditions, cross_fit, fit, folds
from state_engine.train.curves import read_curve
from state_engine.train.fit import train_transition
from state_engine.train.run_folder import TrainingRecord, open_training_split, read_record, write_record, write_split
from tests.train.small import NAME, SMALL, make_data, opened


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Split:
    return opened(make_data(tmp_path_factory.mktemp("data")))


@pytest.fixture(autouse=True)
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (conditions, folds):
        monkeypatch.setattr(where, "MIN_CELLS", 2)


def test_contexts_that_are_trained_can_be_left_out(split):
    contexts = [context for name, context in folds.left_out_places(split) if name == NAME]
    assert contexts == ["CD14 monocyte", "CD4 T", "CD8 T", "NK"]  # B is held out whole


def test_a_fold_has_one_context_for_validation_and_nothing_that_was_held_out(split):
    fold = folds.fold_split(split, (NAME, "CD4 T"))
    before, after = split.sources[0], fold.sources[0]
    here = before.dataset.context_labels() == "CD4 T"
    assert (after.parts[here & (before.parts == TRAIN)] == VAL).all() and (here & (before.parts == TRAIN)).any()
    assert (after.parts[~here & (before.parts == TRAIN)] == TRAIN).all()
    for part in (VAL, TEST):
        assert (before.parts == part).any() and (after.parts[before.parts == part] == UNUSED).all()
    assert not (after.parts == TEST).any() and (before.parts == TEST).any()  # the split itself stays as it was


def record(folder: Path, split: Split, state: str) -> Path:
    folder.mkdir()
    write_split(folder, split)
    hashes = {str(s.dataset.path): s.dataset.hash() for s in split.sources}
    write_record(folder, TrainingRecord(1, SMALL, Choices(), hashes, state=state))
    return folder


def test_a_training_must_be_done_and_have_two_contexts(split, tmp_path, monkeypatch):
    with pytest.raises(RunError, match="No training was begun"):
        cross_fit.cross_fit(tmp_path)
    with pytest.raises(RunError, match="is not done"):
        cross_fit.cross_fit(record(tmp_path / "running", split, "running"))
    monkeypatch.setattr(folds, "MIN_CELLS", 10**6)
    with pytest.raises(RunError, match="nothing to leave out"):
        cross_fit.cross_fit(record(tmp_path / "few", split, "done"))


@pytest.mark.slow
def test_a_run_is_calibrated_by_leaving_contexts_out(split, tmp_path, capsys):
    run = tmp_path / "run"
    before = train_transition(split, SMALL, run)
    effects = load_effects(run)
    words = ["calibrate", "--run", str(run), "--contexts", "2", "--max-steps", "2"]
    assert main(words) == 0 and "contexts left out in turn" in capsys.readouterr().out
    card = read_card(run / "model")
    found = card.calibration
    assert replace(card, calibration=None, block_calibration=None) == before  # the model itself is what it was
    # of NK a single perturbation is tested, so blocks are weighed as well
    assert card.block_calibration is not None and card.block_calibration.origin == "left-out blocks"
    assert (
        found.origin == "left-out contexts"
        and found.chosen
        and found.why
        and found.crossed == "contexts"
        and found.folds == len(found.contexts) == 2
    )
    assert set(found.contexts) <= {"CD14 monocyte", "CD4 T", "CD8 T", "NK"} and "mae_calibrated" in found.scores
    assert not list(run.glob(".fold*")) and np.array_equal(load_effects(run).effects, effects.effects)
    assert open_training_split(run).plan.held_out() == split.plan.held_out()

    def cancel(progress):
        if progress.stage.endswith("2 of 2: training") and progress.done == 1:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        cross_fit.cross_fit(run, steps=2, most=2, seed=1, on_progress=cancel)
    assert read_card(run / "model") == card and not list(run.glob(".fold*"))


def test_a_training_that_is_killed_while_it_calibrates_is_not_done(tmp_path, monkeypatch):
    data = open_dataset(make_data(tmp_path))
    whole = apply_plan(SplitPlan(((NAME, "x"),), (NAME,), (ZeroShot(NAME, "B", "test"),)), [(NAME, data)])
    states = []

    def calibrated(run, **_):
        states.append(read_record(run).state)
        return read_card(run / "model")

    monkeypatch.setattr(fit, "fit_left_out", calibrated)
    train_transition(whole, SMALL.with_settings(calibrate=True, cross_fit=True, steps=1), tmp_path / "run")
    assert states == ["running"] and read_record(tmp_path / "run").state == "done"


@pytest.mark.slow
def test_a_training_without_validation_cells_calibrates_itself_and_goes_on_after_a_stop(tmp_path):
    data = open_dataset(make_data(tmp_path))
    whole = apply_plan(SplitPlan(((NAME, "x"),), (NAME,), (ZeroShot(NAME, "B", "test"),)), [(NAME, data)])
    request = SMALL.with_settings(calibrate=True, cross_fit=True)
    stages = []

    def cancel(progress):
        stages.append(progress.stage)
        if progress.stage.startswith("Calibrating without") and progress.done == 1:
            raise JobCancelled("Cancelled.")

    with pytest.raises(JobCancelled):
        train_transition(whole, request, tmp_path / "run", cancel)
    assert read_card(tmp_path / "run").calibration is None
    card = train_transition(whole, request, tmp_path / "run", resume=True)
    assert card.calibration is not None and card.calibration.origin == "left-out contexts"
    assert read_card(tmp_path / "run") == card and read_record(tmp_path / "run").state == "done"
    assert len(read_curve(tmp_path / "run" / "log.csv")["step"]) == request.optimiser.steps
