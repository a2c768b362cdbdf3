"""`runs` on the command line: list, out, in, several at once, and staying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.config import Settings
from state_engine.jobs import local
from state_engine.jobs.run_folder import RunFolder, list_runs
from tests.pages.make_run import make_run
from tests.small import write_cells, write_model


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(local, "ensure_worker", lambda *arguments: False)
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "one"))
    return make_run(Settings(tmp_path / "one"))


def test_a_run_goes_out_and_comes_in(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs"]) == 0 and run.id in capsys.readouterr().out
    assert main(["runs", "--export", run.id, "--output", str(tmp_path / "r.zip")]) == 0
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "two"))
    assert main(["runs", "--import", str(tmp_path / "r.zip")]) == 0 and run.id in capsys.readouterr().out
    assert [i.id for i in list_runs(Settings(tmp_path / "two"))] == [run.id]
    (tmp_path / "r.zip").write_bytes(b"no")
    assert main(["runs", "--import", str(tmp_path / "r.zip")]) == 1
    assert "not a readable zip" in capsys.readouterr().err


def test_several_requests_are_checked_and_queued(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--request", run.id, "--output", str(tmp_path / "q.json")]) == 0
    (entry,) = json.loads((tmp_path / "q.json").read_text())
    home = Settings(tmp_path / "one")
    home.uploads.mkdir(parents=True)
    write_cells(home.uploads / "cells.h5ad")
    home.models.mkdir(parents=True, exist_ok=True)
    write_model(home.models / "m")
    well = {**entry["request"], "data": str(home.uploads / "cells.h5ad"), "model": str(home.models / "m")}
    well |= {"perturbations": ["TNF"], "contexts": ["B"]}
    entries = [{"kind": "predict", "request": well}, {"kind": "predict", "request": {**well, "contexts": ["Mars"]}}]
    (tmp_path / "q.json").write_text(json.dumps(entries))
    before = len(list_runs(home))
    assert main(["runs", "--submit", str(tmp_path / "q.json"), "--check"]) == 1 and len(list_runs(home)) == before
    assert "no context Mars" in capsys.readouterr().out
    assert main(["runs", "--submit", str(tmp_path / "q.json")]) == 1 and len(list_runs(home)) == before + 1


def test_what_does_not_go_together_is_told(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--export", run.id]) == 1 and "needs --output" in capsys.readouterr().err
    assert main(["runs", "--export", run.id, "--keep", run.id]) == 1 and "one of these" in capsys.readouterr().err
    assert main(["runs", "--keep", "nothing"]) == 1
    assert main(["runs", "--keep", run.id]) == 0
