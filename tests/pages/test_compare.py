"""The Compare page without a browser: what it asks for, and what it shows of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pages.parts.compare.charts import effect_scatter, effect_table, side_map
from pages.parts.compare.form import Chosen, names
from pages.parts.compare.result import differing_first, differing_words, means_only, number_rows
from state_engine.analysis.differential import read_table
from state_engine.comparison.compare import compare
from state_engine.comparison.report import CellsMap, PairEffects, Span, read_comparison, read_map
from state_engine.comparison.request import ComparedSide, CompareRequest, SelectionRequest
from state_engine.comparison.selection import selection_path
from state_engine.config import Settings
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder, derived_runs, list_runs
from state_engine.jobs.tasks import evaluation
from state_engine.plain import to_plain
from state_engine.progress import silent
from tests.pages.make_run import make_run
from tests.pages.maps import drawings
from tests.pages.opened import figures, opened, page_at, text


def made(home: Path, map: bool = False) -> RunFolder:
    """A finished comparison of a prediction with its measurement."""
    result = str(make_run(Settings(home)).result)
    request = CompareRequest(ComparedSide((result,)), ComparedSide((result,), "observed"), draws=20, map=map)
    run = RunFolder.create(Settings(home), "compare", to_plain(request), "Predicted and measured")
    run.start()
    compare(request, run.path)
    run.record(command="python -m state_engine compare")
    run.finish("done")
    return run


def test_the_form_asks_for_what_is_chosen(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = make_run(Settings(home))
    page = opened(monkeypatch, "compare", run, home)
    assert not page.exception and not page.error
    # the run that is looked at, and its measurement, are offered first
    source = f"run:{run.id}"
    assert [page.selectbox(key=f"compare_{side}_source").value for side in ("first", "second")] == [source] * 2
    assert page.selectbox(key=f"compare_second_cells_{source}").value == "observed"
    page.selectbox(key=f"compare_first_context_{source}").set_value("B").run()
    page.selectbox(key=f"compare_second_context_{source}").set_value("T").run()
    page.button(key="compare").click().run()
    assert not page.exception and not page.error
    (info,) = [i for i in list_runs(Settings(home)) if i.manifest is not None and i.manifest.kind == "compare"]
    asked = RunFolder(info.path).request_as(CompareRequest)
    assert asked.first == ComparedSide((str(run.result),), "corrected", "", "B", "B, corrected prediction")
    assert asked.second == ComparedSide((str(run.result),), "observed", "", "T", "T, measured cells") and asked.map
    assert info.manifest.title == "cells.h5ad, drugA, drugB in B, T: B, corrected prediction and T, measured cells"


def test_sides_are_called_by_what_tells_them_apart() -> None:
    """A title has the data set that both share first, then the two."""
    run = ComparedSide(("a/result.h5ad",), "corrected")
    data = Chosen(ComparedSide(("cells.h5ad",), perturbation="TNF"), "", "PBMC")
    file = Chosen(ComparedSide(("effects/0123.csv",)), "of another program.csv")
    first, other = Chosen(run, "TNF in B", "PBMC"), Chosen(replace(run, files=("b/result.h5ad",)), "TNF in NK", "PBMC")
    assert names(first, other) == ("TNF in B", "TNF in NK", "PBMC, corrected prediction: TNF in B and TNF in NK")
    assert names(first, data)[1:] == (
        "TNF, measured cells", "PBMC: corrected prediction, TNF in B and TNF, measured cells",
    )  # fmt: skip
    assert names(first, file)[1:] == (
        "of another program.csv", "corrected prediction, TNF in B, PBMC and of another program.csv",
    )  # fmt: skip
    one, whole = replace(data, side=replace(data.side, perturbation="")), data
    assert names(one, whole)[:2] == ("all conditions", "TNF")


def test_a_comparison_is_shown_with_its_numbers(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = made(home)
    found = read_comparison(run.path)
    assert found is not None
    page = opened(monkeypatch, "compare", None, home, comparison=run.id)
    assert not page.exception and not page.error
    words = text(page)
    assert found.words()[0].split(":")[0].replace("-", "") in words.replace("\\", "").replace("-", "")
    assert found.pairs[0].pearson.words in words and "bootstrap draws of cells" in words
    assert len(page.dataframe[0].value) == len(found.pairs) == 4
    page.selectbox(key="pair").set_value("2").run()
    assert not page.exception and found.pairs[2].pearson.words in text(page) and page.query_params["pair"] in ("2", ["2"])
    assert figures(page)


def test_a_side_of_means_has_no_rows_of_cells(home: Path) -> None:
    found = read_comparison(made(home).path)
    assert found is not None
    whole = found.pairs[0]
    names = ["Genes called, first and second", "Energy distance of the cells", "Cells, first and second"]
    assert set(names) <= {name for name, _ in number_rows(found, whole)} and means_only(found, whole) == ""
    gone = {"energy": Span(None), "energy_control": None, "de_overlap": None, "same_direction": None}
    means = replace(whole, n_first=0, n_second=0, called_first=None, called_second=None, **gone)
    assert [name for name, _ in number_rows(found, means)] == ["Correlation of effects", "Of the 50 largest effects"]
    assert (
        means_only(found, means) == "Means only: no cells, so no test of genes, no energy distance and no intervals over cells."
    )
    half = replace(whole, n_first=0, called_first=None, **gone)
    rows = dict(number_rows(found, half))
    assert rows["Genes called, first and second"] == f"not tested and {whole.called_second}"
    assert rows["Cells, first and second"] == f"means only and {whole.n_second}" and "Energy distance of the cells" not in rows
    assert means_only(found, half).startswith("corrected prediction: means only: no cells, so no test of genes")
    told = replace(half, called_first=3)  # a table of effects that says which genes are called
    assert "no test" not in means_only(found, told) and dict(number_rows(found, told))[names[0]].startswith("3 and ")


def test_a_selection_on_the_map_is_tested_on_both_sides(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = made(home, map=True)
    cells = read_map(run.file("map.npz"))
    low, high = cells.xy.min(axis=0) - 1, cells.xy.max(axis=0) + 1
    page = opened(monkeypatch, "compare", None, home, comparison=run.id)
    assert not page.exception and len(figures(page)) == 1 and len(drawings(page)) == 2
    box = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]], np.float32)
    page.session_state[f"compare_polygon_{run.id}_0"] = box
    page.run()
    assert "perturbed cells of corrected prediction and " in text(page) and "observed" not in text(page).split("Selected")[1]
    page.selectbox(key="pair").set_value("2").run()
    assert "Selected" not in text(page), "what was drawn around are cells of another pair"
    page.selectbox(key="pair").set_value("0").run()
    page.button(key="compare_test").click().run()
    assert not page.exception and not page.error
    (info,) = derived_runs(Settings(home), run.id, "selection")
    asked = RunFolder(info.path).request_as(SelectionRequest)
    of = [np.flatnonzero((cells.pair == 0) & (cells.side == side) & ~cells.control).tolist() for side in (0, 1)]
    assert [list(asked.first), list(asked.second)] == of
    evaluation.selection(asked, RunFolder(info.path), silent, WarmCache())
    RunFolder(info.path).finish("done")
    table = read_table(selection_path(run.path, asked.first, asked.second))
    page.run()
    assert not page.exception and differing_words(table, "corrected prediction", "measured cells") in text(page)
    assert {"Mean, corrected prediction", "Expressing, measured cells"} <= set(page.dataframe[-1].value.columns)


def test_the_genes_of_a_selection_say_whether_any_differs() -> None:
    table = pd.DataFrame({"gene": list("abcd"), "log2_fold_change": [3.0, -1.0, 0.5, -2.0], "fdr": [0.6, 0.01, 0.04, np.nan]})
    assert differing_first(table)["gene"].tolist() == ["b", "c", "a", "d"]
    words = differing_words(table, "one", "other")
    assert words.startswith("**2 genes differ (FDR < 0.05)** between the selected cells of one and of other, of 4 genes")
    assert words.endswith("1 higher in other, 1 higher in one.")
    none = differing_words(table[table["gene"].isin(["a", "d"])], "one", "other")
    assert none.startswith("**No gene differs (FDR < 0.05)** between") and none.endswith("the lowest FDR is 0.6.")


def test_a_pair_that_is_not_on_the_map_says_so(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = made(home, map=True)
    cells = read_map(run.file("map.npz"))
    replace(cells, pair=np.zeros_like(cells.pair)).save(run.file("map.npz"))
    page = opened(monkeypatch, "compare", None, home, comparison=run.id)
    assert len(drawings(page)) == 2 and "not on the map" not in text(page)
    page.selectbox(key="pair").set_value("2").run()
    assert not page.exception and not drawings(page) and "not on the map" in text(page)


def test_genes_are_coloured_by_who_leads() -> None:
    effects = PairEffects(("A", "B", "C", "D"), np.array([3, -2, 0.1, 0], np.float32), np.array([2.5, 0, -2, 0.1], np.float32))
    table = effect_table(effects, 2)
    assert dict(zip(table["gene"], table["leads_in"], strict=True)) == {
        "A": "both", "B": "first alone", "C": "second alone", "D": "neither",
    }  # fmt: skip
    assert list(table["gene"]) == ["A", "C", "B", "D"]
    figure = effect_scatter(table, ("one", "<b>"), 0.5)
    assert [trace.name for trace in figure.data] == ["neither (1)", "second alone (1)", "first alone (1)", "both (1)"]
    assert "<b>" not in str(figure.layout.yaxis.title.text) and figure.layout.shapes[1].y1 == pytest.approx(0.5 * 3)


def test_both_sides_lie_on_one_linked_map() -> None:
    rng = np.random.default_rng(0)
    place = CellsMap(
        rng.normal(size=(40, 2)).astype(np.float32), np.repeat([0, 1], 20).astype(np.int8), np.zeros(40, np.int32), np.tile([True, False], 20)
    )  # fmt: skip
    shown, corners = np.arange(40) % 4 > 0, np.array([[0, 0], [1, 0], [1, 1]], np.float32)
    maps = [side_map(place, side, shown, np.arange(40) < 5, corners, "#123456") for side in (0, 1)]
    assert maps[0].link == maps[1].link and (maps[0].xy == place.xy[shown]).all() and (maps[1].xy == maps[0].xy).all()
    for side, one in enumerate(maps):
        codes = one.colour.packed(one.shown)
        wanted = np.where(place.side != side, 0, np.where(place.control, 1, 2))[shown]
        assert (
            (codes == wanted).all()
            and one.outline is corners
            and one.chosen is not None
            and one.chosen.sum() == (np.arange(5) % 4 > 0).sum()
        )
    assert side_map(place, 0, shown, None, corners, "#123456").outline is None


def test_a_shortlist_fills_both_sides(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = make_run(Settings(home))
    page = page_at(monkeypatch, "compare", None, home)
    source = f"run:{run.id}"
    page.session_state["compare_wanted"] = [(source, ("drugB", "T")), (source, ("drugA", "B"))]
    page.run()
    assert not page.exception
    for side, (perturbation, context) in (("first", ("drugB", "T")), ("second", ("drugA", "B"))):
        assert page.selectbox(key=f"compare_{side}_perturbation_{source}").value == perturbation
        assert page.selectbox(key=f"compare_{side}_context_{source}").value == context
