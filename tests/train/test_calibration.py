"""Calibration: on validation cells only, weights that are known found again, and nothing where there is no baseline."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from state_engine.checkpoints.load import LoadedModel, load_model
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.splits.apply import TEST, TRAIN, VAL, Split, apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.effects.means import effect_table
from state_engine.effects.mixture import Condition
from state_engine.effects.store import load_effects
from state_engine.effects.table import EffectTable
from state_engine.errors import IncompatibleError
from state_engine.models.transition import TransitionOutput
from state_engine.train import conditions as module
from state_engine.train.calibration import add_baselines, calibrate, fit_calibration
from state_engine.train.conditions import output_sources, paired_effects
from state_engine.train.fit import train_transition
from tests.small import GENES, PERTURBATIONS, embedding_changes, write_cells, write_model
from tests.train.small import SMALL, make_data, opened

# IFNB1 in B is for validation, TNF and the pair in B for the test; NK teaches
FEWSHOT = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", val=("IFNB1",), test=("JUN,FOS",)),))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(write_cells(tmp_path / "cells.h5ad", 480))


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    write_model(tmp_path / "model")
    return load_model(tmp_path / "model")


def split_of(dataset: Dataset, plan: SplitPlan = FEWSHOT) -> Split:
    return apply_plan(plan, [("d", dataset)])


def table_of(split: Split, loaded: LoadedModel) -> EffectTable:
    return effect_table(split, output_sources(split, loaded.card), GENES)


def calibrated(loaded: LoadedModel, split: Split, seed: int = 42):
    return calibrate(loaded, table_of(split, loaded), split, seed)


def rewritten(dataset: Dataset, rows: np.ndarray, path: Path) -> Dataset:
    """The data set with other values in some rows."""
    data = anndata.read_h5ad(dataset.path)
    values = data.X.toarray()
    values[rows] = np.random.default_rng(1).poisson(40, (len(rows), values.shape[1]))
    data.X = values
    data.write_h5ad(path)
    return open_dataset(path)


def test_test_cells_never_enter(dataset, loaded, tmp_path):
    split = split_of(dataset)
    parts = split.sources[0].parts
    assert all((parts == part).any() for part in (TRAIN, VAL, TEST))
    before = calibrated(loaded, split)
    other = split_of(rewritten(dataset, np.flatnonzero(parts == TEST), tmp_path / "test.h5ad"))
    assert calibrated(loaded, other) == before
    # validation cells do enter: the same change to them is seen
    moved = split_of(rewritten(dataset, np.flatnonzero(parts == VAL), tmp_path / "val.h5ad"))
    assert calibrated(loaded, moved) != before


def test_test_cells_never_enter_where_contexts_are_held_out_whole(tmp_path, loaded):
    """Controls of a test context are test cells too."""
    data = anndata.read_h5ad(write_cells(tmp_path / "two.h5ad", 480))
    third = data.obs["cell_type"].astype(str).to_numpy()
    third[::3] = "Mono"
    data.obs["cell_type"] = third
    data.write_h5ad(tmp_path / "three.h5ad")
    dataset = open_dataset(tmp_path / "three.h5ad")
    plan = SplitPlan((("d", "x"),), ("d",), zeroshot=(ZeroShot("d", "NK", "val"), ZeroShot("d", "Mono", "test")))
    split = split_of(dataset, plan)
    before = calibrated(loaded, split)
    assert before is not None and before.contexts == ("NK",) and before.conditions >= 2 and before.crossed == "perturbations"
    other = split_of(rewritten(dataset, np.flatnonzero(split.sources[0].parts == TEST), tmp_path / "o.h5ad"), plan)
    assert calibrated(loaded, other) == before


def test_no_cell_is_for_validation_and_test(dataset):
    split = split_of(dataset)
    (source,) = split.sources
    assert not set(source.rows("val")) & set(source.rows("test"))
    assert not set(source.rows("train")) & {*source.rows("val"), *source.rows("test")}


def test_it_says_what_it_was_fitted_on(dataset, loaded):
    found = calibrated(loaded, split_of(dataset))
    assert (found.contexts, found.perturbations, found.conditions) == (("B",), ("IFNB1",), 1)
    assert found.cells == len(dataset.rows("IFNB1", "B"))
    assert 0 <= found.paired <= 1 and 0 <= found.mean <= 1
    # one condition cannot be left out of itself
    assert (found.crossed, found.folds, found.paired_range) == ("", 0, ())
    assert set(found.scores) == {
        f"{e}_{m}" for e in ("mae", "mse") for m in ("none", "corrected", "mean", "likeness", "transfer")
    }
    assert found.chosen == "mixture" and "one condition" in found.why and found.kind == "contexts"


class Fixed(torch.nn.Module):
    """Stands in for a network: reconstructs cells, and adds a known effect under each perturbation."""

    needs_basal, gene_decoder, batch_encoder = True, None, None

    def __init__(self, effects: torch.Tensor) -> None:
        super().__init__()
        self.effects = torch.nn.Parameter(effects)  # (labels, g)

    def encode_basal(self, basal):
        return basal

    def encode_perturbation(self, rows):
        return rows @ self.effects

    def transform(self, encoded, labels, basal, batches, *, attention):
        return TransitionOutput(encoded + 1 + labels[:, None, :])


def fixed(loaded: LoadedModel, effects: dict[str, np.ndarray]) -> LoadedModel:
    rows = [effects.get(p, np.zeros(len(GENES))) for p in PERTURBATIONS]
    return dataclasses.replace(loaded, module=Fixed(torch.tensor(np.array(rows), dtype=torch.float32)))


def test_effects_are_paired_and_not_below_zero(dataset, loaded):
    split = split_of(dataset)
    effect = np.linspace(-0.5, 3, len(GENES))
    effect[0] = -100.0
    (control, _), found = paired_effects(fixed(loaded, {"IFNB1": effect}), split.sources[0], "B", ("IFNB1", "TNF"), 0)
    raw = dataset.read("X", dataset.rows("control", "B"))
    expected = np.log1p(raw / raw.sum(axis=1, keepdims=True) * 1e4).mean(axis=0)
    np.testing.assert_allclose(control, expected, atol=1e-4)
    np.testing.assert_allclose(found["IFNB1"][1:], effect[1:], atol=0.05)  # counts of a few are far above 0.5 here
    assert found["IFNB1"][0] == pytest.approx(-control[0], abs=1e-4)
    np.testing.assert_allclose(found["TNF"], 0, atol=1e-5)


def test_a_network_that_is_right_is_believed_and_one_that_is_not_is_left_aside(dataset, loaded):
    split = split_of(dataset)
    table = table_of(split, loaded)
    raw = dataset.read("X", np.concatenate([dataset.rows("IFNB1", "B"), dataset.rows("control", "B")]))
    log1p = np.log1p(raw / raw.sum(axis=1, keepdims=True) * 1e4)
    n = len(dataset.rows("IFNB1", "B"))
    truth = log1p[:n].mean(axis=0) - log1p[n:].mean(axis=0)
    noise = np.random.default_rng(0).normal(size=(2, len(GENES)))
    wrong = dataclasses.replace(table, effects=np.broadcast_to(noise[0], table.effects.shape).astype(np.float32).copy())
    right = calibrate(fixed(loaded, {"IFNB1": truth}), wrong, split)
    # one condition and an even prior worth as much: half of the way from 0.4 to 1
    assert right.paired == pytest.approx(0.7, abs=0.05) and right.mean < 0.15
    exact = np.broadcast_to(truth, table.effects.shape).astype(np.float32).copy()
    off = calibrate(fixed(loaded, {"IFNB1": noise[1]}), dataclasses.replace(table, effects=exact), split)
    assert off.paired < 0.2 and off.scores["mae_mean"] < 1e-3  # far too large an effect is not believed, whatever the prior says
    assert off.scores["mae_mean"] < 0.1 * off.scores["mae_corrected"]


def test_several_conditions_are_scored_by_leaving_some_out(tmp_path, loaded):
    dataset = open_dataset(write_cells(tmp_path / "cells.h5ad", 480))
    both = (FewShot("d", "B", val=("IFNB1",), test=("TNF",)), FewShot("d", "NK", val=("JUN,FOS",)))
    found = calibrated(loaded, split_of(dataset, SplitPlan((("d", "x"),), ("d",), fewshot=both)))
    assert (found.crossed, found.folds, found.conditions) == ("contexts", 2, 2)
    assert found.paired_range[0] <= found.paired_range[1] and len(found.mean_range) == 2
    assert {"mae_calibrated", "mse_calibrated"} <= set(found.scores)


def test_a_condition_without_a_baseline_takes_no_part(dataset, loaded):
    """TNF is measured in B only: no other context tells its effect."""
    plan = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", val=("TNF",), test=("IFNB1",)),))
    assert calibrated(loaded, split_of(dataset, plan)) is None


def test_without_validation_there_is_no_calibration(dataset, loaded):
    plan = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", test=("IFNB1",)),))
    assert calibrated(loaded, split_of(dataset, plan)) is None


def test_many_conditions_are_thinned_by_the_seed(tmp_path, loaded, monkeypatch):
    dataset = open_dataset(write_cells(tmp_path / "cells.h5ad", 480))
    plan = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", val=("IFNB1", "JUN,FOS")),))
    split = split_of(dataset, plan)
    assert calibrated(loaded, split).conditions == 2
    monkeypatch.setattr(module, "MOST_CONDITIONS", 1)
    picked = {calibrated(loaded, split, seed).perturbations for seed in range(6)}
    assert picked == {("IFNB1",), ("JUN,FOS",)}


def test_a_saved_model_gets_its_effects_and_calibration(dataset, tmp_path):
    first = write_model(tmp_path / "model")
    assert "calibration" not in (tmp_path / "model" / "model.json").read_text()  # as cards were before there were any
    card = add_baselines(tmp_path / "model", split_of(dataset))
    assert card == read_card(tmp_path / "model") == load_model(tmp_path / "model").card
    assert card.calibration is not None and dataclasses.replace(card, calibration=None) == first
    assert load_effects(tmp_path / "model").features == GENES


@pytest.mark.slow
def test_a_training_leaves_effects_and_a_calibration_beside_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_CELLS", 2)
    split = opened(make_data(tmp_path))
    card = train_transition(split, SMALL.with_settings(calibrate=True), tmp_path / "run")
    assert card == read_card(tmp_path / "run" / "model") and card.calibration is not None
    assert (card.calibration.contexts, card.calibration.perturbations) == (("NK",), ("TNF",))
    table = load_effects(tmp_path / "run")  # of the run's folder too
    assert table.features == card.output_genes and "B" not in table.contexts  # B is tested
    assert table.effect("TNF", "NK") is None and table.effect("IFN-beta", "NK") is None  # held out
    without = add_baselines(tmp_path / "run" / "model", split, fit=False)
    assert without == dataclasses.replace(card, calibration=None)


def test_an_embedding_with_a_decoder_is_calibrated_on_genes(tmp_path):
    write_model(tmp_path / "model", **embedding_changes())
    dataset = open_dataset(write_cells(tmp_path / "cells.h5ad", 480, embedding=6))
    card = add_baselines(tmp_path / "model", split_of(dataset))
    assert card.calibration is not None and load_effects(tmp_path / "model").width == len(GENES)


def test_an_embedding_without_a_decoder_is_calibrated_as_it_is(tmp_path):
    write_model(tmp_path / "model", **{**embedding_changes(), "decoder": None})
    dataset = open_dataset(write_cells(tmp_path / "cells.h5ad", 480, embedding=6))
    card = add_baselines(tmp_path / "model", split_of(dataset))
    table = load_effects(tmp_path / "model")
    assert card.calibration is not None and table.width == 6 and table.features == ()


def test_a_file_that_the_model_cannot_read_is_an_error(tmp_path, dataset):
    write_model(tmp_path / "model", **embedding_changes())
    with pytest.raises(IncompatibleError, match="X_state"):
        output_sources(split_of(dataset), read_card(tmp_path / "model"))


def test_the_noise_of_controls_is_taken_out_where_that_is_closer_on_conditions_left_out() -> None:
    rng = np.random.default_rng(0)

    def conditions(right: bool) -> list[Condition]:
        made = []
        for i in range(6):
            effect, noise = rng.normal(size=60), rng.normal(size=60)
            observed = effect + (noise if right else 0)
            made.append(Condition(f"c{i}", "p", effect, effect, observed, np.full(60, 9.0), 20, correction=noise))
        return made

    found = [fit_calibration(conditions(right), expression=True) for right in (True, False)]
    assert [f.correction for f in found if f is not None] == [1.0, 0.0]
    assert found[0].scores["mae_calibrated"] < 0.3 * found[0].scores["mae_corrected"] and found[0].chosen == "mixture"
    unknown = [dataclasses.replace(c, correction=None) for c in conditions(True)]
    assert fit_calibration(unknown, expression=True).correction == 0.0
