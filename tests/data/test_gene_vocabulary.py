"""Genes of a data set to a model's vocabulary: symbols, Ensembl, versions, the user's word, and too little overlap."""

from __future__ import annotations

import pytest

from state_engine.data.ensembl import identifiers_of, symbols_of
from state_engine.data.gene_vocabulary import GeneMap, map_genes
from state_engine.data.genes import gene_names
from state_engine.errors import GeneError

SYMBOLS = ("TP53", "BRCA1", "ACTB", "CD4", "CD8A", "IL2", "FOXP3", "MS4A1", "NKG7", "LYZ")
ENSEMBL = identifiers_of(SYMBOLS)


def test_known_identifiers() -> None:
    assert ENSEMBL[:3] == ("ENSG00000141510", "ENSG00000012048", "ENSG00000075624")
    assert symbols_of(["ENSG00000141510.18", "ensg00000012048", "ENSMUSG00000059552", "TP53"]) == ("TP53", "BRCA1", "", "")
    assert identifiers_of(["no such gene"]) == ("",)


@pytest.mark.parametrize(
    "columns",
    [
        {"": SYMBOLS},
        {"": ENSEMBL},
        {"": tuple(f"{name}.{i}" for i, name in enumerate(ENSEMBL))},
        {"": tuple("abcdefghij"), "gene_ids": ENSEMBL},
        {"": ENSEMBL, "gene_name": SYMBOLS},
    ],
)
def test_symbols_are_found_under_any_name(columns: dict[str, tuple[str, ...]]) -> None:
    found = map_genes(gene_names(columns), SYMBOLS[::-1])
    assert found.columns.tolist() == list(range(9, -1, -1)) and found.rows.tolist() == list(range(10))
    assert found.overlap == 1 and not found.warning and found.require() is found


def test_a_vocabulary_of_ensembl_identifiers() -> None:
    found = map_genes(gene_names({"": SYMBOLS}), ENSEMBL[:4])
    assert found.columns.tolist() == [0, 1, 2, 3]
    assert "looked up in GENCODE 48" in found.how


def test_what_was_done_is_said() -> None:
    found = map_genes(gene_names({"": ENSEMBL}), (*SYMBOLS[:8], "NOSUCHGENE", "OTHER"))
    assert (
        found.how
        == "Ensembl identifiers in the var index looked up in GENCODE 48: 8 of 10 genes found by symbols in the var index."
    )
    assert found.numbers == "8 of 10 genes of the file are among the 10 of the model (80.0 % of those that could match)"


def test_the_users_column_is_the_only_one_tried() -> None:
    genes = gene_names({"": SYMBOLS, "other": tuple("abcdefghij")}, "other")
    found = map_genes(genes, SYMBOLS, "other")
    assert len(found.rows) == 0
    with pytest.raises(GeneError, match=r"0 of 10 genes .* A name in the file is 'a'"):
        found.require()


@pytest.mark.parametrize(("matching", "fails", "warns"), [(1, True, True), (2, False, True), (5, False, True), (6, False, False)])
def test_little_overlap(matching: int, fails: bool, warns: bool) -> None:
    found = map_genes(gene_names({"": SYMBOLS}), (*SYMBOLS[:matching], *(f"X{i}" for i in range(90))))
    assert found.overlap == matching / 10  # of the smaller side: a panel of ten genes may lie wholly in a large vocabulary
    assert bool(found.warning) is warns
    if fails:
        with pytest.raises(GeneError, match=r"1 of 10 genes of the file are among the 91 of the model \(10.0 %"):
            found.require()
    else:
        found.require()


def test_another_species_is_not_taken_in_silence() -> None:
    mouse = tuple(name.capitalize() for name in SYMBOLS)
    found = map_genes(gene_names({"": mouse}), SYMBOLS)
    assert found.by_case == 10 and "another species" in found.warning


def test_places_among_the_kept_genes_of_the_file() -> None:
    found = map_genes(gene_names({"": ("x", "CD4", "TP53", "y", "ACTB")}), SYMBOLS)
    assert isinstance(found, GeneMap)
    assert found.columns.tolist() == [2, 4, 1] and found.rows.tolist() == [0, 2, 3]
