"""A pretraining as a job: what is left in the run and the library, and how a stopped one goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from state_engine.config import Settings
from state_engine.errors import ConfigError, JobCancelled, RequestError
from state_engine.jobs.kinds import WarmCache, kind_of, load_target
from state_engine.jobs.run_folder import RunFolder
from state_engine.jobs.tasks.pretrain import pretrain, pretraining_folder
from state_engine.library.models import EMBEDDINGS
from state_engine.plain import to_plain
from state_engine.pretrain.request import PretrainRequest
from state_engine.pretrain.run_folder import read_pretraining
from state_engine.progress import OnProgress, Progress, silent
from tests.pretrain.small import make_files, small_request


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path / "data"))
    return Settings(tmp_path / "home", data_folders=(tmp_path / "data",))


def small(settings: Settings) -> PretrainRequest:
    one, _ = make_files(settings.data_folders[0], 150)
    return small_request(one, steps=4, test=False, name="Mine")


def run_of(settings: Settings, request: PretrainRequest) -> RunFolder:
    return RunFolder.create(settings, kind_of(request).name, to_plain(request))


def test_the_model_is_in_the_library_and_the_record_says_how(settings: Settings) -> None:
    request = small(settings)
    run = run_of(settings, request)
    assert load_target(kind_of(request).target) is pretrain
    made = pretrain(request, run, silent, WarmCache())
    entry = EMBEDDINGS.find(settings, made.model)
    assert entry.card is not None and entry.card.name == made.name == "Mine" and made.steps == 4
    kept = RunFolder.open(settings, run.id).manifest
    assert kept.model_hash == entry.card.weights_hash and kept.seed == 42
    assert kept.data_hash == next(iter(read_pretraining(pretraining_folder(run)).data.values()))
    assert kept.command.startswith("python -m state_engine pretrain --data ") and "--output RUN" in kept.command


@pytest.mark.parametrize(("after", "words"), [(0, "begins anew"), (2, "")])
def test_a_stopped_one_goes_on(settings: Settings, after: int, words: str) -> None:
    """From its checkpoint, or anew where there was none yet."""
    request = small(settings)
    run = run_of(settings, request)

    def stop(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.done == after and progress.total * after == 4 * after:
            raise JobCancelled("Enough.")

    stages: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.total:
            stages.append(progress.done)

    with pytest.raises(JobCancelled):
        pretrain(request, run, stop, WarmCache())
    assert read_pretraining(pretraining_folder(run)).state == "cancelled"
    followed: OnProgress = watch
    pretrain(request, run, followed, WarmCache())
    assert stages == list(range(after + 1, 5)) and read_pretraining(pretraining_folder(run)).state == "done"


def test_what_a_job_cannot_do_is_refused(settings: Settings, tmp_path: Path) -> None:
    request = small(settings)
    several = replace(request, running=replace(request.running, devices=2))
    with pytest.raises(ConfigError, match="uses one device"):
        pretrain(several, run_of(settings, several), silent, WarmCache())
    elsewhere = replace(request, genes=str(tmp_path / "elsewhere.csv"))
    with pytest.raises(RequestError, match="outside what may be read"):
        pretrain(elsewhere, run_of(settings, elsewhere), silent, WarmCache())
