"""On target on the Data page: offered where perturbations name genes, and what a job found is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.analysis.on_target import TARGETS, TargetsRequest, check_targets
from state_engine.config import Settings
from state_engine.jobs.run_folder import RunFolder
from state_engine.library.datasets import DEMO_PATH, list_datasets
from state_engine.plain import to_plain
from tests.pages.opened import page_at, text


@pytest.mark.skipif(not DEMO_PATH.exists(), reason="the demo is not in this checkout")
def test_what_a_check_found_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    entry = next(one for one in list_datasets(settings) if one.origin == "demo")
    request = TargetsRequest(entry.path)
    done = RunFolder.create(settings, "targets", to_plain(request))
    check_targets(request).to_parquet(done.file(TARGETS))
    done.start()
    done.finish("done")
    page = page_at(monkeypatch, "data", None, tmp_path, data=entry.id)
    page.session_state["targets_run"] = entry.id, done.id
    page.run()
    assert not page.exception and page.button(key="check_targets").label == "Check"
    assert "6 of 6 perturbations move the gene they name as expected" in text(page)
    # a protein that cells were treated with: no label says which way its gene should go
    assert "Of 1 more that does not say which way, 1 changes its gene" in text(page)
    assert page.selectbox(key="targets_expected").options == ["auto", "down", "up", "either"]
