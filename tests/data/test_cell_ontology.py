"""The table of cell types: whole, and found by id, name, synonym or the start of a word."""

from __future__ import annotations

import gzip

import pytest

from state_engine.data.cell_ontology import LICENCE, RELEASE, TABLE, ancestors, find_terms, term_named, terms


def test_the_table_is_whole_and_names_its_licence() -> None:
    known = terms()
    assert len(known) > 3000 and list(known) == sorted(known)
    assert all(p in known for one in known.values() for p in one.parents)
    tops = [i for i, one in known.items() if not one.parents]
    assert tops[0] == "CL:0000000" and len(tops) < 10  # a cell; and parts of cells
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        head = file.readline()
    assert RELEASE in head and LICENCE in head


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("B cell", "CL:0000236"),
        ("b-cells", "CL:0000236"),
        ("B", "CL:0000236"),
        ("NK", "CL:0000623"),
        ("NK cell", "CL:0000623"),
        ("T cell", "CL:0000084"),
        ("Monocytes", "CL:0000576"),
        ("classical mono", "CL:0000860"),
        ("dendritic", "CL:0000451"),
        ("megakaryocyte", "CL:0000556"),
        ("CD8 T", "CL:0000625"),
        ("astro", "CL:0000127"),
        ("cl:0000233", "CL:0000233"),
        ("platelet", "CL:0000233"),
    ],
)
def test_the_first_that_is_found(text: str, identity: str) -> None:
    found = find_terms(text)
    assert found[0].id == identity, [t.name for t in found]
    assert len(found) == len(set(found)) <= 12


def test_starts_of_words_in_any_order_find_longer_names() -> None:
    assert "CD8-positive, alpha-beta T cell" in [t.name for t in find_terms("T CD8", most=50)]
    assert find_terms("") == find_terms("++") == find_terms("there is no such cell") == ()


def test_a_name_is_a_term_only_where_it_is_one() -> None:
    assert [getattr(term_named(t), "id", None) for t in ("nk cells", "CL:0000623", "my favourite cell", "CL:9999999")] == [
        "CL:0000623", "CL:0000623", None, None,
    ]  # fmt: skip


def test_ancestors_go_up_to_the_cell() -> None:
    names = [t.name for t in ancestors("CL:0000236")]
    assert "lymphocyte" in names and names[-1] in ("cell", "eukaryotic cell") and len(names) == len(set(names))
    assert list(ancestors("CL:9999999")) == []
