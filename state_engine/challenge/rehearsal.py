"""A rehearsal: part of the measured perturbations is set aside, predicted, and scored by the same pipeline as a submission.

It shows how the pipeline scores before the real submission, against a baseline made of the perturbations that were not set aside.
What it cannot do is make a model forget: conditions that the model was trained on flatter, and the result says so.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from state_engine.challenge.score import score_cells
from state_engine.challenge.score_request import RehearsalRequest
from state_engine.challenge.scored_cells import CONTEXT, TARGET, compared, read_measured, read_submission
from state_engine.challenge.scorers import mean_of_perturbations
from state_engine.challenge.scores import Scores
from state_engine.challenge.spec import load_rules
from state_engine.challenge.submit import SubmissionRequest
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import ChallengeError, listed
from state_engine.prediction.request import contexts_of
from state_engine.progress import OnProgress, silent

if TYPE_CHECKING:
    from state_engine.checkpoints.load import LoadedModel

RESULT = "result.h5ad"
# fewer cannot be told apart: PDS ranks a perturbation among the others
FEWEST = 2


def set_aside(dataset: Dataset, card: ModelCard, contexts: tuple[str, ...], share: float, seed: int) -> tuple[str, ...]:
    """The perturbations of a rehearsal: drawn from those that the model knows and that are measured in all contexts, sorted.

    Raises:
        ChallengeError: fewer than three to draw from, so that none would be left for the baseline.
    """
    control = dataset.require_control()
    known = set(card.perturbations) - {control, card.control}
    usable = sorted(p for p in dataset.perturbations if p in known and all(len(dataset.rows(p, c)) for c in contexts))
    if len(usable) <= FEWEST:
        raise ChallengeError(
            f"{len(usable):,} perturbations can be set aside: {listed(usable) or 'none'}.",
            f"They must be known to the model and measured in {listed(contexts)}; at least {FEWEST + 1} are needed.",
            "Choose other contexts, or data with more measured perturbations.",
        )
    number = min(max(FEWEST, round(share * len(usable))), len(usable) - 1)
    drawn = np.random.default_rng(seed).choice(len(usable), number, replace=False)
    return tuple(usable[i] for i in sorted(drawn))


def rehearse(
    request: RehearsalRequest, folder: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None
) -> Scores:
    """Predicts the perturbations set aside and scores them; `result.h5ad`, `scores.json` and `scores.csv` are kept in `folder`.

    Raises:
        StateError: what cannot be predicted or scored.
    """
    from state_engine.prediction.predict import predict

    asked = request.prediction
    dataset, card = open_dataset(Path(asked.data), asked.choices), loaded.card if loaded else card_of(Path(asked.model))
    contexts = contexts_of(asked, dataset)
    held = set_aside(dataset, card, contexts, request.share, request.seed)
    # contexts are scored one by one, also where the challenge itself has only one
    rules = replace(load_rules(request.challenge), context_key=CONTEXT)
    most_controls = max(len(dataset.control_rows(c)) for c in contexts)
    asked = replace(asked, perturbations=held, contexts=contexts, keep_raw=False, observed=most_controls)
    predict(asked, folder / RESULT, on_progress, loaded)
    counts = request.counts if rules.values == "counts" else None
    submission = SubmissionRequest(
        request.challenge, str(folder / RESULT), is_run=True, repairs=("rename-control",), contexts=contexts,
        controls=(asked.data,) if counts and counts.library is None else (), counts=counts,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=folder, prefix=".score-") as name:
        predicted = read_submission(submission, rules, Path(name), on_progress)
    predicted = predicted[np.isin(predicted.obs[TARGET].to_numpy(str), [*held, rules.control])].copy()
    measured, there = read_measured(dataset, tuple(predicted.var_names), rules, contexts, on_progress)
    labels = measured.obs[TARGET].to_numpy(str)
    others = measured[~np.isin(labels, held)]
    cells = compared(predicted, measured[np.isin(labels, [*held, rules.control])].copy(), there, rules)
    mean = {c: mean_of_perturbations(others[(others.obs[CONTEXT] == c).to_numpy()]) for c in contexts}
    n_others = len(set(others.obs[TARGET])) - 1
    return score_cells(
        cells, rules, folder, source=str(folder / RESULT), truth=asked.data, mean=mean,
        mean_words=f"{n_others:,} perturbations that were not set aside, and the control",
        held_out=held_out_words(card, held, contexts), on_progress=on_progress,
    )  # fmt: skip


def held_out_words(card: ModelCard, held: tuple[str, ...], contexts: tuple[str, ...]) -> str:
    """What the scored conditions are to the model, going by its card."""
    said = set(card.training.held_out)
    conditions = [(p, c) for c in contexts for p in held]
    unseen = [f"{c} x {p}" for p, c in conditions if said & {p, c, f"{c} x {p}"}]
    start = f"{len(held):,} perturbations set aside ({listed(held)}), {len(conditions):,} conditions. "
    if len(unseen) == len(conditions):
        return f"{start}The model was trained without any of them, its card says."
    if unseen:
        rest = len(conditions) - len(unseen)
        return f"{start}The model was trained without {len(unseen):,} of them; it has seen the other {rest:,}, so these scores flatter."
    return (
        f"{start}Nothing says that the model was trained without them. If it has seen them, these scores flatter; for an honest "
        "rehearsal, train with these perturbations held out."
    )
