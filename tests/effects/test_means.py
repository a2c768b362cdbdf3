"""Means by condition and the table of effects: by hand, stored and read, and deaf to everything held out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import FeatureSource, normalise
from state_engine.data.splits.apply import apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan, ZeroShot
from state_engine.effects.means import Means, condition_codes, effect_table, load_means, means_by_condition
from state_engine.effects.table import EffectTable
from state_engine.errors import ConfigError, RunError
from tests.small import GENES, write_cells

FEWSHOT = SplitPlan((("d", "x"),), ("d",), fewshot=(FewShot("d", "B", val=("IFNB1",), test=("TNF",)),))
ZEROSHOT = SplitPlan((("d", "x"),), ("d",), zeroshot=(ZeroShot("d", "NK", "test"),))
SOURCE = FeatureSource("X", tuple(range(len(GENES))), normalise=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(write_cells(tmp_path / "cells.h5ad", 400))


def by_hand(dataset: Dataset, perturbation: str, context: str) -> np.ndarray:
    def mean(label: str) -> np.ndarray:
        return normalise(dataset.read("X", dataset.rows(label, context))).astype(np.float64).mean(axis=0)

    return mean(perturbation) - mean("control")


def same(a: EffectTable, b: EffectTable) -> bool:
    labels = (a.perturbations, a.contexts, list(a.controls)) == (b.perturbations, b.contexts, list(b.controls))
    return (
        labels and np.array_equal(a.effects, b.effects) and all(np.array_equal(a.controls[c], b.controls[c]) for c in a.controls)
    )


def test_effects_are_means_of_training_cells_by_hand(dataset):
    table = effect_table(apply_plan(FEWSHOT, [("d", dataset)]), SOURCE, GENES)
    pairs = list(zip(table.perturbations, table.contexts, strict=True))
    assert pairs == [("IFNB1", "NK"), ("JUN,FOS", "B"), ("JUN,FOS", "NK")]  # NK has no TNF; B's IFNB1 and TNF are held out
    for row, (perturbation, context) in enumerate(pairs):
        np.testing.assert_allclose(table.effects[row], by_hand(dataset, perturbation, context), atol=1e-5)
        assert table.cells[row] == len(dataset.rows(perturbation, context))
    assert list(table.controls) == ["B", "NK"] and table.features == GENES
    control = normalise(dataset.read("X", dataset.rows("control", "B"))).mean(axis=0)
    np.testing.assert_allclose(table.controls["B"], control, atol=1e-5)
    # squared standard errors of both means
    cells = [normalise(dataset.read("X", dataset.rows(p, "B"))) for p in ("JUN,FOS", "control")]
    expected = sum(values.var(axis=0, ddof=1) / len(values) for values in cells)
    np.testing.assert_allclose(table.squared_errors("JUN,FOS", "B"), expected, rtol=1e-3, atol=1e-6)


def test_of_a_context_held_out_whole_nothing_is_known(dataset):
    table = effect_table(apply_plan(ZEROSHOT, [("d", dataset)]), SOURCE)
    assert set(table.contexts) == {"B"} == set(table.controls)
    np.testing.assert_allclose(table.mean_of_perturbation("IFNB1", "NK"), by_hand(dataset, "IFNB1", "B"), atol=1e-5)
    assert table.mean_of_context("NK") is None


@pytest.mark.parametrize("plan", [FEWSHOT, ZEROSHOT], ids=["fewshot", "zeroshot"])
def test_held_out_cells_move_nothing(dataset, tmp_path, plan):
    split = apply_plan(plan, [("d", dataset)])
    held = np.flatnonzero(split.sources[0].parts > 1)
    data = anndata.read_h5ad(dataset.path)
    values = data.X.toarray()
    values[held] = np.random.default_rng(1).poisson(50, (len(held), values.shape[1]))
    data.X = values
    data.write_h5ad(tmp_path / "other.h5ad")
    other = apply_plan(plan, [("d", open_dataset(tmp_path / "other.h5ad"))])
    assert len(held) and same(effect_table(split, SOURCE), effect_table(other, SOURCE))
    # the same change to a training cell does show
    values[np.flatnonzero(split.sources[0].parts == 1)[0]] = 50
    data.X = values
    data.write_h5ad(tmp_path / "trained.h5ad")
    trained = apply_plan(plan, [("d", open_dataset(tmp_path / "trained.h5ad"))])
    assert not same(effect_table(split, SOURCE), effect_table(trained, SOURCE))


def test_effects_are_taken_within_a_data_set_and_weighted_by_cells(tmp_path):
    """A data set that is brighter everywhere does not look like a perturbation."""
    one = open_dataset(write_cells(tmp_path / "one.h5ad", 240, counts=False))
    two = open_dataset(write_cells(tmp_path / "two.h5ad", 160, counts=False, seed=1))
    plan = SplitPlan((("one", "x"), ("two", "y")), ("one", "two"))
    table = effect_table(apply_plan(plan, [("one", one), ("two", two)]), FeatureSource("X"))
    n = [len(d.rows("TNF", "B")) for d in (one, two)]

    def effect(dataset: Dataset) -> np.ndarray:
        return dataset.read("X", dataset.rows("TNF", "B")).mean(axis=0) - dataset.read("X", dataset.rows("control", "B")).mean(
            axis=0
        )

    np.testing.assert_allclose(table.effect("TNF", "B"), np.average([effect(one), effect(two)], axis=0, weights=n), atol=1e-5)


def test_files_of_one_data_set_share_their_controls_and_may_order_genes_differently(tmp_path):
    whole = open_dataset(write_cells(tmp_path / "whole.h5ad", 200))
    data = anndata.read_h5ad(whole.path)
    data[:90].write_h5ad(tmp_path / "a.h5ad")
    data[90:, ::-1].copy().write_h5ad(tmp_path / "b.h5ad")
    parts = [("d", open_dataset(tmp_path / name)) for name in ("a.h5ad", "b.h5ad")]
    turned = FeatureSource("X", SOURCE.columns[::-1], normalise=True)
    plan = SplitPlan((("d", "x"),), ("d",))
    table = effect_table(apply_plan(plan, parts), [SOURCE, turned])
    expected = effect_table(apply_plan(plan, [("d", whole)]), SOURCE)
    assert table.perturbations == expected.perturbations
    np.testing.assert_allclose(table.effects, expected.effects, atol=1e-5)
    with pytest.raises(ConfigError, match="1 feature sources for 2 files"):
        effect_table(apply_plan(plan, parts), [SOURCE])


def test_progress_counts_the_training_cells(dataset):
    told = []
    split = apply_plan(ZEROSHOT, [("d", dataset)])
    effect_table(split, SOURCE, on_progress=told.append)
    assert told[-1].done == told[-1].total == split.cells()["train"]


# ---- means of chosen cells ----


def test_means_are_streamed_and_stored(tmp_path: Path) -> None:
    conditions = (("control", "B"), ("control", "T"), ("p", "T"), ("q", "T"))
    codes = np.array([1, 2, 2, 0, 3])
    x = np.arange(10, dtype=np.float32).reshape(5, 2)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in (np.array([2, 0]), np.array([1, 3])):  # row 4 (q) is never read
            yield rows, x[rows]

    found = means_by_condition(blocks(), codes, conditions, "control", ("a", "b"))
    assert found.conditions == conditions[:3] and found.cells.tolist() == [1, 1, 2]
    np.testing.assert_array_equal(found.values, [[6, 7], [0, 1], [3, 4]])
    assert ("q", "T") not in found and found.n("q", "T") == 0 and found.n("p", "T") == 2
    effects = found.effects()
    assert list(zip(effects.perturbations, effects.contexts, strict=True)) == [("p", "T")] and effects.cells.tolist() == [2]
    np.testing.assert_array_equal(effects.effects, [[3, 3]])
    assert found.effects(least=2).perturbations == ()
    found.save(tmp_path / "observed_means.npz")
    again = load_means(tmp_path / "observed_means.npz")
    assert (again.conditions, again.features, again.control) == (found.conditions, ("a", "b"), "control")
    np.testing.assert_array_equal(again.values, found.values)
    np.testing.assert_array_equal(again.on(["b"]).values, [[7], [1], [4]])
    with pytest.raises(RunError, match=r"1 of 2 genes are missing: z"):
        again.on(["b", "z"])
    with pytest.raises(RunError, match="cannot be read"):
        load_means(tmp_path / "none.npz")


def test_a_file_of_means_of_earlier_versions_is_read(tmp_path: Path) -> None:
    """The layout is part of a run folder: written here as it was before there was this class."""
    np.savez(
        tmp_path / "observed_means.npz", perturbations=np.array(["control", "p"]), contexts=np.array(["T", "T"]),
        n_cells=np.array([5, 2]), means=np.array([[1, 2], [3, 1]], np.float32), genes=np.array(["a", "b"]), control=np.array("control"),
    )  # fmt: skip
    found = load_means(tmp_path / "observed_means.npz")
    assert found.conditions == (("control", "T"), ("p", "T")) and found.n("control", "T") == 5
    assert found.effects().effect("p", "T").tolist() == [2, -1] and found.effects(least=3).effects.shape == (0, 2)


def test_every_cell_has_its_condition_and_missing_labels_have_none(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "cells.h5ad", 40)
    data = anndata.read_h5ad(path)
    data.obs.loc[data.obs_names[:3], "cell_type"] = np.nan
    data.write_h5ad(path)
    dataset = open_dataset(path)
    conditions, codes = condition_codes(dataset, "ctrl")
    assert (
        (codes[:3] == -1).all() and (codes[3:] >= 0).all() and list(conditions) == sorted(conditions, key=lambda c: (c[1], c[0]))
    )
    for row in range(3, 40):
        label, context = dataset.perturbation_labels()[row], dataset.context_labels()[row]
        assert conditions[codes[row]] == ("ctrl" if label == "control" else label, context)


def test_a_feature_of_a_name_that_repeats_is_the_first() -> None:
    means = Means((("c", "B"),), np.array([5]), np.array([[1.0, 2.0, 3.0]], np.float32), "c", ("A", "TBCE", "TBCE"))
    assert means.on(["TBCE", "A"]).values.tolist() == [[2.0, 1.0]]
