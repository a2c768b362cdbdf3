"""Genes and gene sets from pasted text, CSV and GMT, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from state_engine.errors import GeneError, RequestError
from state_engine.gene_sets import sets as sets_module
from state_engine.gene_sets import text as text_module
from state_engine.gene_sets.collection import built_in
from state_engine.gene_sets.sets import MOST_SETS, GeneSet, among, match_names
from state_engine.gene_sets.text import csv_text, genes_of, gmt_text, read_genes, read_sets, sets_of


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


def test_sets_of_each_kind_of_text() -> None:
    assert sets_of("ONE\thttp://x\tA\tB\tA\nTWO\tna\tC\n", "x.gmt") == (
        GeneSet("ONE", ("A", "B"), "http://x"), GeneSet("TWO", ("C",), "na"),
    )  # fmt: skip
    assert sets_of("gene_set,gene\nONE,A\nTWO,C\nONE,B\n", "x.csv") == (GeneSet("ONE", ("A", "B")), GeneSet("TWO", ("C",)))
    assert sets_of("Term;Symbol\nONE;A\n", "x.csv") == (GeneSet("ONE", ("A",)),)
    assert sets_of("A\nB", "mine.txt") == (GeneSet("mine", ("A", "B")),)
    assert sets_of("A, B") == (GeneSet("The list", ("A", "B")),)
    assert sets_of("gene,log2fc\nA,1\nB,2\n", "de.csv") == (GeneSet("de", ("A", "B")),)


def test_a_collection_that_is_too_large_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of many millions of sets took two minutes before it was refused."""
    seen = []
    real = text_module._once
    monkeypatch.setattr(text_module, "_once", lambda words: seen.append(1) or real(words))
    with pytest.raises(RequestError, match=r"x\.gmt has too many gene sets\. Up to 50,000 sets"):
        sets_of("S\tx\tA\n" * (2 * MOST_SETS), "x.gmt")
    assert len(seen) == MOST_SETS + 1
    monkeypatch.setattr(sets_module, "MOST_MEMBERS", 10)
    with pytest.raises(RequestError, match="too many gene sets"):
        sets_of("ONE\tx\t" + "\t".join(f"G{i}" for i in range(11)) + "\n", "x.gmt")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A\tx\t\n", "no gene sets"),
        ("ONE\tx\tA\nONE\tx\tB\n", "two gene sets called 'ONE'"),
        ("".join(f"S{i}\tx\tA\n" for i in range(MOST_SETS + 1)), "too many gene sets"),
        (b"\x00\x01", "not text"),
    ],
)
def test_what_is_no_collection_is_refused(text: str | bytes, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        sets_of(text, "x.gmt")


def test_names_of_strangers_do_no_harm() -> None:
    bad = (GeneSet("=cmd|' /C calc'!A0", ("A\tB", "+1+1", "C\u202e"), "@x"),)
    line = gmt_text(bad)
    assert line.count("\n") == 1 and line.count("\t") == 4 and "\u202e" not in line
    assert "'=cmd" in csv_text(bad) and "'+1+1" in csv_text(bad) and "'@x" in csv_text(bad)
    assert "\u202e" not in sets_of("S\u202e\tx\tA\n", "x.gmt")[0].name


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.gmt"
    path.write_text(gmt_text(built_in()), encoding="utf-8")
    assert read_sets(path) == built_in()
    assert sets_of(csv_text(built_in()), "x.csv") == built_in()


def test_the_collection_names_its_sources() -> None:
    assert len(built_in()) > 20 and all(one.source and len(one.genes) >= 5 for one in built_in())
    assert {"ISG15", "IFIT1"} <= {g for one in built_in() if "INTERFERON" in one.name for g in one.genes}


def test_genes_are_matched_as_the_data_write_them() -> None:
    assert match_names(["isg15", "MX1", "NO"], ["Isg15", "MX1"]) == (("Isg15", "MX1"), ("NO",))
    sets = (GeneSet("a", ("isg15", "mx1", "no")), GeneSet("b", ("no",)))
    assert among(sets, ["Isg15", "MX1"], 2) == (GeneSet("a", ("Isg15", "MX1")),)
    with pytest.raises(GeneError, match="No gene set has 3 or more genes here") as told:
        among(sets, ["Isg15", "MX1"], 3)
    assert "'a', has 2 of its 3 genes" in told.value.why
