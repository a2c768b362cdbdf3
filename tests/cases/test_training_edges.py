"""Trainings at the edges: labels that are numbers, batches that are missing, one context, nothing left."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from state_engine.checkpoints.store import read_card
from state_engine.cli.main import main

HEAD = '[datasets]\nd = "cells.h5ad"\n[training]\nd = "train"\n'
SMALL = ("steps=2", "sets_a_step=2", "set_size=4", "hidden=16", "layers=1", "heads=2", "calibrate=false", "validation_sets=2")
LABELS = np.repeat(["control", "X", "Y", "Z"], 20)
LINES = np.tile(["A", "B"], 40)
TRAINS = {
    "numbers as labels": ({"perturbation": np.repeat([0, 1, 2, 3], 20), "cell_type": np.tile([1, 2], 40)}, "0", '"d.2"', "1", "2"),
    "batches that are missing": (
        {"perturbation": LABELS, "cell_type": LINES, "batch": np.tile(["b1", "b2", None, "b1"], 20)}, "control", '"d.B"', "X", "Y",
    ),
    "one context": ({"perturbation": LABELS, "cell_type": ["A"] * 80}, "control", '"d.A"', "X", "Y"),
}  # fmt: skip
LEFT = {
    "all held out": ({"perturbation": LABELS, "cell_type": ["A"] * 80}, '[zeroshot]\n"d.A" = "test"\n'),
    "controls in the context that is held out": (
        {"perturbation": np.repeat(["control", "X", "X", "Y"], 20), "cell_type": np.repeat(["A", "B"], 40)},
        '[zeroshot]\n[fewshot."d.A"]\ntest = ["X"]\n',
    ),
}


def train(folder: Path, obs: dict[str, object], split: str, control: str) -> int:
    """Write cells and a split and train on them; return the exit code."""
    frame = pd.DataFrame(obs)
    frame.index = [f"c{i}" for i in range(len(frame))]
    counts = np.random.default_rng(0).poisson(3, (len(frame), 30)).astype(np.float32)
    cells = anndata.AnnData(sp.csr_matrix(counts), obs=frame, var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "split.toml").write_text(HEAD + split)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    columns = ["--perturbation-key", "perturbation", "--context-key", "cell_type", "--control", control]
    output = ["--output", str(folder / "run")]
    return main(["train", "--split", str(folder / "split.toml"), *output, *columns, *settings, "--device", "cpu"])


@pytest.mark.parametrize("name", TRAINS)
def test_it_trains(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    obs, control, context, val, test = TRAINS[name]
    split = f'[zeroshot]\n[fewshot.{context}]\nval = ["{val}"]\ntest = ["{test}"]\n'
    assert train(tmp_path, obs, split, control) == 0, capsys.readouterr().err
    card = read_card(tmp_path / "run" / "model")
    assert card.control == control and len(card.perturbations) == 4 - (name == "one context") * 2
    assert "nan" not in capsys.readouterr().out.lower() and "nan" not in card.batches


@pytest.mark.parametrize("name", LEFT)
def test_nothing_to_train_on_is_a_sentence(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    obs, split = LEFT[name]
    assert train(tmp_path, obs, split, "control") == 1
    said = capsys.readouterr().err
    assert "Nothing is left to train on." in said and "Traceback" not in said


def test_labels_that_are_fractions_are_told_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obs = {"perturbation": np.repeat([0.0, 1.0, 2.0, np.nan], 20), "cell_type": np.tile([1, 2], 40)}
    assert train(tmp_path, obs, '[zeroshot]\n[fewshot."d.2"]\nval = ["1"]\ntest = ["2"]\n', "0.0") == 1
    said = capsys.readouterr().err
    assert "holds out 1, 2, of which there is no cell" in said and "1.0, 2.0" in said
