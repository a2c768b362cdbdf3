"""Differential expression against SciPy and hand-worked numbers."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu

from state_engine.analysis import differential as de
from state_engine.errors import RequestError, RunError
from state_engine.metrics.rank_tests import against_reference
from state_engine.prediction.result import Result, open_result
from tests.prediction.make_result import make_result, write_result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    make_result(folder / "result.h5ad")
    return folder


@pytest.fixture(scope="module")
def result(run: Path) -> Result:
    return open_result(run / "result.h5ad")


@pytest.mark.parametrize(
    ("reference", "expression"),
    [
        ("predicted control", "corrected"),
        ("predicted control", "raw"),
        ("observed control", "raw"),
        ("observed control", "observed"),
    ],
)
def test_p_values_and_fdr_equal_scipy(result: Result, reference: de.Reference, expression: de.Expression) -> None:
    table = de.differential(result, "drugA", "B", reference, expression)
    rows, control = de.groups(result, "drugA", "B", reference, expression)
    layer = "raw" if expression == "raw" else "corrected"
    x, y = (
        np.where(v < de.FLOOR, 0, v).astype(float) for v in (result.read(rows, layer=layer), result.read(control, layer=layer))
    )
    expected = mannwhitneyu(x, y, use_continuity=True, method="asymptotic", axis=0)
    np.testing.assert_allclose(table["p_value"], expected.pvalue, rtol=1e-9)
    np.testing.assert_array_equal(table["statistic"], expected.statistic)
    np.testing.assert_allclose(table["fdr"], false_discovery_control(table["p_value"]), rtol=1e-9)


def test_the_perturbed_genes_are_found_and_the_numbers_described(result: Result) -> None:
    table = de.differential(result, "drugB", "T")
    assert tuple(table.columns) == (*de.COLUMNS, *de.OF_PREDICTIONS) and tuple(table["gene"]) == result.genes
    up = table[(table["fdr"] < 0.05) & (table["log2_fold_change"] > 0)]
    down = table[(table["fdr"] < 0.05) & (table["log2_fold_change"] < 0)]
    assert list(up["gene"]) == ["G2", "G3"] and list(down["gene"]) == ["G10"]
    assert de.count_changes(table) == (2, 1)
    assert table.attrs["n_perturbed"] == 30 and table.attrs["n_reference"] == 30
    assert "Mann-Whitney" in table.attrs["method"] and "counts per 10,000" in table.attrs["scale"]


def test_calibrated_cells_are_compared_where_they_are(tmp_path: Path) -> None:
    result = open_result(make_result(tmp_path / "r.h5ad", calibrated=True))
    table = de.differential(result, "drugA", "B", expression="calibrated")
    rows = result.rows("predicted", "B", "drugA")
    np.testing.assert_allclose(table["mean_perturbed"], np.expm1(result.read(rows, layer="calibrated")).mean(axis=0), rtol=1e-5)
    assert table.attrs["expression"] == "calibrated" and de.count_changes(table)[0] == 2
    with pytest.raises(RequestError, match="no calibrated prediction of 'drugB' in 'T'"):
        de.differential(result, "drugB", "T", expression="calibrated")


def two_groups(tmp_path: Path, x: np.ndarray, y: np.ndarray) -> Result:
    kinds = ["observed"] * len(x) + ["observed control"] * len(y)
    obs = pd.DataFrame({"perturbation": ["p"] * len(x) + ["c"] * len(y), "context": "k", "kind": kinds, "basal_cell": ""})
    obs.index = pd.Index([str(i) for i in range(len(obs))])
    values = np.vstack([x, y])
    return open_result(write_result(tmp_path / "r.h5ad", values, values, obs))


def test_fold_changes_by_hand(tmp_path: Path) -> None:
    # gene 0: counts 3, 0, 3 (mean 2) against 1, 1, 1; gene 1: never expressed; gene 2: the same everywhere; gene 3: from 0 to 1
    x = np.log1p([[3, 0, 4, 1], [0, 0, 4, 1], [3, 0, 4, 1]])
    y = np.log1p([[1, 0, 4, 0], [1, 0, 4, 0], [1, 0, 4, 0]])
    table = de.differential(two_groups(tmp_path, x, y), "p", "k", "observed control", "observed")
    expected = [np.log2(2.1 / 1.1), 0, 0, np.log2(1.1 / 0.1)]
    np.testing.assert_allclose(table["log2_fold_change"], expected, rtol=1e-5)
    np.testing.assert_allclose(table["mean_perturbed"], [2, 0, 4, 1], rtol=1e-5)
    np.testing.assert_allclose(table["fraction_perturbed"], [2 / 3, 0, 1, 1])
    np.testing.assert_allclose(table["fraction_reference"], [1, 0, 1, 0])
    assert list(table["p_value"][1:3]) == [1.0, 1.0] and not table.drop(columns="gene").isna().any().any()
    assert table["statistic"][3] == 9  # every one of 3 x 3 pairs


def test_a_tiny_shift_of_zeros_is_no_change(tmp_path: Path) -> None:
    y = np.zeros((40, 2))
    y[:8] = 2.0
    x = y + 0.01
    result = two_groups(tmp_path, x, y)
    assert (de.differential(result, "p", "k", "observed control", "observed", floor=0)["fdr"] < 1e-6).all()
    table = de.differential(result, "p", "k", "observed control", "observed")
    assert (table["fdr"] > 0.3).all() and (table["fraction_perturbed"] == 0.2).all()
    assert (table["log2_fold_change"] > 0).all()  # the mean still says what was predicted


def test_groups_that_are_too_small_or_absent(result: Result, tmp_path: Path) -> None:
    small = two_groups(tmp_path, np.ones((2, 3)), np.ones((5, 3)))
    with pytest.raises(RequestError, match=r"There are 2 measured cells of 'p' in 'k'\. A test needs at least 3"):
        de.differential(small, "p", "k", "observed control", "observed")
    with pytest.raises(RequestError, match="There are 0 predicted cells of 'drugZ'"):
        de.differential(result, "drugZ", "B")
    with pytest.raises(RequestError, match="compared with the measured control"):
        de.differential(result, "drugA", "B", "predicted control", "observed")
    embedding = open_result(make_result(tmp_path / "e.h5ad", embedding="X_state", decoder=False))
    with pytest.raises(RequestError, match="no gene decoder"):
        de.differential(embedding, "drugA", "B")


def test_stored_tables_come_back_whole_and_follow_the_result(run: Path, result: Result) -> None:
    path = de.table_for(run, "drugA", "B")
    pd.testing.assert_frame_equal(de.read_table(path), de.differential(result, "drugA", "B"))
    assert de.read_table(path).attrs == de.differential(result, "drugA", "B").attrs
    made = path.stat().st_mtime_ns
    assert de.table_for(run, "drugA", "B") == path and path.stat().st_mtime_ns == made
    assert de.table_for(run, "drugA", "B", expression="raw") != path
    os.utime(run / "result.h5ad", ns=(1, 1))
    assert de.table_path(run, "drugA", "B") != path
    assert not list(path.parent.glob("*.unfinished"))


def test_a_damaged_table_or_a_missing_result_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(RunError, match="cannot be read"):
        de.read_table(tmp_path / "x.parquet")
    with pytest.raises(RunError, match="The run has no result"):
        de.table_for(tmp_path, "a", "b")


def test_names_that_no_file_may_have(tmp_path: Path) -> None:
    make_result(tmp_path / "result.h5ad", perturbations=("[('DMSO/TF', 0.0, 'uM')]",), contexts=("../T",))
    path = de.table_for(tmp_path, "[('DMSO/TF', 0.0, 'uM')]", "../T")
    assert path.parent == tmp_path / "differential" and path.exists()


def test_the_rule_for_predicted_cells_is_the_effect_and_not_p(tmp_path: Path) -> None:
    columns = {
        "log2_fold_change": [0.3, -0.3, 0.2, 2.0, 0.25], "fdr": [0.9, 0.9, 1e-9, 1e-9, 0.5],
        "fraction_perturbed": [0.5, 0.0, 0.5, 0.004, 0.01], "fraction_reference": [0.5, 0.02, 0.5, 0.009, 0.0],
    }  # fmt: skip
    table = pd.DataFrame(columns)
    table.attrs["expression"] = "corrected"
    # no p is asked; the third moves too little, hardly a cell detects the fourth
    assert de.directions(table).tolist() == [1, -1, 0, 0, 1] and de.count_changes(table) == (2, 1)
    table.attrs["expression"] = "observed"
    assert de.directions(table).tolist() == [0, 0, 0, 1, 0]
    assert de.directions(table, fold=0.1).tolist() == [0, 0, 1, 1, 0]


def test_more_predicted_cells_do_not_change_more_genes(tmp_path: Path) -> None:
    """p falls with the number of cells, which the user chooses; the genes that count as changed are the same."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random((30, 50)) < 0.7, rng.gamma(2, 1, (30, 50)), 0).astype(np.float32)
    effect = np.zeros(50, np.float32)
    effect[:10] = np.linspace(0.05, 0.5, 10)
    found = []
    for n in (1, 20):
        control = np.tile(y, (n, 1))
        table = de.differential(two_groups(tmp_path, control + effect, control), "p", "k", "observed control", "observed")
        table.attrs["expression"] = "corrected"
        found.append((de.count_changes(table), int((table["fdr"] < 0.05).sum())))
    assert found[0][0] == found[1][0] and found[0][0][0] > 0
    assert found[1][1] > found[0][1]


def test_genes_are_read_block_by_block_with_the_same_numbers(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    perturbed, control = de.groups(result, *result.conditions()[0], "observed control", "corrected")
    asked: list[tuple[int, int]] = []
    block = type(result).block

    def noted(self: Result, rows: np.ndarray, genes: slice, layer: str = "corrected") -> np.ndarray:
        values = block(self, rows, genes, layer)  # type: ignore[arg-type]
        np.testing.assert_array_equal(values, self.read(rows, layer=layer)[:, genes])  # type: ignore[arg-type]
        asked.append(values.shape)
        return values

    monkeypatch.setattr(type(result), "block", noted)
    whole = de.compare_groups(result, perturbed, control)
    assert asked == [(len(perturbed), result.n_genes), (len(control), result.n_genes)]
    asked.clear()
    monkeypatch.setattr(de, "against_reference", partial(against_reference, block_values=7 * (len(perturbed) + len(control))))
    pd.testing.assert_frame_equal(de.compare_groups(result, perturbed, control), whole, check_exact=True)
    assert {width for _, width in asked[:-2]} == {7} and len(asked) > 4
