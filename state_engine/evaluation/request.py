"""What is asked of an evaluation, as plain values. No torch: pages and the command line make these, the worker does them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from state_engine.challenge.spec import PRESETS
from state_engine.data.dataset import Choices
from state_engine.errors import ConfigError
from state_engine.evaluation.profiles import find_profile
from state_engine.metrics.profile import ControlSource
from state_engine.metrics.profiles import HOUSE
from state_engine.options import about, check, option, part, within

# name of a profile: see `evaluation.profiles`
Profile = str
PROFILES: tuple[Profile, ...] = (*HOUSE, *PRESETS)
ToCounts = Literal["poisson", "stochastic", "nearest"]
PREDICTION = "prediction"
PROFILE_HELP = (
    f"whose metrics: {', '.join(PROFILES)}; minimal: mean expression only, while the files stream by; full: also "
    "differential expression, which needs all cells and takes minutes on large files"
)


@dataclass(frozen=True)
class PredictedFile:
    """Predicted cells. Several with the same method are its seeds.

    Args:
        path: an .h5ad.
        method: name of what predicted them, in the tables.
        representation: "X" or "layers/NAME".
    """

    path: str
    method: str = PREDICTION
    representation: str = "X"


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation, complete.

    `choices` tell of the measured cells; the perturbation column and the control are needed, and a context column of None compares all
    cells as one context. `predicted_choices` tell of the predicted ones; None: the same.
    """

    VERB: ClassVar = "evaluate"
    predicted: tuple[PredictedFile, ...] = field(
        metadata=about(
            "predicted cells (.h5ad), with the name of their method and X or layers/NAME where needed; one method: its seeds"
        )
    )
    real: str = field(metadata=about("measured cells, controls among them", metavar="R.h5ad"))
    choices: Choices = field(metadata=within(needed=("perturbation_key", "control")))
    predicted_choices: Choices | None = part(None, prefix="predicted-", of="predicted cells, where it differs")
    profile: Profile = option("minimal", PROFILE_HELP, label="Metrics", metavar="NAME")
    controls: ControlSource | None = option(
        None, "whose control cells effects start from; default: the profile's", none="profile"
    )
    effects: str = option("", "run or model whose training cells give the baselines; default: the measured cells", metavar="RUN")
    features: str = option("", "features of the perturbations (.pt or .csv), for a ridge regression", metavar="F")
    by_kind: bool = option(False, "the files are results of predictions, with predicted and measured cells side by side")
    common_genes: bool = option(
        False, "where genes differ, score those that all files have", label="Where genes differ, score those that both have"
    )
    to_counts: ToCounts | None = option(
        None, "vcc2026: how log1p predictions are rounded to counts; it changes the metrics, so it is recorded",
        label="Predictions on the log1p scale become counts by",
    )  # fmt: skip
    seed: int = option(0, "of control cells for baselines, and of rounding", metavar="S", least=0)
    cell_eval: str = option(
        "",
        "vcc2025: Python of an environment with cell-eval, which computes the metrics; default: cell-eval2 here",
        metavar="PYTHON",
    )
    held_out: str = option("", "what the conditions are to the model, in words that are kept beside the numbers", metavar="WORDS")
    flatters: bool | None = option(None, "whether the model may have been trained on them; default: not known")

    def __post_init__(self) -> None:
        check(self)
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
