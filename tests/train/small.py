"""A simulated data set, a split of it and a tiny training, for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.demo.cells import Design, write_simulated
from state_engine.train.request import TrainRequest

NAME = "pbmc"
SMALL = TrainRequest().with_settings(
    hvgs=60, steps=4, sets_a_step=2, set_size=8, hidden=16, layers=1, heads=2, intermediate=32, device="cpu", data_name="d",
    calibrate=False,
)  # fmt: skip


def make_data(folder: Path, cells: int = 500) -> Path:
    """The file."""
    return write_simulated(folder / "pbmc.h5ad", Design(n_cells=cells))


def plan_of(path: Path | str = "unused") -> SplitPlan:
    """NK: IFN-beta is tested, TNF validated. B goes to testing whole."""
    few = FewShot(NAME, "NK", val=("TNF",), test=("IFN-beta",))
    return SplitPlan(((NAME, str(path)),), (NAME,), (ZeroShot(NAME, "B", "test"),), (few,))


def split_of(dataset: Dataset, plan: SplitPlan | None = None) -> Split:
    """The plan applied to one file."""
    plan = plan or plan_of()
    return apply_plan(replace(plan, datasets=((NAME, str(dataset.path)),)), [(NAME, dataset)])


def opened(path: Path, choices: Choices | None = None, plan: SplitPlan | None = None) -> Split:
    """Open and split."""
    return split_of(open_dataset(path, choices), plan)
