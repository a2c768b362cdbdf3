"""A head is applied to cells and to predictions; vectors of another origin are refused with both names, and the input stays as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from state_engine import keys
from state_engine.checkpoints.head_card import FITTED, read_head_card
from state_engine.data.dataset import open_dataset
from state_engine.embedding.embed import embed
from state_engine.embedding.request import EmbedRequest
from state_engine.errors import CheckpointError, GeneError, IncompatibleError, RepresentationError, RequestError, RunError
from state_engine.files import write_json
from state_engine.heads.annotate import Calls, annotate, find_backbone
from state_engine.heads.finetune import finetune
from state_engine.heads.output import HEADS
from state_engine.heads.report import ANNOTATION, UNKNOWN, UNSURE, Annotation, CalledGroup, read_annotation
from state_engine.heads.request import AnnotateRequest
from state_engine.heads.vectors import cached
from state_engine.plain import to_plain
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from tests.heads.cells import asked, write_labelled
from tests.small import write_cells, write_model
from tests.small_embedding import write_embedding_model


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_labelled(tmp_path / "cells.h5ad")


def test_other_cells_are_called_and_the_input_stays(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells), tmp_path / "head")
    other = write_labelled(tmp_path / "other.h5ad", 90, seed=9)
    before = other.read_bytes()
    request = AnnotateRequest(str(tmp_path / "head"), str(other), device="cpu")
    found = annotate(request, tmp_path / "z.h5ad", labels=tmp_path / "l.csv")
    assert other.read_bytes() == before and found.cells == 90 and found.unknown == 0
    data = anndata.read_h5ad(tmp_path / "z.h5ad")
    assert (data.obs["predicted_label"].astype(str) == data.obs["type"].astype(str)).mean() > 0.85
    assert data.obs["predicted_probability"].between(1 / 3, 1).all() and list(data.obs)[:6] == list(anndata.read_h5ad(other).obs)
    assert [s.cells for s in found.shares[:3]] == [(data.obs["predicted_label"] == name).sum() for name in "ABC"]
    table = pd.read_csv(tmp_path / "l.csv", index_col=0)
    assert (
        list(table.index) == list(data.obs_names) and (table["predicted_label"] == data.obs["predicted_label"].astype(str)).all()
    )
    assert json.loads(data.uns[HEADS])["id"] == found.head_id
    open_dataset(tmp_path / "z.h5ad")
    # the same bits again, and the columns of an annotated file are replaced with a word
    again = annotate(AnnotateRequest(str(tmp_path / "head"), str(tmp_path / "z.h5ad"), device="cpu"), tmp_path / "y.h5ad")
    assert np.array_equal(anndata.read_h5ad(tmp_path / "y.h5ad").obs["predicted_probability"], data.obs["predicted_probability"])
    assert "The column 'predicted_label' of the file was replaced." in again.remarks


def test_cells_below_the_threshold_are_unknown(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, max_epochs=3), tmp_path / "head")
    plain = annotate(AnnotateRequest(str(tmp_path / "head"), str(cells), device="cpu"), tmp_path / "a.h5ad")
    strict = annotate(AnnotateRequest(str(tmp_path / "head"), str(cells), "", 0.8, device="cpu"), tmp_path / "b.h5ad")
    obs = anndata.read_h5ad(tmp_path / "b.h5ad").obs
    unsure = obs["predicted_probability"] < 0.8
    assert 0 < strict.unknown == unsure.sum() < 160 and plain.unknown == 0
    assert (obs["predicted_label"] == UNKNOWN).equals(unsure)
    assert any("fitted on cells of this very file" in remark for remark in plain.remarks)


def test_numbers_and_several_labels_have_columns_of_their_own(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, "dose", task="regression", embedding_key="X_pca"), tmp_path / "number")
    found = annotate(AnnotateRequest(str(tmp_path / "number"), str(cells), device="cpu"), tmp_path / "a.h5ad")
    values = anndata.read_h5ad(tmp_path / "a.h5ad").obs["predicted_value"]
    assert found.value == pytest.approx(values.mean()) and found.spread == pytest.approx(values.std(ddof=0)) and not found.shares
    finetune(asked(cells, "tags", task="multi-label"), tmp_path / "several")
    found = annotate(AnnotateRequest(str(tmp_path / "several"), str(cells), threshold=0.7, device="cpu"), tmp_path / "b.h5ad")
    obs = anndata.read_h5ad(tmp_path / "b.h5ad").obs
    assert {"predicted_low", "predicted_probability_low", "predicted_high", "predicted_label"} <= set(obs)
    chance = obs["predicted_probability_low"]
    assert (obs["predicted_low"] == "yes").equals(chance >= 0.7) and ((obs["predicted_low"] == "no") == (chance <= 0.3)).all()
    assert found.shares[-1].label == UNKNOWN and found.shares[-1].cells > 0


def test_another_embedding_is_refused_naming_both(tmp_path: Path, cells: Path) -> None:
    for name, seed in (("one", 0), ("two", 5)):
        write_embedding_model(tmp_path / name, seed)
        embed(EmbedRequest(str(cells), str(tmp_path / name), device="cpu"), tmp_path / f"{name}.h5ad")
    hashes = [open_dataset(tmp_path / f"{n}.h5ad").embeddings["X_state"].model[:12] for n in ("one", "two")]
    finetune(asked(tmp_path / "one.h5ad", embedding_key="X_state"), tmp_path / "head")
    head = str(tmp_path / "head")
    annotate(AnnotateRequest(head, str(tmp_path / "one.h5ad"), device="cpu"), tmp_path / "z.h5ad")
    wrong = [
        AnnotateRequest(head, str(tmp_path / "two.h5ad"), device="cpu"),
        AnnotateRequest(head, str(tmp_path / "two.h5ad"), embedding_key="X_state", device="cpu"),
        AnnotateRequest(head, str(tmp_path / "two.h5ad"), backbone=str(tmp_path / "two"), device="cpu"),
        AnnotateRequest(head, str(cells), embedding_key="X_pca", device="cpu"),
    ]
    for place, request in enumerate(wrong):
        with pytest.raises((IncompatibleError, RepresentationError)) as caught:
            annotate(request, tmp_path / "y.h5ad")
        assert hashes[0] in str(caught.value) and ("X_pca" if place == 3 else hashes[1]) in str(caught.value)
        assert not (tmp_path / "y.h5ad").exists()
    # cells without any embedding are embedded with the model, where its folder is named
    found = annotate(AnnotateRequest(head, str(cells), backbone=str(tmp_path / "one"), device="cpu"), tmp_path / "y.h5ad")
    probability = [anndata.read_h5ad(tmp_path / f).obs["predicted_probability"] for f in ("y.h5ad", "z.h5ad")]
    assert found.unknown == 0 and np.allclose(*probability, atol=1e-5)


def test_a_key_of_another_width_is_refused(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca"), tmp_path / "head")
    data = anndata.read_h5ad(cells)
    data.obsm["X_pca"] = data.obsm["X_pca"][:, :4]
    data.write_h5ad(tmp_path / "other.h5ad")
    with pytest.raises(IncompatibleError, match=r"5 features; these are .*4 features"):
        annotate(AnnotateRequest(str(tmp_path / "head"), str(tmp_path / "other.h5ad"), device="cpu"), tmp_path / "z.h5ad")


def test_a_tuned_model_moves_with_its_head(tmp_path: Path, cells: Path) -> None:
    write_embedding_model(tmp_path / "se")
    finetune(asked(cells, model=str(tmp_path / "se"), tune="lora", max_epochs=2), tmp_path / "head")
    shutil.rmtree(tmp_path / "se")
    shutil.move(tmp_path / "head", tmp_path / "moved")
    report = annotate(AnnotateRequest(str(tmp_path / "moved"), str(cells), device="cpu"), tmp_path / "z.h5ad")
    table = pd.read_csv(tmp_path / "moved" / "cells.csv", float_precision="round_trip")
    obs = anndata.read_h5ad(tmp_path / "z.h5ad").obs
    assert (
        np.allclose(obs["predicted_probability"].to_numpy()[table["row"]], table["probability"], atol=1e-5)
        and report.unknown == 0
    )


def test_a_file_with_other_genes_is_refused(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells), tmp_path / "head")
    data = anndata.read_h5ad(cells)
    few = data[:, :20].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    found = annotate(AnnotateRequest(str(tmp_path / "head"), str(tmp_path / "few.h5ad"), device="cpu"), tmp_path / "z.h5ad")
    assert any("20 of the 24 genes" in remark for remark in found.remarks) and any("doubtful" in r for r in found.remarks)
    data.var_names = [f"x{i}" for i in range(24)]
    data.write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(GeneError, match="Only 0 of the 24 genes"):
        annotate(AnnotateRequest(str(tmp_path / "head"), str(tmp_path / "none.h5ad"), device="cpu"), tmp_path / "y.h5ad")


def test_outputs_are_never_inputs(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    request = AnnotateRequest(str(tmp_path / "head"), str(cells), device="cpu")
    for output in (cells, tmp_path / "head" / "z.h5ad", tmp_path / "z.npy"):
        with pytest.raises(RequestError):
            annotate(request, output)


def test_predicted_cells_are_called_beside_measured_ones(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells.h5ad", 400)
    write_model(tmp_path / "st")
    finetune(asked(data, "cell_type", max_epochs=3, genes_of=str(tmp_path / "st")), tmp_path / "head")
    run = tmp_path / "run"
    run.mkdir()
    predict(PredictionRequest(str(data), str(tmp_path / "st"), ("IFNB1",), cells=12, device="cpu"), run / "result.h5ad")
    found = annotate(AnnotateRequest(str(tmp_path / "head"), result=str(run), device="cpu"), None)
    kinds = {(g.context, g.kind): g for g in found.groups if g.kind != "measured"}
    assert set(kinds) == {(c, k) for c in ("B", "NK") for k in ("predicted", "predicted control", "measured control")}
    assert all(sum(s.cells for s in g.shares) == g.cells for g in found.groups) and kinds["B", "predicted"].cells == 12
    assert kinds["B", "predicted"].perturbation == "IFNB1" and {g.kind for g in found.groups} >= {"measured"}
    obs = open_dataset(run / "result.h5ad").columns[keys.KIND]
    assert sum(g.cells for g in found.groups) == len(obs) == found.cells
    with pytest.raises(RunError, match="is no prediction"):
        annotate(AnnotateRequest(str(tmp_path / "head"), result=str(data), device="cpu"), None)
    with pytest.raises(RunError, match="no prediction"):
        annotate(AnnotateRequest(str(tmp_path / "head"), result=str(tmp_path), device="cpu"), None)


def test_calls_of_cells_without_a_vector(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    card = read_head_card(tmp_path / "head")
    calls = Calls(card, np.array([[0.2, 0.5, 0.3], [np.nan] * 3]), 0.0)
    assert calls.labels.tolist() == ["B", UNKNOWN] and [s.cells for s in calls.shares()] == [0, 1, 0, 1]
    assert calls.shares()[1].mean == 0.5


def test_a_label_unknown_does_not_merge_with_cells_that_are_not_called(tmp_path: Path) -> None:
    kinds = np.array(["unknown", "B", "C"])[np.arange(160) % 3]
    cells = write_labelled(tmp_path / "cells.h5ad", kind=kinds)
    finetune(asked(cells, "kind", max_epochs=3), tmp_path / "head")
    found = annotate(AnnotateRequest(str(tmp_path / "head"), str(cells), "", 0.8, device="cpu"), tmp_path / "z.h5ad")
    data = anndata.read_h5ad(tmp_path / "z.h5ad")
    unsure = data.obs["predicted_probability"] < 0.8
    assert (data.obs["predicted_label"] == UNSURE).equals(unsure) and 0 < unsure.sum() == found.unknown < 160
    assert (data.obs["predicted_label"] == UNKNOWN).sum() == found.shares[2].cells > 0
    assert [s.label for s in found.shares] == ["B", "C", UNKNOWN, UNSURE] and sum(s.cells for s in found.shares) == 160
    assert json.loads(data.uns[HEADS])["unknown"] == UNSURE
    assert any("are called 'not called' in its place" in remark for remark in found.remarks)
    # files of before have both under one name
    merged = tuple(replace(share, label=UNKNOWN) if share.label == UNSURE else share for share in found.shares)
    group = CalledGroup("predicted", "x", "B", 160, merged)
    write_json(tmp_path / ANNOTATION, to_plain(replace(found, shares=merged, groups=(group,))))
    read = read_annotation(tmp_path)
    assert read.shares == found.shares == read.groups[0].shares


def test_cells_that_the_head_was_fitted_on_are_counted_wherever_they_lie(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, max_epochs=1), tmp_path / "head")
    whole = anndata.read_h5ad(cells)
    tested = pd.read_csv(tmp_path / "head" / "cells.csv")["cell"]
    whole.obs["more"] = 1
    whole.write_h5ad(tmp_path / "copy.h5ad")
    whole[tested].copy().write_h5ad(tmp_path / "tested.h5ad")

    def called(data: Path) -> Annotation:
        return annotate(AnnotateRequest(str(tmp_path / "head"), str(data), device="cpu"), tmp_path / "z.h5ad")

    copy = called(tmp_path / "copy.h5ad")
    assert copy.fitted_on == 160 - len(tested) and any("the head was fitted on: where" in r for r in copy.remarks)
    assert called(cells).fitted_on == copy.fitted_on and called(tmp_path / "tested.h5ad").fitted_on == 0
    assert not any("fitted on" in r for r in called(tmp_path / "tested.h5ad").remarks)
    (tmp_path / "head" / FITTED).unlink()  # a head of before
    assert called(tmp_path / "copy.h5ad").fitted_on is None
    (tmp_path / "head" / FITTED).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        called(cells)


def test_a_prediction_from_cells_of_the_fitting_says_so(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells.h5ad", 400)
    write_model(tmp_path / "st")
    finetune(asked(data, "cell_type", max_epochs=1, genes_of=str(tmp_path / "st")), tmp_path / "head")
    predict(PredictionRequest(str(data), str(tmp_path / "st"), ("IFNB1",), cells=12, device="cpu"), tmp_path / "result.h5ad")
    found = annotate(AnnotateRequest(str(tmp_path / "head"), result=str(tmp_path / "result.h5ad"), device="cpu"), None)
    assert found.fitted_on and any("or were predicted from" in remark for remark in found.remarks)


def test_no_output_takes_the_place_of_another(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    request = AnnotateRequest(str(tmp_path / "head"), str(cells), device="cpu")
    with pytest.raises(RequestError, match="Give two names"):
        annotate(request, tmp_path / "z.h5ad", labels=tmp_path / "z.h5ad")
    data = anndata.read_h5ad(cells)
    data.obs.index.name = "predicted_label"
    data.write_h5ad(tmp_path / "named.h5ad")
    with pytest.raises(RequestError, match="names of the cells"):
        annotate(AnnotateRequest(str(tmp_path / "head"), str(tmp_path / "named.h5ad"), device="cpu"), tmp_path / "z.h5ad")
    assert not (tmp_path / "z.h5ad").exists()


def test_labels_whose_names_are_those_of_columns_lose_nothing(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    card = dataclasses.replace(read_head_card(tmp_path / "head"), task="multi-label", labels=("label", "probability_label", "B"))
    columns = Calls(card, np.array([[0.9, 0.1, 0.6]]), 0.0).columns()
    numbers = [values[0] for values in columns.values() if isinstance(values, np.ndarray)]
    assert len(columns) == 7 and list(columns["predicted_label"]) == ["label; B"] and numbers == [0.9, 0.1, 0.6]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": ["a\0", "b", "c"]}, "cannot be written"),
        ({"labels": ["\ud800", "b", "c"]}, "cannot be written"),
        ({"centre": 10**400}, "too large"),
    ],
)
def test_a_foreign_card_is_refused_in_words(tmp_path: Path, cells: Path, changes: dict[str, object], said: str) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    plain = json.loads((tmp_path / "head" / "head.json").read_text())
    (tmp_path / "head" / "head.json").write_text(json.dumps(plain | changes))
    with pytest.raises(CheckpointError, match=said):
        read_head_card(tmp_path / "head")


def test_a_place_that_can_be_no_path_is_passed_over(tmp_path: Path, cells: Path) -> None:
    finetune(asked(cells, embedding_key="X_pca", max_epochs=1), tmp_path / "head")
    card = read_head_card(tmp_path / "head")
    foreign = dataclasses.replace(
        card, place="a" * 5000, source=dataclasses.replace(card.source, kind="embedding", model="ff" * 32)
    )
    request = AnnotateRequest(str(tmp_path / "head"), str(cells), device="cpu")
    assert find_backbone(foreign, tmp_path / "head", request) is None


def test_vectors_that_were_kept_and_are_damaged_are_made_again(tmp_path: Path) -> None:
    (tmp_path / "key.npy").write_bytes(b"")
    assert cached("key", lambda: np.ones((2, 2), np.float32), tmp_path).sum() == 4
    assert cached("key", lambda: np.zeros((2, 2), np.float32), tmp_path).sum() == 4
