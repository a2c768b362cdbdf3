"""Whether agreement with measured cells is a test: from what was held out, what came back, and what the training cells had."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from state_engine.checkpoints.card import ModelCard, TrainingSummary
from state_engine.data.splits.held import HeldOut, Leak
from state_engine.effects.exposure import TrainedOn, exposures, trained_parts
from state_engine.effects.store import save_effects
from state_engine.effects.table import EffectTable
from tests.small import card_of, config

ASKED = [("x", "NK"), ("x", "B"), ("y", "B")]


def with_training(**changes: object) -> ModelCard:
    return replace(card_of(config()), training=replace(TrainingSummary(), **changes))  # type: ignore[arg-type]


def test_held_out_is_a_test_and_what_was_trained_on_is_not(tmp_path: Path) -> None:
    held = with_training(held_out=(HeldOut("NK"),))
    assert exposures(held, tmp_path, ASKED) == {ASKED[0]: "test", ASKED[1]: "not known", ASKED[2]: "not known"}
    effects, control = [np.zeros(2, np.float32)], {"B": np.zeros(2, np.float32)}
    save_effects(tmp_path, EffectTable.of_pairs([("x", "B")], [9], effects, control, ("a", "b"), 2))
    assert exposures(held, tmp_path, ASKED) == {ASKED[0]: "test", ASKED[1]: "in training", ASKED[2]: "test"}


def test_what_came_back_is_no_test(tmp_path: Path) -> None:
    leak = Leak("a", "b", conditions=("NK x x",))
    found = exposures(with_training(held_out=(HeldOut("NK"),), leaks=(leak,)), tmp_path, [("x", "NK"), ("y", "NK")])
    assert found == {("x", "NK"): "in training", ("y", "NK"): "test"}
    cells = Leak("a", "b", files=("a.h5ad", "b.h5ad"), cells=5, looked=9)
    assert set(exposures(with_training(held_out=(HeldOut("NK"),), leaks=(cells,)), tmp_path, ASKED[:1]).values()) == {
        "in training"
    }


def test_a_damaged_table_only_says_less(tmp_path: Path) -> None:
    (tmp_path / "baselines.safetensors").write_bytes(b"no table")
    assert exposures(with_training(), tmp_path, ASKED[:1]) == {ASKED[0]: "not known"}


def test_what_a_card_knows_and_did_not_hold_out_was_trained_on(tmp_path: Path) -> None:
    held = with_training(held_out=(HeldOut("NK"),))
    known = next(p for p in held.perturbations if p != held.control)
    assert exposures(held, tmp_path, [(known, "B")]) == {(known, "B"): "in training"}
    # a card that lists nothing kept out says nothing
    assert set(exposures(with_training(), tmp_path, [(known, "B")]).values()) == {"not known"}


def test_what_of_a_condition_was_trained_on(tmp_path: Path) -> None:
    held = with_training(held_out=(HeldOut("NK"), HeldOut("B", "x")))
    known = [p for p in held.perturbations if p != held.control]
    held = replace(held, contexts=("B", "T"))
    asked = [(known[0], "B"), (known[0], "NK"), ("x", "B"), ("nobody", "NK")]
    assert trained_parts(held, tmp_path, asked) == {
        asked[0]: TrainedOn(True, True, True),
        asked[1]: TrainedOn(False, True, False),
        asked[2]: TrainedOn(True, "x" in known, False),
        asked[3]: TrainedOn(False, False, False),
    }
    assert trained_parts(with_training(), tmp_path, asked) == {}  # a card that lists nothing kept out says nothing
    effects, control = [np.zeros(2, np.float32)], {"B": np.zeros(2, np.float32)}
    save_effects(tmp_path, EffectTable.of_pairs([("x", "B")], [9], effects, control, ("a", "b"), 2))
    found = trained_parts(replace(held, training=TrainingSummary()), tmp_path, [("x", "B"), ("x", "NK"), ("y", "B")])
    assert list(found.values()) == [TrainedOn(True, True, True), TrainedOn(False, True, False), TrainedOn(True, False, False)]
