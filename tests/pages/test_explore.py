"""The Explore page opened without a browser, and the map, the selection and the banner as functions."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import streamlit as st

import pages.parts.result
from pages.parts import umap as umapchart
from pages.parts.cellmap.polygon import inside, outline
from pages.parts.explore.conditions import leading_gene
from pages.parts.explore.effects import effects_of
from pages.parts.explore.heat_chart import MOST_ROWS, condition_map, sheet_of
from pages.parts.genes import table as table_parts
from pages.parts.genes.table import first_condition
from pages.parts.result import differences, open_run
from pages.parts.selection import composition
from state_engine import keys
from state_engine.analysis import stored
from state_engine.analysis.standing import mark_of
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DataEntry
from state_engine.prediction.request import PredictionRequest
from state_engine.prediction.result import open_result
from state_engine.sandbox import Limits
from tests.hostile import make_endless
from tests.pages.make_run import make_run
from tests.pages.maps import drawings, legend
from tests.pages.opened import VIEWS, figures, opened, text
from tests.pages.queued import work_off

LOOK = umapchart.Look(5, 0.8, "#000000")


@pytest.fixture(scope="module")
def run(module_home: Path) -> RunFolder:
    return make_run(Settings(module_home))


# ---- the page ----


def test_without_a_run_the_page_teaches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, "explore", None, tmp_path)
    assert "No prediction is chosen" in text(page) and not page.exception
    assert [b.label for b in page.button] == ["Predict something", "Use the demo"]


def test_a_result_that_hangs_or_is_damaged_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_run(Settings(tmp_path))
    make_endless(run.result)
    monkeypatch.setattr(pages.parts.result, "limits_for", lambda path: Limits(seconds=2))
    page = opened(monkeypatch, "explore", run, tmp_path)
    assert "could not be opened within 2 s" in text(page) and not page.exception
    run.result.write_bytes(b"no HDF5")
    page = opened(monkeypatch, "explore", run, tmp_path)
    assert "cannot be read as a result" in text(page) and not page.exception


def test_a_page_reads_the_same_values_as_the_engine(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    apart, here = open_run(run), open_result(run.result)
    rows, gene = np.array([5, 2, 2, 40]), here.genes[3]
    assert apart.obs.equals(here.obs) and apart.obs.index.equals(here.obs.index) and apart.genes == here.genes
    assert np.array_equal(apart.read(rows, [gene], "raw"), here.read(rows, [gene], "raw"))
    assert np.array_equal(apart.gene(gene), here.gene(gene)) and apart.layers() == here.layers()
    assert np.array_equal(apart.mean(rows, natural=True), here.mean(rows, natural=True))

    def never(*arguments: object) -> None:
        raise AssertionError("opened in this process")

    monkeypatch.setattr("state_engine.prediction.result.h5py.File", never)
    assert len(apart.features(rows)) == 4


def test_the_map_says_how_it_was_made_and_effects_are_ranked(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path
) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    assert not page.exception and not page.error
    assert "Control, predicted and measured cells, coloured by kind" in text(page)
    assert "340 cells; seed 7" in text(page) and "qualitative" in text(page)
    table = page.dataframe[0].value
    assert len(table) == 4 and table["effect_size"].is_monotonic_decreasing
    assert (table["n_up"] == 2).all() and (table["n_down"] == 1).all()  # as the Genes page says of each
    assert legend(drawings(page)[-1]) == {"predicted": 120, "measured control": 100, "measured": 120}


def test_every_condition_is_one_cell_of_the_first_picture(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path
) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    bars = [bar for bar in figures(page)[0]["data"] if bar["type"] == "bar" and "customdata" in bar]
    cells = {tuple(pair): words for bar in bars for pair, words in zip(bar["customdata"], bar["text"], strict=True)}
    assert set(cells) == {(p, c) for p in ("drugA", "drugB") for c in "BT"}
    assert all("effect size" in words and "better than" not in words for words in cells.values())  # nothing to take a mean of
    # the largest one, since none is known to be held out
    assert tuple(effects_of(run)[["perturbation", "context"]].iloc[0]) == ("drugB", "B")
    assert "**drugB in B:**" in text(page) and "| G2 |" in text(page) and page.query_params == {}
    page.session_state["perturbation"], page.session_state["context"] = "drugA", "T"  # as a click does
    page.run()
    assert "**drugA in T:**" in text(page) and "| G0 |" in text(page)
    assert page.query_params == {"perturbation": "drugA", "context": "T"}
    assert legend(drawings(page)[0]) == {"predicted": 30, "measured control": 50, "measured": 30}  # its cells alone
    assert "drugA in T: control, predicted and measured cells" in text(page)
    page.segmented_control(key="heat_by").set_value("gene").run()
    page.selectbox(key=f"heat_gene_{run.id}").set_value("G2").run()
    assert "Which perturbation moves G2, and where?" in text(page) and not page.exception
    assert page.query_params["by"] == "gene" and page.query_params["moved"] == "G2"
    page.segmented_control(key="heat_by").set_value("band").run()
    assert not page.exception and "moved" not in page.query_params


def test_a_condition_that_nobody_measured_says_so_beside_its_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, "explore", make_run(Settings(tmp_path), observed=False), tmp_path)
    assert "drugB in B: control and predicted cells" in text(page) and "no measured cells of it" in text(page)
    assert legend(drawings(page)[0]) == {"predicted": 30, "measured control": 50} and not page.exception


def test_the_largest_held_out_condition_is_first(tmp_path: Path) -> None:
    run = make_run(Settings(tmp_path))
    path = stored.effects_path(run.path)
    pairs = [("drugB", "B"), ("drugA", "T"), ("drugB", "T"), ("drugA", "B")]
    pd.DataFrame(pairs, columns=["perturbation", "context"]).assign(effect_size=[4.0, 3.0, 2.0, 1.0]).to_parquet(path)
    st.cache_data.clear()
    result = open_result(run.result)
    assert first_condition(run, result) == ("drugB", "B")
    result.manifest["exposure"] = [["drugA", "B", "test"], ["drugB", "T", "test"], ["drugB", "B", "in training"]]
    assert first_condition(run, result) == ("drugB", "T")
    stored.standing_path(run.path).unlink()  # not measured yet: in file order
    assert first_condition(run, result) == ("drugA", "B")


def test_the_first_gene_is_that_of_the_largest_effect_also_in_runs_that_do_not_say_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = make_run(Settings(tmp_path))
    path = stored.effects_path(run.path)
    table = pd.read_parquet(path)
    result, leading = open_run(run), str(table["leading_gene"].iloc[0])
    assert leading in ("G0", "G1", "G2", "G3") and leading_gene(run, result) == leading
    table.drop(columns="leading_gene").to_parquet(path)
    st.cache_data.clear()
    assert leading_gene(run, result) == result.genes[0]
    page = opened(monkeypatch, "explore", run, tmp_path)
    assert not page.exception and "How large is each effect?" in text(page)


def test_marks_tell_a_test_that_was_passed_from_recall() -> None:
    assert mark_of("test", "better") == "ring" and mark_of("test", "worse") == "hatch" and mark_of("test", "cannot be told") == ""
    assert mark_of("in training", "better") == mark_of("in training", "worse") == "dot"
    assert mark_of("not known", "better") == "" and mark_of("not known", "worse") == "hatch" and mark_of("", "not measured") == ""


def test_the_picture_of_conditions_has_gaps_marks_means_and_the_largest_rows() -> None:
    table = pd.DataFrame(
        [("a", "B", 1.0, "ring"), ("a", "T", 3.0, ""), ("b", "B", 2.0, "hatch")],
        columns=["perturbation", "context", "value", "mark"],
    ).assign(band="likely", words="words")
    sheet = sheet_of(table)
    figure = condition_map(sheet, "size", "Effect size", ("b", "B"))
    conditions = [
        tuple(one) for trace in figure.data if trace.type == "bar" and trace.customdata is not None for one in trace.customdata
    ]
    assert sorted(conditions) == [("a", "B"), ("a", "T"), ("b", "B")]  # nothing stands where nothing was predicted
    hatched = [shape for trace in figure.data if trace.type == "bar" for shape in trace.marker.pattern.shape or ()]
    assert hatched.count("/") == 1 and len(figure.layout.shapes) == 2
    rings = [trace for trace in figure.data if trace.type == "scatter" and trace.marker.symbol == "circle-open"]
    assert [list(one) for one in rings[0].customdata] == [["a", "B"]]
    means = [text for trace in figure.data if trace.type == "bar" and trace.customdata is None for text in trace.text]
    assert means == ["<b>a</b><br>mean 2.00", "<b>b</b><br>mean 2.00", "<b>B</b><br>mean 1.50", "<b>T</b><br>mean 3.00"]
    many = pd.DataFrame(
        {
            "perturbation": [f"p{i:03}" for i in range(200)],
            "context": "B",
            "value": range(200),
            "band": "",
            "mark": "",
            "words": "",
        }
    )
    assert len(sheet_of(many).values) == MOST_ROWS and "p199" in sheet_of(many).values.index


def test_without_its_effects_a_run_gets_them_by_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_run(Settings(tmp_path))
    stored.standing_path(run.path).unlink()
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    monkeypatch.setattr(table_parts, "PATIENCE", 0.0)
    page = opened(monkeypatch, "explore", run, tmp_path)
    assert "**Measuring effects**" in text(page) and not figures(page) and len(drawings(page)) == 1
    assert [job.kind for job in work_off(Settings(tmp_path))] == ["effects"]
    page.run()
    assert len(figures(page)) == 1 and len(drawings(page)) == 2 and not page.exception


def test_a_gene_colours_the_map_raw_or_corrected(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    page.pills(key="map_colour").set_value("Gene").run()
    first = page.selectbox(key=f"map_gene_{run.id}").value
    assert first in {"G0", "G1", "G2", "G3"} and f"coloured by {first}" in text(page)  # genes that a perturbation raises by 1.5
    corrected = drawings(page)[-1].arrays["codes"]
    page.segmented_control(key="map_layer").set_value("raw").run()
    assert "Raw expression" in text(page) and (drawings(page)[-1].arrays["codes"] != corrected).any()


def test_a_calibrated_prediction_is_offered_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path, tmp_path: Path
) -> None:
    plain = opened(monkeypatch, "explore", run, module_home)
    plain.pills(key="map_colour").set_value("Gene").run()
    assert plain.segmented_control(key="map_layer").options == ["corrected", "raw"]
    page = opened(monkeypatch, "explore", make_run(Settings(tmp_path), calibrated=True), tmp_path)
    page.pills(key="map_colour").set_value("Gene").run()
    page.segmented_control(key="map_layer").set_value("calibrated").run()
    assert not page.exception and "Calibrated expression (log1p)" in text(page)
    assert "Without a calibrated prediction, so in grey: drugB in T" in text(page)
    assert drawings(page)[-1].header["counts"] == [30], "cells without a value"


def test_filters_leave_the_chosen_cells(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    page.multiselect(key="map_contexts").set_value(["B"]).run()
    assert "Filters show 170" in text(page)
    page.multiselect(key="map_perturbations").set_value(["drugA"]).run()
    assert "Filters show 110" in text(page)  # 30 predicted, 30 observed, and the 50 control cells that they are compared with
    page.pills(key="map_kinds").set_value([]).run()
    assert "filters leave no cell" in text(page) and not page.exception


def test_each_arrow_style_draws_what_it_says(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    lines = {}
    for style in ("None", "Averaged", "Each cell"):
        page.segmented_control(key="map_arrows").set_value(style).run()
        lines[style] = drawings(page)[-1].header["arrows"]
    assert [len(lines[s]) for s in lines] == [0, 2, 1]
    predicted, measured = lines["Averaged"]
    assert measured["dashed"] and measured["words"] == [
        f"{p} in {c}: measured, 30 cells" for p in ("drugA", "drugB") for c in "BT"
    ]
    assert all(re.fullmatch(r"drug[AB] in [BT]: \d+ of 30 predicted cells", words) for words in predicted["words"])
    assert "120 of 120 arrows" in text(page)


def test_a_remembered_selection_has_its_composition(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = opened(monkeypatch, "explore", run, module_home)
    page.session_state[f"map_polygon_{run.id}"] = np.array([[-9, -9], [9, -9], [9, 9], [-9, 9]], np.float32)
    page.run()
    assert "340 cells of 340 shown" in text(page) and len(page.dataframe) == 2
    page.button(key="clear_selection").click().run()
    assert "340 cells of 340 shown" not in text(page)


def test_embeddings_without_genes_are_said_to_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = opened(monkeypatch, "explore", make_run(Settings(tmp_path), embedding="X_state", decoder=False), tmp_path)
    assert not page.exception and not page.error
    assert "Gene" not in page.pills(key="map_colour").options and text(page).count("has no gene decoder") == 2


def test_a_result_of_another_data_set_is_out_of_date(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = make_run(Settings(tmp_path), data=tmp_path / "old.h5ad")
    folder = tmp_path / "datasets"
    folder.mkdir()
    entry = {
        "id": "abcd1234",
        "name": "new.h5ad",
        "path": str(tmp_path / "new.h5ad"),
        "origin": "server",
        "created": "2026-01-01",
    }
    (folder / "abcd1234.json").write_text(json.dumps({**entry, "choices": {}}))
    stale = opened(monkeypatch, "explore", run, tmp_path, data="abcd1234")
    assert "Out of date: recalculate" in text(stale) and "old.h5ad, chosen now is new.h5ad" in text(stale)
    assert "coloured by kind" in text(stale), "the old result stays"
    assert "Out of date" not in text(opened(monkeypatch, "explore", run, tmp_path))


def test_the_pages_process_stays_light(run: RunFolder, module_home: Path) -> None:
    code = (
        "import sys; from streamlit.testing.v1 import AppTest; from pages.parts import door; door.is_open = lambda: True\n"
        f"for view in ('explore', 'attention'):\n    page = AppTest.from_file(r'{VIEWS}/' + view + '.py', default_timeout=30)\n"
        f"    page.session_state['thread_run'] = '{run.id}'; page.run(); assert not page.exception and not page.error\n"
        "print([m for m in ('torch', 'umap', 'scanpy', 'anndata', 'pdex', 'sklearn', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"STATE_EXPLORER_HOME": str(module_home), "PYTHONPATH": str(VIEWS.parents[1])},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip().endswith("[]")


# ---- the banner ----


def test_what_differs_is_named() -> None:
    request = PredictionRequest("/data/a.h5ad", "/models/m", ("drug",))
    same = DataEntry("x1x1", "a.h5ad", "/data/a.h5ad", "server", "")
    assert differences(request, same, None) == differences(request, None, None) == ()
    other = DataEntry("x1x1", "b.h5ad", "/data/b.h5ad", "server", "")
    assert "a.h5ad, chosen now is b.h5ad" in differences(request, other, None)[0]
    corrected = DataEntry("x1x1", "a.h5ad", "/data/a.h5ad", "server", "", Choices(control="mock"))
    assert "was changed afterwards" in differences(request, corrected, None)[0]


# ---- the map ----


def test_high_values_are_on_top_and_missing_ones_below() -> None:
    values = np.array([3, np.nan, 1, 2], np.float32)
    figure = umapchart.value_map(np.zeros((4, 2), np.float32), values, "G", "log1p", LOOK)
    missing, known = figure.data
    assert missing.marker.color == "#d5d8d9" and len(missing.x) == 1
    assert known.marker.color.tolist() == [1, 2, 3] and known.marker.color.dtype == np.float32


def test_colours_end_at_the_percentile_unless_nearly_all_is_zero() -> None:
    assert umapchart.top_of(np.arange(1000, dtype=np.float32)) == pytest.approx(994.005, abs=0.1)
    assert umapchart.top_of(np.r_[np.zeros(999), 5].astype(np.float32)) == 5
    assert umapchart.top_of(np.full(3, np.nan, np.float32)) == 1


def test_inside_follows_the_polygon() -> None:
    corners = np.array([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]], np.float32)  # a notch from above
    xy = np.array([[1, 1], [2, 3], [2, 0.5], [3.7, 3], [5, 1], [-1, 1]], np.float32)
    assert inside(xy, corners).tolist() == [True, False, True, True, False, False]
    assert not inside(xy, corners[:2]).any()


def test_the_window_is_square_and_the_same_for_all_filters() -> None:
    figure = go.Figure()
    umapchart.fix_ranges(figure, np.array([[0, 0], [10, 4]], np.float32))
    x, y = figure.layout.xaxis.range, figure.layout.yaxis.range
    assert x[1] - x[0] == pytest.approx(y[1] - y[0]) and x[0] < 0 < 10 < x[1]


# ---- the selection ----


def test_composition_compares_with_what_is_shown() -> None:
    labels = pd.DataFrame(
        {keys.KIND: ["predicted"] * 6 + ["observed"] * 2, keys.PERTURBATION: ["d"] * 8, keys.CONTEXT: ["B", "T"] * 4}
    )
    table = composition(labels, np.array([1, 0, 1, 0, 1, 0, 1, 0], bool))
    kind = table[table["label"] == "kind"].set_index("value")
    assert list(kind.index) == ["predicted", "measured"]
    assert kind.loc["predicted", ["selected", "share", "expected", "enrichment"]].tolist() == [3, 0.75, 0.75, 1]
    context = table[table["label"] == "context"].set_index("value")
    assert context.loc["B", "enrichment"] == 2 and context.loc["T", "selected"] == 0


def test_lasso_and_box_become_corners() -> None:
    nothing = {"selection": {"lasso": [], "box": [], "points": []}}
    assert outline(None) is None and outline(nothing) is None
    lasso = outline({"selection": {"lasso": [{"x": [0, 1, 1], "y": [0, 0, 1]}], "box": []}})
    assert lasso is not None and lasso.tolist() == [[0, 0], [1, 0], [1, 1]]
    box = outline({"selection": {"box": [{"x": [0, 2], "y": [3, 1]}]}})
    assert box is not None and inside(np.array([[1, 2]], np.float32), box).all()
