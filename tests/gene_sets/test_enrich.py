"""Tests and scores of gene sets: the library's own numbers on a worked example, and what stands around them."""

from __future__ import annotations

from math import comb

import gseapy
import numpy as np
import pandas as pd
import pytest

from state_engine.errors import GeneError
from state_engine.gene_sets.enrich import COLUMNS, over_representation, ranked, scores
from state_engine.gene_sets.sets import GeneSet

GENES = [f"G{i}" for i in range(200)]
SETS = (
    GeneSet("HIGH", tuple(GENES[:10]), "x"), GeneSet("LOW", tuple(GENES[-12:]), "y"), GeneSet("ANY", tuple(GENES[5:200:13])),
    GeneSet("NONE", tuple(GENES[60:70])), GeneSet("FEW", tuple(GENES[:2])),
)  # fmt: skip
MEMBERS = {one.name: list(one.genes) for one in SETS if one.name != "FEW"}


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=200) + np.linspace(2, -2, 200)


def test_over_representation_is_the_librarys(values: np.ndarray) -> None:
    calls = np.where(values > 1.5, 1, np.where(values < -1.5, -1, 0)).astype(np.int8)
    mine = over_representation(GENES, calls, SETS)
    assert tuple(mine.columns) == COLUMNS and "FEW" not in set(mine["gene_set"])
    for direction, sign in (("up", 1), ("down", -1)):
        called = [g for g, c in zip(GENES, calls, strict=True) if c == sign]
        theirs = gseapy.enrich(called, MEMBERS, background=GENES, outdir=None, no_plot=True).results.set_index("Term")
        part = mine[mine["direction"] == direction].set_index("gene_set")
        np.testing.assert_array_equal(part.loc[theirs.index, "p_value"], theirs["P-value"])
        np.testing.assert_array_equal(part.loc[theirs.index, "score"], theirs["Odds Ratio"])
        assert len(part) == 4 and (part.loc[part.index.difference(theirs.index), "p_value"] == 1).all()


def test_over_representation_by_hand() -> None:
    # 20 genes, a set of 5, 4 genes called of which 3 are in the set
    genes = GENES[:20]
    calls = np.zeros(20, np.int8)
    calls[[0, 1, 2, 10]] = 1
    row = over_representation(genes, calls, (GeneSet("A", tuple(genes[:5])), GeneSet("B", tuple(genes[12:18])))).iloc[0]
    expected = (comb(5, 3) * comb(15, 1) + comb(5, 4)) / comb(20, 4)
    assert (row["gene_set"], row["direction"], row["n_found"], row["genes"]) == ("A", "up", 3, "G0, G1, G2")
    assert row["p_value"] == pytest.approx(expected) and row["fdr"] == pytest.approx(2 * expected)  # two sets were tested
    assert over_representation(genes, np.zeros(20, np.int8), (GeneSet("A", tuple(genes[:5])),)).empty


def test_ranked_enrichment_is_the_librarys(values: np.ndarray) -> None:
    mine = ranked(GENES, values, SETS, permutations=100, seed=3).set_index("gene_set")
    theirs = gseapy.prerank(
        pd.Series(values, index=GENES), MEMBERS, outdir=None, no_plot=True, min_size=1, max_size=500, permutation_num=100, seed=3, threads=1
    ).res2d.set_index("Term")  # fmt: skip
    np.testing.assert_array_equal(mine.loc[theirs.index, "score"], theirs["NES"].astype(float))
    np.testing.assert_array_equal(mine.loc[theirs.index, "fdr"], theirs["FDR q-val"].astype(float))
    assert mine.loc["HIGH", "direction"] == "up" and mine.loc["LOW", "direction"] == "down"
    assert mine.loc["LOW", "genes"].startswith("G") and mine.loc["LOW", "n_found"] <= 12
    again = ranked(GENES, values, SETS, permutations=100, seed=3).set_index("gene_set")
    pd.testing.assert_frame_equal(again, mine)


def test_scores_of_groups_are_the_librarys(values: np.ndarray) -> None:
    profiles = pd.DataFrame({"a": np.maximum(values, 0), "b": np.maximum(-values, 0)}, index=GENES)
    means = scores(profiles, SETS, "mean")
    assert list(means.columns) == ["a", "b"] and list(means.index) == list(MEMBERS)
    assert means.loc["HIGH", "a"] == pytest.approx(profiles["a"][:10].mean())
    single = scores(profiles, SETS, "ssgsea")
    theirs = gseapy.ssgsea(profiles, MEMBERS, outdir=None, no_plot=True, min_size=1, max_size=500, threads=1).res2d
    for row in theirs.itertuples():
        assert single.loc[row.Term, row.Name] == row.NES
    assert single.loc["HIGH", "a"] > single.loc["HIGH", "b"] and single.loc["LOW", "a"] < single.loc["LOW", "b"]


def test_a_set_of_all_genes_stands_at_no_end_of_them(values: np.ndarray) -> None:
    whole = GeneSet("ALL", tuple(GENES))
    profiles = pd.DataFrame({"a": values, "b": values[::-1]}, index=GENES)
    assert set(ranked(GENES, values, (*SETS, whole), permutations=20)["gene_set"]) == set(MEMBERS)
    assert set(scores(profiles, (*SETS, whole), "ssgsea").index) == set(MEMBERS)
    for ask in (lambda: ranked(GENES, values, [whole]), lambda: scores(profiles, [whole], "ssgsea")):
        with pytest.raises(GeneError, match="No gene set can stand at one end"):
            ask()


def test_what_cannot_be_ordered_is_refused(values: np.ndarray) -> None:
    with pytest.raises(GeneError, match="missing or infinite"):
        ranked(GENES, np.where(np.arange(200) == 3, np.nan, values), SETS)
