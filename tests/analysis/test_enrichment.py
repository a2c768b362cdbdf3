"""Gene sets of a prediction: answers, where they are kept, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from state_engine.analysis.differential import read_table
from state_engine.analysis.enrichment import (
    EnrichRequest,
    SetQuestion,
    answer,
    answer_for,
    answer_path,
    keep_sets,
    questions,
    sets_of_run,
)
from state_engine.cli.main import main
from state_engine.errors import RequestError, RunError
from state_engine.gene_sets.sets import GeneSet
from state_engine.prediction.result import open_result
from tests.prediction.make_result import make_result

# of the made-up result: drugA raises G0 and G1
SETS = (GeneSet("FIRST", ("G0", "G1", "G2")), GeneSet("OTHER", ("G20", "G21", "G22", "G23")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    make_result(place / "result.h5ad")
    return place


def test_the_sets_that_a_condition_changes_come_first(folder: Path) -> None:
    result, question = open_result(folder / "result.h5ad"), SetQuestion("over-representation", "drugA", "B", least_genes=3)
    table = answer(result, question, SETS)
    assert table.loc[0, "gene_set"] == "FIRST" and table.loc[0, "genes"] == "G0, G1" and table.loc[0, "direction"] == "up"
    ordered = answer(result, replace(question, method="gsea", permutations=50), SETS)
    assert ordered.loc[0, "gene_set"] == "FIRST" and ordered.loc[0, "score"] > 0
    found = answer(result, SetQuestion("mean", least_genes=3), SETS).set_index("gene_set")
    assert found.loc["FIRST", "predicted | drugA | B"] > found.loc["FIRST", "predicted control | control | B"] + 0.5


def test_answers_and_sets_are_kept_with_the_run(folder: Path) -> None:
    name = keep_sets(folder, SETS)
    assert keep_sets(folder, SETS) == name and [one.genes for one in sets_of_run(folder, name)] == [one.genes for one in SETS]
    question = SetQuestion("over-representation", "drugA", "B", name, least_genes=3)
    path = answer_for(folder, question)
    assert path == answer_path(folder, question) and read_table(path).attrs["method"].startswith("gseapy")
    before = path.stat().st_mtime_ns
    assert answer_for(folder, question).stat().st_mtime_ns == before
    assert answer_path(folder, replace(question, fold=1.0)) != path
    with pytest.raises(RunError, match="not in the run's folder"):
        sets_of_run(folder, "../secret")


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets, output = tmp_path / "sets.csv", tmp_path / "out.csv"
    sets.write_text("gene_set,gene\n=EVIL,G0\n=EVIL,G1\n=EVIL,G2\n")
    words = [
        "enrich",
        "--data",
        str(folder / "result.h5ad"),
        "--gene-sets",
        str(sets),
        "--least-genes",
        "3",
        "--output",
        str(output),
    ]
    assert main([*words, "--context", "B"]) == 0
    table = pd.read_csv(output)
    assert set(table["perturbation"]) == {"drugA", "drugB"} and set(table["context"]) == {"B"}
    assert set(table["gene_set"]) == {"'=EVIL"}  # a spreadsheet would run it
    assert main([*words, "--method", "mean"]) == 0
    assert "predicted | drugA | B" in pd.read_csv(output).columns
    capsys.readouterr()
    assert main([*words, "--context", "B", "--fold", "99"]) == 0 and pd.read_csv(output).empty
    assert "2 of 2 conditions without a row" in capsys.readouterr().out
    assert main([*words, "--perturbation", "moon"]) == 1
    assert "The result has no moon" in capsys.readouterr().err


def test_a_request_is_checked(folder: Path) -> None:
    with pytest.raises(RequestError, match="method is 'magic'"):
        EnrichRequest("x", "magic")  # type: ignore[arg-type]
    result = open_result(folder / "result.h5ad")
    assert len(questions(EnrichRequest("x"), result)) == 4 and len(questions(EnrichRequest("x", "mean"), result)) == 1
