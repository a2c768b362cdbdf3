"""The command `screen` reads files of genes, writes the ranking, and goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from state_engine.cli.main import main
from state_engine.screening.report import read_ranking
from tests.small import GENES, write_cells, write_model


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    write_cells(tmp_path / "cells.h5ad", 200)
    write_model(tmp_path / "model")
    (tmp_path / "up.txt").write_text("\n".join(GENES[:4]))
    (tmp_path / "sets.gmt").write_text(
        f"A\tx\t{GENES[5]}\t{GENES[6]}\t{GENES[7]}\nB\tx\t{GENES[8]}\t{GENES[9]}\n".replace(" ", "")
    )
    return ["screen", "--data", f"{tmp_path}/cells.h5ad", "--model", f"{tmp_path}/model", "--cells", "16", "--sample", "8",
            "--splits", "200", "--device", "cpu", "--output", f"{tmp_path}/out"]  # fmt: skip


def test_files_of_genes(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    genes = ["--up", f"{tmp_path}/up.txt", "--down", f"{tmp_path}/sets.gmt", "--down-set", "B", "--context", "NK", "--json"]
    assert main([*words, *genes]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["goal_words"], report["matched"], report["contexts"]) == ("4 genes up and 2 down", 6, ["NK"])
    assert len(read_ranking(tmp_path / "out" / "ranking.csv")) == 3
    (tmp_path / "de.csv").write_text("gene,log2_fold_change\n" + "".join(f"{g},{i - 2}\n" for i, g in enumerate(GENES[:9])))
    more = ["--explain", f"{tmp_path}/de.csv", "--context", "NK", "--earlier", f"{tmp_path}/out"]
    assert main([*words[:-1], f"{tmp_path}/again", *more]) == 0
    said = capsys.readouterr().out
    assert "seen: not known" in said and "8 genes" in said


def test_what_is_wrong_is_a_sentence(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--up", f"{tmp_path}/sets.gmt"]) == 1
    assert "2 gene sets" in capsys.readouterr().err
    assert main([*words, "--executor", "spark"]) == 1
    assert "no executor 'spark'" in capsys.readouterr().err
    assert main([*words, "--up-gene", "NOPE"]) == 1
    assert "0 of the 1 gene of the goal" in capsys.readouterr().err
    assert main([*words, "--up", f"{tmp_path}/cells.h5ad"]) == 1
    assert "not text" in capsys.readouterr().err
