"""Measured effects from text."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import RequestError
from state_engine.screening.genes_text import changes_of, read_changes
from state_engine.screening.request import GeneChange


def test_measured_effects(tmp_path: Path) -> None:
    path = tmp_path / "de.csv"
    path.write_text("gene,mean_perturbed,log2_fold_change,fdr\nA,1,1.5,0.1\nB,2,-2,0.1\nC,0,0,1\nA,1,0.5,1\nD,1,,1\nE,1,inf,1\n")
    assert read_changes(path) == (GeneChange("A", 1.5), GeneChange("B", -2.0))
    assert changes_of("names\tlogfoldchanges\nX\t3\n") == (GeneChange("X", 3.0),)
    with pytest.raises(RequestError, match="no columns of genes"):
        changes_of("a,b\n1,2\n")
    with pytest.raises(RequestError, match="no gene that changes"):
        changes_of("gene,logfc\nA,0\n")
