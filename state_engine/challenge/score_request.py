"""What is asked of a scoring or a rehearsal, as plain values: pages and the command line make these, the worker does them."""

from __future__ import annotations

from dataclasses import dataclass

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.submit import SubmissionRequest
from state_engine.data.dataset import Choices
from state_engine.errors import ConfigError
from state_engine.metrics.profile import Fdr
from state_engine.prediction.request import PredictionRequest


@dataclass(frozen=True)
class ScoreRequest:
    """What to score.

    Args:
        submission: the cells (an .h5ad, the result of a run, or a .vcc), with repairs and the counts step.
        truth: path of the measured cells.
        choices: what the user said about them.
        training: path of the data whose mean is the baseline, where the challenge's baseline is a mean; "" for the measured cells themselves.
        training_choices: what the user said about those.
        fdr: where the challenge leaves it open: p-values adjusted within each perturbation (cell-eval 0.8.2) or over all (cell-eval 0.6.6).
        cell_eval: Python of an environment with cell-eval, which then computes the metrics where it can; "" for cell-eval2 here.
    """

    submission: SubmissionRequest
    truth: str
    choices: Choices = Choices()
    training: str = ""
    training_choices: Choices = Choices()
    fdr: Fdr = "per perturbation"
    cell_eval: str = ""


@dataclass(frozen=True)
class RehearsalRequest:
    """What to rehearse.

    Args:
        challenge: name of a preset, or path of a TOML file.
        prediction: data set, model, contexts, cells, device; its perturbations are ignored.
        share: part of the perturbations that is set aside, more than 0 and less than 1.
        seed: of that draw.
        counts: the step to counts, where the challenge wants counts.
    """

    challenge: str
    prediction: PredictionRequest
    share: float = 0.25
    seed: int = 0
    counts: CountsOptions = CountsOptions()

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"The share is {self.share:g}.", "It must be between 0 and 1.", "A quarter will do.")
