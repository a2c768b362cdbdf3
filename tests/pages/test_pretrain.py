"""The Pretrain page without a browser: what it asks for, the estimate, and what it shows of a pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pages.parts.pretrain.form import PRESETS
from pages.parts.pretrain.run import verdict
from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.files import write_json
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.library.datasets import register_file
from state_engine.plain import to_plain
from state_engine.pretrain.request import PretrainRequest
from state_engine.pretrain.run_folder import RECORD, REPORT, PretrainRecord, PretrainReport
from state_engine.pretrain.run_folder import Tested as Found
from tests.pages.opened import figures, opened, text
from tests.small import write_cells

TEST = Found("label transfer", "cells.h5ad", "cell_type", 2, 40, 0.9, 0.8, 0.5)


@pytest.fixture
def data(home: Path) -> str:
    return register_file(Settings(home, (home.parent / "data",)), write_cells(home.parent / "data" / "cells.h5ad")).id


def test_what_is_chosen_is_asked_for(monkeypatch: pytest.MonkeyPatch, home: Path, data: str) -> None:
    page = opened(monkeypatch, "pretrain", None, home, data=data)
    assert not page.exception and "on this machine's CPU when nothing else runs (rough" in text(page)
    page.selectbox(key="pretrain_preset").set_value("tiny").run()
    page.number_input(key="pretrain_steps_tiny").set_value(7).run()
    page.number_input(key="pretrain_layers_tiny").set_value(1).run()
    page.number_input(key="pretrain_variable").set_value(1500).run()
    page.text_area(key="pretrain_settings").set_value("warmup=0.2\nlicence=mine").run()
    page.multiselect(key="pretrain_evaluate").set_value(["cell_type"]).run()
    assert page.button(key="pretrain").label == "Pretrain for 7 steps" and not page.error
    page.button(key="pretrain").click().run()
    assert not page.exception
    (info,) = list_runs(Settings(home))
    asked = RunFolder(info.path).request_as(PretrainRequest)
    assert (
        asked.data == (str(home.parent / "data" / "cells.h5ad"),) and asked.schedule.steps == 7 and asked.schedule.warmup == 0.2
    )
    assert asked.sizes == replace(PRESETS["tiny"].sizes, layers=1) and asked.evaluate == ("cell_type",)
    assert asked.variable_genes == 1500
    assert asked.running.licence == "mine" and asked.running.name == "SE of cells" and asked.schedule.cells_per_step == 16


def test_a_setting_that_is_not_known_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, home: Path, data: str) -> None:
    page = opened(monkeypatch, "pretrain", None, home, data=data)
    page.text_area(key="pretrain_settings").set_value("colour=blue").run()
    assert "colour" in page.error[0].value and not page.exception
    page.text_area(key="pretrain_settings").set_value("heads=5").run()
    assert "5 heads cannot share a width of 128" in page.error[0].value


def test_every_preset_is_a_network() -> None:
    for preset in PRESETS.values():
        assert PretrainRequest(("x",), sizes=preset.sizes).sizes.hidden % preset.sizes.heads == 0
    with pytest.raises(RequestError):
        replace(PRESETS["small"].sizes, heads=7)


def made(settings: Settings, state: str) -> RunFolder:
    """A pretraining with the files that a worker leaves."""
    request = PretrainRequest(("cells.h5ad",))
    run = RunFolder.create(settings, "pretrain", to_plain(request), "Pretrain SE")
    folder = run.path / "pretraining"
    folder.mkdir()
    (folder / "log.csv").write_text(
        "step,loss,decoding,learning_rate,gradient_norm,seconds\n" + "".join(f"{i},{9 / i},1,1,1,{i}\n" for i in range(1, 31))
    )
    (folder / "validation.csv").write_text("step,loss,seconds\n30,0.4,30\n")
    record = PretrainRecord(
        1, request, steps=30, seconds=60.0, device="cpu", parameters=961366, vocabulary=("A", "B"), notes=("A note.",)
    )
    write_json(folder / RECORD, to_plain(record))
    run.start()
    run.record(device="cpu", model_hash="a" * 64)
    if state == "done":
        write_json(folder / REPORT, to_plain(PretrainReport((TEST, replace(TEST, measure="batch mixing", value=0.7)), 0.4)))
    run.finish(state)  # type: ignore[arg-type]
    return run


def test_a_finished_one_shows_its_tests_and_its_curve_and_gives_the_rate(
    monkeypatch: pytest.MonkeyPatch, home: Path, data: str
) -> None:
    run = made(Settings(home), "done")
    page = opened(monkeypatch, "pretrain", None, home, pretraining=run.id)
    assert not page.exception and not page.error
    assert "Pretrained for 30 steps in 60 s on cpu: 961,366 parameters, 2 genes" in text(page) and "A note." in text(page)
    assert page.dataframe[0].value["value"].tolist() == [0.9, 0.7] and len(figures(page)) == 1
    page.button(key="pretraining_new").click().run()
    assert "by pretrainings that ran here" in text(page)
    # a step of 1 s: 2,000 of the same size
    assert "about 34 min on this machine" in text(page)


def test_a_stopped_one_can_go_on(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    run = made(Settings(home), "cancelled")
    page = opened(monkeypatch, "pretrain", None, home, pretraining=run.id)
    assert "Nothing was saved yet" in text(page)
    (run.path / "step=4.ckpt").touch()
    assert "What was trained so far is kept" in text(page.run())
    page.button(key="pretraining_resume").click().run()
    assert not page.exception
    job = local.JobStore(Settings(home).database).for_run(run.id)
    assert job is not None and job.state == "queued"


def test_the_verdict_counts_both_sides() -> None:
    said = verdict((TEST, replace(TEST, value=0.1), replace(TEST, value=0.8)))
    assert (
        "**0.900**, with 50 principal components 0.800, by chance 0.500" in said
        and "above the components in 1 and below in 1" in said
    )
