"""Which condition of a result can be trusted: its band, and whether it beats the mean, as the comparison of the page Genes says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from state_engine.analysis import differential as de
from state_engine.analysis import standing, stored
from state_engine.analysis.effects import OTHER_CONTEXTS, compare
from state_engine.analysis.recall import found_genes
from state_engine.analysis.standing import MEANINGS, STANDINGS, standing_of, standings
from state_engine.effects.means import Means
from state_engine.errors import JobCancelled
from state_engine.prediction.result import Result, open_result, read_mean, read_rows
from state_engine.progress import Progress
from tests.prediction.make_result import make_result


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return open_result(make_result(tmp_path_factory.mktemp("run") / "result.h5ad"))


def means_of(result: Result, wrong: float) -> Means:
    """The measured means of the result, those of context T off by `wrong` in every second gene, so that they teach B badly."""
    rows, conditions = [], []
    for kind in ("observed control", "observed"):
        for perturbation, context in result.conditions(kind):
            mean = result.mean(result.rows(kind, context, perturbation))
            mean[::2] += wrong * (context == "T") * (kind == "observed")
            rows.append(mean)
            conditions.append((perturbation, context))
    return Means(tuple(conditions), np.full(len(rows), 30), np.array(rows, np.float32), "control", tuple(result.genes))


def test_the_numbers_are_those_of_the_comparison(result: Result) -> None:
    means, measured = means_of(result, 0.0), stored.measured_conditions(result)
    table = standings(result, measured, means).set_index(["perturbation", "context"])
    assert list(table.index) == result.conditions() and set(table["standing"]) <= set(STANDINGS) == set(MEANINGS)
    for pair, row in table.iterrows():
        found = {score.method: score for score in compare(result, *pair, means).scores}
        own, other = found["corrected"], found[OTHER_CONTEXTS]
        assert (row["pearson"], row["mae"]) == pytest.approx((own.pearson, own.mae))
        assert (row["mean_pearson"], row["mean_mae"]) == pytest.approx((other.pearson, other.mae))
        if row["standing"] in ("better", "worse"):
            counted = found_genes(compare(result, *pair, means))  # as the headline of the page Genes
            assert (row["moved"], row["mean_moved"]) == (counted.moved, counted.baseline_moved)
    assert table["standing"].isin(["better", "worse"]).any()


def test_all_three_have_to_agree() -> None:
    assert standing_of([0.011, 0.007, 2]) == standing_of([0.011, 0.007, 0]) == standing_of([0, 0, 1]) == "better"
    assert standing_of([0.011, 0.007, -2]) == standing_of([-0.1, 0.1]) == standing_of([0, 0, 0]) == "cannot be told"
    assert standing_of([-0.1, -0.1, -3]) == standing_of([-0.1, -0.1, 0]) == "worse"
    assert standing_of([float("nan"), 0.1, 1]) == "cannot be told"


def test_a_mean_that_finds_more_genes_leaves_it_open(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, means = stored.measured_conditions(result), means_of(result, 2.0)
    counts = iter([37, 39] * len(measured))
    monkeypatch.setattr(standing, "moved", lambda *_: next(counts))
    table = standings(result, measured, means)
    counted = table[table["moved"].notna()]
    ahead = (counted["pearson"] > counted["mean_pearson"]) & (counted["mae"] < counted["mean_mae"])
    assert ahead.any() and (counted.loc[ahead, "standing"] == "cannot be told").all()
    monkeypatch.setattr(standing, "MOST_TESTED", len(measured) - 1)  # too many to test: the other two decide
    table = standings(result, measured, means)
    assert table["moved"].isna().all() and (table.loc[ahead[ahead].index, "standing"] == "better").all()


def test_a_mean_that_misleads_is_beaten_and_one_that_is_right_is_not(result: Result) -> None:
    measured = stored.measured_conditions(result)
    misled = standings(result, measured, means_of(result, 2.0)).set_index(["perturbation", "context"])
    assert (misled.loc[[("drugA", "B"), ("drugB", "B")], "standing"] == "better").all()
    unknown = standings(result, measured)
    assert (
        (unknown["standing"] == "no baseline").all() and unknown["mean_pearson"].isna().all() and unknown["pearson"].notna().all()
    )
    nobody = standings(result, [])
    assert (nobody["standing"] == "not measured").all() and (nobody["exposure"] == "").all() and nobody["pearson"].isna().all()


def test_it_is_kept_with_the_effects_and_can_be_stopped(tmp_path: Path) -> None:
    run = make_result(tmp_path / "result.h5ad").parent
    assert not stored.has_effects(run)
    stored.effects_for(run)
    assert stored.has_effects(run)
    table = de.read_table(stored.standing_path(run))
    pd.testing.assert_frame_equal(
        table, standings(open_result(run / "result.h5ad"), {*table.iloc[:, :2].itertuples(index=False, name=None)})
    )
    stored.standing_path(run).unlink()  # as a run of before
    sizes = stored.effects_path(run).stat().st_mtime_ns
    stored.effects_for(run)
    assert stored.has_effects(run) and stored.effects_path(run).stat().st_mtime_ns == sizes

    def stop(progress: Progress) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        standings(open_result(run / "result.h5ad"), [], on_progress=stop)


def test_predicted_cells_are_read_once_for_sizes_and_standings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_result(tmp_path / "result.h5ad").parent
    asked, counts = Result._asked, np.zeros(open_result(run / "result.h5ad").n_cells, int)

    def counting(self: Result, function: Callable[..., Any], *arguments: Any) -> Any:
        if function in (read_rows, read_mean):
            counts[arguments[1]] += 1
        return asked(self, function, *arguments)

    monkeypatch.setattr(Result, "_asked", counting)
    stored.effects_for(run)
    kinds = open_result(run / "result.h5ad").obs["kind"].to_numpy(str)
    assert set(counts[kinds == "predicted"]) == {1} and counts[kinds == "observed"].min() == 1


def test_the_change_of_one_gene_is_that_of_the_table(tmp_path: Path) -> None:
    run = make_result(tmp_path / "result.h5ad").parent
    stored.effects_for(run)
    every = de.read_table(stored.changes_path(run))
    one = stored.change_of_gene(stored.changes_path(run), "G3")
    assert one["log2_fold_change"].tolist() == every["G3"].tolist() and one["context"].tolist() == every["context"].tolist()
    with pytest.raises(Exception, match="no such gene"):
        stored.change_of_gene(stored.changes_path(run), "none of them")
