"""`finetune` and `annotate` on the command line, as the documentation has them."""

from __future__ import annotations

import json
from pathlib import Path

import anndata
import pandas as pd
import pytest

from state_engine.cli.main import main
from state_engine.prediction.predict import predict
from state_engine.prediction.request import PredictionRequest
from tests.heads.cells import write_labelled
from tests.small import write_cells, write_model
from tests.small_embedding import write_embedding_model

FAST = ["--resamples", "10", "--max-epochs", "5", "--device", "cpu"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_EXPLORER_HOME", str(tmp_path / "home"))


def test_fit_then_annotate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_embedding_model(tmp_path / "se")
    data, other = write_labelled(tmp_path / "x.h5ad"), write_labelled(tmp_path / "y.h5ad", 50, seed=4)
    head = str(tmp_path / "head")
    fit = [
        "finetune",
        "--data",
        str(data),
        "--label",
        "type",
        "--output",
        head,
        "--model",
        str(tmp_path / "se"),
        "--group",
        "donor",
    ]
    assert main([*fit, "--head", "mlp", "--tune", "head", "--seed", "3", *FAST]) == 0
    said = capsys.readouterr().out
    assert (
        "logistic regression on" in said
        and "vote of 15 neighbours" in said
        and "True label (rows)" in said
        and "donor: d" in said
    )
    # the model is found again by where it was
    annotate = ["annotate", "--model", head, "--data", str(other), "--output", str(tmp_path / "z.h5ad"), "--device", "cpu"]
    assert main([*annotate, "--threshold", "0.6", "--labels", str(tmp_path / "l.csv")]) == 0
    assert "50 cells called by 'type'" in capsys.readouterr().out
    obs = anndata.read_h5ad(tmp_path / "z.h5ad").obs
    assert ((obs["predicted_label"].astype(str) == "unknown") == (obs["predicted_probability"] < 0.6)).all()
    assert len(pd.read_csv(tmp_path / "l.csv")) == 50
    assert main([*annotate[:-2], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == 50


def test_a_prediction_is_called_beside_its_controls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_cells(tmp_path / "cells.h5ad", 300)
    write_model(tmp_path / "st")
    fit = [
        "finetune",
        "--data",
        str(data),
        "--label",
        "cell_type",
        "--genes-of",
        str(tmp_path / "st"),
        "--output",
        str(tmp_path / "head"),
    ]
    assert main([*fit, *FAST]) == 0
    (tmp_path / "run").mkdir()
    predict(PredictionRequest(str(data), str(tmp_path / "st"), ("TNF",), cells=8, device="cpu"), tmp_path / "run" / "result.h5ad")
    capsys.readouterr()
    assert main(["annotate", "--model", str(tmp_path / "head"), "--result", str(tmp_path / "run"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert all(kind in said for kind in ("predicted control", "measured control", "B", "NK"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune", "--label", "type", "--tune", "lora"], "No model is named that --tune lora could train"),
        (["finetune", "--label", "dosage"], "There is no column 'dosage' in obs"),
        (["finetune", "--label", "type", "--task", "regression"], "'type' is text, not numbers"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_labelled(tmp_path / "x.h5ad", 30)
    assert main([*words, "--data", str(data), "--output", str(tmp_path / "head")]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "head").exists()


def test_an_output_is_needed_and_is_no_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_labelled(tmp_path / "x.h5ad", 60)
    assert main(["finetune", "--data", str(data), "--label", "type", "--output", str(tmp_path / "head"), *FAST]) == 0
    annotate = ["annotate", "--model", str(tmp_path / "head"), "--data", str(data)]
    assert main(annotate) == 1 and "no place for the annotated cells" in capsys.readouterr().err
    assert main([*annotate, "--output", str(data)]) == 1 and "written over an input" in capsys.readouterr().err
    assert main(["annotate", "--model", str(data.parent), "--data", str(data), "--output", str(tmp_path / "z.h5ad")]) == 1
    assert "There is no head.json" in capsys.readouterr().err
