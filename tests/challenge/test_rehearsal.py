"""A rehearsal: perturbations set aside by seed, predicted, scored beside a baseline that has not seen them, honest about the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.challenge.rehearsal import rehearse, seen, set_aside
from state_engine.challenge.score_request import RehearsalRequest
from state_engine.challenge.scores import score_lines
from state_engine.checkpoints.card import TrainingSummary
from state_engine.checkpoints.store import read_card
from state_engine.data.dataset import open_dataset
from state_engine.data.splits.held import HeldOut, Leak
from state_engine.errors import ChallengeError, ConfigError
from state_engine.jobs.kinds import KINDS, load_target
from state_engine.library.datasets import DEMO_PATH
from state_engine.plain import from_plain, to_plain
from state_engine.prediction.request import PredictionRequest

pytestmark = pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
MODEL = DEMO_PATH.parent / "model"


def ask(challenge: str = "vcc2025", contexts: tuple[str, ...] = ("NK",)) -> RehearsalRequest:
    prediction = PredictionRequest(str(DEMO_PATH), str(MODEL), (), contexts, cells=48, device="cpu")
    return RehearsalRequest(challenge, prediction, share=0.25, seed=3)


def test_the_draw_follows_the_seed_and_leaves_some() -> None:
    dataset, card = open_dataset(DEMO_PATH), read_card(MODEL)
    drawn = set_aside(dataset, card, ("NK", "B"), 0.25, 3)
    assert drawn == set_aside(dataset, card, ("NK", "B"), 0.25, 3) and len(drawn) == 4 and "control" not in drawn
    assert {set_aside(dataset, card, ("NK",), 0.25, seed) for seed in range(5)} != {drawn}
    assert len(set_aside(dataset, card, ("NK",), 0.99, 0)) == 13  # one stays for the baseline
    assert len(set_aside(dataset, card, ("NK",), 0.01, 0)) == 2
    with pytest.raises(ChallengeError, match="2 perturbations can be set aside"):
        set_aside(dataset, replace(card, perturbations=("control", "TNF", "LPS")), ("NK",), 0.25, 0)
    with pytest.raises(ConfigError):
        replace(ask(), share=1.0)


def test_what_the_model_has_seen_is_said() -> None:
    card = read_card(MODEL)
    one, both = (("IFN-beta", "NK"),), (("IFN-beta", "NK"), ("TNF", "NK"))
    some = seen(card, both)
    assert "without 1 of these 2 conditions" in some.words and "flatter" in some.words and some.flatters
    known = seen(card, both, trained=[("TNF", "NK")])
    assert "without 1 of these 2 conditions" in known.words and "on the other 1: agreement there is recall" in known.words
    assert "may have" not in known.words and known.flatters
    all_unseen = seen(card, one)
    assert "its card says" in all_unseen.words and not all_unseen.flatters
    silent = seen(replace(card, training=TrainingSummary()), one, "train with them held out")
    assert "Nothing says" in silent.words and "train with them held out" in silent.words and silent.flatters
    everything = replace(card, training=TrainingSummary(held_out=(HeldOut("NK"),)))
    assert "its card says" in seen(everything, both).words and not seen(everything, both).flatters
    leak = Leak("screen", "copy", ("NK x TNF",))
    back = seen(replace(card, training=replace(everything.training, leaks=(leak,))), both)
    assert "came back" in back.words and str(leak) in back.words and back.flatters


@pytest.mark.slow
def test_a_rehearsal_of_2025(tmp_path: Path) -> None:
    request = ask(contexts=("CD4 T", "NK"))
    assert from_plain(RehearsalRequest, to_plain(request)) == request
    made = rehearse(request, tmp_path)
    assert [c.context for c in made.contexts] == ["CD4 T", "NK"]
    for context in made.contexts:
        assert context.n_perturbations == 4 and context.n_predicted == 4 * 48
        values = {m.metric: m for m in context.metrics}
        assert 0 < (values["mae"].value or 0) < 0.3 and values["mae"].baseline is not None
    assert "10 perturbations that were not set aside" in made.baseline and "flatter" in made.held_out
    assert not any("not scored" in r for r in made.remarks)
    assert (tmp_path / "scores.csv").exists() and (tmp_path / "result.h5ad").exists()


@pytest.mark.slow
def test_a_rehearsal_of_2026_goes_through_the_counts_step(tmp_path: Path) -> None:
    made = rehearse(ask("vcc2026"), tmp_path)
    assert made.challenge == "vcc2026" and len(made.contexts[0].metrics) == 6
    null = made.contexts[0].null
    assert null is not None and null.of == "predicted control cells" and null.genes > 0
    assert made.contexts[0].null_rate == null.called / null.genes <= 0.05
    assert f"Called at effect 0{made.contexts[0].null_rate:>15.2%}" in "\n".join(score_lines(made))
    assert all(m.value is not None for m in made.contexts[0].metrics)


def test_both_are_kinds_of_jobs() -> None:
    assert callable(load_target(KINDS["score"].target)) and callable(load_target(KINDS["rehearse"].target))
