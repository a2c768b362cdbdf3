"""Home, Data, Models, Predict and Runs without a browser: each opens, says what is there, and asks the engine the right thing."""

from __future__ import annotations

import ast
import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anndata
import pytest
from streamlit.testing.v1 import AppTest

from pages.parts import door, undo
from pages.parts.format import age, duration, p_value, plural, size
from pages.parts.predict.form import add_names
from state_engine.config import Settings, gib, load_settings
from state_engine.errors import DataError, UnsafeFileError
from state_engine.jobs import local
from state_engine.jobs.requests import ConvertRequest, PrepareRequest
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_ID, DEMO_PATH, get_dataset, list_datasets, receive_upload
from state_engine.library.models import list_models
from state_engine.library.trash import forget_dataset
from state_engine.library.views import views_of
from state_engine.plain import to_plain
from state_engine.prediction.request import PredictionRequest
from tests.data.bad_files import EMPTY, UNREADABLE, UNSAFE
from tests.pages.finished_run import finished_run
from tests.pages.opened import ROOT, app_on, came, text
from tests.pages.queued import queued
from tests.small import write_cells, write_model

IS_OPEN = door.is_open  # as it is outside of tests


def upload(home: Path, path: Path, opened: Callable[[Path, str], object] | None = None) -> str:
    with path.open("rb") as stream:
        return receive_upload(Settings(home), path.name, stream, path.stat().st_size, opened=opened).id


def unchecked(path: Path, name: str) -> None:
    """A file that was whole when it was registered."""


def test_home_explains_itself_and_starts_the_demo(home: Path) -> None:
    app = app_on("home")
    assert app.title[0].value.endswith("?") and "paired" in text(app) and "hypothesis" in text(app)
    assert "None yet" in text(app)


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_demo_is_one_click_from_a_prediction(home: Path) -> None:
    app = app_on("home")
    app.button(key="start_demo").click().run()
    assert app.session_state["thread_data"] == DEMO_ID and app.session_state["thread_model"]
    app.switch_page("pages/predict.py").run()
    picker = next(m for m in app.multiselect if "known to this model" in m.label)
    assert len(picker.options) >= 12 and any("IFN-beta" in o for o in picker.options)
    contexts = app.multiselect(key=f"contexts_{DEMO_ID}").value
    assert len(picker.value) == 2 and "IFN-beta" in picker.value and "NK" in contexts
    card = next(e.card for e in list_models(Settings(home)) if e.demo and e.card)
    held = {(one.context, one.perturbation) for one in card.training.held_out}
    assert held & {(c, p) for c in contexts for p in picker.value} >= {("NK", "IFN-beta")}
    assert app.button(key="predict").label == "Predict 4 conditions"


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_the_demo_keeps_what_was_chosen_in_it(home: Path) -> None:
    model = next(e.card.id for e in list_models(Settings(home)) if e.demo and e.card)
    app_on("predict", data=DEMO_ID, model=model).multiselect(key=f"perturbations_{model}").set_value(["LPS"]).run()
    app = app_on("home")
    app.button(key="start_demo").click().run()
    app.switch_page("pages/predict.py").run()
    assert app.multiselect(key=f"perturbations_{model}").value == ["LPS"]


def test_data_page_says_what_was_understood(home: Path, tmp_path: Path) -> None:
    app = app_on("data", data=upload(home, write_cells(tmp_path / "cells.h5ad")))
    assert [m.value for m in app.metric][:3] == ["160", "24", "counts"]
    assert "column `perturbation`" in text(app) and "control **control**" in text(app)
    table = next(d.value for d in app.dataframe if "Perturbation" in d.value.columns)
    assert next(iter(table["Perturbation"])) == "control" and {"B", "NK", "All"} <= set(table.columns)


