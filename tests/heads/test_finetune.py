"""A head is fitted, tested beside baselines, written whole or not at all, and gives the same bits after reading it again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from state_engine.checkpoints.folder import WEIGHTS
from state_engine.checkpoints.head_card import CARD, FITTED, read_head_card
from state_engine.checkpoints.head_store import load_head
from state_engine.config import load_settings
from state_engine.data.choices import Choices
from state_engine.data.dataset import open_dataset
from state_engine.device import choose_device
from state_engine.errors import (
    CheckpointError,
    DataError,
    IncompatibleError,
    JobCancelled,
    LabelError,
    RepresentationError,
    RequestError,
    SplitError,
)
from state_engine.heads import finetune as module
from state_engine.heads.finetune import finetune
from state_engine.heads.fitting import fit_temperature, label_weights
from state_engine.heads.lines import report_lines
from state_engine.heads.report import BACKBONE, CELLS, HeadReport, read_report, read_test_cells
from state_engine.heads.request import FinetuneRequest
from state_engine.heads.targets import read_targets
from state_engine.heads.vectors import CACHE, cached, read_vectors
from state_engine.library.models import HEADS
from state_engine.progress import Progress
from tests.heads.cells import asked, write_labelled
from tests.small import GENES, write_model
from tests.small_embedding import write_embedding_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_labelled(tmp_path / "cells.h5ad")


def fitted(request: FinetuneRequest, tmp_path: Path) -> tuple[HeadReport, Path]:
    folder = tmp_path / "head"
    return finetune(request, folder), folder


def value(report: HeadReport, metric: str, method: int = 0) -> float:
    score = report.methods[method].score(metric)
    assert score is not None and score.value is not None
    return score.value


def test_labels_that_show_are_learnt_and_tested_beside_baselines(tmp_path: Path, cells: Path) -> None:
    report, folder = fitted(asked(cells), tmp_path)
    assert read_report(folder) == report and report.id == read_head_card(folder).id
    assert [m.kind for m in report.methods] == ["head", "regression", "neighbours"]
    assert all(value(report, "auroc", i) > 0.95 for i in range(3)) and value(report, "accuracy") > 0.85
    assert sum(map(sum, report.confusion)) == report.split.test == sum(c.test for c in report.label_counts)
    assert report.split.train + report.split.validation + report.split.test == 160
    table = pd.read_csv(folder / CELLS)
    assert len(table) == report.split.test and (table["truth"] != table["called"]).sum() == report.n_wrong == len(report.wrong)
    assert np.isclose((table["truth"] == table["called"]).mean(), value(report, "accuracy"))
    assert report.best_epoch == min(report.epochs, key=lambda e: e.validation).epoch
    assert "log1p expression" in report.vectors and report.reliability and report.versions["scikit-learn"]


def test_labels_that_a_spreadsheet_or_a_line_would_obey_are_plain_text(tmp_path: Path) -> None:
    names = np.array(['=HYPERLINK("x")', "B\ncells", "C"])[np.arange(160) % 3]
    report, folder = fitted(asked(write_labelled(tmp_path / "cells.h5ad", kind=names), "kind"), tmp_path)
    assert set(report.labels) == set(names)  # the head itself calls them by their names
    with (folder / CELLS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["truth"] for row in rows} == {'\'=HYPERLINK("x")', "B\ncells", "C"} and len(rows) == report.split.test
    cells = read_test_cells(folder)
    assert (cells["truth"] != cells["called"]).sum() == report.n_wrong
    lines = list(report_lines(report, folder))
    assert not any("\n" in line for line in lines)
    table = lines[lines.index("True label (rows) by called label (columns):") + 1 :][:4]
    assert [line.split("  ")[0].strip() for line in table] == ["", '=HYPERLINK("x")', r"B\u000acells", "C"]


def test_the_steps_of_testing_are_counted(tmp_path: Path, cells: Path) -> None:
    told: list[Progress] = []
    finetune(asked(cells, resamples=60), tmp_path / "head", told.append)
    beside = [(p.done, p.total) for p in told if p.stage == "Fitting what stands beside the head"]
    assert beside == [(0, 2), (1, 2), (2, 2)]
    assert [(p.done, p.total) for p in told if p.stage == "Testing"] == [(n, 180) for n in range(0, 181, 20)]


def test_the_same_request_gives_the_same_head(tmp_path: Path, cells: Path) -> None:
    first = finetune(asked(cells, head="mlp", hidden=8), tmp_path / "a")
    second = finetune(asked(cells, head="mlp", hidden=8), tmp_path / "b")
    assert first.id == second.id and first.methods == second.methods
    assert finetune(asked(cells, head="mlp", hidden=8, seed=1), tmp_path / "c").id != first.id


def test_shuffled_labels_are_not_learnt(tmp_path: Path) -> None:
    names = np.random.default_rng(3).permutation(np.array(["A", "B"] * 150))
    report, _ = fitted(asked(write_labelled(tmp_path / "c.h5ad", 300, x=names), "x"), tmp_path)
    score = report.own.score("auroc")
    assert score is not None and score.low is not None and score.high is not None and 0.3 < score.low < 0.55 < score.high < 0.75


def test_a_number_is_learnt(tmp_path: Path, cells: Path) -> None:
    report, folder = fitted(asked(cells, "dose", task="regression", max_epochs=60), tmp_path)
    assert value(report, "r2") > 0.6 and value(report, "spearman") > 0.75 and len(report.methods) == 2
    head = load_head(folder)
    assert head.card.spread == pytest.approx(1, abs=0.3) and not report.confusion and report.calibration_error is None
    table = pd.read_csv(folder / CELLS)
    assert np.isclose(np.abs(table["truth"] - table["called"]).mean(), value(report, "mae"))


@pytest.mark.parametrize("labels", [("tags",), ("is_a", "is_high")])
def test_several_labels_are_learnt(tmp_path: Path, cells: Path, labels: tuple[str, ...]) -> None:
    report, _ = fitted(asked(cells, *labels, task="multi-label"), tmp_path)
    assert value(report, "auroc") > 0.85 and len(report.label_counts) == 2 and len(report.methods) == 3


def test_vectors_of_a_key_of_an_se_and_of_an_st(tmp_path: Path, cells: Path) -> None:
    write_embedding_model(tmp_path / "se")
    write_model(tmp_path / "st")
    found = {}
    for name, changes in {
        "obsm": {"embedding_key": "X_pca"}, "embedding": {"model": str(tmp_path / "se")}, "hidden": {"model": str(tmp_path / "st")},
        "prediction": {"model": str(tmp_path / "st"), "features": "prediction"},
    }.items():  # fmt: skip
        report = finetune(asked(cells, **changes), tmp_path / name)
        found[name] = read_head_card(tmp_path / name).source
        assert found[name].kind == name and report.width == found[name].width
    assert (found["obsm"].width, found["embedding"].width, found["hidden"].width, found["prediction"].width) == (5, 8, 8, 24)
    assert found["embedding"].vocabulary and found["embedding"].model != found["hidden"].model == found["prediction"].model


def test_a_model_has_only_its_own_vectors(tmp_path: Path, cells: Path) -> None:
    write_embedding_model(tmp_path / "se")
    write_model(tmp_path / "st")
    for folder, features in (("se", "hidden"), ("st", "embedding")):
        with pytest.raises(RequestError, match=r"State (Embedding|Transition) model"):
            finetune(asked(cells, model=str(tmp_path / folder), features=features), tmp_path / "h")
    other = write_labelled(tmp_path / "other.h5ad")
    import anndata

    data = anndata.read_h5ad(other)
    data.var_names = [f"x{i}" for i in range(len(GENES))]
    data.write_h5ad(other)
    with pytest.raises(IncompatibleError, match="do not fit"):
        finetune(asked(other, model=str(tmp_path / "st")), tmp_path / "h")
    assert not (tmp_path / "h").exists()


def test_an_st_vector_depends_on_the_cell_alone(tmp_path: Path, cells: Path) -> None:
    from state_engine.heads.backbones import load_backbone, source_of

    write_model(tmp_path / "st", batch_encoder=True, batch_dim=2)
    device = choose_device("cpu")
    loaded = load_backbone(tmp_path / "st", device, "fp32")
    source, dataset = source_of(loaded, "hidden"), open_dataset(cells)
    everything = read_vectors(dataset, source, np.arange(160), loaded, device, lambda p: None).values
    some = read_vectors(dataset, source, np.array([3, 77]), loaded, device, lambda p: None, batch_size=1).values
    np.testing.assert_allclose(some, everything[[3, 77]], atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "last-1", "full"])
@pytest.mark.parametrize("kind", ["se", "st"])
def test_a_model_is_tuned_and_kept_beside_its_head(tmp_path: Path, cells: Path, kind: str, tune: str) -> None:
    write = write_embedding_model if kind == "se" else write_model
    before = write(tmp_path / "model").weights_hash
    request = asked(cells, model=str(tmp_path / "model"), tune=tune, max_epochs=4, rank=2, learning_rate=0.001)
    report, folder = fitted(request, tmp_path)
    card = read_head_card(folder)
    from state_engine.heads.annotate import hash_of

    assert hash_of(folder / BACKBONE) == card.source.model != before == hash_of(tmp_path / "model")
    assert 0 < report.trained <= report.weights and (tune == "full") == (report.trained == report.weights)
    assert any("Each pass over the cells takes" in remark for remark in report.remarks)
    assert min(e.train for e in report.epochs[1:]) < report.epochs[0].train


def test_what_is_written_gives_the_same_bits_and_carries_nothing_that_runs(tmp_path: Path, cells: Path) -> None:
    _, folder = fitted(asked(cells, embedding_key="X_pca"), tmp_path)
    dataset = open_dataset(cells)
    vectors = torch.from_numpy(dataset.read("obsm/X_pca", np.arange(160)))
    first, second = load_head(folder), load_head(folder)
    assert torch.equal(first.outputs(vectors), second.outputs(vectors))
    table = pd.read_csv(folder / CELLS, float_precision="round_trip")
    again = first.outputs(vectors[torch.from_numpy(table["row"].to_numpy())]).double().numpy().max(1)
    assert np.array_equal(again, table["probability"].to_numpy())
    assert {p.name for p in folder.iterdir()} == {CARD, FITTED, WEIGHTS, "report.json", CELLS}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda plain: plain.update(labels=["A"]), "contradicts itself"),
        (lambda plain: plain.update(temperature=0.0), "contradicts itself"),
        (lambda plain: plain["config"].update(inputs=10**9), "is not a card of a head"),
        (lambda plain: plain["config"].update(kind="exec"), "is not a card of a head"),
        (lambda plain: plain.update(format=9), "has format 9"),
        (lambda plain: plain.update(weights_hash="0" * 64), "not those of its card"),
        (lambda plain: plain["config"].update(hidden=7, kind="mlp"), "do not fit its network"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, cells: Path, damage: Any, words: str) -> None:
    _, folder = fitted(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path)
    plain = json.loads((folder / CARD).read_text())
    damage(plain)
    (folder / CARD).write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=words):
        load_head(folder)


def test_nothing_is_left_of_a_fitting_that_was_stopped_or_failed(tmp_path: Path, cells: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "Fitting the head":
            raise JobCancelled("Stopped.")

    write_embedding_model(tmp_path / "se")
    before = set(tmp_path.iterdir())
    for changes in ({}, {"model": str(tmp_path / "se"), "tune": "lora"}):
        with pytest.raises(JobCancelled):
            finetune(asked(cells, **changes), tmp_path / "head", stop)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "home"}


def test_nothing_is_written_over(tmp_path: Path, cells: Path) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is there already"):
        finetune(asked(cells), tmp_path / "head")
    assert [path.name for path in (tmp_path / "head").iterdir()] == ["notes.txt"]


def test_of_two_that_take_one_folder_neither_is_lost(tmp_path: Path, cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(case: Any, folder: Path, *more: Any) -> HeadReport:
        if not (tmp_path / "head").exists():
            monkeypatch.setattr(module, "_fitted", real)
            finetune(asked(cells, max_epochs=1), tmp_path / "head")
        return real(case, folder, *more)

    real = module._fitted
    monkeypatch.setattr(module, "_fitted", meanwhile)
    with pytest.raises(
        CheckpointError, match=r"was made by another fitting meanwhile. This head is complete and lies in "
    ) as caught:
        finetune(asked(cells, max_epochs=2), tmp_path / "head")
    (other,) = tmp_path.glob("head-*")
    assert str(other) in str(caught.value) and read_head_card(other).id != read_head_card(tmp_path / "head").id
    assert not list(tmp_path.glob(".*"))


def test_an_empty_folder_is_taken(tmp_path: Path, cells: Path) -> None:
    (tmp_path / "head").mkdir()
    made = finetune(asked(cells, max_epochs=1), tmp_path / "head")
    assert read_head_card(tmp_path / "head").id == made.id and not list(tmp_path.glob(".*"))


def test_a_control_that_no_column_has_is_told_before_any_work(tmp_path: Path, cells: Path) -> None:
    with pytest.raises(LabelError, match=r"There is no control label 'NOSUCH' in cells\.h5ad\. No column says"):
        finetune(asked(cells, choices=Choices(control="NOSUCH")), tmp_path / "head")


def test_vectors_that_products_do_not_stand_are_refused(tmp_path: Path) -> None:
    import anndata

    data = anndata.read_h5ad(write_labelled(tmp_path / "cells.h5ad"))
    data.obsm["X_pca"][3, 2] = 2e19
    data.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(RepresentationError, match=r"obsm\['X_pca'\] has numbers as large as 2e\+19"):
        finetune(asked(tmp_path / "cells.h5ad", embedding_key="X_pca"), tmp_path / "head")


@pytest.mark.parametrize("place", ["file/head", "file/more/head"])
def test_a_folder_that_cannot_be_made_is_told_before_any_work(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(RequestError, match=r"cannot be|is a file"):
        finetune(asked(tmp_path / "missing.h5ad"), tmp_path / place)  # the data are not looked at
    with pytest.raises(DataError):
        finetune(asked(tmp_path / "missing.h5ad"), tmp_path / "new" / "head")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "text"


def test_labels_by_other_names_and_other_units_make_other_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their weights are the same, so these alone do not say which head it is; the library keeps both."""
    renamed = {"A": "T cell", "B": "U cell", "C": "V cell"}
    cells = write_labelled(tmp_path / "cells.h5ad")
    data = pd.Series(np.array(["A", "B", "C"])[np.arange(160) % 3])
    other = write_labelled(tmp_path / "other.h5ad", named=data.map(renamed).to_numpy())
    one, two = (finetune(asked(path, label), tmp_path / label) for path, label in ((cells, "type"), (other, "named")))
    hashes = {read_head_card(tmp_path / label).weights_hash for label in ("type", "named")}
    assert len(hashes) == 1 and one.id != two.id
    monkeypatch.setenv("STATE_EXPLORER_DATA", str(tmp_path))
    settings = load_settings()
    for label in ("type", "named"):
        HEADS.import_directory(tmp_path / label, settings)
    assert {e.card.labels for e in HEADS.entries(settings) if e.card} == {("A", "B", "C"), tuple(renamed.values())}


