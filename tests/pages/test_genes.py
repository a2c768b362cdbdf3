"""The Genes page opened without a browser, and its figures and words as functions of tables."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.genes import charts as genechart
from pages.parts.genes import maps, tabs
from pages.parts.genes.compare import missing_scores, score_table, verdict
from pages.parts.genes.sets import find_genes, split_names
from pages.parts.genes.table import Question, summary
from state_engine.analysis import enrichment, selected, stored
from state_engine.analysis.effects import (
    CORRECTED,
    NO_CHANGE,
    OTHER_CONTEXTS,
    OTHER_PERTURBATIONS,
    RAW,
    EffectComparison,
    Score,
)
from state_engine.analysis.on_target import TARGETS, TargetsRequest, check_targets
from state_engine.config import Settings
from state_engine.gene_sets.sets import GeneSet, match_names
from state_engine.jobs.run_folder import RunFolder
from state_engine.plain import to_plain
from tests.pages.finished_run import finished_run
from tests.pages.opened import opened, page_at, text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finished_run(tmp_path_factory.mktemp("home"))


def linked(monkeypatch: pytest.MonkeyPatch, run: RunFolder, home: Path, **query: str) -> AppTest:
    """The page, opened by a link that names a condition or a gene."""
    page = page_at(monkeypatch, "genes", run, home)
    for name, value in {"run": run.id, **query}.items():
        page.query_params[name] = value
    return page.run()


# ---- the page ----


def test_without_a_run_it_says_what_belongs_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, "genes", None, tmp_path)
    assert "No prediction is chosen" in text(page)
    assert not page.exception


def test_the_answer_is_a_sentence_with_its_numbers(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1])
    assert not page.exception
    # the made-up result raises two genes and lowers one
    assert "2 of 40 genes go up and 1 down" in text(page)
    headline = next(m.value for m in page.markdown if "go up" in m.value)
    assert "FDR" not in headline and "|log2 fold change| ≥ 0.25" in headline
    assert text(page).count("says nothing about being right") == 1  # what p means, once
    assert "30 predicted cells against 30 predicted control cells" in text(page)
    assert len(page.dataframe[0].value) == 40
    columns = json.loads(page.dataframe[0].proto.columns)
    assert columns["p_value"]["label"] == "p" and "30 against 30 cells" in columns["p_value"]["help"]


def test_the_first_gene_is_one_that_changes_and_the_users_word_decides(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1], perturbation="drugA", context="B")
    assert page.selectbox(key="gene").value in ("G0", "G1", "G10")
    page.selectbox(key="gene").set_value("G7").run()
    assert page.selectbox(key="gene").value == "G7"
    assert "**G7 in B**" in text(page)
    assert page.query_params["gene"] in ("G7", ["G7"])


def test_the_address_opens_a_condition_and_a_gene(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1], perturbation="drugB", context="T", gene="G3")
    assert (page.selectbox(key="perturbation").value, page.selectbox(key="context").value) == ("drugB", "T")
    assert "**G3 in T**" in text(page)


def test_a_calibrated_prediction_can_be_looked_at_where_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = finished_run(tmp_path, calibrated=True)
    stored.answer(made.path, "drugA", "B", expression="calibrated")
    page = linked(monkeypatch, made, tmp_path, perturbation="drugA", context="B")
    assert page.segmented_control(key="de_cells").options == ["Predicted", "Predicted, calibrated", "Predicted, raw", "Measured"]
    page.segmented_control(key="de_cells").set_value("calibrated").run()
    assert not page.exception and "Calibrated prediction." in text(page)
    page.session_state["gene_tabs"] = "Against the measurement"
    page.run()
    assert "| Calibrated prediction |" in text(page) and not page.exception
    other = linked(monkeypatch, made, tmp_path, perturbation="drugB", context="T")
    assert "Predicted, calibrated" not in other.segmented_control(key="de_cells").options


def test_an_address_that_means_nothing_opens_the_default(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1], context="moon", gene="UNKNOWN1")
    assert page.selectbox(key="context").value == "B"
    assert not page.exception


def test_names_of_a_gene_set_that_are_not_there_are_said(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1])
    page.text_area(key="gene_set").set_value("g0, G5\nNOSUCH").run()
    assert "2 of 3 names are in the result" in text(page)
    assert "**Not in the result:** NOSUCH" in text(page) and "may be" not in text(page)
    page.text_area(key="gene_set").set_value("g0, GG5").run()
    assert "'GG5' may be 'G5'" in text(page)
    page.text_area(key="gene_set").set_value("g0, G5\nNOSUCH").run()
    page.segmented_control(key="gene_show").set_value("Gene set").run()
    assert sorted(page.dataframe[0].value["gene"]) == ["G0", "G5"]


def test_searching_leaves_the_genes_that_match(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1])
    page.text_input(key="gene_search").set_value("G10").run()
    assert page.dataframe[0].value["gene"].tolist() == ["G10"]


def test_a_run_without_genes_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    embedded = finished_run(tmp_path, embedding="X_state", decoder=False)
    page = linked(monkeypatch, embedded, tmp_path)
    assert "predicts an embedding, not genes" in text(page)
    assert not page.exception


def test_the_measurement_is_compared_in_its_tab(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = page_at(monkeypatch, "genes", run, run.path.parents[1])
    page.session_state["gene_tabs"] = "Against the measurement"
    page.run()
    assert not page.exception
    assert "| **Prediction** |" in text(page)
    assert "the run has no means of the measured cells" in text(page).lower()


def test_one_sentence_says_test_recall_or_nobody(monkeypatch: pytest.MonkeyPatch, run: RunFolder, tmp_path: Path) -> None:
    page = linked(monkeypatch, run, run.path.parents[1], perturbation="drugA", context="B")
    # three genes are moved in the made-up cells, and their noise moves no other one
    assert (
        "nothing says whether the model was trained on it. Of the 40 genes predicted to move most, **3 did** "
        "(of all 40, 4 genes moved significantly)." in text(page)
    )
    alone = finished_run(tmp_path, observed=False)
    page = linked(monkeypatch, alone, tmp_path)
    assert "nobody measured this. No left-out condition says how often such a prediction holds" in text(page)


def test_the_table_has_the_measured_change_and_the_band(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    page = linked(monkeypatch, run, run.path.parents[1], perturbation="drugA", context="B")
    shown = page.dataframe[0].value
    assert {"log2_fold_change", "measured", "band"} <= set(shown.columns) and set(shown["band"]) == {"not calibrated"}
    assert shown.set_index("gene").loc["G0", "measured"] > 0.5
    # what a window of 1440 shows without a cut, and the band before the tests
    first = ["gene", "log2_fold_change", "measured", "band", "p_value", "fdr"]
    columns = json.loads(page.dataframe[0].proto.columns)
    assert list(shown.columns)[: len(first)] == first and sum(columns[name]["width"] for name in first) <= 502


def test_selected_cells_have_the_columns_of_the_other_tables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made, rows = finished_run(tmp_path), np.arange(20)
    selected.selected_for(made.path, selected.keep_cells(made.path, rows))
    monkeypatch.setattr(tabs, "selected_rows", lambda run: rows)
    page = page_at(monkeypatch, "genes", made, tmp_path)
    page.session_state["gene_tabs"] = "Selected cells"
    page.run()
    assert not page.exception and "20 selected cells" in text(page)
    table = next(one for one in page.dataframe if "Mean, selected" in one.proto.columns)
    columns = json.loads(table.proto.columns)
    assert [columns[name]["label"] for name in table.value.columns] == [
        "Gene", "log2FC", "p", "FDR", "Mean, selected", "Mean, other", "Detected, selected", "Detected, other",
    ]  # fmt: skip
    assert columns["p_value"]["type_config"]["format"] == "%.1e"
    assert table.value["fraction_perturbed"].max() > 1  # percent


@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("All perturbations", "Which conditions are alike?"),
        ("Groups of cells", "share of cells that detect the gene"),
        ("Gene sets", "hypergeometric test"),
        ("On target", "No perturbation names a gene of the data"),
        ("Selected cells", "No cells are selected"),
    ],
)
def test_each_tab_shows_its_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tab: str, words: str) -> None:
    made = finished_run(tmp_path)
    stored.effects_for(made.path)
    name = enrichment.keep_sets(made.path, (GeneSet("FIRST", ("G0", "G1", "G2", "G3", "G4")),))
    question = enrichment.SetQuestion("over-representation", "drugA", "B", name)
    # what the worker would have made, for the sets that the page offers without any handed in
    at = enrichment.answer_path(made.path, replace(question, sets=""))
    enrichment.answer_for(made.path, question).replace(at)
    request = TargetsRequest(str(made.result))
    done = RunFolder.create(Settings(home=tmp_path), "targets", to_plain(request), parent=made.id)
    check_targets(request).to_parquet(done.file(TARGETS))
    page = page_at(monkeypatch, "genes", made, tmp_path)
    page.session_state["gene_tabs"] = tab
    page.session_state["perturbation"], page.session_state["context"] = "drugA", "B"
    page.run()
    assert not page.exception and words in text(page)


# ---- names and sets ----


def test_names_are_split_however_they_were_pasted() -> None:
    assert split_names(' IFI6, "ISG15";\tMX1\n\nIFI6 ') == ["IFI6", "ISG15", "MX1"]


def test_names_match_in_upper_and_lower_case_but_the_exact_one_wins() -> None:
    assert match_names(["ifi6", "Mx1", "zzz"], ["IFI6", "MX1", "Mx1"]) == (("IFI6", "Mx1"), ("zzz",))


def test_a_search_for_exact_names_does_not_find_longer_ones() -> None:
    table = pd.DataFrame({"gene": ["IFI6", "IFI62", "MX1", "A.B"]})
    assert find_genes(table, "ifi6, mx1")["gene"].tolist() == ["IFI6", "MX1"]
    assert find_genes(table, "ifi")["gene"].tolist() == ["IFI6", "IFI62"]
    assert find_genes(table, "a.b")["gene"].tolist() == ["A.B"]
    assert find_genes(table, "X(").empty


# ---- figures ----


def changes(p: list[float], fold: list[float]) -> pd.DataFrame:
    genes = [f"G{i}" for i in range(len(p))]
    return pd.DataFrame({"gene": genes, "log2_fold_change": fold, "p_value": p, "fdr": p})


def test_calls_need_both_thresholds() -> None:
    table = changes([0.01, 0.01, 0.2, 0.01, 0.01], [1.0, -1.0, 3.0, 0.1, 0.0])
    assert genechart.directions(table, 0.05, 0.25).tolist() == ["up", "down", "same", "same", "same"]
    assert genechart.directions(table, 0.05, 0.0).tolist() == ["up", "down", "same", "up", "same"]


def test_the_headline_counts_those_that_are_likely_to_hold() -> None:
    question = Question("drugA", "B", "predicted control", "corrected")
    bands = ["very likely", "likely", "uncertain", "by chance", "likely"]
    table = changes([0.01] * 5, [1.0, 1.0, 1.0, -1.0, 0.1]).assign(fraction_perturbed=0.5, fraction_reference=0.5, band=bands)
    table.attrs["expression"] = "corrected"
    said = summary(question, table, 0.25)
    assert "3 of 5 genes go up and 1 down" in said and "of these **2 up and 0 down** are likely or very likely to hold" in said
    assert "to hold" not in summary(question, table.assign(band="not calibrated"), 0.25)
    assert "to hold" not in summary(question, table, 2.0)


def test_predicted_genes_are_ordered_by_their_effect() -> None:
    table = changes([1e-30, 0.4, 1e-9], [0.3, -2.0, 5.0]).assign(
        fraction_perturbed=[0.5, 0.5, 0.001], fraction_reference=[0.5, 0.5, 0.0]
    )
    assert genechart.leading_gene(table) == "G2"
    table.attrs["expression"] = "corrected"
    assert genechart.leading_gene(table) == "G1"  # hardly a cell detects G2
    assert genechart.directions(table, 0.05, 0.25).tolist() == ["up", "down", "same"]
    assert genechart.volcano(table, fold=0.25, names=1).named == ("G0", "G1")


def test_p_of_zero_is_drawn_at_the_edge_and_counted() -> None:
    drawn = genechart.volcano(changes([0.0, 1e-20, 0.5], [2.0, 1.0, 0.0]))
    assert drawn.n_capped == 1
    heights = np.concatenate([np.asarray(trace.y) for trace in drawn.figure.data if trace.customdata is not None])
    assert np.isfinite(heights).all()
    assert sorted(heights)[-1] > 20


def test_all_p_of_zero_still_draws() -> None:
    assert genechart.heights(pd.Series([0.0, 0.0]))[0].tolist() == [308.0, 308.0]


def test_the_volcano_names_its_top_genes_and_the_set_when_one_is_given() -> None:
    table = changes([1e-9, 1e-8, 1e-7, 0.9], [3.0, -2.0, 0.5, 0.0])
    drawn = genechart.volcano(table, chosen="G3", names=1)
    assert drawn.named == ("G3", "G0", "G1")
    assert (drawn.n_up, drawn.n_down) == (2, 1)
    assert genechart.volcano(table, marked=("G2",), names=1).named == ("G2",)


def test_every_point_knows_its_gene() -> None:
    table = changes([1e-9, 1e-8, 0.7], [3.0, -2.0, 0.5])
    found = {}
    for trace in genechart.volcano(table).figure.data:
        if trace.customdata is not None:
            found |= dict(zip(trace.customdata, np.asarray(trace.x).tolist(), strict=True))
    assert found == {"G0": 3.0, "G1": -2.0, "G2": 0.5}


def test_what_counts_as_changed_and_what_is_marked_are_in_the_address(monkeypatch: pytest.MonkeyPatch, run: RunFolder) -> None:
    home = run.path.parents[1]
    page = linked(monkeypatch, run, home)
    assert not {"fold", "set", "find", "show"} & {*page.query_params}
    page.number_input(key="fold").set_value(0.5).run()
    page.text_area(key="gene_set").set_value("G0, G5").run()
    page.text_input(key="gene_search").set_value("G1").run()
    page.segmented_control(key="gene_show").set_value("Up").run()
    kept = {name: page.query_params[name] for name in ("fold", "set", "find", "show")}
    assert kept == {"fold": ["0.5"], "set": ["G0, G5"], "find": ["G1"], "show": ["Up"]} or kept == {
        "fold": "0.5", "set": "G0, G5", "find": "G1", "show": "Up"
    }  # fmt: skip
    other = linked(monkeypatch, run, home, fold="0.5", set="G0, G5", find="G1", show="Up")
    assert other.number_input(key="fold").value == 0.5 and other.text_area(key="gene_set").value == "G0, G5"
    assert other.text_input(key="gene_search").value == "G1" and other.segmented_control(key="gene_show").value == "Up"
    assert "|log2 fold change| ≥ 0.5" in text(other) and not other.exception
    assert linked(monkeypatch, run, home, fold="much").number_input(key="fold").value == 0.25
    page.text_area(key="gene_set").set_value("G0 " * 400).run()
    assert "set" not in page.query_params, "a link that long would be cut off"


def test_names_stay_above_the_axis_and_within_the_sides() -> None:
    names = [f"A_LONG_GENE_NAME{i}" for i in range(8)]
    table = changes([0.01] * 8 + [1e-30], [-0.3 - 0.01 * i for i in range(8)] + [2.0])
    table["gene"] = [*names, "TOP"]
    figure = genechart.volcano(table, names=8).figure
    (left, right), (bottom, top) = figure.layout.xaxis.range, figure.layout.yaxis.range
    wide, high = genechart.PLOT
    assert len(figure.layout.annotations) == 9
    for label in figure.layout.annotations:
        middle = (label.y - bottom) / (top - bottom) * high - label.ay
        end = (
            (label.x - left) / (right - left) * wide
            + label.ax
            + (7 * len(label.text.strip("<b>/")) + 4) * (1 if label.ax > 0 else -1)
        )
        assert middle >= 6 and -1 <= end <= wide + 1, label.text


def test_names_do_not_lie_on_one_another() -> None:
    table = changes([1e-9] * 6, [1.0, 1.01, 1.02, 1.03, 1.04, 1.05])
    labels = genechart.volcano(table, names=6).figure.layout.annotations
    heights = sorted(label.ay for label in labels)
    assert len(labels) == 6
    assert np.diff(heights).min() >= 7


def test_up_is_vermilion_and_down_is_blue() -> None:
    traces = genechart.volcano(changes([1e-9, 1e-9, 0.9], [1.0, -1.0, 0.0])).figure.data
    colours = {trace.customdata[0]: trace.marker.color for trace in traces if trace.customdata is not None}
    assert (colours["G0"], colours["G1"]) == ("#D55E00", "#0072B2")


def test_where_bands_are_known_they_colour_the_volcano() -> None:
    table = changes([1e-9, 1e-9, 0.9], [1.0, -1.0, 0.0]).assign(band=["very likely", "by chance", "by chance"])
    traces = {t.name: t for t in genechart.volcano(table).figure.data if t.customdata is not None}
    assert (
        list(traces["very likely to hold (1)"].customdata) == ["G0"]
        and traces["very likely to hold (1)"].marker.color == "#D55E00"
    )
    assert list(traces["by chance (1)"].customdata) == ["G1"] and list(traces["no change (1)"].customdata) == ["G2"]


def test_a_heat_map_puts_alike_conditions_together() -> None:
    index = pd.MultiIndex.from_tuples([("a", "T"), ("b", "T"), ("c", "T"), ("d", "T")], names=["perturbation", "context"])
    values = pd.DataFrame([[2, 0, 1, 0], [0, 2, 0, 0], [2, 0, 0.9, 0], [0, 1.9, 0, 0]], index, list("WXYZ"), dtype=np.float32)
    part = maps.chosen_changes(values, (), columns=3)
    order = [p for p, _ in part.index]
    assert abs(order.index("a") - order.index("c")) == 1 and abs(order.index("b") - order.index("d")) == 1
    assert set(part.columns) == {"W", "X", "Y"}
    assert list(maps.chosen_changes(values, ("Z", "NO")).columns) == ["Z"]
    figure = maps.heat_map(part, ("b", "T"))
    bar = figure.data[0].colorbar  # of few rows too it has room, and every gene its name
    assert (bar.lenmode, bar.len) == ("pixels", 130) and figure.layout.xaxis.dtick == 1
    assert "<b>b · T</b>" in figure.data[0].y and figure.data[0].zmax == -figure.data[0].zmin == 2
    assert len(figure.data) == 1
    squares = maps.heat_map(part, ("b", "T"), {("b", "T"): "likely", ("a", "T"): "likely"}).data[1:]
    assert [(one.name, sorted(one.y)) for one in squares] == [("likely", ["<b>b · T</b>", "a · T"])]


def test_dots_are_as_large_as_the_share_of_cells() -> None:
    means = pd.DataFrame([[1.0, 0.0]], ["T · control"], ["A", "B"])
    figure = maps.dot_plot(means, pd.DataFrame([[1.0, 0.25]], means.index, means.columns))
    assert figure.data[0].marker.size.tolist() == [20.0, 12.0] and figure.data[0].marker.color.tolist() == [1.0, 0.0]


def test_a_gene_that_is_the_same_in_all_cells_has_no_violin_but_its_cells() -> None:
    groups = [
        genechart.CellGroup("predicted", np.ones(5, np.float32), "#D55E00"),
        genechart.CellGroup("measured control", np.arange(5, dtype=np.float32), "#9aa0a3"),
    ]
    figure = genechart.violins("MX1", groups)
    assert [trace.type for trace in figure.data] == ["scatter", "violin", "scatter"]
    assert "80% detect" in figure.layout.xaxis.ticktext[1]


def test_agreement_has_one_scale_on_both_axes() -> None:
    genes = pd.DataFrame(
        {
            "gene": ["A", "B", "C"],
            "observed_log2_fold_change": [5.0, -1.0, 0.0],
            "corrected_log2_fold_change": [1.0, 0.5, 0.1],
            "observed_fdr": [0.001, 0.5, 1.0],
        }
    )
    figure = genechart.agreement(genes, "corrected_log2_fold_change")
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    assert [label.text for label in figure.layout.annotations] == ["A"]


def test_ranking_puts_the_largest_effect_on_top_and_marks_the_current_one() -> None:
    ranking = pd.DataFrame({"perturbation": ["a", "b"], "context": ["T", "T"], "log2_fold_change": [-2.0, 1.0]})
    figure = genechart.ranking_bars(ranking, ("b", "T"))
    assert figure.layout.yaxis.ticktext == ("<b>b · T</b>", "a · T")
    assert figure.data[0].marker.color == ("#D55E00", "#0072B2")
    banded = genechart.ranking_bars(ranking.assign(band=["very likely", "by chance"]), ("b", "T"))
    assert banded.data[0].marker.color == tuple(genechart.BAND_COLOURS[band] for band in ("by chance", "very likely"))
    assert "very likely" in banded.data[0].customdata[1]


# ---- words ----


def score(method: str, pearson: float | None, mae: float | None, reason: str = "") -> Score:
    return Score(method, pearson, pearson, mae, None, None, None, reason)


def test_it_says_when_a_mean_predicts_better() -> None:
    scores = [score(CORRECTED, 0.6, 0.05), score(NO_CHANGE, None, 0.06), score(OTHER_CONTEXTS, 0.7, 0.04)]
    assert verdict(scores) == [
        "**The mean of the other contexts predicts this better:** Pearson 0.70 against 0.60, mean absolute error 0.04 against 0.05."
    ]


def test_close_numbers_get_the_digits_that_tell_them_apart() -> None:
    sentence = verdict([score(CORRECTED, 0.6912, 0.05), score(OTHER_CONTEXTS, 0.6918, 0.06)])[0]
    assert "Pearson 0.692 against 0.691" in sentence
    assert "is better in one respect" in sentence


def test_the_default_output_is_what_baselines_are_compared_with() -> None:
    scores = [score(CORRECTED, 0.6, 0.05), score("calibrated", 0.8, 0.03), score("likeness-weighted mean", 0.7, 0.04)]
    assert verdict(scores, "calibrated") == []
    assert "weighted by how alike they are, predicts this better" in verdict(scores)[0]


def test_it_is_silent_when_the_model_is_best() -> None:
    assert verdict([score(CORRECTED, 0.9, 0.01), score(NO_CHANGE, None, 0.06), score(OTHER_CONTEXTS, 0.7, 0.04)]) == []


def test_a_missing_score_is_a_dash_with_a_reason_and_never_zero() -> None:
    scores = (
        score(CORRECTED, 0.6, 0.05),
        score(RAW, -0.2, 0.09),
        score(OTHER_PERTURBATIONS, None, None, "No other perturbation was measured."),
    )
    found = EffectComparison("p", "c", 1, 1, 1, 0, 50, scores, pd.DataFrame())
    lines = score_table(found).splitlines()
    assert lines[-1] == "| Mean of other perturbations | – | – | – | – | – |"
    assert "| Moved | Top 50 shared |" in lines[0] and "| **0.60** | **0.050** |" in lines[2]
    assert "−0.20" in lines[3]
    assert missing_scores(scores) == ["Mean of other perturbations: no other perturbation was measured."]


def test_nothing_found_is_said_as_such() -> None:
    question = Question("drug", "T", "predicted control", "corrected")
    assert "**None of 2 genes changes**" in summary(question, changes([0.9, 0.8], [0.1, 0.2]), 0.25)