def test_what_the_user_says_decides_and_is_remembered(home: Path, tmp_path: Path) -> None:
    identity = upload(home, write_cells(tmp_path / "cells.h5ad"))
    app = app_on("data", data=identity)
    app.multiselect(key="choice_Control label").set_value(["TNF"])
    app.selectbox(key="choice_Batch column").set_value("none")
    app.checkbox(key="choice_normalise").set_value(False)
    next(b for b in app.button if b.label == "Apply").click().run()
    choices = get_dataset(Settings(home), identity).choices
    assert (choices.control, choices.batch_key, choices.context_key, choices.normalise) == ("TNF", "", None, False)
    assert "control **TNF**" in text(app_on("data", data=identity))


def test_several_controls_are_chosen_together(home: Path, tmp_path: Path) -> None:
    identity = upload(home, write_cells(tmp_path / "cells.h5ad"))
    app = app_on("data", data=identity)
    app.multiselect(key="choice_Control label").set_value(["control", "TNF"])
    next(b for b in app.button if b.label == "Apply").click().run()
    assert get_dataset(Settings(home), identity).choices.control == ("control", "TNF")
    app = app_on("data", data=identity)
    assert "The control 'control' stands for 2 labels: control, TNF." in text(app)
    assert app.multiselect(key="choice_Control label").value == ["control", "TNF"]


@pytest.mark.parametrize("maker", [*UNREADABLE, *EMPTY, *UNSAFE], ids=lambda m: m.__name__)
def test_bad_files_get_a_plain_message(home: Path, tmp_path: Path, maker: Any) -> None:
    app = app_on("data", data=upload(home, maker(tmp_path), unchecked))
    assert app.error and "Traceback" not in text(app)
    words = {**UNREADABLE, **EMPTY, **UNSAFE}
    assert words[maker].lower() in app.error[0].value.lower()


@pytest.mark.parametrize("maker", [next(iter(UNREADABLE)), next(iter(EMPTY)), *list(UNSAFE)[-2:]], ids=lambda m: m.__name__)
def test_bad_uploads_are_refused_and_removed(home: Path, tmp_path: Path, maker: Any) -> None:
    path = maker(tmp_path)
    came(home, "my.h5ad", path.read_bytes())
    app = app_on("data")
    words = {**UNREADABLE, **EMPTY, **UNSAFE}
    assert words[maker].lower() in app.error[0].value.lower() and "my.h5ad" in app.error[0].value
    assert not list((home / "uploads").iterdir()) and [e.id for e in list_datasets(Settings(home))] == [DEMO_ID]
    came(home, "cells.h5ad", write_cells(tmp_path / "c.h5ad").read_bytes())
    app.run()
    assert not app.error and app.metric[0].value == "160" and app.subheader[0].value == "cells.h5ad"


def test_variable_genes_are_chosen_in_a_job(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def submit(settings: Settings, request: object, title: str = "") -> tuple[str, str]:
        asked.append(request)
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    identity = upload(home, write_cells(tmp_path / "cells.h5ad"))
    app = app_on("data", data=identity)
    app.number_input(key="hvg_count").set_value(12).run()
    app.button(key="make_hvgs").click().run()
    assert asked == [PrepareRequest(identity, 12)]


def test_models_page_reports_the_fit(home: Path, tmp_path: Path) -> None:
    card = write_model(home / "models" / "tiny")
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "model.json").write_text("{")
    app = app_on("models", data=upload(home, write_cells(tmp_path / "cells.h5ad")), model=card.id)
    assert "**Yes.**" in text(app) and "broken" in text(app)
    assert "every cell of a set sees every other" in text(app) and "Set by the test." in text(app)
    assert not app.button(key="to_predict").disabled


def test_models_page_stops_what_cannot_work(home: Path, tmp_path: Path) -> None:
    card = write_model(home / "models" / "wide", input_dim=24, output_dim=24)
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    cells.var_names = [f"OTHER{i}" for i in range(cells.n_vars)]
    cells.write_h5ad(tmp_path / "other.h5ad")
    app = app_on("models", data=upload(home, tmp_path / "other.h5ad"), model=card.id)
    assert "stop a prediction" in text(app) and app.button(key="to_predict").disabled


