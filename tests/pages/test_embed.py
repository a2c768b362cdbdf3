"""The Embed page without a browser: what it asks, what it shows of an embedding, similar cells, genes read, and the ways to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts.embed import form
from pages.parts.embed.map import colours_of, gene_values, label_codes, matrix_bytes, most_variable, place_of
from pages.parts.embed.similar import agreement
from state_engine.checkpoints.store import CARD
from state_engine.config import Settings
from state_engine.data.dataset import Choices, Dataset, open_dataset
from state_engine.embedding.cost import remember_speed, speeds_here
from state_engine.embedding.jobs import Embedding, EmbedJob, GenesReadJob, Pick, SimilarJob, SpeedJob
from state_engine.embedding.request import EmbedRequest
from state_engine.jobs import local
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.tasks import embedding as embed_tasks
from state_engine.library.datasets import DEMO_PATH, register_file
from state_engine.library.models import DEMO_EMBEDDING
from state_engine.plain import from_plain
from state_engine.progress import silent
from state_engine.search.tables import unique_names
from tests.pages.maps import drawings, legend
from tests.pages.opened import opened, text
from tests.pages.queued import queued
from tests.small import embedding_changes, write_model
from tests.small_embedding import write_embedding_model

CELLS = 240


def done(settings: Settings, kind: str, request: object, parent: str = "") -> RunFolder:
    """A job of this kind, done here and now."""
    run = queued(settings, request, f"a {kind} job", parent=parent)
    run.start()
    getattr(embed_tasks, kind)(request, run, silent, WarmCache())
    run.finish("done")
    return run


@pytest.fixture(scope="module")
def settings(module_home: Path) -> Settings:
    """An installation that may read the folder beside it, where some of the demo's cells are."""
    cells = anndata.read_h5ad(DEMO_PATH)[:CELLS].copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).where(np.arange(CELLS) != 0).astype("category")
    cells.write_h5ad(module_home.parent / "cells.h5ad")
    return Settings(module_home, data_folders=(module_home.parent,))


