"""Each route, id and parameter of an address, with what is another owner's: answered like what is not there. New ones fail here first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from pages.parts import door, session
from pages.parts.door import is_open
from pages.parts.navigation import SHARED, names
from pages.parts.server import ROUTES
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.errors import RequestError, StateError
from state_engine.jobs import ages, local, trash
from state_engine.jobs.drafts import draft_of, keep_draft
from state_engine.jobs.kinds import KINDS
from state_engine.jobs.packed import export_run, import_run
from state_engine.jobs.rebuild import asked_of_store
from state_engine.jobs.requests import LookRequest
from state_engine.jobs.run_folder import RunFolder, derived_runs, list_runs
from state_engine.jobs.store import JobStore
from state_engine.library import arriving, hand_labels
from state_engine.library.allowed import is_readable
from state_engine.library.datasets import adopt_upload, get_dataset, list_datasets, set_choices
from state_engine.library.models import list_models
from state_engine.library.shares import opened_by, revoke, share_run, shares_of
from state_engine.library.trash import forget_dataset, item_of, items
from state_engine.library.views import forget_view, keep_view, views_of
from state_engine.prediction.request import PredictionRequest
from tests.pages.finished_run import finished_run
from tests.pages.opened import ROOT, app_on, text
from tests.pages.test_compare import made as comparison
from tests.small import write_cells

SECRET = "secret-of-anna.h5ad"
# what a route tells somebody else: "nothing" of anybody, or it asks whose it is (tests/pages/test_upload_route.py)
ROUTE_CHECKS = {"/healthz": "nothing", "/metrics": "token", "/api/upload/{identity}": "token and owner"}
# names in the address that are no ids of records: labels and genes within the run that another name chooses, and a token that is its own right
NO_RECORDS = {
    "perturbation", "context", "gene", "share", "gone", "colour", "kinds", "contexts", "perturbations", "layer", "arrows", "pair",
    "by", "moved", "cells", "reference", "tab", "view", "over", "metrics", "metric", "baseline", "condition", "method",
    "set", "under", "head", "sort", "find", "within", "seen", "sure", "rows", "of", "ask", "goal", "opposite",
    "fold", "show", "what", "part", "draws", "kind",
}  # fmt: skip
RECORDS = {
    "data", "model", "run", "embedding", "training", "finetuning", "annotation", "pretraining", "evaluation", "submission", "scoring",
    "screening", "comparison", "predicted", "real",
}  # fmt: skip
DATA = {"data", "predicted", "real"}  # of these, ids of data sets; the others are those of runs and models


@pytest.fixture
def anna(home: Path) -> Settings:
    """Anna has a data set, a run with its tables, and a job that waits."""
    return Settings(home).of("anna@lab.example")


def stored(anna: Settings, tmp_path: Path) -> tuple[str, RunFolder]:
    entry = adopt_upload(anna, SECRET, write_cells(tmp_path / "cells.h5ad"))
    return entry.id, finished_run(anna.home)


def as_owner(monkeypatch: pytest.MonkeyPatch, owner: str) -> None:
    monkeypatch.setattr(session, "owner", lambda settings: owner)


def seen(view: str, **address: str) -> str:
    """Return the words of a page of the whole app, opened by an address."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in address.items():
        app.query_params[name] = value
    app.run()
    if view != "home":
        app.switch_page(f"pages/{view}.py").run()
    assert not app.exception
    return text(app) + " ".join(str(b.options) for b in app.selectbox)


def test_every_route_is_looked_at() -> None:
    assert {route.path for route in ROUTES} == set(ROUTE_CHECKS)


def test_every_name_in_the_address_is_looked_at() -> None:
    assert set(session.THREAD) | {n for found in session.SHOWN.values() for n in found} == RECORDS | NO_RECORDS
    used = set()
    for path in (ROOT / "pages").rglob("*.py"):
        used |= set(re.findall(r"query_params(?:\.get\(|\[)\"(\w+)\"", path.read_text()))
    assert used <= RECORDS | NO_RECORDS