def test_models_page_says_what_can_be_asked(home: Path, tmp_path: Path) -> None:
    card = write_model(home / "models" / "tiny")
    app = app_on("models", data=upload(home, write_cells(tmp_path / "cells.h5ad")))
    assert "are known to a model here" in text(app) and "24 of its 24 genes are in your data" in text(app)
    table = next(d.value for d in app.dataframe if "Of your perturbations" in d.value.columns)
    assert len(table) == 8 and set(table["Your contexts seen"]) == {"not known", "no"}
    assert "about" in text(app) and "on this machine's CPU" in text(app)
    app.selectbox(key="ask_repo").set_value("arcinstitute/ST-HVG-Replogle").run()
    app.button(key="ask_get").click().run()
    assert app.selectbox(key="hub_repo").value == "arcinstitute/ST-HVG-Replogle" and not app.exception
    app.button(key=f"ask_{card.id}_go").click().run()
    assert app.session_state["thread_model"] == card.id and not app.exception


def test_where_no_model_knows_what_was_done_training_is_the_way_on(home: Path, tmp_path: Path) -> None:
    write_model(home / "models" / "tiny")
    cells = anndata.read_h5ad(write_cells(tmp_path / "cells.h5ad"))
    cells.obs["perturbation"] = (
        cells.obs["perturbation"].astype(str).replace({"TNF": "drug 1", "IFNB1": "drug 2", "JUN,FOS": "drug 3"})
    )
    cells.write_h5ad(tmp_path / "other.h5ad")
    identity = upload(home, tmp_path / "other.h5ad")
    app = app_on("data", data=identity)
    assert "0 of 3 perturbations of your data are known to a model here" in text(app)
    assert ":orange[knows 0 of 3 perturbations of your data, 3 in all]" in text(app)
    kinds = {key: app.button(key=key).proto.type for key in ("ask_train_go", "to_models")}
    assert kinds == {"ask_train_go": "primary", "to_models": "secondary"}
    app = app_on("models", data=identity)
    assert app.button(key="ask_train_go").proto.type == "primary"
    table = next(d.value for d in app.dataframe if "Of your perturbations" in d.value.columns)
    assert "0 of 3: none names a gene" in set(table["Of your perturbations"])
    model = next(e.card.id for e in list_models(Settings(home)) if e.card and not e.demo)
    app = app_on("models", data=identity, model=model)
    assert ":orange[:material/warning: Note]&ensp;**The model knows 0 of 3 perturbations of your data**" in text(app)
    app = app_on("predict", data=identity, model=model)  # and where the decision is made, in the open
    assert any("The model knows 0 of 3 perturbations of your data" in box.value for box in app.warning)


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_one_number_of_perturbations_on_every_page(home: Path) -> None:
    model = next(e.card.id for e in list_models(Settings(home)) if e.demo and e.card)
    said = {page: text(app_on(page, data=DEMO_ID, model=model)) for page in ("data", "models", "train")}
    assert not {page: words for page, words in said.items() if "15 labels" in words or "13 perturbations" in words}
    assert "14 perturbations and the control" in said["data"] and "14 and the control, as one-hot" in said["models"]
    assert "14 perturbations" in said["train"]


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_what_can_be_asked_stands_on_the_page_of_the_data_with_the_verdict_on_each_model(home: Path) -> None:
    app = app_on("data", data=DEMO_ID)
    assert "What can you ask of these cells?" in text(app)
    assert ":gray-badge[cannot be told from the mean (4 held-out conditions)]" in text(app)
    assert app.button(key="to_models").label == "Models"
    app.button(key="ask_train_go").click().run()
    assert not app.exception


