"""The Attention page opened without a browser, and its numbers and figures as functions."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pages.parts.attention import charts as chart
from pages.parts.attention import numbers
from pages.parts.attention.order import sort_cells
from pages.parts.attention.views import cell_facts, head_of, places_of
from state_engine import keys
from state_engine.attention.maps import load_maps, maps_name
from state_engine.config import Settings
from state_engine.jobs import local
from state_engine.jobs.requests import AttentionMapsRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.prediction.result import open_result
from tests.pages.make_run import make_maps, make_run
from tests.pages.opened import address, figures, opened, page_at, text


@pytest.fixture
def run(module_home: Path) -> RunFolder:
    return make_run(Settings(module_home))


# ---- the page ----


def test_a_set_that_was_not_looked_at_is_computed_by_a_job(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path
) -> None:
    asked: list[tuple[object, str]] = []

    def submit(settings: Settings, request: object, title: str = "", parent: str = "") -> tuple[str, str]:
        asked.append((request, parent))
        return "job", run.id

    page = opened(monkeypatch, "attention", run, module_home)
    assert "Set 1 of drugA in B was not looked at yet" in text(page) and not page.get("plotly_chart")
    monkeypatch.setattr(local, "submit", submit)
    page.number_input(key=f"att_set_{run.id}").set_value(2)
    page.selectbox(key=f"att_context_{run.id}").set_value("T").run()
    page.button(key="compute_attention").click().run()
    assert asked == [(AttentionMapsRequest(run.id, "drugA", "T", 1), run.id)]


def test_there_are_as_many_sets_as_were_predicted(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = opened(monkeypatch, "attention", run, module_home)
    assert page.number_input(key=f"att_set_{run.id}").max == 2, "30 cells in sets of 16"


def test_all_views_are_drawn_with_method_and_n(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    make_maps(run)
    page = opened(monkeypatch, "attention", run, module_home)
    assert not page.exception and not page.error and len(page.get("plotly_chart")) == 6
    said = text(page)
    assert "16 cells. Every cell sees every other" in said and "Rows sum to 1 over the cells" in said
    assert "no evidence of a mechanism" in said and "3 layers x 2 heads" in said
    assert "16 basal cells of the set on the run's UMAP" in said and "340 cells; seed 7" in said


def test_the_answer_and_what_it_does_not_show_stand_before_the_figures(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path
) -> None:
    make_maps(run)
    page = opened(monkeypatch, "attention", run, module_home)
    drawn = [(node.type, str(getattr(node, "value", ""))) for node in page.main]
    figure = next(place for place, (kind, _) in enumerate(drawn) if kind == "plotly_chart")
    answer = next(place for place, (_, words) in enumerate(drawn) if "The most attended tenth (1 of 16 cells) gets **" in words)
    caution = next(
        place for place, (kind, words) in enumerate(drawn) if kind == "warning" and "no evidence of a mechanism" in words
    )
    assert answer < caution < figure and sum("no evidence of a mechanism" in words for _, words in drawn) == 1
    assert drawn[answer][1].startswith(("**Hardly any cell stands out.**", "**Some cells stand out.**"))


def test_one_head_and_the_difference(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    make_maps(run)
    page = opened(monkeypatch, "attention", run, module_home)
    page.selectbox(key=f"att_layer_{run.id}").set_value(3)
    page.selectbox(key=f"att_head_{run.id}").set_value(2)
    page.segmented_control(key="att_view").set_value("difference").run()
    assert not page.exception and "Head 2 of layer 3, perturbation minus control" in text(page)
    heat = figures(page)[1]["data"][0]
    assert heat["zmin"] == -heat["zmax"], "differences are coloured around 0"
    for sort in ("Batch", "A gene", "Attention received", "Order in the set"):
        page.pills(key=f"att_sort_{run.id}").set_value(sort).run()
        assert not page.exception and not page.error, sort


def test_the_address_opens_the_same_head(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    make_maps(run, perturbation="drugB", context="T")
    page = opened(monkeypatch, "attention", run, module_home)
    page.selectbox(key=f"att_perturbation_{run.id}").set_value("drugB")
    page.selectbox(key=f"att_context_{run.id}").set_value("T").run()
    page.selectbox(key=f"att_layer_{run.id}").set_value(3)
    page.selectbox(key=f"att_head_{run.id}").set_value(2)
    page.segmented_control(key="att_view").set_value("difference")
    page.pills(key=f"att_sort_{run.id}").set_value("A gene").run()
    page.selectbox(key=f"att_gene_{run.id}").set_value("G7").run()
    there = address(page)
    assert there == {
        "perturbation": "drugB", "context": "T", "layer": "3", "head": "2", "under": "difference", "sort": "A gene", "gene": "G7",
    }  # fmt: skip
    other = page_at(monkeypatch, "attention", run, module_home)
    other.query_params.update(there | {"set": "99"})
    other.run()
    assert not other.exception and "Head 2 of layer 3, perturbation minus control" in text(other)
    assert other.number_input(key=f"att_set_{run.id}").value == 1, "a set that there is not"
    assert other.selectbox(key=f"att_gene_{run.id}").value == "G7"


def test_causal_models_are_said_to_have_an_order(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    make_maps(run, "causal-rotary", tokens=0.25)
    page = opened(monkeypatch, "attention", run, module_home)
    said = text(page)
    assert "The order of the cells matters in this model" in said and "Every cell sees every other" not in said
    assert page.pills(key=f"att_sort_{run.id}").value == "Order in the set"
    assert "on average 25% of the weight is on tokens" in said


def test_a_click_in_the_overview_chooses_a_head() -> None:
    assert head_of(None) is None and head_of({"selection": {"points": []}}) is None
    assert head_of({"selection": {"points": [{"customdata": [1, 0, 2, 1, 3.3, 0]}]}}) == (2, 1)
    assert head_of({"selection": {"points": [{"customdata": {"0": 1, "1": 0, "2": 2, "3": 1}}]}}) == (2, 1)


# ---- what is known of the cells ----


def test_cells_are_found_on_the_map_by_barcode_and_context(run: RunFolder) -> None:
    result = open_result(run.result)
    rows = np.arange(result.n_cells, dtype=np.int32)
    places = places_of(result, rows, "T", ["T-3", "B-3", "nobody"])
    assert result.obs.index[places[0]] == "T-3" and places[1:].tolist() == [-1, -1]


def test_cells_of_one_name_are_found_by_their_row(run: RunFolder) -> None:
    result = open_result(run.result)
    control = np.flatnonzero(
        (result.obs[keys.KIND] == keys.OBSERVED_CONTROL).to_numpy() & (result.obs[keys.CONTEXT] == "T").to_numpy()
    )
    result.obs[keys.BASAL_CELL] = "AAAC-1"
    result.obs[keys.BASAL_ROW] = np.arange(result.n_cells) + 1000
    rows = np.arange(result.n_cells, dtype=np.int32)
    wanted = [int(control[2]) + 1000, int(control[0]) + 1000, 5]
    assert places_of(result, rows, "T", wanted).tolist() == [control[2], control[0], -1]
    # maps of before know names only: the first cell of that name, never the last
    assert places_of(result, rows, "T", ["AAAC-1"]).tolist() == [control[0]]


def test_cells_of_one_name_are_counted_apart_and_genes_of_one_name_chosen_apart(run: RunFolder) -> None:
    make_maps(run)
    path = run.file(maps_name("drugA", "B", 0))
    with np.load(path, allow_pickle=False) as file:
        stored = dict(file)
    n = len(stored["cells"])
    stored |= {"cells": np.array(["AAAC-1"] * n), "rows": np.arange(n), "genes": np.array(["G0"] * len(stored["genes"]))}
    np.savez_compressed(path, **stored)
    maps = load_maps(path)
    facts = cell_facts(maps, 0, 0)
    assert len(facts) == n and set(facts["times"]) == {1} and set(facts["cell"]) == {"AAAC-1"}
    assert maps.genes[:3].tolist() == ["G0", "G0 (feature 1)", "G0 (feature 2)"]
    assert sort_cells(maps, "A gene", "G0 (feature 2)").order.tolist() == np.argsort(maps.basal[:, 2], kind="stable").tolist()


def test_orders_and_groups(run: RunFolder) -> None:
    make_maps(run)
    maps = load_maps(run.file(maps_name("drugA", "B", 0)))
    by_gene = sort_cells(maps, "A gene", "G3")
    assert (np.diff(maps.basal[by_gene.order, 3]) >= 0).all() and by_gene.strip is not None
    assert np.bincount(by_gene.codes).tolist() == [4, 4, 4, 4]
    by_batch = sort_cells(maps, "Batch")
    assert by_batch.groups == ("1", "2") and maps.batches[by_batch.order].tolist() == ["1"] * 8 + ["2"] * 8
    assert sort_cells(maps, "Order in the set").order.tolist() == list(range(16))


def test_attention_received_is_compared_under_both_labels(run: RunFolder) -> None:
    weights = make_maps(run)
    facts = cell_facts(load_maps(run.file(maps_name("drugA", "B", 0))), 1, 0)
    assert facts["perturbed"].is_monotonic_decreasing and facts["perturbed"].sum() == pytest.approx(16, abs=1e-3)
    assert facts["perturbed"].iloc[0] == pytest.approx(weights[1, 0].mean(0).max() * 16, rel=1e-5)
    np.testing.assert_allclose(facts["change"], facts["perturbed"] - facts["control"], atol=1e-6)


def test_a_cell_drawn_twice_is_one_cell(run: RunFolder) -> None:
    make_maps(run)
    maps = load_maps(run.file(maps_name("drugA", "B", 0)))
    once = cell_facts(maps, 0, 0).set_index("cell")
    cells = maps.cells.copy()
    cells[1] = cells[0]
    facts = cell_facts(replace(maps, cells=cells), 0, 0).set_index("cell")
    assert len(facts) == 15 and facts.loc[cells[0], "times"] == 2 and facts["times"].sum() == 16
    assert facts.loc[cells[0], "perturbed"] == pytest.approx(once.loc[maps.cells[:2], "perturbed"].mean())


def test_a_gene_that_few_cells_express_has_fewer_groups(run: RunFolder) -> None:
    make_maps(run)
    maps = load_maps(run.file(maps_name("drugA", "B", 0)))
    basal = maps.basal.copy()
    basal[:, 3] = 0
    basal[5, 3] = 2
    sorting = sort_cells(replace(maps, basal=basal), "A gene", "G3")
    assert sorting.groups == ("lowest", "highest") and np.bincount(sorting.codes).tolist() == [15, 1]


# ---- numbers ----


def test_focus_counts_the_cells_attended_to() -> None:
    even, single = np.full((8, 8), 1 / 8, np.float32), np.eye(8, dtype=np.float32)
    two = np.zeros((8, 8), np.float32)
    two[:, :2] = 0.1  # the rest is on a token, and does not count
    np.testing.assert_allclose(numbers.focus(np.array([[even, single, two]])), [[8, 1, 2]], rtol=1e-5)


def test_blocks_are_means_also_when_sizes_differ() -> None:
    values = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    small = numbers.shrink(values, 3)
    cuts = [0, 2, 4, 7]
    expected = [[values[a:b, c:d].mean() for c, d in pairwise(cuts)] for a, b in pairwise(cuts)]
    np.testing.assert_allclose(small, expected, rtol=1e-5)
    assert numbers.shrink(values, 7) is values


def test_thumbnails_follow_the_order() -> None:
    maps = np.zeros((1, 1, 3, 3), np.float32)
    maps[0, 0, 0, 2] = 1
    small = numbers.thumbnails(maps, np.array([2, 1, 0]), 3)
    assert small[0, 0, 2, 0] == 3 and small.sum() == 3


def test_groups_average_pairs_of_cells() -> None:
    weights = np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [1, 0, 0]], np.float32)
    means = numbers.between_groups(weights, np.array([0, 0, 1]), 3)
    np.testing.assert_allclose(means[:2, :2], 3 * np.array([[1.5 / 4, 0.5 / 2], [1 / 2, 0]]), rtol=1e-6)
    assert np.isnan(means[2]).all()


def test_clusters_find_separate_groups_largest_first() -> None:
    rng = np.random.default_rng(0)
    basal = np.vstack([rng.normal(0, 0.1, (10, 5)), rng.normal(4, 0.1, (20, 5))]).astype(np.float32)
    codes = numbers.clusters(basal, 2)
    assert codes.tolist() == [1] * 10 + [0] * 20
    assert len(set(numbers.clusters(basal[:1], 4).tolist())) == 1


def test_random_pairs_are_of_different_cells() -> None:
    basal = np.array([[0.0], [1.0], [3.0]], np.float32)
    assert set(numbers.random_pairs(basal).tolist()) == {1.0, 2.0, 3.0}
    assert len(numbers.random_pairs(basal[:1])) == 0


def test_rank_correlation_is_spearmans() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, 30).astype(np.float32)
    y = (x + rng.normal(size=30)).astype(np.float32)
    assert numbers.rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-6)
    assert np.isnan(numbers.rank_correlation(np.ones(5, np.float32), y[:5]))


# ---- figures ----


def test_every_head_has_its_place_and_facts() -> None:
    small = np.arange(6, dtype=np.float32)[:, None, None] * np.ones((6, 4, 4), np.float32)
    focus, tokens = np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 3), np.float32)
    figure = chart.overview(small.reshape(2, 3, 4, 4), focus, tokens, False, (1, 2))
    canvas, targets = figure.data[0].z, figure.data[1]
    assert canvas.shape == (10, 16)
    for x, y, facts in zip(targets.x, targets.y, targets.customdata, strict=True):
        assert canvas[int(y), int(x)] == facts[4], "a click on a tile tells the head that is drawn there"
    assert (
        len(figure.layout.shapes) == 1 and not chart.overview(small.reshape(2, 3, 4, 4), focus, tokens, False, None).layout.shapes
    )


def test_large_sets_are_averaged_for_display() -> None:
    weights = np.random.default_rng(0).random((300, 300)).astype(np.float32)
    heat = chart.detail(weights, None, False).data[0]
    assert heat.z.shape == (256, 256) and heat.z.dtype == np.float32
    assert heat.z.mean() == pytest.approx(weights.mean(), rel=1e-2) and heat.x[-1] <= 300.5


def test_a_strip_of_categories_has_their_colours() -> None:
    strip = chart.Strip(np.array([0, 0, 1], np.float32), "batch", ("one", "two"))
    figure = chart.detail(np.ones((3, 3), np.float32), strip, False)
    assert len(figure.data) == 2 and figure.data[1].zmax == 1.5 and len(figure.data[1].colorscale) == 4


def test_the_most_attended_are_marked_on_the_map() -> None:
    everything = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    values = np.array([1, 5, 2], np.float32)
    figure = chart.on_the_map(everything, everything[:3], values, np.array([1]), dark=False)
    background, cells, ring = figure.data
    assert len(background.x) == 50 and cells.marker.color.tolist() == [1, 2, 5] and ring.x[0] == everything[1, 0]