def test_cells_without_a_vector_are_left_out(tmp_path: Path, cells: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import anndata

    data = anndata.read_h5ad(cells)
    data.obsm["X_pca"][:9] = np.nan
    data.write_h5ad(cells)
    report, _ = fitted(asked(cells, embedding_key="X_pca"), tmp_path)
    assert report.split.train + report.split.validation + report.split.test == 151
    assert any("9 labelled cells have no vector" in remark for remark in report.remarks)
    data.obsm["X_pca"][:] = np.nan
    data.write_h5ad(cells)
    with pytest.raises(SplitError, match="no cell with a vector"):
        finetune(asked(cells, embedding_key="X_pca"), tmp_path / "other")


def test_vectors_are_kept_for_the_next_time(tmp_path: Path, cells: Path) -> None:
    write_embedding_model(tmp_path / "se")
    finetune(asked(cells, model=str(tmp_path / "se")), tmp_path / "a")
    kept = list((load_settings().home / CACHE).glob("*.npy"))
    assert len(kept) == 1
    told: list[str] = []
    finetune(asked(cells, "dose", task="regression", model=str(tmp_path / "se")), tmp_path / "b", lambda p: told.append(p.stage))
    assert "Making vectors of cells" not in told and list((load_settings().home / CACHE).glob("*.npy")) == kept
    kept[0].write_bytes(b"damaged")
    assert cached(kept[0].stem, lambda: np.ones((2, 2), np.float32)).sum() == 4


def test_the_recorded_embedding_of_a_file_is_taken_where_nothing_is_named(tmp_path: Path, cells: Path) -> None:
    from state_engine.embedding.embed import embed
    from state_engine.embedding.request import EmbedRequest

    card = write_embedding_model(tmp_path / "se")
    embed(EmbedRequest(str(cells), str(tmp_path / "se"), device="cpu"), tmp_path / "e.h5ad")
    finetune(asked(tmp_path / "e.h5ad"), tmp_path / "head")
    source = read_head_card(tmp_path / "head").source
    assert (source.kind, source.key, source.model, source.width) == ("embedding", "X_state", card.weights_hash, card.cell_width)
    # asked for by its model, it is not made again
    finetune(asked(tmp_path / "e.h5ad", model=str(tmp_path / "se")), tmp_path / "other")
    assert read_head_card(tmp_path / "other").source == source


def test_temperature_makes_validation_cells_likelier() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    logits = 8 * np.eye(3)[np.where(rng.random(400) < 0.7, truth, rng.integers(0, 3, 400))]
    assert 2 < fit_temperature("classification", logits, truth) < 10
    assert fit_temperature("regression", logits, truth) == 1


def test_weights_let_labels_count_alike() -> None:
    weights = label_weights("classification", torch.tensor([0] * 8 + [1] * 2), 2, True)
    assert weights is not None and (weights * torch.tensor([8.0, 2.0])).tolist() == [5, 5]
    assert label_weights("classification", torch.tensor([0, 1]), 2, False) is None
    several = label_weights("multi-label", torch.tensor([[1.0], [0.0], [0.0], [0.0]]), 1, True)
    assert several is not None and several.tolist() == [3]


def test_genes_are_chosen_on_training_cells_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: Path) -> None:
    seen: list[np.ndarray] = []
    from state_engine.heads import vectors

    real = vectors.hvg_choice
    monkeypatch.setattr(
        vectors, "hvg_choice", lambda d, n, cells, among: (seen.append(cells), real(d, n, cells=cells, among=among))[1]
    )
    report, _ = fitted(asked(cells), tmp_path)
    request, dataset = asked(cells), open_dataset(cells)
    parts = module.divide(dataset, request, read_targets(dataset, request))
    assert np.array_equal(seen[0], np.sort(parts.train)) and len(seen[0]) == report.split.train