def test_the_limit_of_uploads_is_said_as_the_setting_says_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_MAX_FILE_GB", "0.5")
    app = app_on("data")
    assert any("up to 0.5 GiB each" in str(box.proto) for box in app.get("bidi_component"))
    with pytest.raises(UnsafeFileError, match=r"up to 0\.5 GiB"):
        receive_upload(load_settings(), "x.h5ad", io.BytesIO(), 2**30)
    assert gib(50 * 2**30) == "50 GiB" and gib(load_settings().max_file_bytes) == "0.5 GiB"


def test_folders_outside_are_not_imported(home: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "elsewhere")
    app = app_on("models")
    app.text_input(key="model_folder").set_value(str(tmp_path / "elsewhere")).run()
    app.button(key="import_folder").click().run()
    assert "not in a folder that may be read" in app.error[0].value
    write_model(tmp_path / "data" / "inside")
    app.text_input(key="model_folder").set_value(str(tmp_path / "data" / "inside")).run()
    app.button(key="import_folder").click().run()
    assert app.session_state["thread_model"] and not app.error


def test_a_run_directory_with_several_checkpoints_lets_one_choose(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ConvertRequest] = []

    def submit(settings: Settings, request: ConvertRequest, title: str = "") -> tuple[str, str]:
        asked.append(request)
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    run = tmp_path / "data" / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "pert_onehot_map.pt", "checkpoints/step=9.ckpt", "checkpoints/step=10.ckpt"):
        (run / name).touch()
    app = app_on("models")
    app.text_input(key="model_folder").set_value(str(run)).run()
    box = app.selectbox(key="folder_checkpoint")
    assert box.options == ["checkpoints/step=10.ckpt", "checkpoints/step=9.ckpt"] and box.value == box.options[0]
    box.set_value("checkpoints/step=9.ckpt").run()
    app.button(key="import_folder").click().run()
    assert asked == [ConvertRequest(str(run / "checkpoints" / "step=9.ckpt"), "run")]


def test_predict_submits_what_is_on_the_page(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PredictionRequest] = []

    def submit(settings: Settings, request: PredictionRequest, title: str = "", **_: str) -> tuple[str, str]:
        asked.append(request)
        return "job", queued(settings, request, title).id

    monkeypatch.setattr(local, "submit", submit)
    card = write_model(home / "models" / "tiny")
    app = app_on("predict", data=upload(home, write_cells(tmp_path / "cells.h5ad")), model=card.id)
    assert app.button(key="predict_disabled").disabled
    next(m for m in app.multiselect if "known to this model" in m.label).set_value(["TNF", "IFNB1"]).run()
    app.number_input(key="cells").set_value(32).run()
    assert "4 conditions, 128 predicted cells" in text(app)
    app.button(key="predict").click().run()
    request = asked[0]
    assert request.perturbations == ("TNF", "IFNB1") and request.cells == 32
    assert request.contexts == ("B", "NK") and request.set_size is None
    assert app.session_state["thread_run"]


def test_a_list_of_names_is_split_and_the_unknown_are_named() -> None:
    known = ["TNF", "IFNB1", "JUN,FOS"]
    found = add_names(["TNF"], known, 'IFNB1, MYC\nJUN,FOS\n"TNF";XYZ')
    assert found.names == ("TNF", "IFNB1", "JUN,FOS") and found.unknown == ("MYC", "XYZ") and not found.remarks


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_names_that_can_only_mean_one_label_are_added_with_a_click(home: Path) -> None:
    model = next(e.card.id for e in list_models(Settings(home)) if e.demo and e.card)
    app = app_on("predict", data=DEMO_ID, model=model)
    key = f"perturbations_{model}"
    app.text_area(key=f"{key}_text").set_value("STAT1, irf8, foo").run()
    app.button(key=f"{key}_add").click().run()
    assert "3 names not known to this model" in text(app)
    assert app.button(key=f"{key}_meant").label == "Add CRISPRi STAT1, CRISPRi IRF8"
    app.button(key=f"{key}_meant").click().run()
    assert app.multiselect(key=key).value == [
        "CRISPRi STAT1",
        "CRISPRi IRF8",
    ] and "1 name not known to this model, left out:** foo" in text(app)


