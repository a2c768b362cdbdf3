"""Effects and their agreement with measured cells, on numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from state_engine.analysis import differential as de
from state_engine.analysis import effects as ef
from state_engine.effects.means import Means
from state_engine.errors import GeneError, RequestError, RunError
from state_engine.prediction.result import Layer, Result, open_result
from state_engine.progress import Progress
from tests.prediction.make_result import make_result, write_result

CONTROL = [1.0, 1.0, 1.0, 1.0]
TRUTH = [3.0, 0.0, 1.0, 1.5]  # measured effect: +2, -1, 0, +0.5
CORRECTED = [2.0, 0.5, 1.0, 0.5]  # predicted effect: +1, -0.5, 0, -0.5
RAW = [2.0, 2.0, 2.0, 2.5]  # raw effect: +1, +1, +1, +1.5


def constant_cells(tmp_path: Path) -> Result:
    """Six identical cells of each kind, so that every mean is known."""
    x, raw, obs = [], [], []
    for kind, p, value, raw_value in (
        ("predicted", "p", CORRECTED, RAW),
        ("predicted control", "control", CONTROL, [0.5] * 4),
        ("observed control", "control", CONTROL, CONTROL),
        ("observed", "p", TRUTH, TRUTH),
    ):
        for i in range(6):
            x.append(value)
            raw.append(raw_value)
            obs.append((f"{kind}{i}", p, "T", kind, str(i) if "predicted" in kind else ""))
    frame = pd.DataFrame(obs, columns=["name", "perturbation", "context", "kind", "basal_cell"]).set_index("name")
    return open_result(write_result(tmp_path / "result.h5ad", np.array(x), np.array(raw), frame))


def means(**conditions: list[float]) -> Means:
    pairs = [tuple(key.split("_")) for key in conditions]
    values = np.array(list(conditions.values()), np.float32)
    return Means(tuple((p, c) for p, c in pairs), np.full(len(pairs), 9), values, "control", ("G0", "G1", "G2", "G3"))


def by_method(comparison: ef.EffectComparison) -> dict[str, ef.Score]:
    return {score.method: score for score in comparison.scores}


def test_scores_by_hand(tmp_path: Path) -> None:
    measured = means(
        control_T=CONTROL, p_T=TRUTH, q_T=[1.0, 0.0, 1.0, 2.0], r_T=[1.0, -0.5, 1.0, 2.0],
        control_B=[0.0] * 4, p_B=[1.0, 1.0, 0.0, 0.0], control_C=[0.0] * 4, p_C=[3.0, -1.0, 0.0, 0.0], p_D=[9.0] * 4,
    )  # fmt: skip
    comparison = ef.compare(constant_cells(tmp_path), "p", "T", measured, top=2)
    assert (comparison.n_predicted, comparison.n_observed, comparison.n_control, comparison.n_significant) == (6, 6, 6, 3)
    scores = by_method(comparison)
    assert tuple(scores) == tuple(m for m in ef.METHODS if m != "calibrated")  # this result has none
    truth = np.array(TRUTH) - CONTROL

    corrected = scores["corrected"]
    effect = np.array([1, -0.5, 0, -0.5])
    assert corrected.mae == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert corrected.pearson == pytest.approx(np.corrcoef(effect, truth)[0, 1])
    assert corrected.spearman == pytest.approx(spearmanr(effect, truth).statistic)
    assert corrected.direction == pytest.approx(2 / 3) and corrected.overlap == 1 and corrected.reason == ""

    raw = scores["raw"]
    assert raw.mae == pytest.approx((1 + 2 + 1 + 1) / 4) and raw.direction == pytest.approx(2 / 3) and raw.overlap == 0.5

    nothing = scores["no change"]
    assert nothing.mae == pytest.approx((2 + 1 + 0 + 0.5) / 4)
    assert (nothing.pearson, nothing.spearman, nothing.direction, nothing.overlap) == (
        None,
    ) * 4 and "no direction" in nothing.reason

    contexts = scores["mean of other contexts"]  # B: +1 +1 0 0; C: +3 -1 0 0; D has no control -> mean +2 0 0 0
    assert contexts.n_conditions == 2 and contexts.mae == pytest.approx((0 + 1 + 0 + 0.5) / 4)
    assert contexts.direction == pytest.approx(1 / 3)

    # the controls of B and C are alike, so they count alike: two contexts tell nothing of how much likeness should count
    alike = scores["likeness-weighted mean"]
    assert (alike.n_conditions, alike.mae) == (2, pytest.approx(contexts.mae))

    others = scores["mean of other perturbations"]  # q: 0 -1 0 +1; r: 0 -1.5 0 +1 -> 0 -1.25 0 +1; 1 - 1.25 is clipped at 0
    assert others.n_conditions == 2 and others.mae == pytest.approx((2 + 0 + 0 + 0.5) / 4)


def test_a_mean_effect_moves_the_mean_as_it_says(tmp_path: Path) -> None:
    """Most cells lack these genes: cut in each cell, hardly anything of a negative effect would be left."""
    result = open_result(make_result(tmp_path / "r.h5ad", contexts=("T",)))
    start = result.mean(result.rows("observed control", "T"))  # every effect is put onto the measured control
    control = np.ones(40)
    genes = tuple(result.genes)
    measured = Means(
        (("control", "B"), ("drugA", "B"), ("control", "T")), np.full(3, 9), np.array([control, control - 0.25, start]), "control", genes
    )  # fmt: skip
    found = ef.compare(result, "drugA", "T", measured).genes["mean_of_other_contexts"]
    np.testing.assert_allclose(found, np.maximum(start - 0.25, 0) - start, atol=1e-6)
    assert (found > -0.25).any() and (found < -0.2).any()


def test_a_calibrated_prediction_is_scored_beside_the_others(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "r.h5ad", calibrated=True))
    found = ef.compare(result, "drugA", "B")
    scores = by_method(found)
    assert tuple(scores) == ef.METHODS
    np.testing.assert_allclose(found.genes["calibrated"], found.genes["corrected"] / 2, atol=1e-5)  # it is halfway
    truth, base = found.genes["observed"], result.mean(result.rows("observed control", "B"))
    expected = np.abs(np.maximum(base + found.genes["calibrated"], 0) - (base + truth)).mean()
    assert scores["calibrated"].mae == pytest.approx(expected, abs=1e-5)
    assert found.genes["calibrated_log2_fold_change"].notna().all()
    # where it does not exist there is a reason and no number
    missing = ef.compare(result, "drugB", "T")
    assert by_method(missing)["calibrated"].mae is None
    assert "'drugB' in no other context" in by_method(missing)["calibrated"].reason
    assert "calibrated_log2_fold_change" not in missing.genes


def test_conditions_without_a_calibrated_prediction_are_not_ranked(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "r.h5ad", calibrated=True))
    assert len(ef.effect_sizes(result)) == 4
    for table in (ef.effect_sizes(result, "calibrated"), ef.gene_ranking(result, "G0", "calibrated")):
        assert {*zip(table["perturbation"], table["context"], strict=True)} == {("drugA", "B"), ("drugA", "T"), ("drugB", "B")}
        assert table.notna().all(axis=None)


def test_gene_table_by_hand(tmp_path: Path) -> None:
    genes = ef.compare(constant_cells(tmp_path), "p", "T").genes
    np.testing.assert_allclose(genes["observed"], [2, -1, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(genes["corrected"], [1, -0.5, 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(genes["raw"], [1, 1, 1, 1.5], atol=1e-6)
    natural = np.expm1([[3, 1], [2, 1], [2, 0.5]]) + 0.1  # observed, corrected, raw of G0 over its reference
    columns = ["observed_log2_fold_change", "corrected_log2_fold_change"]
    np.testing.assert_allclose(genes.loc[0, columns].astype(float), np.log2(natural[:2, 0] / natural[:2, 1]), rtol=1e-5)
    assert genes.loc[0, "raw_log2_fold_change"] == pytest.approx(np.log2(natural[2, 0] / natural[0, 1]), rel=1e-5)
    assert genes["mean_of_other_contexts"].isna().all()


def test_a_baseline_that_does_not_exist_is_missing_with_its_reason(tmp_path: Path) -> None:
    result = constant_cells(tmp_path)
    for score in ef.compare(result, "p", "T").scores[3:]:
        assert score.mae is None and score.pearson is None and "no means of the measured cells" in score.reason
    scores = by_method(ef.compare(result, "p", "T", means(control_T=CONTROL, p_T=TRUTH)))
    assert scores["mean of other contexts"].reason == "'p' was measured with a control in no other context."
    assert scores["mean of other perturbations"].mae is None and "in 'T'" in scores["mean of other perturbations"].reason
    table = ef.compare(result, "p", "T").table()
    assert table["mae"].isna().tolist() == [False, False, False, True, True, True]


def test_what_was_not_measured_or_not_predicted_is_said(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "r.h5ad", observed=False))
    with pytest.raises(RequestError, match="There are 0 measured cells of 'drugA' in 'B'"):
        ef.compare(result, "drugA", "B")
    with pytest.raises(RunError, match="36 of 40 genes are missing"):
        ef.compare(open_result(make_result(tmp_path / "s.h5ad")), "drugA", "B", means(control_T=CONTROL))


def test_conditions_are_ranked_by_effect_and_all_are_counted(tmp_path: Path) -> None:
    make_result(tmp_path / "result.h5ad", contexts=("T",))
    result = open_result(tmp_path / "result.h5ad")
    table = ef.effect_sizes(result).set_index("perturbation")
    assert (table.loc["drugB", "n_up"], table.loc["drugB", "n_down"]) == (2, 1)
    assert table[["n_up", "n_down"]].notna().all(axis=None)
    assert table.loc["drugA", "leading_gene"] == table.loc["drugA", "top_genes"].split(" ")[0]
    assert set(table.loc["drugA", "top_genes"].split(", ")) == {"G0 +", "G1 +", "G10 −"}
    rows = result.rows("predicted", "T", "drugA")
    delta = result.read(rows).mean(0) - result.read(result.paired_controls(rows)).mean(0)
    assert table.loc["drugA", "effect_size"] == pytest.approx(np.linalg.norm(delta), rel=1e-5)
    assert table["effect_size"].is_monotonic_decreasing and list(table["n_cells"]) == [30, 30]


def test_which_perturbation_moves_a_gene(tmp_path: Path) -> None:
    result = constant_cells(tmp_path)
    row = ef.gene_ranking(result, "G0").iloc[0]
    assert (row["mean_perturbed"], row["mean_reference"], row["effect"], row["n_cells"]) == (2, 1, 1, 6)
    assert row["log2_fold_change"] == pytest.approx(np.log2((np.expm1(2) + 0.1) / (np.expm1(1) + 0.1)))
    assert ef.gene_ranking(result, "G0", "raw")["effect"][0] == pytest.approx(1.5)
    assert set(ef.gene_ranking(result, "G0")["band"]) == {"not calibrated"}  # nothing was left out to learn bands from
    many = ef.gene_ranking(open_result(make_result(tmp_path / "many.h5ad")), "G2")
    assert list(many["perturbation"]) == ["drugB", "drugB", "drugA", "drugA"]
    with pytest.raises(GeneError):
        ef.gene_ranking(result, "G99")


@pytest.mark.parametrize("layer", ["corrected", "raw"])
def test_a_condition_counts_the_same_genes_as_its_table(tmp_path: Path, layer: Layer) -> None:
    """What Explore lists and what the Genes page says of the same condition."""
    result = open_result(make_result(tmp_path / "r.h5ad"))
    sizes = ef.effect_sizes(result, layer)
    assert len(sizes) == 4
    for row in sizes.itertuples():
        table = de.differential(result, row.perturbation, row.context, expression=layer)
        assert (row.n_up, row.n_down) == de.count_changes(table)


def test_progress_is_told_for_each_condition(tmp_path: Path) -> None:
    seen: list[Progress] = []
    ef.effect_sizes(open_result(make_result(tmp_path / "r.h5ad")), on_progress=seen.append)
    assert [(p.done, p.total) for p in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
