"""Scores of held-out cells: the definitions, checked on a model whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from state_engine.checkpoints.card import TrainingSummary
from state_engine.models.config import BackboneConfig, TransitionConfig
from state_engine.models.transition import TransitionModel, TransitionOutput
from state_engine.plain import from_plain, to_plain
from state_engine.train.cell_features import DenseFeatures
from state_engine.train.cells import Group, TrainingCells
from state_engine.train.held_out_scores import METRICS, HeldOutScore, by_condition, mean_effect, score_groups, summarise

CONFIG = TransitionConfig(
    input_dim=4,
    output_dim=4,
    perturbation_dim=2,
    backbone=BackboneConfig("llama", 8, 1, 2, 2, 4, 16),
    output_space="hvg",
    set_size=3,
)
TRUE = np.array([2.0, -1.0, 0.0, 0.5], dtype=np.float32)


class Shifter(TransitionModel):
    """Reconstructs every cell 1 too high, and adds `TRUE` under the perturbation: raw is wrong, the pair is right."""

    def forward(self, basal, perturbation, batch=None, *, attention, maps=False):
        return TransitionOutput(basal + 1 + perturbation[:, 1:, None] * torch.from_numpy(TRUE))


@pytest.fixture
def cells() -> TrainingCells:
    rng = np.random.default_rng(0)
    control = rng.uniform(2, 4, (14, 4)).astype(np.float32)
    values = np.concatenate([control, control[:7] + TRUE, control[7:] + 0.5 * TRUE])
    at = np.arange(28)
    return TrainingCells(
        features=DenseFeatures(values),
        targets=None,
        perturbations=("control", "TNF"),
        trained=("control", "TNF"),
        contexts=("A", "B"),
        batches=(),
        batch=np.full(28, -1),
        groups={
            "train": (Group(0, "A", at[:7], at[:7]), Group(0, "B", at[7:14], at[7:14]), Group(1, "B", at[21:], at[7:14])),
            "val": (),
            "test": (Group(1, "A", at[14:18], at[:4]), Group(1, "A", at[18:21], at[4:7])),  # of two batches
        },
    )


def score(cells: TrainingCells) -> tuple[HeldOutScore, ...]:
    return score_groups(Shifter(CONFIG).eval(), torch.eye(2), cells, cells.groups["test"], 0)


def test_the_pair_takes_away_what_the_reconstruction_gets_wrong(cells):
    (found,) = score(cells)
    assert (found.context, found.perturbation, found.n_cells) == ("A", "TNF", 7)
    assert found.mae_raw == pytest.approx(1, abs=1e-5)
    assert found.mae_corrected == pytest.approx(0, abs=1e-5)
    assert found.mae_none == pytest.approx(np.abs(TRUE).mean(), abs=1e-5)
    assert found.mae_mean == pytest.approx(np.abs(TRUE).mean() / 2, abs=1e-5)  # the other context answers half as strongly
    assert found.r_paired == pytest.approx(1, abs=1e-5) and found.r_mean == pytest.approx(1, abs=1e-5)


def test_corrected_expression_is_never_negative(cells):
    low = replace(cells, features=DenseFeatures(cells.features.values - 2))
    (found,) = score(low)
    assert found.mae_corrected > 0.05  # gene 2 falls below zero in some cells and is cut there


def test_the_mean_effect_leaves_the_own_context_out(cells):
    own = cells.groups["test"][0]
    more = replace(cells, groups={**cells.groups, "train": (*cells.groups["train"], own)})
    assert mean_effect(more, own) == pytest.approx(0.5 * TRUE, abs=1e-5)


def test_without_other_contexts_there_is_no_mean_effect(cells):
    alone = replace(cells, groups={**cells.groups, "train": cells.groups["train"][:2]})
    (found,) = score(alone)
    assert math.isnan(found.mae_mean) and math.isnan(found.r_mean) and found.mae_raw == pytest.approx(1, abs=1e-5)
    assert "mae_mean" not in summarise((found,)) and "mae_raw" in by_condition((found,))[0].scores


def test_a_summary_has_means_and_blocks_and_no_undefined_number():
    def made(context: str, x: float, r: float) -> HeldOutScore:
        return HeldOutScore(context, "TNF", 9, **{m: (r if m.startswith("r_") else x) for m in METRICS})

    scores = made("A", 1.0, math.nan), made("B", 3.0, 0.5)
    training = TrainingSummary(scores=summarise(scores), conditions=by_condition(scores), validation_scores=summarise(scores[1:]))
    flat = training.flat()
    assert flat["mae_corrected"] == 2.0 and flat["A x TNF: mae_none"] == 1.0 and flat["B x TNF: r_paired"] == 0.5
    assert "A x TNF: r_raw" not in flat and all(math.isfinite(v) for v in flat.values())
    assert {name for name in flat if name.startswith("validation ")} == {f"validation {m}" for m in METRICS}
    assert summarise(()) == {} and by_condition(()) == ()
    # cards of before had all these in one table
    assert from_plain(TrainingSummary, {"scores": flat}) == training
    assert from_plain(TrainingSummary, to_plain(training)) == training