def test_enter_in_a_picker_takes_one_entry() -> None:
    """With "select all", what Enter takes first is every match: typing IFN added IFN-beta and IFN-gamma."""
    calls = [
        (path.name, node)
        for path in (ROOT / "pages").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "multiselect"
    ]
    without = [name for name, node in calls if "select_all=False" not in map(ast.unparse, node.keywords)]
    assert len(calls) > 15 and not without


def test_empty_states_teach(home: Path) -> None:
    assert "No data set is open" in text(app_on("predict"))
    assert "No model is chosen" in text(app_on("predict", data=DEMO_ID))
    assert "No runs yet" in text(app_on("runs"))


def test_runs_are_listed_and_deleted(home: Path) -> None:
    request = to_plain(PredictionRequest("d", "m", ("TNF",)))
    run = RunFolder.create(Settings(home), "predict", request, "TNF in B")
    run.start()
    run.finish("failed", "It broke.")
    app = app_on("runs")
    assert "TNF in B" in text(app) and "It broke." in text(app) and "failed" in text(app)
    app.button(key=f"delete_{run.id}").click().run()
    assert run.path.exists() and "Delete this run? No other run needs it." in text(app)
    app.button(key=f"sure_{run.id}").click().run()
    assert not run.path.exists() and "No runs yet" in text(app)
    assert f"Run {run.id} was deleted on 20" in text(app_on("home", run=run.id))
    next(b for b in app.button if b.label == "Undo").click().run()
    assert run.path.exists() and "TNF in B" in text(app)


def test_what_was_deleted_can_be_had_back_on_another_page_and_after_a_reload(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "is_open", IS_OPEN)  # pages are shown by the whole app
    run = RunFolder.create(Settings(home), "predict", to_plain(PredictionRequest("d", "m", ("TNF",))), "TNF in B")
    run.finish("failed", "It broke.")
    app = app_on("runs", run=run.id)
    app.button(key=f"delete_{run.id}").click().run()
    app.button(key=f"sure_{run.id}").click().run()
    app.switch_page("pages/models.py").run()
    assert run.id in app.query_params["gone"] and "was deleted on" in text(app)
    other = app_on("explore", run=run.id)  # as another tab, where it was open
    assert "**TNF in B** was deleted, just now." in text(other) and other.button(key="empty_undo").label == "Undo"
    fresh = app_on("data", gone=run.id)  # as a reload of that address
    fresh.button(key="undo_gone").click().run()
    assert run.path.exists() and fresh.session_state["thread_run"] == run.id and "was deleted on" not in text(fresh)
    app = app_on("runs", run=run.id)
    app.button(key=f"delete_{run.id}").click().run()
    app.button(key=f"sure_{run.id}").click().run()
    other = app_on("explore", gone=run.id)
    other.button(key="empty_undo").click().run()
    assert run.path.exists() and other.session_state["thread_run"] == run.id and "was deleted" not in text(other)
    identity = upload(home, write_cells(tmp_path / "cells.h5ad"))
    forget_dataset(Settings(home), identity)
    app = app_on("home", data=identity)
    assert "was forgotten, just now" in text(app)
    app.button(key="dismiss_gone").click().run()
    assert "was forgotten" not in text(app)


