"""Genes and measured effects from pasted text, CSV and GMT."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import RequestError
from state_engine.screening.genes_text import changes_of, genes_of, read_changes, read_genes
from state_engine.screening.request import GeneChange


@pytest.mark.parametrize(
    "text",
    ["A\nB\nC", "A, B; C", "gene\nA\nB\nC\n", '"A"\t"B"\tC', "A B C A", "gene,log2fc\nA,1\nB,2\nC,-1", "\n A \n\nB\nC"],
)
def test_lists(text: str) -> None:
    assert genes_of(text) == ("A", "B", "C")


def test_gmt(tmp_path: Path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text("ONE\thttp://x\tA\tB\tC\nTWO\tna\tD\tE\n")
    assert read_genes(path, "TWO") == ("D", "E") and read_genes(path, "ONE") == ("A", "B", "C")
    with pytest.raises(RequestError, match="2 gene sets"):
        read_genes(path)
    with pytest.raises(RequestError, match="no gene set 'TWOO'") as told:
        read_genes(path, "TWOO")
    assert "TWO" in told.value.fix
    path.write_text("ONE\thttp://x\tA\tB\tC\n")
    assert read_genes(path) == ("A", "B", "C")
    with pytest.raises(RequestError, match="no genes"):
        genes_of("\n ,;\n")


def test_measured_effects(tmp_path: Path) -> None:
    path = tmp_path / "de.csv"
    path.write_text("gene,mean_perturbed,log2_fold_change,fdr\nA,1,1.5,0.1\nB,2,-2,0.1\nC,0,0,1\nA,1,0.5,1\nD,1,,1\nE,1,inf,1\n")
    assert read_changes(path) == (GeneChange("A", 1.5), GeneChange("B", -2.0))
    assert changes_of("names\tlogfoldchanges\nX\t3\n") == (GeneChange("X", 3.0),)
    with pytest.raises(RequestError, match="no columns of genes"):
        changes_of("a,b\n1,2\n")
    with pytest.raises(RequestError, match="no gene that changes"):
        changes_of("gene,logfc\nA,0\n")
