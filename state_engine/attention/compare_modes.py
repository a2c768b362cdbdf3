"""Which attention mode do a model's weights want? Checkpoints before arc-state 0.9.32 do not say; measured cells can.

The same small prediction is made in each mode for conditions that the data set measured, and compared with the measurement. The mode
the model was trained in should agree best; equal scores mean that these data cannot tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from state_engine import keys
from state_engine.attention.modes import LEAST, ModeScore
from state_engine.checkpoints.load import LoadedModel
from state_engine.effects.scores import scores
from state_engine.errors import RequestError
from state_engine.files import scratch_folder
from state_engine.models.config import AttentionMode
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import Result, open_result
from state_engine.progress import OnProgress, Progress, silent

CELLS = 128


def check_attention(request: PredictionRequest, loaded: LoadedModel, on_progress: OnProgress = silent) -> tuple[ModeScore, ...]:
    """Return the scores of all modes, smallest error first.

    Args:
        request: perturbations and contexts to compare (see `attention.modes.measurable`); its attention mode is replaced by each in turn.
        loaded: the model.
        on_progress: called for each mode; may raise `JobCancelled`.

    Raises:
        RequestError: none of the conditions was measured.
    """
    modes = get_args(AttentionMode)
    scores = []
    with scratch_folder() as folder:
        for number, mode in enumerate(modes):
            on_progress(Progress("Comparing attention modes", number, len(modes)))
            output = folder / f"{mode}.h5ad"
            predict(replace(request, attention=mode, cells=CELLS, cells_of=(), keep_raw=False), output, loaded=loaded)
            scores.append(_score(mode, open_result(output)))
    return tuple(sorted(scores, key=lambda score: score.mae))


def _score(mode: AttentionMode, result: Result) -> ModeScore:
    found = []
    for perturbation, context in result.conditions(keys.OBSERVED):
        observed, control = result.rows(keys.OBSERVED, context, perturbation), result.rows(keys.OBSERVED_CONTROL, context)
        predicted = result.rows(keys.PREDICTED, context, perturbation)
        if min(len(observed), len(control)) < LEAST:
            continue
        mean = result.mean(predicted)
        effect = mean - result.mean(result.paired_controls(predicted))
        agreement = scores(mean, result.mean(observed), result.mean(control), effect)
        # no effect at all agrees with nothing
        found.append((np.nan_to_num(agreement.pearson), agreement.mae))
    if not found:
        raise RequestError(
            "No condition was measured.", f"A comparison needs {LEAST} cells and {LEAST} controls.", "Choose others."
        )
    means = np.mean(found, axis=0)
    return ModeScore(mode, len(found), float(means[0]), float(means[1]))
