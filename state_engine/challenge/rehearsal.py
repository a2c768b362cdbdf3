"""A rehearsal: part of the measured perturbations is set aside, predicted, and scored by the same pipeline as a submission.

It shows how the pipeline scores before the real submission, against a baseline made of the perturbations that were not set aside.
What it cannot do is make a model forget: conditions that the model was trained on flatter, and the result says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from state_engine.challenge.score_request import RehearsalRequest
from state_engine.challenge.scores import Scores
from state_engine.challenge.spec import load_rules
from state_engine.challenge.submit import SubmissionRequest
from state_engine.checkpoints.card import ModelCard
from state_engine.checkpoints.load import card_of
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.errors import ChallengeError, listed
from state_engine.metrics.profile import TARGET
from state_engine.plain import agreed, plural
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
            f"{plural(len(usable), 'perturbation')} can be set aside: {listed(usable) or 'none'}.",
            f"They must be known to the model and measured in {listed(contexts)}; at least {FEWEST + 1} are needed.",
            "Choose other contexts, or data with more measured perturbations.",
        )
    number = min(max(FEWEST, round(share * len(usable))), len(usable) - 1)
    drawn = np.random.default_rng(seed).choice(len(usable), number, replace=False)
    return tuple(usable[i] for i in sorted(drawn))


def rehearse(
    request: RehearsalRequest, folder: Path, on_progress: OnProgress = silent, loaded: LoadedModel | None = None
) -> Scores:
    """Predict the perturbations set aside and score them; `result.h5ad`, `scores.json` and `scores.csv` are stored in `folder`.

    Raises:
        StateError: what cannot be predicted or scored.
    """
    # here, so that a page that reads only `seen` loads neither anndata nor torch
    from state_engine.challenge.context_numbers import Comparison, mean_of_perturbations
    from state_engine.challenge.score import score_cells
    from state_engine.challenge.scored_cells import (
        CONTEXT,
        compared,
        depth_of,
        depth_remarks,
        null_checks,
        read_measured,
        read_submission,
    )
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
    depth = depth_of(predicted, rules, folder / RESULT)
    measured, there = read_measured(dataset, tuple(predicted.var_names), rules, contexts, on_progress, depth)
    labels = measured.obs[TARGET].to_numpy(str)
    others = measured[~np.isin(labels, held)]
    cells = compared(predicted, measured[np.isin(labels, [*held, rules.control])].copy(), there, rules)
    null = null_checks(submission, rules, on_progress)
    cells = replace(cells, remarks=(*depth_remarks(dataset, depth, rules), *cells.remarks), null=null)
    mean = {c: mean_of_perturbations(others[(others.obs[CONTEXT] == c).to_numpy()]) for c in contexts}
    n_others = len(set(others.obs[TARGET])) - 1
    known = seen(card, tuple((p, c) for c in contexts for p in held), "for an honest rehearsal, train with them held out")
    beside = Comparison(
        mean=mean,
        mean_words=f"{plural(n_others, 'perturbation that was', 'perturbations that were')} not set aside, and the control",
        held_out=f"{plural(len(held), 'perturbation')} set aside ({listed(held)}). {known.words}",
        flatters=known.flatters,
    )
    return score_cells(lambda: (cells, beside), rules, folder, (str(folder / RESULT), asked.data), on_progress)


@dataclass(frozen=True)
class Seen:
    """What scored conditions are to a model, going by its card.

    Args:
        words: for people.
        flatters: the model may have been trained on some, so that its scores are too good.
    """

    words: str
    flatters: bool


def seen(
    card: ModelCard,
    conditions: tuple[tuple[str, str], ...],
    advice: str = "",
    trained: Collection[tuple[str, str]] = (),
) -> Seen:
    """Return which of some (perturbation, context) the model was trained without, and what that means for the scores.

    Args:
        advice: what to do when the card tells nothing, put behind the sentence.
        trained: conditions that it is known to be trained on.
    """
    unseen = [f"{c} x {p}" for p, c in conditions if any(held.covers(p, c) for held in card.training.held_out)]
    back = [str(leak) for leak in card.training.leaks]
    if unseen and back:
        return Seen(f"The card of {card.name} says that what was held out came back: {' '.join(back)} This flatters it.", True)
    if unseen and len(unseen) == len(conditions):
        these = f"{agreed(len(conditions), 'this', 'these')} {plural(len(conditions), 'condition')}"
        return Seen(f"{card.name} was trained without any of {these}, its card says.", False)
    if unseen:
        rest = len(conditions) - len(unseen)
        if len([pair for pair in conditions if pair in trained]) == rest:
            return Seen(
                f"{card.name} was trained without {len(unseen):,} of these {len(conditions):,} conditions ({listed(unseen)}), and on the other "
                f"{rest:,}: agreement there is recall, which flatters means over all.",
                True,
            )
        return Seen(
            f"{card.name} was trained without {len(unseen):,} of these {len(conditions):,} conditions ({listed(unseen)}); it may have seen the "
            f"other {rest:,}, which flatters it.",
            True,
        )
    words = f"Nothing says that {card.name} was trained without these conditions. If it has seen them, these numbers flatter it"
    return Seen(f"{words}; {advice}." if advice else f"{words}.", True)
