"""An adaptation asked for as a job: the worker adapts, compares and keeps the model, and the Train page shows whether it helped."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from state_engine.checkpoints.store import read_card
from state_engine.config import Settings
from state_engine.evaluation.adaptation import ADAPTED, BEFORE, SCRATCH, read_adaptation
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.train_job import TrainJob, start, training_folder
from state_engine.library.models import list_models
from state_engine.train.adapt import adapting
from state_engine.train.request import resolve
from tests.pages.opened import opened, text
from tests.pages.queued import work_off

DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"
TYPE, NEW = "my NK cells", "my drug"
HELD = ("TNF", "IFN-gamma", "LPS", "Dexamethasone", "Ruxolitinib")


def test_an_adaptation_runs_as_a_job_and_its_report_is_shown(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    folder = home.parent / "data"
    cells = anndata.read_h5ad(DEMO / "demo.h5ad")
    labels = cells.obs["perturbation"].astype(str).to_numpy()
    labels = np.where(labels == "CRISPRi STAT1", NEW, labels)
    kept = (cells.obs["cell_type"] == "NK").to_numpy() & np.isin(labels, ["control", "IFN-beta", "IL-2", *HELD, NEW])
    mine = cells[kept].copy()
    mine.obs["perturbation"], mine.obs["cell_type"] = labels[kept], TYPE
    mine.write_h5ad(folder / "mine.h5ad")
    held = ", ".join(f'"{p}"' for p in HELD)
    split = f'[datasets]\nmine = "{folder / "mine.h5ad"}"\n[training]\nmine = "train"\n[fewshot."mine.{TYPE}"]\ntest = [{held}]\n'
    settings = Settings(home, (folder,))
    (model,) = [entry for entry in list_models(settings) if entry.card is not None]
    asked = adapting(resolve("default"), read_card(model.path)).with_settings(
        steps=4, calibrate=False, validate_every=0, name="mine"
    )
    run = RunFolder.open(settings, start(settings, TrainJob(split, asked, init_from=str(model.path)), "Adapted"))
    (job,) = work_off(settings)
    assert job.state == "done", job.error
    found = read_adaptation(training_folder(run))
    assert found is not None and found.steps == 4
    kept_models = [entry.card for entry in list_models(settings) if entry.card is not None]
    assert any(card.id == job.summary["model"] and NEW in card.perturbations for card in kept_models)

    page = opened(monkeypatch, "train", None, home, training=run.id)
    said = text(page)
    assert not page.exception and "Did adapting help?" in said and found.verdict.split(".")[0].replace("-", "−") in said
    assert all(name in said for name in (ADAPTED, SCRATCH, BEFORE)) and f"new: {NEW}" in said
    assert "All numbers (CSV)" in [b.proto.label for b in page.get("download_button")]