@pytest.mark.parametrize("view", names())
def test_no_page_shows_another_owners_records(view: str, anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = stored(anna, tmp_path)
    local.queue(anna, LookRequest(run.id), "Job of Anna")
    as_owner(monkeypatch, "bert")
    address = {name: data if name in DATA else run.id for name in RECORDS}
    address["what"] = "Two files"  # the part of Evaluate that takes data sets
    words = seen(view, **address)
    for secret in (SECRET, run.manifest.title, "Job of Anna"):
        assert secret not in words
    # an id that never was reads the same
    missing = {name: "0" * 12 if name in DATA else f"{run.id[:-6]}000000" for name in RECORDS}
    missing["what"] = "Two files"
    st.cache_data.clear()
    st.cache_resource.clear()
    assert words.replace(run.id, "ID") == seen(view, **missing).replace(missing["run"], "ID")


def test_two_owners_with_the_same_file_and_settings_share_nothing(anna: Settings, tmp_path: Path) -> None:
    bert = anna.of("bert")
    entries = [adopt_upload(one, "cells.h5ad", write_cells(tmp_path / "cells.h5ad")) for one in (anna, bert)]
    assert entries[0].id != entries[1].id and entries[0].path != entries[1].path
    set_choices(anna, entries[0].id, Choices(perturbation_key="perturbation"))
    assert get_dataset(bert, entries[1].id).choices == Choices()
    runs = [local.queue(one, LookRequest("x"), "same")[1] for one in (anna, bert)]
    assert [[info.id for info in list_runs(one)] for one in (anna, bert)] == [[run] for run in runs]
    forget_dataset(anna, entries[0].id)
    trash.delete_run(bert, runs[1])
    assert Path(entries[1].path).exists() and list_runs(anna)[0].id == runs[0]
    assert list_datasets(bert)[0].name == "cells.h5ad" and len(items(anna)) == len(items(bert)) == 1
    assert item_of(bert, entries[0].id) is None and item_of(anna, runs[1]) is None
    assert (
        not is_readable(entries[1].path, anna)
        and not is_readable(entries[1].path, anna.of(""))
        and is_readable(entries[1].path, bert)
    )


def test_a_link_opens_one_run_for_looking(anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = stored(anna, tmp_path)
    other = RunFolder.create(anna, "predict", {}, "Another run")
    derived = RunFolder.create(anna, "look", {}, "Map", parent=run.id)
    token, exported = share_run(anna, run.id), export_run(anna, run.id, tmp_path / "run.zip")
    found = opened_by(anna.of("bert"), token)
    assert found is not None and [i.id for i in list_runs(found)] == [derived.id, run.id], "newest first"
    assert [i.id for i in derived_runs(found, run.id)] == [derived.id] and derived_runs(found, other.id) == ()
    assert {e.origin for e in list_datasets(found)} == {"demo"} and all(e.demo for e in list_models(found)) and items(found) == ()
    assert is_readable(run.result, found) and not is_readable(get_dataset(anna, data).path, found)
    for refused in (
        lambda: RunFolder.open(found, other.id), lambda: get_dataset(found, data), lambda: local.queue(found, LookRequest(run.id)),
        lambda: local.cancel(found, "0" * 16), lambda: trash.delete_run(found, run.id), lambda: share_run(found, run.id),
        lambda: set_choices(found, "demo", Choices()), lambda: hand_labels.discard(found, list_datasets(found)[0]),
        lambda: arriving.begin(found, arriving.Arriving("0" * 32, "x.h5ad", 1, "upload")), lambda: ages.keep(found, run.id),
        lambda: keep_draft(found, "demo", "m", PredictionRequest("x", "m", ("TNF",), ("NK",))), lambda: keep_view(found, "x", "home", {}),
        lambda: import_run(found, exported), lambda: RunFolder.create(found, "look", {}),
    ):  # fmt: skip
        with pytest.raises(StateError):
            refused()
    assert run.path.exists() and shares_of(anna.of("bert"), run.id) == ()
    assert len(list_runs(anna)) == 3 and not (anna.home / "drafts").exists() and not (anna.home / "ages.json").exists()

    as_owner(monkeypatch, "bert")
    words = seen("home", share=token)  # the page it opens on
    assert run.manifest.title in words and "for looking" in words and SECRET not in words and "Another run" not in words
    assert {page for pages in SHARED.values() for page in pages} < set(names())
    aimed = {name: data if name in DATA else other.id for name in RECORDS}  # whatever else the address names
    words = seen("home", share=token, **aimed)
    assert run.manifest.title in words and SECRET not in words and "Another run" not in words

    (share,) = shares_of(anna, run.id)
    assert token not in (anna.root / "shares" / f"{share.id}.json").read_text()
    with pytest.raises(RequestError, match="no such link"):
        revoke(anna.of("bert"), share.id)
    revoke(anna, share.id)
    # neither what is told of a link nor the ids of what it shows open it
    for guess in (token, "x", "../x", "", share.id, run.id, token[:-1], token + "A", anna.home.name):
        assert opened_by(anna, guess) is None, guess
    assert "This link leads nowhere" in seen("home", share=token)


def test_a_link_opens_what_the_one_who_made_it_saw(anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = stored(anna, tmp_path)
    as_owner(monkeypatch, "anna@lab.example")
    page = app_on("genes", run=run.id)
    chosen = {}
    for key in ("perturbation", "gene"):
        box = page.selectbox(key=key)
        chosen[key] = next(option for option in box.options if option != box.value)  # not what the page opens with
        box.set_value(chosen[key]).run()
    page.button(key=f"make_link_{run.id}").click().run()
    link = urlsplit(page.code[0].value)
    assert link.path.endswith("/genes"), "in a test a page has no address"

    as_owner(monkeypatch, "bert")
    other = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    other.query_params.update(parse_qsl(link.query))
    other.run()
    other.switch_page("pages/genes.py").run()
    assert not other.exception and {key: other.selectbox(key=key).value for key in chosen} == chosen


def test_a_shared_run_offers_nothing_to_change_or_compute(
    anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = stored(anna, tmp_path)
    run.file("projection.npz").unlink(missing_ok=True)
    run.record(settings={"set_size": 16})
    token = share_run(anna, run.id)

    def keys_and_words(view: str, **address: str) -> tuple[set[str], str]:
        app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
        app.query_params.update(address)
        app.run()
        app.switch_page(f"pages/{view}.py").run()
        assert not app.exception and not app.error, (view, app.exception, app.error)
        return {str(b.key) for b in app.button}, text(app)

    changing = (
        "make_map",
        "recalculate",
        "other_settings",
        "compute_",
        "label_",
        "to_models",
        "make_link",
        "revoke",
        "de_again",
        "delete",
    )
    found = {}
    for view in SHARED["predict"]:
        as_owner(monkeypatch, "bert")
        shared, words = keys_and_words(view, share=token)
        assert not [key for key in shared if key.startswith(changing)], (view, shared)
        as_owner(monkeypatch, anna.owner)
        own, _ = keys_and_words(view, run=run.id)
        found[view] = bool([key for key in own if key.startswith(changing)]), "not computed" in words
    # the same pages have them for the owner
    assert found["explore"] == found["attention"] == (True, True), found
    revoke(anna, shares_of(anna, run.id)[0].id)  # while somebody looks at it
    as_owner(monkeypatch, "bert")
    monkeypatch.setattr(door, "is_open", is_open)  # what stops in app.py never gets to a page by itself
    for view in SHARED["predict"]:
        words = seen(view, share=token)
        assert "This link leads nowhere" in words, view
        assert not any(name in words for name in (run.manifest.title, "drugA", "not computed")), words


def test_a_link_shows_a_comparison_without_a_form_or_places(
    anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, prediction = stored(anna, tmp_path)
    run = comparison(anna.home)
    run.record(command=f"python -m state_engine compare --first {prediction.result} --second {prediction.result}")
    token = share_run(anna, run.id)
    as_owner(monkeypatch, "bert")
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    app.query_params["share"] = token
    app.run()
    assert not app.exception and not app.error
    words, code = text(app), " ".join(str(block.value) for block in app.code)
    assert run.manifest.title in words and "for looking" in words and prediction.manifest.title not in words
    assert "state_engine compare --first runs/" in code and str(tmp_path) not in words + code
    keys = {str(one.key) for kind in (app.button, app.selectbox, app.multiselect) for one in kind}
    assert "leave_share" in keys and not {key for key in keys if key.startswith(("compare_first", "make_", "view_save"))}, keys
    assert "compare" not in {str(one.key) for one in app.button}
    assert prediction.manifest.title not in seen("home", share=token, run=prediction.id)
    revoke(anna, shares_of(anna, run.id)[0].id)
    assert "This link leads nowhere" in seen("home", share=token)


def test_every_kind_that_a_link_shows_has_its_page() -> None:
    for kind, shown in SHARED.items():
        assert KINDS[kind].page and KINDS[kind].answer in ("", shown[0]) and set(shown) <= set(names())
        assert KINDS[kind].choice == "run" or KINDS[kind].page == shown[0]


def test_a_run_with_the_id_of_anothers_shows_and_moves_nothing_of_theirs(anna: Settings, tmp_path: Path) -> None:
    """A zip says itself which id its run has, so anybody can bring in one that is called as somebody else's."""
    _, run = stored(anna, tmp_path)
    bert = anna.of("bert")
    assert import_run(bert, export_run(anna, run.id, tmp_path / "run.zip")).id == run.id
    job, derived = local.queue(anna, LookRequest(run.id), "Job of Anna", parent=run.id)
    queued = JobStore(anna.database).for_run(derived)
    assert queued is not None and queued.id == job

    def of_bert(ask: Callable[[JobStore], object]) -> object:
        return asked_of_store(bert, ask)

    assert of_bert(lambda store: store.for_run(run.id)) is of_bert(lambda store: store.for_run(derived)) is None
    assert of_bert(lambda store: store.list(parent=run.id)) == () and derived_runs(bert, run.id) == ()
    with pytest.raises(StateError):
        local.cancel(bert, job)
    trash.delete_run(bert, run.id)
    assert list_runs(bert) == () and {i.id for i in list_runs(anna)} == {run.id, derived}
    assert JobStore(anna.database).get(job).state == "queued"
    token = share_run(anna, run.id)
    assert shares_of(bert, run.id) == () and opened_by(bert, token) is not None


def test_forms_views_and_uploads_on_their_way_are_ones_own(anna: Settings) -> None:
    bert = anna.of("bert")
    keep_draft(anna, "demo", "m", PredictionRequest("x", "m", ("TNF",), ("NK",)))
    view = keep_view(anna, "View of Anna", "data", {"data": "demo"})
    arriving.begin(anna, arriving.Arriving("0" * 32, SECRET, 5, "upload", "tab"))
    with arriving.Piece(anna, "0" * 32, 0) as piece:
        piece.write(b"abc")
        piece.keep("")
    assert draft_of(anna, "demo", "m") is not None and draft_of(bert, "demo", "m") is None
    assert len(views_of(anna)) == 1 and views_of(bert) == ()
    forget_view(bert, view.id)
    assert arriving.offset(anna, "0" * 32, "tab") == 3 and arriving.offset(bert, "0" * 32, "tab") == 0
    arriving.drop(bert, "0" * 32)
    assert len(views_of(anna)) == 1 and arriving.offset(anna, "0" * 32, "tab") == 3


def test_the_admin_page_shows_numbers_and_no_contents(anna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from state_engine.library.people import greet

    greet(anna)
    _, run = stored(anna, tmp_path)
    local.queue(anna, LookRequest(run.id), "Job of Anna")
    as_owner(monkeypatch, "")
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run().switch_page("pages/admin.py").run()
    assert not app.exception
    people, queue = (frame.value for frame in app.dataframe)
    row = people[people["Person"] == "anna@lab.example"].iloc[0]
    assert (row["Data sets"], row["Runs"], row["Waiting"]) == (1, 2, 1) and list(queue["Person"]) == ["anna@lab.example"]
    words = text(app) + people.to_string() + queue.to_string()
    assert not any(secret in words for secret in (SECRET, run.manifest.title, "Job of Anna"))
    as_owner(monkeypatch, "bert")
    assert "STATE_EXPLORER_ADMINS" in seen("admin") and "anna" not in seen("admin")
