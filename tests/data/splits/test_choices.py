"""Plans made from choices: what they hold out, and that every one of them can be applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.choices import (
    candidates,
    everything,
    genes_of,
    hold_out_contexts,
    hold_out_perturbations,
    suggest_plan,
)
from state_engine.data.splits.plan import FewShot, ZeroShot
from state_engine.errors import SplitError
from state_engine.library.datasets import DEMO_PATH
from tests.data.splits.test_apply import CELLS, CHOICES, write


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write(tmp_path_factory.mktemp("choices") / "my.cells.h5ad"), CHOICES)


def split_of(plan, dataset: Dataset) -> Split:
    return apply_plan(plan, [(plan.datasets[0][0], dataset)])


def test_everything_is_trained_on_under_a_name_without_dots(cells: Dataset) -> None:
    plan = everything(cells)
    assert plan.datasets == (("my_cells", str(cells.path)),) and plan.training == ("my_cells",)
    assert split_of(plan, cells).cells() == {"train": 37, "val": 0, "test": 0}


def test_contexts_move_whole_and_replace_what_was_said(cells: Dataset) -> None:
    plan = hold_out_perturbations(everything(cells), cells, ("TNF",), ("B",), "val")
    assert plan.fewshot == (FewShot("my_cells", "B", ("TNF",)),)
    plan = hold_out_contexts(plan, ("B", "T"), "test")
    assert plan.fewshot == () and [c.context for c in plan.zeroshot] == ["B", "T"]
    plan = hold_out_contexts(plan, ("T",), "val")
    assert plan.zeroshot == (ZeroShot("my_cells", "B", "test"), ZeroShot("my_cells", "T", "val"))
    with pytest.raises(SplitError, match="held out in B"):
        hold_out_perturbations(plan, cells, 1, ("B",), "test")
    with pytest.raises(SplitError, match="no context"):
        hold_out_perturbations(plan, cells, 1, (), "test")


def test_perturbations_are_drawn_by_seed_those_first_that_others_teach(cells: Dataset) -> None:
    assert candidates(cells, ("B",)) == (["A+B", "IL6", "TNF"], ["JUN"])
    plan = everything(cells)
    drawn = {hold_out_perturbations(plan, cells, 2, ("B",), "test", seed).fewshot for seed in range(8)}
    assert len(drawn) > 1 and all("JUN" not in few[0].test and len(few[0].test) == 2 for few in drawn)
    again = hold_out_perturbations(plan, cells, 2, ("B",), "test", 3)
    assert again == hold_out_perturbations(plan, cells, 2, ("B",), "test", 3)
    both = hold_out_perturbations(again, cells, 2, ("B",), "val", 3).fewshot[0]
    assert not set(both.val) & set(both.test) and len(both.val) == len(both.test) == 2
    moved = hold_out_perturbations(again, cells, again.fewshot[0].test, ("B",), "val").fewshot[0]
    assert moved.test == () and moved.val == again.fewshot[0].test
    with pytest.raises(SplitError, match=r"2 perturbations cannot .*1 have cells there"):
        hold_out_perturbations(hold_out_perturbations(plan, cells, 3, ("B",), "test"), cells, 2, ("B",), "val")
    assert hold_out_perturbations(plan, cells, 0, ("B",), "val") == plan


def test_three_contexts_suggest_one_to_test(cells: Dataset) -> None:
    plan = suggest_plan(cells)
    assert plan.zeroshot == (ZeroShot("my_cells", "T", "test"),) and not plan.fewshot
    assert {part: n > 0 for part, n in split_of(plan, cells).cells().items() if part in ("train", "val", "test")} == {
        "train": True,
        "val": False,
        "test": True,
    }


def test_fewer_contexts_suggest_perturbations(tmp_path: Path) -> None:
    two = open_dataset(write(tmp_path / "two.h5ad", {k: n for k, n in CELLS.items() if k[1] != "NK 2.1"}), CHOICES)
    plan = suggest_plan(two)
    assert [c.context for c in plan.fewshot] == ["T"] and len(plan.fewshot[0].test) == len(plan.fewshot[0].val) == 1
    assert not any("trained nowhere" in w for w in split_of(plan, two).warnings)
    only = {k: n for k, n in CELLS.items() if k[1] == "B"}
    labels = open_dataset(write(tmp_path / "labels.h5ad", only), CHOICES)
    assert suggest_plan(labels) == everything(labels)  # known by name alone, what is trained nowhere could not be tested
    one = open_dataset(write(tmp_path / "one.h5ad", only, ("A", "B", "IL6", "TNF", "JUN", "other")), CHOICES)
    assert any("2 held-out perturbations are trained nowhere" in w for w in split_of(suggest_plan(one), one).warnings)
    few = open_dataset(write(tmp_path / "few.h5ad", {("ctrl", "B"): 3, ("TNF", "B"): 2}), CHOICES)
    assert suggest_plan(few) == everything(few)


def test_the_demo_has_a_plan() -> None:
    demo = open_dataset(DEMO_PATH)
    split = split_of(suggest_plan(demo), demo)
    assert [w for w in split.warnings if "no validation curves" not in w] == []
    assert split.cells()["train"] > 500 and split.cells()["test"] > 500


def test_a_pair_names_its_genes() -> None:
    genes = ("A", "B", "TNF")
    assert genes_of("A+B", genes) == ("A", "B") and genes_of("TNF", genes) == ("TNF",)
    assert genes_of("A+C", genes) == genes_of("drug", genes) == ()
