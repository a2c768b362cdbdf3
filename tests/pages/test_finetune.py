"""The Fine-tune page without a browser: a head asked for, fitted, shown with intervals and baselines, and applied to cells and to a prediction."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import streamlit as st

from pages.parts import labelling
from pages.parts.finetune.called import conditions, group_table, sentence
from pages.parts.finetune.form import vectors_of
from pages.parts.finetune.scores import compared, confusion_figure, interval, metric_table, reliability_figure
from pages.parts.finetune.wrong import MOST_COLOURS, all_wrong, number_map, wrong_map, wrong_table
from state_engine.config import Settings
from state_engine.data.dataset import open_dataset
from state_engine.heads.report import Annotation, Bin, CalledGroup, HeadReport, Method, Score, Share, SplitUsed, WrongCell
from state_engine.heads.request import AnnotateRequest, FinetuneRequest
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.tasks import heads as tasks
from state_engine.library import hand_labels as by_hand
from state_engine.library.datasets import get_dataset, list_datasets, register_file
from state_engine.library.hand_labels import add_round
from state_engine.library.models import HEADS
from state_engine.plain import to_plain
from state_engine.progress import silent
from tests.pages.make_run import make_run
from tests.pages.opened import figures, opened, text
from tests.pages.queued import work_off

CELLS = 200


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home, (home.parent / "data",))


@pytest.fixture
def data(home: Path, settings: Settings) -> str:
    """Id of cells of two types that an embedding tells apart, of four donors, with a column of numbers."""
    return register_file(settings, write(home.parent / "data" / "cells.h5ad")).id


def write(path: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    kind = rng.choice(["B", "NK"], CELLS)
    cells = anndata.AnnData(rng.poisson(3.0, (CELLS, 30)).astype(np.float32))
    cells.var_names = [f"GENE{i}" for i in range(30)]
    cells.obs_names = [f"cell-{i}" for i in range(CELLS)]
    cells.obs["cell_type"], cells.obs["donor"] = kind, rng.choice(["d1", "d2", "d3", "d4"], CELLS)
    cells.obs["age"] = rng.random(CELLS)
    cells.obsm["X_pca"] = (rng.normal(size=(CELLS, 6)) + 3 * (kind == "B")[:, None]).astype(np.float32)
    cells.write_h5ad(path)
    return path


def done(settings: Settings, kind: str, request: object, title: str) -> RunFolder:
    """A job of this kind, done here and now."""
    run = RunFolder.create(settings, kind, to_plain(request), title)
    run.start()
    getattr(tasks, kind)(request, run, silent, WarmCache())
    run.finish("done")
    return run


def fitted(settings: Settings, data: str, **change: object) -> RunFolder:
    entry = get_dataset(settings, data)
    request = FinetuneRequest(
        entry.path,
        ("cell_type",),
        "X_pca",
        name="types",
        max_epochs=20,
        resamples=50,
        variable_genes=20,
        components=5,
        device="cpu",
    )
    return done(settings, "finetune", replace(request, **change), "Head: types")  # type: ignore[arg-type]


def asked(settings: Settings, kind: str) -> object:
    info = next(i for i in list_runs(settings) if i.manifest is not None and i.manifest.kind == kind)
    return RunFolder(info.path).request_as(FinetuneRequest if kind == "finetune" else AnnotateRequest)


# ---- asking ----


def test_what_is_chosen_is_asked_for(monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str) -> None:
    page = opened(monkeypatch, "finetune", None, home, data=data)
    assert not page.exception and not page.error
    page.selectbox(key=f"head_label_{data}").set_value("cell_type").run()
    assert "2 labels" in text(page)
    page.segmented_control(key="head_split").set_value("Whole groups").run() if hasattr(page, "segmented_control") else None
    page.selectbox(key="head_kind").set_value("mlp").run()
    page.number_input(key="head_hidden").set_value(32).run()
    page.number_input(key="head_test_share").set_value(0.3).run()
    page.number_input(key="head_least_cells").set_value(3).run()
    page.checkbox(key="head_class_weights").check().run()
    page.button(key="finetune").click().run()
    assert not page.exception and not page.error
    request = asked(settings, "finetune")
    assert isinstance(request, FinetuneRequest)
    assert (
        request.labels == ("cell_type",) and request.embedding_key == "X_pca" and request.head == "mlp" and request.hidden == 32
    )
    assert request.test_share == 0.3 and request.least_cells == 3 and request.class_weights is False
    assert request.name == "cell_type of cells"


def test_labels_by_hand_become_the_chosen_column_in_one_click(
    monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str
) -> None:
    entry = get_dataset(settings, data)
    add_round(settings, entry, open_dataset(Path(entry.path)), list(range(90)), "B cell", "CL:0000236")
    page = opened(monkeypatch, "finetune", None, home, data=data)

    def went(name: str) -> None:
        st.session_state["went"] = name
        st.stop()

    monkeypatch.setattr(labelling, "go", went)
    page.button(key="head_use_hand").click().run()
    (job,) = work_off(settings)
    assert job.state == "done", job.error
    page.run()
    assert page.session_state["went"] == "finetune" and page.session_state["finetune_column"] == by_hand.COLUMN
    copy = page.session_state["thread_data"]
    assert copy != data and not page.exception
    page.run()  # the page as it opens with the copy
    assert page.selectbox(key=f"head_label_{copy}").value == by_hand.COLUMN and "1 label: B cell 90" in text(page)
    page.session_state["went"] = ""
    page.run()
    assert page.session_state["went"] == ""  # once


def test_two_clicks_make_one_copy_and_new_labels_another(
    monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str
) -> None:
    entry = get_dataset(settings, data)
    cells = open_dataset(Path(entry.path))
    add_round(settings, entry, cells, list(range(90)), "B cell", "CL:0000236")
    page = opened(monkeypatch, "finetune", None, home, data=data)
    monkeypatch.setattr(labelling, "go", lambda name: st.stop())
    for _ in range(2):  # the second while the first job waits
        page.button(key="head_use_hand").click().run()
    (job,) = work_off(settings)
    page.session_state["label_go_" + data] = ""
    page.button(key="head_use_hand").click().run()  # and once it is done
    assert not work_off(settings) and len(list_datasets(settings)) == 3  # the demo is one
    add_round(settings, entry, cells, [95, 96], "NK cell")
    page.session_state["thread_data"] = data
    page.run()
    page.button(key="head_use_hand").click().run()
    (again,) = work_off(settings)
    assert (job.state, again.state) == ("done", "done") and again.run_id != job.run_id
    assert len(list_datasets(settings)) == 4


def test_numbers_are_offered_for_a_regression(monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str) -> None:
    page = opened(monkeypatch, "finetune", None, home, data=data)
    page.selectbox(key="head_task").set_value("regression").run()
    assert page.selectbox(key=f"head_number_{data}").options == ["age"]
    page.button(key="finetune").click().run()
    request = asked(settings, "finetune")
    assert isinstance(request, FinetuneRequest) and request.task == "regression" and request.labels == ("age",)


def test_without_a_data_set_the_page_teaches(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    page = opened(monkeypatch, "finetune", None, home)
    assert "No data set is open" in text(page) and not page.exception


def test_a_head_can_sit_on_the_file_a_model_or_expression(monkeypatch: pytest.MonkeyPatch, home: Path, data: str) -> None:
    page = opened(monkeypatch, "finetune", None, home, data=data)
    words = page.selectbox(key=f"head_vectors_{data}").options
    assert words[0] == "X_pca in the data set, 6 wide" and words[-1] == "Expression of the most variable genes, without a model"
    assert any("State Embedding" in one for one in words) and any("hidden states" in one for one in words)
    assert vectors_of.__doc__
    of_model = next(one for one in words if "hidden states" in one)
    page.selectbox(key=f"head_vectors_{data}").set_value(of_model).run()
    assert "It takes about " in text(page) and "when nothing else runs (rough)" in text(page) and "Counted in" not in text(page)


# ---- shown ----


def test_a_fitted_head_is_shown_and_applied(monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str) -> None:
    run = fitted(settings, data)
    page = opened(monkeypatch, "finetune", None, home, finetuning=run.id, data=data)
    assert not page.exception and not page.error
    said = text(page)
    assert "Balanced accuracy" in said and "it was not fitted on" in said and "stratified by label" in said
    table = page.dataframe[0].value
    assert len(table) >= 2 and "–" in table["Accuracy"][0]
    assert len(figures(page)) >= 2
    assert "Where do they lie?" in said and "principal components of what the head reads" in said
    offered = "Cells it gets wrong (CSV)" in [b.proto.label for b in page.get("download_button")]
    assert offered != ("None of the test cells." in said)  # one or the other
    other = register_file(settings, write(home.parent / "data" / "others.h5ad", seed=1))
    page.button(key="finetune_apply").click().run()
    assert not page.exception and "Calls 2 labels (B, NK)" in text(page)
    page.selectbox(key="apply_data").set_value(other.id).run()
    page.slider(key="apply_threshold").set_value(0.8).run()
    page.button(key="annotate").click().run()
    request = asked(settings, "annotate")
    assert isinstance(request, AnnotateRequest) and request.data == other.path and request.threshold == 0.8
    assert Path(request.model).parent == settings.models


def test_what_was_called_is_shown_with_its_files(
    monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str
) -> None:
    fitted(settings, data)
    (head,) = HEADS.entries(settings)
    other = register_file(settings, write(home.parent / "data" / "others.h5ad", seed=1))
    run = done(
        settings, "annotate", AnnotateRequest(str(head.path), other.path, threshold=0.6, device="cpu"), "types on others.h5ad"
    )
    page = opened(monkeypatch, "finetune", None, home, annotation=run.id)
    assert not page.exception and not page.error
    assert "What does the head types call the cells of others.h5ad?" in text(page)
    assert page.dataframe[0].value["cells"].sum() == CELLS
    labels = [b.proto.label for b in page.get("download_button")]
    assert "Labels (CSV)" in labels and any("Cells with labels (.h5ad" in one for one in labels)
    page.button(key="make_zarr_store").click().run()
    (job,) = work_off(settings)
    assert job.state == "done", job.error
    page.run()
    assert any(b.proto.label.startswith("Zarr (") for b in page.get("download_button")) and not page.exception
    with zipfile.ZipFile(run.file("result.zarr.zip")) as store:
        assert "obs/predicted_label/codes/.zarray" in store.namelist()


def test_the_models_page_lists_it_and_leads_to_applying(
    monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str
) -> None:
    fitted(settings, data)
    (head,) = HEADS.entries(settings)
    assert head.card is not None
    page = opened(monkeypatch, "models", None, home)
    assert not page.exception and "calls 2 labels" in text(page)
    page.button(key=f"head_remove_{head.card.id}").click().run()
    page.button(key=f"head_sure_{head.card.id}").click().run()
    assert not HEADS.entries(settings) and "calls 2 labels" not in text(page) and not page.exception


def test_a_damaged_report_is_a_sentence(monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str) -> None:
    run = fitted(settings, data)
    run.file("head").joinpath("report.json").write_text("{")
    page = opened(monkeypatch, "finetune", None, home, finetuning=run.id, data=data)
    assert "cannot be read" in text(page) and not page.exception


def test_a_prediction_is_offered(monkeypatch: pytest.MonkeyPatch, home: Path, settings: Settings, data: str) -> None:
    fitted(settings, data)
    make_run(settings)
    page = opened(monkeypatch, "finetune", None, home)
    page.session_state["finetune_view"] = "Apply a head"
    page.session_state["apply_where"] = "A prediction"
    page.run()
    assert not page.exception and "after the perturbation" in text(page)
    page.button(key="annotate").click().run()
    request = asked(settings, "annotate")
    assert isinstance(request, AnnotateRequest) and request.result and not request.data


# ---- words and figures ----

REPORT = HeadReport(
    1, "types", "abc", "classification", ("t",), ("B", "NK"), "linear", "head", "X_pca", 6,
    SplitUsed("groups", "donor", 10, 5, 4, ("d1",), (), 0),
    (Method("head", "head", (Score("accuracy", 0.9, 0.8, 0.95),)), Method("regression", "regression", (Score("accuracy", 0.5, 0.4, 0.6),))),
    confusion=((2, 0), (1, 1)), reliability=(Bin(0.5, 0.6, 3, 0.55, 0.4), Bin(0.6, 0.7, 0, 0.0, 0.0)),
    wrong=(WrongCell("c", 3, "", "NK", "B", 0.7),), n_wrong=1,
)  # fmt: skip


def test_scores_are_told_apart_by_their_intervals() -> None:
    high, low, none = Score("x", 0.9, 0.8, 1.0), Score("x", 0.5, 0.4, 0.6), Score("x", 0.9)
    assert compared(high, low, "f1") == 1 and compared(low, high, "f1") == -1 and compared(high, none, "f1") == 0
    assert compared(low, high, "mae") == 1 and compared(high, replace(low, high=0.85), "f1") == 0
    assert (
        interval(high) == "0.900 (0.800 to 1.000)"
        and interval(none) == "0.900"
        and interval(None) == interval(Score("x", None)) == "n/a"
    )


def test_tables_and_figures_say_what_the_report_says() -> None:
    assert metric_table(REPORT)["Accuracy"].tolist() == ["0.900 (0.80–0.95)", "0.500 (0.40–0.60)"]
    assert np.allclose(confusion_figure(REPORT).data[0].z, [[1, 0], [0.5, 0.5]])
    assert list(reliability_figure(REPORT).data[1].y) == [0.4]
    assert list(wrong_table(REPORT).columns) == ["cell", "row", "truth", "called", "probability"]


def test_controls_stand_beside_each_perturbation_of_their_context() -> None:
    def group(kind: str, perturbation: str, share: float) -> CalledGroup:
        shares = (Share("B", 0, share, share), Share("unknown", 0, 1 - share, 0.0))
        cells = tuple(replace(s, cells=round(100 * s.share)) for s in shares)
        return CalledGroup(kind, perturbation, "T", 100, cells)  # type: ignore[arg-type]

    groups = (
        group("predicted", "TNF", 0.9),
        group("predicted", "IFN", 0.8),
        group("predicted control", "ctrl", 0.1),
        group("measured", "TNF", 0.7),
    )
    found = Annotation(1, "h", "i", "classification", "d", 400, 0, 0.5, 0, groups=groups)
    every = conditions(found)
    assert set(every) == {("TNF", "T"), ("IFN", "T")} and set(every["IFN", "T"]) == {"predicted", "predicted control"}
    said = sentence(("TNF", "T"), every["TNF", "T"])
    assert (
        "of 100 predicted cells 90% are called **B**" in said
        and "of 100 predicted control cells 90% are called **unknown**" in said
    )
    assert group_table(found)["B"].tolist() == [0.9, 0.8, 0.1, 0.7]


def test_the_page_needs_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    code = (
        "import pages.parts.finetune.run, pages.parts.finetune.form, pages.parts.pretrain.run, sys; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_cells_called_wrongly_are_crosses_on_a_map_of_all_test_cells() -> None:
    cells = pd.DataFrame({
        "cell": ["a", "b", "c<i>", "d"], "truth": ["B", "NK", "B", "B"], "called": ["B", "NK", "NK", "NK"],
        "probability": [0.9, 0.8, 0.6, 0.7], "map_1": [0.0, 1.0, 2.0, 3.0], "map_2": [0.0, 0.0, 1.0, 1.0],
    })  # fmt: skip
    *right, wrong = wrong_map(cells).data
    assert [len(trace.x) for trace in right] == [1, 1] and list(wrong.x) == [2.0, 3.0] and wrong.marker.symbol == "x"
    assert len(set(wrong.marker.color)) == 1 and wrong.marker.color[0] == right[0].marker.color  # both are truly B
    assert "called NK" in wrong.text[0] and "<i>" not in wrong.text[0]
    assert all_wrong(REPORT, cells)["cell"].tolist() == ["d", "c<i>"]
    many = pd.concat([cells.assign(truth=f"type {i}") for i in range(MOST_COLOURS + 1)])
    assert len(wrong_map(many).data) == 2  # too many labels for a colour each
    numbers = cells.assign(truth=["1", "2", "3", "4"], called=["1", "2.5", "9", "4.1"])
    assert number_map(numbers).data[0].marker.color.tolist() == pytest.approx([0.0, 0.1, 0.5, 6.0])
    assert all_wrong(replace(REPORT, task="regression"), numbers)["cell"].iloc[0] == "c<i>"
