"""Whole numbers far beyond what arrays take are refused in a sentence, on the command line and in cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state_engine.checkpoints.load import card_of
from state_engine.cli.main import main
from state_engine.errors import CheckpointError, ConfigError
from state_engine.prediction.request import CellCount, PredictionRequest
from tests.small import write_cells, write_model


@pytest.mark.parametrize(
    ("option", "value", "bound"),
    [
        ("--cells", "9" * 20, "2,147,483,647"),
        ("--cells", "10000001", "10,000,000"),
        ("--most-cells", "2000000000", "10,000,000"),
        ("--set-size", "1000000", "8192"),
        ("--observed", "9" * 20, "2,147,483,647"),
        ("--seed", "9" * 20, "9,223,372,036,854,775,807"),
    ],
)
def test_a_number_that_is_too_large_is_refused(
    tmp_path: Path, option: str, value: str, bound: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "model")
    words = ["predict", "--data", str(write_cells(tmp_path / "cells.h5ad")), "--model", str(tmp_path / "model"), "--all"]
    assert main([*words, option, value, "--output", str(tmp_path / "p.h5ad")]) == 1
    said = capsys.readouterr().err
    assert f"at most {bound}." in said and not (tmp_path / "p.h5ad").exists()


def test_the_bound_itself_is_admitted() -> None:
    asked = PredictionRequest("d", "m", ("A",), observed=2**31 - 1, seed=2**63 - 1, set_size=8192)
    assert (asked.observed, asked.seed, asked.set_size) == (2**31 - 1, 2**63 - 1, 8192)
    with pytest.raises(ConfigError, match="observed must be at most"):
        PredictionRequest("d", "m", ("A",), observed=2**31)
    with pytest.raises(ConfigError, match="10,000,001 cells of A"):
        CellCount("A", 10_000_001)


@pytest.mark.parametrize(("value", "words"), [("9" * 20, "is more than 2,147,483,647"), ("x", "invalid int value")])
def test_numbers_of_a_command_alone_have_a_bound(value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prepare", "--data", "d.h5ad", "--output", "o.h5ad", "--genes", value])
    assert stopped.value.code == 2 and words in capsys.readouterr().err


def test_a_card_of_a_cell_set_without_end_is_no_model(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    plain = json.loads(path.read_text())
    plain["config"]["set_size"] = 10**9
    path.write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="has 1,000,000,000 cells"):
        card_of(tmp_path / "model")
