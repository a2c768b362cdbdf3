"""A screen as the worker does it, on the demo: the interferons come first for genes they move, and the run can be made again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import RequestError
from state_engine.jobs.kinds import WarmCache
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.screen import screen
from state_engine.library.datasets import DEMO_PATH
from state_engine.plain import to_plain
from state_engine.progress import silent
from state_engine.screening.report import read_ranking, read_screen
from state_engine.screening.request import ScreenRequest

MODEL = DEMO_PATH.parent / "model"
ASKED = ScreenRequest(
    str(DEMO_PATH), str(MODEL), ("B", "NK"), up_genes=("ISG15", "IFIT1", "MX1", "IFI6", "STAT1", "OAS1"), cells=64, sample=16, splits=1000,
    device="cpu",
)  # fmt: skip


@pytest.fixture
def settings(module_home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(module_home))
    return Settings(module_home)


def test_a_screen_of_the_demo(settings: Settings) -> None:
    run = RunFolder.create(settings, "screen", to_plain(ASKED), "Interferon genes")
    done = screen(ASKED, run, silent, WarmCache())
    ranking, report = read_ranking(run.file("ranking.csv")), read_screen(run.path)
    assert report is not None and done.conditions == len(ranking) == 28 and done.found == report.found >= 2
    first = ranking.head(2)
    assert set(first["perturbation"]) <= {"IFN-beta", "IFN-gamma"} and (first["q"] < 0.05).all()
    # the demo's card says what was kept out of the training
    held = ranking[(ranking["perturbation"] == "IFN-beta") & (ranking["context"] == "NK")].iloc[0]
    assert (held["seen"], held["in_training"]) == ("both", "no") and set(ranking["in_training"]) == {"yes", "no"}
    assert report.resemblance is not None and report.simulated
    assert shlex.split(run.manifest.command)[3] == "screen" and run.manifest.model_hash and run.manifest.device


def test_paths_elsewhere_are_refused(settings: Settings, tmp_path: Path) -> None:
    run = RunFolder.create(settings, "screen", to_plain(ASKED), "Elsewhere")
    (tmp_path / "screen.json").touch()
    with pytest.raises(RequestError):
        screen(ScreenRequest(str(DEMO_PATH), str(MODEL), earlier=str(tmp_path)), run, silent, WarmCache())
