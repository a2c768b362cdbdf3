"""What is asked of a test on held-out cells, as plain values. No torch: pages and the command line make these, the worker does them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Choices, Dataset
from state_engine.data.splits.choices import everything
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot, plan_text
from state_engine.device import DeviceName, Precision
from state_engine.errors import ConfigError, SplitError, listed
from state_engine.evaluation.profiles import find_profile
from state_engine.evaluation.request import PROFILE_HELP, Profile
from state_engine.options import check, option
from state_engine.options import part as part_field

PREDICTED: Final = "predicted.h5ad"
REAL: Final = "real.h5ad"
FOLDER: Final = "test"


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
    profile: Profile = option("minimal", PROFILE_HELP, label="Metrics", metavar="NAME")
    features: str = option("", "features of the perturbations for a ridge regression; default: the training's", metavar="F")
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")

    def __post_init__(self) -> None:
        check(self)
        if not self.run and not (self.model and self.split):
            raise ConfigError("There is nothing to test.", fix="Name a training run, or a model and a split.")
        find_profile(self.profile)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError("Seeds are missing or named twice.", fix="Name each once.")

    @property
    def folder(self) -> Path:
        """The model, where it lies in the folder of a run."""
        folder = Path(self.model or self.run)
        return folder / "model" if (folder / "model" / "model.json").is_file() else folder


def split_of_card(card: ModelCard, dataset: Dataset) -> str:
    """The split that a model's card tells of: what it calls held out is tested. For models trained without a split's file.

    Raises:
        SplitError: the card names nothing that the data set has.
    """
    whole, blocks = [], dict[str, list[str]]()
    for text in card.training.held_out:
        context, _, perturbation = text.partition(" x ")
        if perturbation and len(dataset.rows(perturbation, context)):
            blocks.setdefault(context, []).append(perturbation)
        elif not perturbation and text in dataset.contexts:
            whole.append(text)
    if not whole and not blocks:
        raise SplitError(
            f"The card of {card.name} names no held-out cells of {dataset.path.name}.",
            f"Held out, it says: {listed(card.training.held_out) or 'nothing'}.",
            "Test a training run, which keeps its split.",
        )
    plan = everything(dataset)
    name = plan.datasets[0][0]
    few = tuple(FewShot(name, context, test=tuple(labels)) for context, labels in blocks.items() if context not in whole)
    return plan_text(SplitPlan(plan.datasets, plan.training, tuple(ZeroShot(name, c, "test") for c in whole), few))
