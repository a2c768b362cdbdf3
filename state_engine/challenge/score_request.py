"""What is asked of a scoring or a rehearsal, as plain values: pages and the command line make these, the worker does them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from state_engine.challenge.counts import CountsOptions
from state_engine.challenge.submit import SubmissionRequest
from state_engine.data.dataset import Choices
from state_engine.metrics.profile import Fdr
from state_engine.options import about, check, option, part, within
from state_engine.prediction.request import PredictionRequest


@dataclass(frozen=True)
class ScoreRequest:
    """What to score: the cells (an .h5ad, the result of a run, or a .vcc) with repairs and the counts step, against measured ones.

    `choices` tell of the measured cells, `training_choices` of those whose mean is the baseline.
    """

    VERB: ClassVar = "score"
    submission: SubmissionRequest = field(metadata=within(flags={"write": None}))
    truth: str = field(metadata=about("measured cells", metavar="T.h5ad", data=True))
    choices: Choices = part(Choices(), prefix="truth-", of="measured cells")
    training: str = option(
        "",
        "cells whose mean is the baseline, where the baseline is a mean; default: the measured cells",
        metavar="D.h5ad",
        data=True,
    )
    training_choices: Choices = part(Choices(), prefix="training-", of="training cells")
    fdr: Fdr = option(
        "per perturbation", "where the challenge leaves it open: p-values adjusted within each perturbation (cell-eval 0.8.2) "
        "or over all (cell-eval 0.6.6)", also={"--pooled-fdr": {"fdr": "pooled"}},
    )  # fmt: skip
    cell_eval: str = option(
        "",
        "Python of an environment with cell-eval, which computes the metrics where it can; default: cell-eval2 here",
        metavar="PYTHON",
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class RehearsalRequest:
    """What to rehearse: part of the perturbations of a data set is set aside, predicted and scored."""

    challenge: str = field(metadata=about("name of a preset, or path of a TOML file"))
    prediction: PredictionRequest = field(
        metadata=about("data set, model, contexts, cells, device; its perturbations are ignored")
    )
    share: float = option(0.25, "part of the perturbations that is set aside", label="Part set aside", above=0, below=1)
    seed: int = option(0, "of the draw of what is set aside", least=0)
    counts: CountsOptions = part(CountsOptions())

    def __post_init__(self) -> None:
        check(self)
