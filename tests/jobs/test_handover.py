"""What the local owner has is given to a person: everything moves, its places follow, and asking twice does no harm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.data.dataset import Choices
from state_engine.embedding.jobs import REFERENCE, reference_folder
from state_engine.errors import JobError, RequestError, RunError
from state_engine.jobs import ages, local
from state_engine.jobs.handover import FOLDERS, give
from state_engine.jobs.lock import WorkerLock
from state_engine.jobs.processes import identity_of
from state_engine.jobs.requests import LookRequest
from state_engine.jobs.run_folder import RunFolder, list_runs
from state_engine.jobs.store import JobStore
from state_engine.library.datasets import get_dataset, list_datasets, register_made
from state_engine.library.people import greet
from state_engine.library.shares import opened_by, share_run, shares_of
from state_engine.prediction.request import PredictionRequest

ANNA = "anna@lab.example"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home with a data set and a run of it, from before the first login."""
    settings = Settings(tmp_path / "home")
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(settings.home))
    settings.home.mkdir()
    (settings.home / "cells.h5ad").write_bytes(b"cells")
    register_made(settings, "cells", settings.home / "cells.h5ad", Choices())
    return settings


def test_everything_moves_and_its_places_follow(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    entry = list_datasets(settings)[0]
    job, run_id = local.queue(settings, PredictionRequest(entry.path, str(settings.models / "m"), ("TNF",), ("NK",)), "TNF")
    store = JobStore(settings.database)
    store.claim(identity_of(), lambda job: RunFolder.open(settings, job.run_id).start())
    store.finish(job, identity_of(), "done")
    RunFolder.open(settings, run_id).finish("done")
    anna = settings.of(ANNA)
    greet(anna)
    assert main(["people", "--give", ANNA]) == 0 and "runs: 1 moved" in capsys.readouterr().out
    assert [i.id for i in list_runs(anna)] == [run_id] and list_runs(settings) == ()
    moved = get_dataset(anna, entry.id)
    assert Path(moved.path).read_bytes() == b"cells" and Path(moved.path).is_relative_to(anna.home)
    run = RunFolder.open(anna, run_id)
    request = run.request_as(PredictionRequest)
    assert (request.data, request.model) == (moved.path, str(anna.models / "m"))
    assert run.manifest.owner == ANNA and JobStore(settings.database, owner=ANNA).get(job).run_id == run_id
    with pytest.raises(RunError):
        RunFolder.open(settings, run_id)
    assert len(list_datasets(settings)) == 1  # the demo
    assert main(["people", "--give", ANNA]) == 0 and "nothing to move" in capsys.readouterr().out
    assert main(["people"]) == 0
    said = capsys.readouterr().out
    assert "local owner" in said and f"{ANNA}  0.00 GB  1 runs" in said


def test_a_handover_that_was_interrupted_is_finished(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, anna = list_datasets(settings)[0], settings.of(ANNA)
    greet(anna)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("state_engine.jobs.handover._rewrite", killed)
        with pytest.raises(KeyboardInterrupt):
            give(settings, ANNA)
    assert not Path(get_dataset(anna, entry.id).path).exists()
    give(settings, ANNA)
    assert Path(get_dataset(anna, entry.id).path).read_bytes() == b"cells"


def test_what_the_person_has_under_that_name_stays(settings: Settings) -> None:
    entry, anna = list_datasets(settings)[0], settings.of(ANNA)
    greet(anna)
    place = anna.home / "datasets" / f"{entry.id}.json"
    place.parent.mkdir()
    place.write_text(json.dumps({"id": entry.id, "name": "hers", "path": "/x", "origin": "upload", "created": entry.created}))
    assert give(settings, ANNA).stayed == (f"datasets/{entry.id}.json",)
    assert get_dataset(anna, entry.id).name == "hers" and get_dataset(settings, entry.id).name == "cells"


def test_it_is_refused_for_strangers_and_while_something_works(settings: Settings) -> None:
    with pytest.raises(RequestError, match="never logged in"):
        give(settings, ANNA)
    greet(settings.of(ANNA))
    with pytest.raises(RequestError, match="local owner"):
        give(settings.of(ANNA), ANNA)
    lock = WorkerLock.take(settings.home)
    assert lock is not None
    lock.write_holder(identity_of())
    with pytest.raises(JobError, match="A worker runs"):
        give(settings, ANNA)
    lock.write_holder("")
    lock.close()
    local.queue(settings, LookRequest("x"))
    with pytest.raises(JobError, match="wait or run"):
        give(settings, ANNA)
    assert list_datasets(settings)[0].name == "cells"


def test_every_folder_of_an_owner_is_known(settings: Settings) -> None:
    """A new folder of the home must be named here, or in what stays."""
    stays = {"people", "shares", "challenges", "incoming", "scratch", "trash"}
    root = Path(__file__).resolve().parents[2]
    sources = [*root.glob("state_engine/**/*.py"), *root.glob("pages/**/*.py")]
    named = {
        name
        for source in sources
        for name in re.findall(r"(?:settings|self)(?:\(\))?\.(?:home|root) / \"([a-z_-]+)\"", source.read_text())
    }
    named |= {name for source in sources for name in re.findall(r"keep_by_content\(path, \"([a-z_-]+)\"", source.read_text())}
    assert {"datasets", "runs", "models", "effects"} <= named and named <= {*FOLDERS, *stays}, named - {*FOLDERS, *stays}


def test_reference_cells_links_and_what_stays_for_good_go_along(settings: Settings) -> None:
    run = RunFolder.create(settings, "embed", {}, "Embedding")
    run.finish("done")
    token = share_run(settings, run.id)
    ages.keep(settings, run.id)
    place = reference_folder(settings)
    for name in ("tables.json", "cells_x.lance/data"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(name)
    anna = settings.of(ANNA)
    greet(anna)
    assert give(settings, ANNA).moved[REFERENCE] == 1
    theirs = reference_folder(anna)
    assert not place.exists() and (theirs / "cells_x.lance" / "data").read_text() == "cells_x.lance/data"
    found = opened_by(settings, token)
    assert found is not None and found.owner == ANNA and RunFolder.open(found, run.id).manifest.title == "Embedding"
    assert shares_of(settings, run.id) == () and len(shares_of(anna, run.id)) == 1
    assert json.loads((anna.home / "ages.json").read_text()) == {run.id: ages.STAYS}


def test_reference_cells_are_not_mixed_with_those_that_the_person_has(settings: Settings) -> None:
    anna = settings.of(ANNA)
    greet(anna)
    for one, name in ((settings, "mine"), (anna, "hers")):
        reference_folder(one).mkdir(parents=True)
        (reference_folder(one) / name).touch()
    assert give(settings, ANNA).stayed == (REFERENCE,)
    assert [p.name for p in reference_folder(anna).iterdir()] == ["hers"]
    assert [p.name for p in reference_folder(settings).iterdir()] == ["mine"]