def test_undo_stands_where_the_deleted_row_was_and_is_there_after_a_page_change(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "is_open", IS_OPEN)  # pages are shown by the whole app
    runs = []
    for name in ("first", "second", "third"):
        run = RunFolder.create(Settings(home), "predict", to_plain(PredictionRequest("d", "m", ("TNF",))), name)
        run.path.rename(run.path.with_name(f"20261129-0000{len(runs):02}-{'0' * 6}"))
        runs.append(f"20261129-0000{len(runs):02}-{'0' * 6}")
    app = app_on("runs")
    app.button(key=f"delete_{runs[1]}").click().run()
    app.button(key=f"sure_{runs[1]}").click().run()

    def order(app: AppTest) -> list[str]:
        keys = [str(b.key) for b in app.button]
        return [k for k in keys if k.startswith(("delete_2026", "undo_row_"))]

    wanted = [f"delete_{runs[2]}", f"undo_row_{runs[1]}", f"delete_{runs[0]}"]
    assert order(app) == wanted and "**second** was deleted, just now" in text(app)
    app.button(key="dismiss_gone").click().run()  # the notice of the sidebar
    app.switch_page("pages/models.py").run()
    app.switch_page("pages/runs.py").run()
    assert order(app) == wanted
    app.button(key=f"undo_row_{runs[1]}").click().run()
    assert order(app) == [f"delete_{run}" for run in reversed(runs)] and not app.exception

    monkeypatch.setattr(undo, "SHOWN", timedelta(0))
    app.button(key=f"delete_{runs[0]}").click().run()
    app.button(key=f"sure_{runs[0]}").click().run()
    assert order(app) == [f"delete_{runs[2]}", f"delete_{runs[1]}"]  # its time is up


def test_forgetting_a_data_set_names_the_runs_that_need_it_and_can_be_undone(home: Path, tmp_path: Path) -> None:
    identity = upload(home, write_cells(tmp_path / "cells.h5ad"))
    RunFolder.create(Settings(home), "predict", {"data": get_dataset(Settings(home), identity).path}, "TNF in B")
    app = app_on("data")
    app.button(key=f"forget_{identity}").click().run()
    assert "Forget it? 1 run needs it: TNF in B." in text(app)
    app.button(key=f"sure_{identity}").click().run()
    with pytest.raises(DataError):
        get_dataset(Settings(home), identity)
    assert [b.key for b in app.button if str(b.key).startswith("undo_row_")] == [f"undo_row_{identity}"]
    runs = app_on("runs")
    next(b for b in runs.button if b.label == "Undo").click().run()
    assert not runs.exception and get_dataset(Settings(home), identity).id == identity


def test_ids_that_are_gone_are_forgotten(home: Path) -> None:
    app = app_on("predict", data="0123456789ab", model="fedcba987654", run="20260101-000000-abcdef")
    assert "No data set is open" in text(app)


def test_words() -> None:
    assert size(5_885_897) == "5.9 MB" and size(900) == "900 B" and size(12e9) == "12.0 GB"
    assert duration(0.2) == "under 1 s" and duration(42) == "42 s" and duration(600) == "10 min" and duration(9000) == "2.5 h"
    assert p_value(1.23e-5) == "1.2e-05" and p_value(0.0314) == "0.031" and p_value(float("nan")) == "n/a"
    assert plural(1, "cell") == "1 cell" and plural(1204, "cell") == "1,204 cells"
    assert age("2020-01-01T00:00:00+00:00") == "2020-01-01"


def test_a_view_is_saved_and_opened_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "is_open", IS_OPEN)  # the page within the app, with its sidebar
    run = finished_run(home)
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in {"run": run.id, "perturbation": "drugB", "context": "T", "gene": "G3"}.items():
        app.query_params[name] = value
    app.run().switch_page("pages/genes.py").run()
    app.text_input(key="view_name").set_value("G3 in T").run()
    app.button(key="view_save").click().run()
    (view,) = views_of(Settings(home))
    assert view.page == "genes" and view.address["gene"] == "G3" and view.address["context"] == "T"
    app.selectbox(key="gene").set_value("G5").run()
    app.switch_page("pages/home.py").run()
    app.button(key=f"view_{view.id}").click().run()
    assert not app.exception and app.session_state["gene"] == "G3" and app.session_state["perturbation"] == "drugB"
