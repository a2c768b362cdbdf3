"""The Screen page without a browser: what it asks for, and what it shows of a screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pages.parts.screen.charts import MOST_BELOW, MOST_NUMBERS, alike_figure, goal_figure
from pages.parts.screen.result import in_ranges, ranges, shortlist, table_key
from state_engine.config import Settings
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.datasets import register_file
from state_engine.library.models import TRANSITION
from state_engine.plain import minus, to_plain
from state_engine.screening.report import SCORES, Similarity, load_similarity, read_ranking
from state_engine.screening.request import GeneChange, ScreenRequest
from state_engine.screening.run import screen
from tests.pages.opened import address, figures, opened, page_at, text
from tests.small import GENES, PERTURBATIONS, write_cells, write_model


@pytest.fixture
def thread(home: Path) -> dict[str, str]:
    """Ids of a data set and a model of the installation."""
    settings = Settings(home, (home.parent / "data",))
    entry = register_file(settings, write_cells(home.parent / "data" / "cells.h5ad", 200))
    write_model(home.parent / "data" / "model")
    model = TRANSITION.adopt(home.parent / "data" / "model", settings)
    assert model.card is not None
    return {"data": entry.id, "model": model.card.id}


def made(home: Path, thread: dict[str, str]) -> RunFolder:
    """A finished screen."""
    settings = Settings(home, (home.parent / "data",))
    place = next(e.path for e in TRANSITION.entries(settings) if e.card is not None and e.card.id == thread["model"])
    request = ScreenRequest(
        str(home.parent / "data" / "cells.h5ad"), str(place), up_genes=GENES[:5], cells=16, sample=8, splits=200, combinations=2, device="cpu"
    )  # fmt: skip
    run = RunFolder.create(settings, "screen", to_plain(request), "Five genes up")
    run.start()
    screen(request, run.path)
    run.record(device="cpu", command="python -m state_engine screen")
    run.finish("done")
    return run


def test_goals_become_requests(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str]) -> None:
    page = opened(monkeypatch, "screen", None, home, **thread)
    assert not page.exception and not page.error and page.button(key="screen").disabled
    page.text_area(key="screen_up").set_value(f"{GENES[0]}, {GENES[1]} {GENES[2]}").run()
    assert not page.exception and not page.button(key="screen").disabled
    assert page.button(key="screen").label == "Screen 3 conditions" and "3 perturbations in 1 context" in text(page)
    page.button(key="screen").click().run()
    assert not page.exception
    (info,) = list_runs(Settings(home))
    asked = RunFolder(info.path).request_as(ScreenRequest)
    assert asked.up_genes == GENES[:3] and asked.contexts == ("B",) and asked.goal == "signature" and asked.perturbations == ()


@pytest.mark.parametrize(("goal", "words"), [("target cells", ""), ("effect size", "how much they change"), ("head", "Fit one")])
def test_other_goals(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str], goal: str, words: str) -> None:
    page = opened(monkeypatch, "screen", None, home, **thread)
    page.session_state["screen_goal"] = goal
    page.run()
    assert not page.exception and not page.error
    assert words in text(page) + " ".join(i.value for i in page.info)
    assert page.button(key="screen").disabled == (goal == "head")
    if goal == "target cells":
        page.selectbox(key="screen_column").set_value("batch").run()
        page.button(key="screen").click().run()
        (info,) = list_runs(Settings(home))
        assert RunFolder(info.path).request_as(ScreenRequest).target_cells == "batch=lane 1"


def test_a_measured_effect_is_pasted(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str]) -> None:
    page = opened(monkeypatch, "screen", None, home, **thread)
    page.session_state["screen_goal"] = "explanation"
    page.run()
    page.text_area(key="screen_changes").set_value("a,b\n1,2").run()
    assert "no columns of genes" in page.error[0].value and not page.exception
    page.text_area(key="screen_changes").set_value("gene,logfc\nGENE1,2\nGENE2,-1").run()
    page.button(key="screen").click().run()
    (info,) = list_runs(Settings(home))
    assert RunFolder(info.path).request_as(ScreenRequest).changes == (GeneChange("GENE1", 2.0), GeneChange("GENE2", -1.0))


def test_a_finished_screen(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str]) -> None:
    run = made(home, thread)
    page = opened(monkeypatch, "screen", None, home, screening=run.id, **thread)
    assert not page.exception and not page.error
    said = text(page)
    assert "conditions" in said and "5 genes up and 0 down" in said
    assert minus(f"Score: {SCORES['signature']}.") in said
    assert "no scores on held-out cells" in said and "not known whether in training" in said
    ranking = read_ranking(run.file("ranking.csv"))
    assert page.dataframe[0].value["perturbation"].tolist() == ranking["perturbation"].tolist()
    assert (
        len(figures(page)) == 3 and "in the best 6 rows; tick rows to see others" in said
    )  # genes of the goal, sizes, what is alike
    page.text_input(key="screen_find").set_value("tnf").run()
    assert all("TNF" in p for p in page.dataframe[0].value["perturbation"])
    page.checkbox(key=f"screen_again_{run.id}").set_value(True).run()
    assert "nothing is predicted again" in text(page)
    # whatever the form says of contexts and cells: those of the screen above
    page.text_area(key="screen_up").set_value(", ".join(GENES[5:9])).run()
    page.button(key="screen").click().run()
    before = run.request_as(ScreenRequest)
    (info,) = [i for i in list_runs(Settings(home)) if i.id != run.id]
    asked = RunFolder(info.path).request_as(ScreenRequest)
    assert asked == replace(before, up_genes=GENES[5:9], combinations=0, splits=asked.splits, earlier=str(run.path))


def test_the_address_opens_the_same_view(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str]) -> None:
    run = made(home, thread)
    ranking = read_ranking(run.file("ranking.csv"))
    page = opened(monkeypatch, "screen", None, home, screening=run.id, **thread)
    page.selectbox(key="screen_sort").set_value("perturbation")
    page.text_input(key="screen_find").set_value("tnf").run()
    shown = page.dataframe[0].value
    assert 1 < len(shown) < len(ranking) and shown["perturbation"].is_monotonic_increasing
    key = table_key(run.id, shown["rank"].tolist())
    last, first = len(shown) - 1, int(shown["rank"].iloc[-1])
    page.session_state[key] = {"selection": {"rows": [last], "columns": [], "cells": []}}
    page.session_state[f"screen_ask_{run.id}"] = True
    page.session_state["screen_goal"] = "explanation"
    page.run()
    # what is ticked stays so when a filter hides it, and other rows come to its place
    page.text_input(key="screen_find").set_value("no such thing").run()
    assert not page.exception and len(page.dataframe[0].value) == 0 and "1 ticked row not among" in text(page)
    page.text_input(key="screen_find").set_value("tnf").run()
    there = address(page)
    assert (there["rows"], there["sort"], there["find"]) == (str(first), "perturbation", "tnf")
    assert (there["ask"], there["goal"]) == ("yes", "explanation")

    other = page_at(monkeypatch, "screen", None, home, screening=run.id, **thread)
    other.query_params.update(there)
    other.run()
    assert not other.exception and not other.error
    assert other.dataframe[0].value["rank"].tolist() == shown["rank"].tolist()
    assert other.session_state[key]["selection"]["rows"] == [last]
    assert other.session_state["screen_goal"] == "explanation" and other.session_state[f"screen_ask_{run.id}"]
    assert address(other) == there


def test_ranks_in_an_address() -> None:
    assert ranges([1, 2, 3, 7]) == "1-3,7" and ranges([]) == ""
    assert in_ranges("1-3,7", 10) == {1, 2, 3, 7} and in_ranges("", 10) == set()
    assert in_ranges("0,2-99999999999,x,-,3-", 4) == {2, 3, 4}, "what the screen does not have is left out"


def test_the_map_of_what_is_alike_keeps_the_clustered_order(home: Path, thread: dict[str, str]) -> None:
    run = made(home, thread)
    similarity = load_similarity(run.file("similarity.npz"))
    figure, table = alike_figure(similarity, list(PERTURBATIONS[1:3]))
    order = [p for p in similarity.perturbations if p in PERTURBATIONS[1:3]]
    assert table["perturbation"].tolist() == order and list(figure.layout.xaxis.ticktext) == order
    assert figure.layout.xaxis.showticklabels is not False
    many = Similarity(tuple(f"P{i}" for i in range(MOST_BELOW + 1)), np.eye(MOST_BELOW + 1, dtype=np.float32))
    wide = alike_figure(many, list(many.perturbations))[0].layout.xaxis
    assert not wide.showticklabels and "same perturbations" in wide.title.text


def test_the_genes_of_the_goal_have_their_changes_and_the_way_they_are_to_go() -> None:
    index = pd.MultiIndex.from_tuples([("a", "T"), ("b", "T")], names=["perturbation", "context"])
    changes = pd.DataFrame([[2.0, -1.5], [0.1, 0.0]], index, ["ISG15", "CCL2"])
    (trace,) = (figure := goal_figure(changes, ("ISG15",))).data
    assert list(trace.x) == ["ISG15 ↑", "CCL2 ↓"] and list(trace.y) == ["a · T", "b · T"]
    assert trace.z.tolist() == changes.to_numpy().tolist() and trace.zmin == -trace.zmax == -2
    assert trace.texttemplate and figure.layout.yaxis.autorange == "reversed"
    wide = pd.DataFrame(np.zeros((1, MOST_NUMBERS + 1)), index[:1], [f"G{i}" for i in range(MOST_NUMBERS + 1)])
    assert not goal_figure(wide, ()).data[0].texttemplate


def test_a_shortlist_has_no_empty_columns(home: Path, thread: dict[str, str]) -> None:
    table = read_ranking(made(home, thread).file("ranking.csv"))
    short = shortlist(table, table.head(2))
    assert len(short) == 2 and [name for name in table if name not in short] == ["before", "after"]
    assert "after" in shortlist(table.assign(after=0.5), table.assign(after=0.5))


def test_a_stopped_one_can_go_on(monkeypatch: pytest.MonkeyPatch, home: Path, thread: dict[str, str]) -> None:
    request = ScreenRequest(str(home.parent / "data" / "cells.h5ad"), "model")
    run = RunFolder.create(Settings(home), "screen", to_plain(request), "All")
    run.start()
    run.finish("cancelled")
    page = opened(monkeypatch, "screen", None, home, screening=run.id, **thread)
    assert "What was predicted so far is kept" in text(page)
    page.button(key="screen_resume").click().run()
    assert not page.exception
    job = local.JobStore(Settings(home).database).for_run(run.id)
    assert job is not None and job.state == "queued"
