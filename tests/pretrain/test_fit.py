"""A pretraining from files to a model: its rates, its resumption, what it writes, and what it refuses."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from state_engine.checkpoints.embedding_store import load_embedding, read_embedding
from state_engine.cli.main import main
from state_engine.embedding.embed import EmbedRequest, embed
from state_engine.errors import CheckpointError, ConfigError, JobCancelled, LabelError, UnreadableFileError
from state_engine.pretrain.fit import Pretrained, pretrain_embedding, report_lines
from state_engine.pretrain.order import Position
from state_engine.pretrain.request import Schedule, learning_rate
from state_engine.pretrain.run_folder import read_pretraining, read_report, write_pretraining
from state_engine.progress import Progress
from state_engine.train.curves import read_curve
from tests.pretrain.small import make_files, small_request


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_files(tmp_path_factory.mktemp("cells"))


@pytest.fixture(scope="module")
def whole(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pretrained]:
    folder = tmp_path_factory.mktemp("run") / "whole"
    return folder, pretrain_embedding(small_request(*files), folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_embedding(folder / "model")[1]


def stopped(after: int):
    def report(progress: Progress) -> None:
        if progress.stage == "Pretraining" and progress.done == after:
            raise JobCancelled("Enough.")

    return report


@pytest.mark.parametrize("after", [1, 4])
def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(after: int, files, whole, tmp_path: Path) -> None:
    request = small_request(*files)
    with pytest.raises(JobCancelled):
        pretrain_embedding(request, tmp_path / "cut", stopped(after))
    assert read_pretraining(tmp_path / "cut").state == "cancelled"
    pretrain_embedding(request, tmp_path / "cut", resume=True)
    one, other = weights(whole[0]), weights(tmp_path / "cut")
    assert set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)
    for name in ("log.csv", "validation.csv"):
        before, after_ = read_curve(whole[0] / name), read_curve(tmp_path / "cut" / name)
        for column in set(before) - {"seconds"}:
            assert before[column] == after_[column], (name, column)
    assert read_report(whole[0]) == read_report(tmp_path / "cut")


def test_the_learning_rate_of_every_step_is_the_formula(whole) -> None:
    """Validation after steps 3 and 6 moves nothing, and the horizon is the number of steps. w = int(0.34 x 6) = 2."""
    largest = 2e-3
    expected = [largest * 0.33, largest * (0.33 + 0.67 / 2)]
    expected += [largest * (0.3 + 0.7 * (1 + math.cos(math.pi * i / 3)) / 2) for i in range(4)]
    seen = read_curve(whole[0] / "log.csv")["learning_rate"]
    assert seen == pytest.approx(expected, rel=1e-5) and len(read_curve(whole[0] / "validation.csv")["step"]) == 2


@pytest.mark.parametrize("steps", [1, 7, 100, 12_345])
def test_the_schedule_rises_to_one_and_falls_to_the_lowest(steps: int) -> None:
    schedule = Schedule(steps=steps)
    rates = [learning_rate(schedule, step) / schedule.learning_rate for step in range(steps)]
    rise = int(0.03 * steps)
    assert rates[rise] == pytest.approx(1) and max(rates) == rates[rise]
    assert steps == 1 or rates[-1] == pytest.approx(0.3)
    changes = np.diff(rates)
    assert (changes[:rise] > 0).all() and (changes[rise:] < 0).all()


def test_what_is_written(files, whole, tmp_path: Path) -> None:
    folder, made = whole
    record, card = read_pretraining(folder), load_embedding(folder / "model").card
    assert record.state == "done" and record.steps == 6 and record.cells == (234, 234)
    assert record.position == Position(0, 0, 60)
    assert card == made.card and card.simulated and card.training.steps == 6 and card.config.cls_gene == 3
    assert len(card.vocabulary) > card.config.tokens and card.vocabulary == record.vocabulary
    measures = {(t.measure, t.data) for t in made.report.tests}
    assert {("label transfer", "one.h5ad"), ("transfer across data sets", "two.h5ad"), ("batch mixing", "all")} <= measures
    assert {("balanced label transfer", "two.h5ad"), ("batch mixing", "two.h5ad")} <= measures
    assert all(0 <= t.components <= 1.2 and math.isfinite(t.value) for t in made.report.tests)
    assert made.report.validation_loss == read_curve(folder / "validation.csv")["loss"][-1]
    assert any("label transfer, cell_type of one.h5ad" in line for line in report_lines(folder, made))
    summary = embed(EmbedRequest(str(files[1]), str(folder / "model"), device="cpu"), tmp_path / "out.npy")
    assert summary.empty == 0 and np.isfinite(np.load(tmp_path / "out.npy")).all()


def test_a_column_to_test_on_that_is_nowhere_is_told_before_the_work(files, tmp_path: Path) -> None:
    request = replace(small_request(*files), evaluate=("cell_type", "cell_tipe"))
    with pytest.raises(LabelError, match="No data set has a column of labels 'cell_tipe'") as told:
        pretrain_embedding(request, tmp_path / "run")
    assert "cell_type" in told.value.fix and not (tmp_path / "run").exists()


def test_gene_vectors_that_are_all_zero_are_refused(files, tmp_path: Path) -> None:
    np.save(tmp_path / "genes.npy", np.zeros((3, 4), np.float32))
    (tmp_path / "genes.txt").write_text("A\nB\nC\n")
    with pytest.raises(UnreadableFileError, match="all of them are 0"):
        pretrain_embedding(replace(small_request(*files), genes=str(tmp_path / "genes.npy")), tmp_path / "run")


def test_it_learns(files, tmp_path: Path) -> None:
    request = small_request(*files, steps=150)
    made = pretrain_embedding(replace(request, running=replace(request.running, validate_every=1)), tmp_path / "long")
    losses = read_curve(tmp_path / "long" / "validation.csv")
    assert losses["loss"][-1] < 0.9 * losses["loss"][0]
    assert losses["dataset"][-1] < 0.9 * math.log(2)
    types = next(t for t in made.report.tests if t.measure == "label transfer")
    assert types.value > types.chance + 0.2


def test_one_data_set_has_no_loss_of_data_sets_and_says_so(files, tmp_path: Path) -> None:
    made = pretrain_embedding(small_request(files[0], steps=2), tmp_path / "one")
    assert "dataset" not in read_curve(tmp_path / "one" / "log.csv")
    assert any("There is one data set" in note for note in made.card.notes)


def test_a_folder_is_not_overwritten_and_settings_stay(files, whole) -> None:
    request = small_request(*files)
    with pytest.raises(CheckpointError, match="is there already"):
        pretrain_embedding(request, whole[0])
    longer = replace(request, schedule=replace(request.schedule, steps=9))
    with pytest.raises(ConfigError, match=r"finished and stays as it is\. steps was 6 and is 9.*--init-from .*model"):
        pretrain_embedding(longer, whole[0], resume=True)
    with pytest.raises(ConfigError, match="evaluate was"):
        pretrain_embedding(replace(request, evaluate=("cell_type",)), whole[0], resume=True)


def test_a_finished_one_says_so_without_its_cells(whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "done")
    record = read_pretraining(folder)
    gone = tuple(path.replace("one", "gone") for path in record.request.data)
    write_pretraining(folder, replace(record, request=replace(record.request, data=gone)))
    was = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["pretrain", "--output", str(folder), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "the pretraining is finished: all 6 steps were done before" in said and "--init-from" in said
    assert "label transfer, cell_type of one.h5ad" in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == was


def test_one_that_was_stopped_behind_its_last_step_is_saved_and_tested(files, whole, tmp_path: Path) -> None:
    folder = shutil.copytree(whole[0], tmp_path / "stopped")
    record = read_pretraining(folder)
    write_pretraining(folder, replace(record, state="cancelled", seconds=0.0))
    shutil.rmtree(folder / "model")
    went_on = pretrain_embedding(small_request(*files), folder, resume=True)
    assert went_on.computed and went_on.card.weights_hash == whole[1].card.weights_hash and went_on.report == whole[1].report
    assert read_pretraining(folder).seconds == pytest.approx(read_curve(folder / "log.csv")["seconds"][-1], abs=0.001)


def test_it_starts_from_another_model(files, whole, tmp_path: Path) -> None:
    request = replace(small_request(files[0], steps=1), init_from=str(whole[0] / "model"))
    made = pretrain_embedding(request, tmp_path / "next")
    one, other = weights(whole[0]), weights(tmp_path / "next")
    assert made.card.vocabulary == whole[1].card.vocabulary
    largest = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert 0 < largest < 0.01  # one step of a small rate away
