"""What is asked of an evaluation, as plain values. No torch: pages and the command line make these, the worker does them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from state_engine.challenge.spec import PRESETS
from state_engine.data.dataset import Choices
from state_engine.errors import ConfigError
from state_engine.evaluation.profiles import find_profile
from state_engine.metrics.profile import ControlSource
from state_engine.metrics.profiles import HOUSE

# name of a profile: see `evaluation.profiles`
Profile = str
PROFILES: tuple[Profile, ...] = (*HOUSE, *PRESETS)
ToCounts = Literal["poisson", "stochastic", "nearest"]
PREDICTION = "prediction"


@dataclass(frozen=True)
class PredictedFile:
    """Predicted cells. Several with the same method are its seeds.

    Args:
        path: an .h5ad.
        method: name of what made them, in the tables.
        representation: "X" or "layers/NAME".
    """

    path: str
    method: str = PREDICTION
    representation: str = "X"


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation, complete.

    Args:
        predicted: the cells to score.
        real: path of the measured cells of the same perturbations, controls among them.
        choices: what the user said about the measured cells; the perturbation column and the control are needed. A context column of
            None compares all cells as one context.
        predicted_choices: the same for the predicted cells; None: as the measured ones.
        profile: minimal: metrics of mean expression, made while the files stream by; full: also differential expression; vcc2025 and
            vcc2026: the metrics of the challenge of that year.
        controls: whose control cells effects start from; None: those of the profile (vcc2025: predicted, as cell-eval; else real).
        effects: folder of a training run or a model with effects of its training cells, which then make the baselines; "": the measured
            file itself, leaving the scored condition out.
        features: file of perturbation features for the ridge regression (.pt or .csv); "": none.
        by_kind: the files are results of predictions, which hold predicted and measured cells side by side (obs "kind"); of `real` the
            measured ones are taken, of `predicted` the others.
        common_genes: score the genes that both sides have, where they differ; without it that is an error.
        to_counts: vcc2026: how predictions on the log1p scale are rounded to counts; None: that is an error.
        seed: of the control cells that baselines are drawn from, and of rounding.
        cell_eval: vcc2025: Python of an environment with cell-eval, which then makes the metrics; "": cell-eval2 here.
        held_out: what the conditions are to the model, in words that are kept beside the numbers; "" when not known.
        flatters: the model may have been trained on them; None when not known.
    """

    predicted: tuple[PredictedFile, ...]
    real: str
    choices: Choices
    predicted_choices: Choices | None = None
    profile: Profile = "minimal"
    controls: ControlSource | None = None
    effects: str = ""
    features: str = ""
    by_kind: bool = False
    common_genes: bool = False
    to_counts: ToCounts | None = None
    seed: int = 0
    cell_eval: str = ""
    held_out: str = ""
    flatters: bool | None = None

    def __post_init__(self) -> None:
        if not self.predicted:
            raise ConfigError("There are no predicted cells to evaluate.", fix="Give one file or more.")
        profile = find_profile(self.profile)
        if self.controls and self.controls not in profile.controls:
            words = {"real": "measured", "predicted": "predicted"}[profile.controls[0]]
            raise ConfigError(
                f"{self.profile} compares with the {words} control cells.", "Its rules say so.", "Leave the choice out."
            )
        if self.cell_eval and not profile.cell_eval:
            raise ConfigError(
                f"cell-eval does not compute the metrics of {self.profile}.", fix="Leave it out, or choose another profile."
            )

    @property
    def control_source(self) -> ControlSource:
        """Whose control cells are used."""
        return self.controls or find_profile(self.profile).controls[0]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of what is scored, each once."""
        return tuple(dict.fromkeys(p.method for p in self.predicted))


def evaluate_command_of(request: EvaluationRequest, output: str = "evaluation") -> str:
    """The command line that makes the same numbers, for requests that one can say (one method, the same columns on both sides)."""
    words = ["python", "-m", "state_engine", "evaluate"]
    for path in dict.fromkeys(p.path for p in request.predicted):
        words += ["--predicted", path]
    for layer in dict.fromkeys(p.representation for p in request.predicted if p.representation != "X"):
        words += ["--layer", layer.removeprefix("layers/")]
    named = {
        "--real": request.real,
        "--perturbation-key": request.choices.perturbation_key,
        "--control": request.choices.control,
        "--context-key": request.choices.context_key,
        "--output": output,
        "--profile": request.profile,
        "--controls": request.controls,
        "--effects": request.effects,
        "--features": request.features,
        "--to-counts": request.to_counts,
        "--seed": str(request.seed) if request.seed else "",
        "--cell-eval": request.cell_eval,
    }
    for option, given in named.items():
        words += [option, given] if given else []
    return shlex.join([*words, *(["--common-genes"] if request.common_genes else [])])
