"""What is asked of an evaluation, and of a test on held-out cells, as plain values. No torch: pages and commands make these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from state_engine.challenge.counts import Rounding
from state_engine.challenge.spec import PRESETS
from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.splits.choices import everything
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot, plan_text
from state_engine.device import DeviceName, Precision
from state_engine.errors import ConfigError, SplitError, listed
from state_engine.evaluation.profiles import find_profile
from state_engine.metrics.profile import ControlSource
from state_engine.metrics.profiles import HOUSE
from state_engine.options import about, check, option, part, within
from state_engine.options import part as part_field

PROFILES: tuple[str, ...] = (*HOUSE, *PRESETS)
PREDICTION = "prediction"
# files of a test on held-out cells, and its folder in the folder of a training
PREDICTED: Final = "predicted.h5ad"
REAL: Final = "real.h5ad"
FOLDER: Final = "test"
KINDS: Final = ("corrected", "raw", "calibrated")  # rows of a model that is tested alone
PROFILE_HELP = (
    f"whose metrics: {', '.join(PROFILES)}; minimal: mean expression only, while the files stream by; full: also "
    "differential expression, which needs all cells and takes minutes on large files"
)


@dataclass(frozen=True)
class PredictedFile:
    """Predicted cells. Several with the same method are its seeds.

    Args:
        path: an .h5ad, or a table of effects (.csv, .tsv, .parquet; see `evaluation.foreign_effects`).
        method: name of what predicted them, in the tables.
        representation: "X" or "layers/NAME".
        effects: the table of effects that the cells were made of; set by `evaluate`.
    """

    path: str
    method: str = PREDICTION
    representation: str = "X"
    effects: str = ""


@dataclass(frozen=True)
class EvaluationRequest:
    """An evaluation, complete.

    `choices` tell of the measured cells; the perturbation column and the control are needed, and a context column of None compares all
    cells as one context. `predicted_choices` tell of the predicted ones; None: the same.
    """

    VERB: ClassVar = "evaluate"
    predicted: tuple[PredictedFile, ...] = field(
        metadata=about(
            "predicted cells (.h5ad) or effects (.csv, .tsv, .parquet), with the name of their method and X or layers/NAME where needed; "
            "one method: its seeds",
            data=True,
        )
    )
    real: str = field(metadata=about("measured cells, controls among them", metavar="R.h5ad", data=True))
    choices: Choices = field(metadata=within(needed=("perturbation_key", "control")))
    predicted_choices: Choices | None = part(None, prefix="predicted-", of="predicted cells, where it differs")
    profile: str = option("minimal", PROFILE_HELP, label="Metrics", metavar="NAME")
    controls: ControlSource | None = option(
        None, "whose control cells effects start from; default: the profile's", none="profile", label="Control cells"
    )
    effects: str = option("", "run or model whose training cells give the baselines; default: the measured cells", metavar="RUN")
    features: str = option("", "features of the perturbations (.pt or .csv), for a ridge regression", metavar="F")
    by_kind: bool = option(False, "the files are results of predictions, with predicted and measured cells side by side")
    common_genes: bool = option(
        False, "where genes differ, score those that all files have", label="Where genes differ, score those that both have"
    )
    to_counts: Rounding | None = option(
        "auto", "where the metrics compare counts: how log1p predictions become counts, auto by the kind of prediction; it changes the metrics, so "
        "it is recorded",
        label="Predictions on the log1p scale become counts by",
    )  # fmt: skip
    seed: int = option(0, "seed of control cells for baselines, and of rounding", metavar="S", least=0, offered=2**31 - 1)
    cell_eval: str = option(
        "",
        "Python of an environment with cell-eval, which computes the metrics where it can; default: cell-eval2 here",
        metavar="PYTHON",
    )
    held_out: str = option("", "what the conditions are to the model, in words that are kept beside the numbers", metavar="WORDS")
    flatters: bool | None = option(None, "whether the model may have been trained on them; default: not known")
    measured_elsewhere: str = option(
        "", "another screen with the same perturbations, whose effects are one more baseline", label="The same perturbations, measured elsewhere",
        metavar="S.h5ad", data=True,
    )  # fmt: skip
    elsewhere_choices: Choices | None = part(None, prefix="elsewhere-", of="that other screen")

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


@dataclass(frozen=True)
class ModelBeside:
    """A further model that is tested on the same cells.

    Args:
        path: folder of the model, or of a training.
        method: its name in the tables.
    """

    path: str
    method: str


@dataclass(frozen=True)
class HeldOutRequest:
    """A test on held-out cells: of a training run, or of a model whose split is given beside (`choices` tell of its data)."""

    VERB: ClassVar = "test"
    run: str = option("", "folder that `train` made, with training.json and split.toml", metavar="RUN")
    model: str = option("", "model folder; default: that of the run", metavar="DIR")
    split: str = option(
        "", "text of a split (TOML) whose places are absolute, or @FILE to read it; default: that of the run", metavar="TOML"
    )
    choices: Choices = part_field(Choices())
    part: Literal["val", "test"] = option("test", "which held-out cells", label="Held-out cells")
    cells: int | None = option(
        None,
        "predicted cells per condition; default: as many as the context has control cells, at most 2,048",
        metavar="N",
        least=1,
    )
    seeds: tuple[int, ...] = option(
        (42,), "of the draw of control cells; several show how much that matters", flag="--seed", metavar="S",
        label="Draws of control cells",
    )  # fmt: skip
    profile: str = option("minimal", PROFILE_HELP, label="Metrics", metavar="NAME")
    features: str = option("", "features of the perturbations for a ridge regression; default: the training's", metavar="F")
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    measured_elsewhere: str = option(
        "", "another screen with the same perturbations, whose effects are one more baseline", label="The same perturbations, measured elsewhere",
        metavar="S.h5ad", data=True,
    )  # fmt: skip
    elsewhere_choices: Choices | None = part_field(None, prefix="elsewhere-", of="that other screen")
    method: str = option(
        "", "name of the model's row in the tables, for its recommended output alone; default: a row each for corrected, raw and calibrated",
        label="Name in the tables", metavar="NAME",
    )  # fmt: skip
    beside: tuple[ModelBeside, ...] = option(
        (), "a further model (folder, and a name for its row) that is tested on the same cells; its recommended output is scored",
        label="Models beside it",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        if not self.run and not (self.model and self.split):
            raise ConfigError("There is nothing to test.", fix="Name a training run, or a model and a split.")
        find_profile(self.profile)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError("Seeds are missing or named twice.", fix="Name each once.")
        names = [*filter(None, [self.method]), *(other.method for other in self.beside)]
        if not all(names) or len(set(names)) != len(names) or (not self.method and {*names} & {*KINDS}):
            raise ConfigError(
                f"Names of models are missing or the same: {listed(names)}.", "Each has a row of its own.", "Name each once."
            )

    @property
    def folder(self) -> Path:
        """The model, where it lies in the folder of a run."""
        folder = Path(self.model or self.run)
        return folder / "model" if (folder / "model" / "model.json").is_file() else folder


def split_of_card(card: ModelCard, dataset: Dataset) -> str:
    """Return the split of a model's card, as text: what it calls held out is tested. For models trained without a split's file.

    Raises:
        SplitError: the card names nothing that the data set has.
    """
    whole, blocks = [], dict[str, list[str]]()
    for held in card.training.held_out:
        if held.perturbation and len(dataset.rows(held.perturbation, held.context)):
            blocks.setdefault(held.context, []).append(held.perturbation)
        elif not held.perturbation and held.context in dataset.contexts:
            whole.append(held.context)
    if not whole and not blocks:
        raise SplitError(
            f"The card of {card.name} names no held-out cells of {dataset.path.name}.",
            f"Held out, it says: {listed([str(held) for held in card.training.held_out]) or 'nothing'}.",
            "Test a training run, which keeps its split.",
        )
    plan = everything(dataset)
    name = plan.datasets[0][0]
    few = tuple(FewShot(name, context, test=tuple(labels)) for context, labels in blocks.items() if context not in whole)
    return plan_text(SplitPlan(plan.datasets, plan.training, tuple(ZeroShot(name, c, "test") for c in whole), few))