@pytest.fixture(scope="module")
def run(module_home: Path, settings: Settings) -> RunFolder:
    """The cells embedded, similar ones found, and the genes that are read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_EXPLORER_HOME", str(module_home))
        patch.setenv("STATE_EXPLORER_DATA", str(module_home.parent))
        request = EmbedRequest(str(module_home.parent / "cells.h5ad"), str(DEMO_EMBEDDING), device="cpu")
        run = done(settings, "embed", EmbedJob(request, "cells · X_state"))
        made = embedding(run)
        done(settings, "similar", SimilarJob(made.path, "X_state", Pick("cell_type", "B", words="cell_type B"), k=3), run.id)
        done(settings, "genes_read", GenesReadJob(replace(request, data=made.path), "cell_type", 8), run.id)
    return run


def embedding(run: RunFolder) -> Embedding:
    return from_plain(Embedding, json.loads(run.file("embedding.json").read_text()))


@pytest.fixture(scope="module")
def data(run: RunFolder) -> Dataset:
    return open_dataset(embedding(run).path)


def page_of(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder | None, module_home: Path, view: str = "Map", **thread: str
) -> AppTest:
    page = opened(monkeypatch, "embed", None, module_home, embedding=run.id if run else "", **thread)
    if view != "Map":
        page.segmented_control(key="embed_view").set_value(view).run()
    assert not page.exception
    return page


def test_without_a_data_set_the_page_teaches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = page_of(monkeypatch, None, tmp_path)
    assert "No data set is open" in text(page) and [b.label for b in page.button] == ["Open a data set", "Use the demo"]


def test_the_form_says_what_fits_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[EmbedJob] = []
    monkeypatch.setattr(local, "submit", lambda settings, request, title, **_: asked.append(request) or ("job", "run"))
    page = page_of(monkeypatch, None, tmp_path, data="demo")
    assert "**283 of 283** genes of the model are in the data set" in text(page) and "Values are counts" in text(page)
    assert "Pretrained on simulated cells" in text(page)
    button = page.button(key="embed")
    assert button.label == "Embed 6,000 cells" and not button.disabled
    button.click().run()
    (job,) = asked
    assert job.request.key == "X_state" and job.request.model == str(DEMO_EMBEDDING) and job.reference


def test_too_few_genes_stop_before_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cells = anndata.read_h5ad(DEMO_PATH)[:50].copy()
    cells.var_names = [f"thing{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "odd.h5ad")
    entry = register_file(Settings(tmp_path / "home", (tmp_path,)), tmp_path / "odd.h5ad")
    page = page_of(monkeypatch, None, tmp_path / "home", data=entry.id)
    assert "Too few genes match" in text(page) and page.button(key="embed").disabled


def test_the_map_shows_all_cells_and_says_how(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = page_of(monkeypatch, run, module_home)
    assert "240 cells in 74 dimensions (64 describe the cell), from counts" in text(page)
    assert "not trained on real cells" in text(page) and "240 cells; seed 0" in text(page)
    names = legend(drawings(page)[0])
    assert names["not labelled"] == 1 and "B" in names and sum(names.values()) == 240
    page.pills(key="embed_colour").set_value("A gene").run()
    assert not page.exception and drawings(page)[0].header["unit"] == "log1p"


def test_similar_cells_are_asked_for_and_shown_with_their_support(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path, data: Dataset
) -> None:
    page = page_of(monkeypatch, run, module_home, "Similar cells")
    n = int((np.asarray(data.columns["cell_type"].astype(str)) == "B").sum())
    assert f"for each of {n} cells" in text(page) and "Compared with 240 reference cells of 1 data set" in page.expander[-1].label
    votes = page.dataframe[1].value
    assert len(votes) == n and votes["support"].between(0, 1).all()
    pairs = page.dataframe[2].value
    assert len(pairs) == 3 * n and (pairs["similarity"].diff()[pairs["rank"] > 1] <= 1e-6).all()
    assert "says the same for" in text(page)
    asked: list[SimilarJob] = []
    monkeypatch.setattr(local, "submit", lambda settings, request, title, parent: asked.append(request) or ("job", "run"))
    page.button(key="find_similar").click().run()
    (job,) = asked
    assert job.pick.column == "cell_type" and job.k == 5 and not job.others_only
    page.segmented_control(key="pick_way").set_value("Selected on the map").run()
    assert "Draw around cells with the lasso" in text(page) and page.button(key="find_similar").disabled


def test_without_reference_cells_the_tab_teaches(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    monkeypatch.setattr("state_engine.search.query.tables", lambda folder: ())
    assert "There are no reference cells yet" in text(page_of(monkeypatch, run, module_home, "Similar cells"))


def test_genes_that_are_read_by_group_layer_and_head(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    page = page_of(monkeypatch, run, module_home, "Genes it reads")
    table = page.dataframe[0].value
    assert len(table) == 20 and table["attention"].is_monotonic_decreasing
    before = table["gene"].tolist()
    assert "CLS itself gets" in text(page) and "no mechanism" in text(page)
    group = next(s for s in page.selectbox if s.label == "Group")
    group.set_value("T" if "T" in group.options else group.options[-1].split(" · ")[0]).run()
    assert page.dataframe[0].value["gene"].tolist() != before
    next(s for s in page.selectbox if s.label == "Layer").set_value(1).run()
    assert "layer 1, head mean" in text(page)


def test_the_files_can_be_taken_home_and_used(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path, data: Dataset
) -> None:
    page = page_of(monkeypatch, run, module_home, "Files")
    assert [b.label for b in page.get("download_button")][-1].startswith("Embedding (.npy")
    assert "embed --model" in page.code[0].value
    page.button(key="embed_use").click().run()
    assert page.session_state["thread_data"] == embedding(run).data
    (module_home.parent / "x.npy").write_bytes(matrix_bytes(data, "X_state"))
    assert np.array_equal(np.load(module_home.parent / "x.npy"), data.read("obsm/X_state", np.arange(CELLS)))


def test_a_deleted_data_set_is_said(monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path) -> None:
    path = Path(embedding(run).path)
    path.rename(path.with_suffix(".away"))
    try:
        assert "was deleted" in text(page_of(monkeypatch, run, module_home))
    finally:
        path.with_suffix(".away").rename(path)


# SE -> ST


def transition_model(settings: Settings, width: int, **card: object) -> str:
    """A model that reads X_state of this width; returns its id."""
    folder = settings.models / f"reads-{width}-{len(card)}"
    made = write_model(folder, seed=width, **embedding_changes(width))
    path = folder / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | card))
    return made.id


def test_a_model_that_reads_an_embedding_offers_to_make_it(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path, settings: Settings
) -> None:
    model = transition_model(settings, 74, embedding_model=embedding(run).model)
    source = register_file(settings, module_home.parent / "cells.h5ad")
    page = opened(monkeypatch, "predict", None, module_home, data=source.id, model=model)
    assert "obsm/X_state is not in the data set" in text(page)
    assert page.button(key="make_embedding").label == "Make the embedding"
    page = page_of(monkeypatch, None, module_home, data=source.id, model=model)
    assert "Made for Tiny" in text(page)
    page = opened(monkeypatch, "predict", None, module_home, data=embedding(run).data, model=model)
    assert "cannot read this data set" not in text(page) and page.button(key="predict_disabled")


def test_an_embedding_of_another_model_stops_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, module_home: Path, settings: Settings
) -> None:
    model = transition_model(settings, 74, embedding_model="f" * 64, name="Other")
    page = opened(monkeypatch, "predict", None, module_home, data=embedding(run).data, model=model)
    assert "Another embedding model made this embedding" in text(page)
    page.checkbox(key=f"allow_other_embedding_{model}").check().run()
    assert "cannot read this data set" not in text(page)
    page = page_of(monkeypatch, run, module_home, data=embedding(run).data, model=model)
    assert "Not the SE model of Other" in text(page)


# The Models page


def test_the_models_page_shows_the_embedding_models_with_their_card(monkeypatch: pytest.MonkeyPatch, module_home: Path) -> None:
    page = opened(monkeypatch, "models", None, module_home)
    assert "283 genes, 74 dimensions, not trained on real cells" in text(page)
    next(b for b in page.button if b.label == "See its card").click().run()
    assert not page.exception and "the 63 most expressed of its 283 genes" in text(page)
    page.button(key="se_back").click().run()
    assert "the 63 most expressed" not in text(page)


# Pieces


def test_labels_have_a_stable_order_and_missing_ones_a_place(data: Dataset) -> None:
    assert colours_of(data)[0] == "cell_type"
    names, codes = label_codes(data, "cell_type", np.array([0, 1], np.int32))
    assert names == [*sorted(names[:-1]), ""] and names[codes[0]] == ""
    assert names[codes[1]] == str(data.columns["cell_type"][1])


def test_a_gene_is_read_as_log1p(data: Dataset) -> None:
    cells = anndata.read_h5ad(data.path)
    expected = np.log1p(cells.X.toarray() / cells.X.sum(axis=1) * 1e4)
    j = most_variable(str(data.path), 1, Choices())
    assert j == int(np.asarray(expected).var(axis=0).argmax())  # all cells are in the sample
    values = gene_values(str(data.path), 1, Choices(), j, (5, 9))
    np.testing.assert_allclose(values, np.asarray(expected)[[5, 9], j], atol=1e-5)


def test_agreement_counts_cells_with_a_label_of_their_own(data: Dataset) -> None:
    cells = data.obs_names[[0, 1, 2]]
    own = str(data.columns["cell_type"][1])
    votes = pd.DataFrame({"cell": cells, "label": ["B", own, "nothing"]})
    assert agreement(votes, "cell_type", data) == 0.5  # the first cell has none
    assert agreement(votes, "colour", data) is None


def test_cells_and_genes_of_one_name_are_told_apart_by_place(tmp_path: Path) -> None:
    cells = anndata.read_h5ad(DEMO_PATH)[:40].copy()
    cells.uns = {}
    cells.obs["cell_type"] = ["A", "B"] * 20
    cells.obs_names = ["AAAC-1", "AAAC-1", *cells.obs_names[2:]]
    cells.var_names = ["TBCE", "TBCE", "TBCE", *cells.var_names[3:]]
    cells.write_h5ad(tmp_path / "twins.h5ad")
    data = open_dataset(tmp_path / "twins.h5ad", Choices(context_key="cell_type"))
    # the second cell of a name is stored for the search with its row behind
    votes = pd.DataFrame({"cell": unique_names(data.obs_names)[:2], "label": ["A", "B"]})
    assert votes["cell"].tolist() == ["AAAC-1", "AAAC-1 (row 1)"] and agreement(votes, "cell_type", data) == 1
    assert [place_of(data, name) for name in ("TBCE", "TBCE (gene 1)", "TBCE (gene 2)")] == [0, 1, 2]


def test_values_by_gene_colour_the_map_with_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pages.parts.embed import map as parts
    from state_engine.library import gene_cache
    from tests.small import write_cells

    settings, rows = Settings(tmp_path / "home"), np.array([5, 99, 0], np.int32)
    monkeypatch.setattr(parts.session, "settings", lambda: settings)
    data = open_dataset(write_cells(tmp_path / "cells.h5ad"))
    before = parts.values_of(data, "GENE7", rows)
    gene_cache.make_columns(settings, data)
    monkeypatch.setattr(parts, "gene_values", lambda *_: pytest.fail("the cells were read"))
    np.testing.assert_array_equal(parts.values_of(data, "GENE7", rows), before)


def test_the_time_on_a_cpu_is_said_and_a_smaller_model_is_offered(
    monkeypatch: pytest.MonkeyPatch, home: Path, run: RunFolder, module_home: Path
) -> None:
    page = opened(monkeypatch, "embed", None, home, data="demo")
    assert (
        "on this machine's CPU (rough)" in text(page)
        and "when nothing else runs" in text(page)
        and "Without a GPU" not in text(page)
    )
    small = write_embedding_model(home / "models" / "tiny")
    monkeypatch.setattr(form, "LONG", 0.0)
    monkeypatch.setattr(form, "MUCH_SMALLER", 1.0)
    page = opened(monkeypatch, "embed", None, home, data="demo")
    assert f"Without a GPU {small.name} takes" in text(page) and not page.exception
    page = opened(monkeypatch, "embed", None, module_home, data="demo")
    assert "(measured here)" in text(page) and not [b for b in page.button if b.key == "se_speed"]


def test_how_long_a_cell_takes_is_measured_and_remembered(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """The button queues the job, the job remembers, and the page says it, also beside a smaller model that is quicker."""
    page = opened(monkeypatch, "embed", None, home, data="demo")
    page.button(key="se_speed").click().run()
    settings = Settings(home)
    info = next(i for i in list_runs(settings) if i.manifest is not None and i.manifest.kind == "embed_speed")
    run = RunFolder(info.path)
    made = embed_tasks.embed_speed(run.request_as(SpeedJob), run, silent, WarmCache())
    assert speeds_here(settings.root)[0][1] == made.seconds_a_cell
    small = write_embedding_model(home / "models" / "tiny", tokens=8)
    remember_speed(settings.root, small.config, made.seconds_a_cell / 100)
    monkeypatch.setattr(form, "LONG", 0.0)
    page = opened(monkeypatch, "embed", None, home, data="demo")
    said = text(page)
    assert f"about {made.seconds_a_cell * 1000:,.3g} ms on this machine's CPU (measured here)" in said
    assert f"Without a GPU {small.name} takes" in said and not [b for b in page.button if b.key == "se_speed"]
