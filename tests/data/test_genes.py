"""Gene names: their kind, the column that is taken, and matching with what a model wants."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.data.dataset import Choices, open_dataset
from state_engine.data.expression import match_genes
from state_engine.data.genes import gene_names, kind_of, match_names
from state_engine.errors import GeneError
from tests.data.good_files import SYMBOLS, cells, write

ENSEMBL = tuple(f"ENSG{i:011d}" for i in range(12))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (SYMBOLS, "symbol"),
        (("HLA-DRB1", "RP11-206L10.2", "mt-Nd1", "MIR34AHG"), "symbol"),
        (ENSEMBL, "ensembl"),
        (("ENSMUSG00000000001", "ENSMUSG00000000028"), "ensembl"),
        (tuple(f"{e}.{i}" for i, e in enumerate(ENSEMBL)), "ensembl_versioned"),
        (("0", "1", "2"), "other"),
        (("7157", "1956"), "other"),
        ((), "other"),
        ((*ENSEMBL, "TP53"), "ensembl"),
    ],
)
def test_kinds(names: tuple[str, ...], kind: str) -> None:
    assert kind_of(names) == kind


def test_symbols_are_preferred_and_the_users_word_decides() -> None:
    columns = {"": ENSEMBL, "gene_name": SYMBOLS}
    assert gene_names(columns).column == "gene_name"
    assert gene_names({"": SYMBOLS, "gene_name": SYMBOLS}).column == ""
    assert gene_names(columns, "").names == ENSEMBL
    with pytest.raises(GeneError, match=r"There are: \(the index\), gene_name"):
        gene_names(columns, "symbol")


def test_matching_is_by_the_best_column() -> None:
    genes = gene_names({"": SYMBOLS, "gene_id": ENSEMBL})
    match = match_names(genes, (ENSEMBL[3], "ENSG99999999999", ENSEMBL[0]))
    assert match.columns.tolist() == [3, -1, 0]
    assert (match.n_matched, match.column, match.missing) == (2, "gene_id", ("ENSG99999999999",))
    assert match.how == "2 of 3 genes found by Ensembl identifiers in the var column 'gene_id'."


def test_versions_are_left_out_on_either_side() -> None:
    versioned = tuple(f"{e}.7" for e in ENSEMBL)
    match = match_names(gene_names({"": versioned}), (ENSEMBL[2], f"{ENSEMBL[1]}.3"))
    assert match.columns.tolist() == [2, 1]
    assert "2 of them once Ensembl versions are left out" in match.how
    assert match_names(gene_names({"": ENSEMBL}), (f"{ENSEMBL[5]}.1",)).columns.tolist() == [5]


def test_dots_in_symbols_are_no_versions() -> None:
    match = match_names(gene_names({"": ("RP11-206L10.2", "RP11-206L10.9")}), ("RP11-206L10.9", "RP11-206L10.4"))
    assert match.columns.tolist() == [1, -1]


def test_case_is_ignored_only_where_needed_and_told() -> None:
    genes = gene_names({"": ("Stat1", "TNF", "tnf", "Il6")})
    match = match_names(genes, ("TNF", "STAT1", "tnf", "Tnf"))
    assert match.columns.tolist() == [1, 0, 2, -1]
    assert "1 of them only when case is ignored" in match.how


def test_repeated_names_are_taken_at_their_first_place_and_told() -> None:
    match = match_names(gene_names({"": ("A1", "B1", "A1")}), ("A1", "B1"))
    assert match.columns.tolist() == [0, 1]
    assert "1 stand there more than once and are taken at their first place (A1)" in match.how


def test_columns_of_a_file(tmp_path: Path) -> None:
    made = cells()
    made.var_names = list(ENSEMBL)
    made.var["Gene_Name"] = [*SYMBOLS[:11], ""]
    made.var["mean"] = 1.0
    path = write(made, tmp_path / "x.h5ad")
    data = open_dataset(path)
    assert (data.genes.column, data.genes.kind) == ("Gene_Name", "symbol")
    assert data.genes.names[-1] == ENSEMBL[-1]  # an unnamed gene keeps its identifier
    assert [c.column for c in data.genes.alternatives] == ["", "Gene_Name"]
    assert match_genes(data, ("LYZ", ENSEMBL[1])).n_matched == 1
    assert open_dataset(path, Choices(gene_column="")).genes.kind == "ensembl"


def test_repeats_in_a_file_are_noted(tmp_path: Path) -> None:
    made = cells()
    made.var_names = ["STAT1", *SYMBOLS[:11]]
    with pytest.warns(UserWarning, match="not unique"):
        made.copy()
    data = open_dataset(write(made, tmp_path / "x.h5ad"))
    assert data.genes.chosen.repeated == 1
    assert any("1 gene name repeats an earlier one" in n for n in data.notes)
