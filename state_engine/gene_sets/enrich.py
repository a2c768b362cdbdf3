"""Tests and scores of gene sets, by gseapy: over-representation, ranked enrichment, and scores of groups of cells.

Source: gseapy (BSD-3): `enrich` (hypergeometric test), `prerank` (gene set enrichment analysis of a ranked list) and `ssgsea`. Nothing is
fetched. Numbers are the library's own, but for the FDR of over-representation: the library leaves out sets without a hit before it adjusts,
here they count as tested, with p 1.

Notation: g genes that were tested (the universe), s sets, k groups of cells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from state_engine.errors import GeneError
from state_engine.gene_sets.sets import GeneSet, among
from state_engine.plain import first_places

Scoring = Literal["mean", "ssgsea"]

LIBRARY: Final = "gseapy"
LEAST: Final = 5  # genes of a set that must be there
PERMUTATIONS: Final = 1000
COLUMNS: Final = ("gene_set", "direction", "score", "p_value", "fdr", "n_genes", "n_found", "genes", "source")
_NO_LIMIT: Final = 10**9  # genes of a set: `among` has left out what is too small


def over_representation(
    genes: Sequence[str], calls: NDArray[np.int8], sets: Sequence[GeneSet], least: int = LEAST
) -> pd.DataFrame:
    """Return whether sets hold more of the genes that go up, and of those that go down, than chance would put there.

    Columns: those of `COLUMNS`. score is the odds ratio, p_value that of the hypergeometric test (more than by chance), fdr Benjamini-Hochberg
    over all sets of a direction, n_found the genes of the set that go that way, genes their names.

    Args:
        genes: (g,) every gene that was tested: the universe.
        calls: (g,) 1, -1 or 0.
        sets: sets with fewer than `least` of the genes are left out.

    Raises:
        GeneError: no set is left.
    """
    from scipy.stats import false_discovery_control

    kept = among(sets, genes, least)
    names, universe = np.asarray(genes, dtype=object), list(dict.fromkeys(genes))
    tables = []
    for direction, sign in (("up", 1), ("down", -1)):
        called = set(names[np.asarray(calls) == sign].tolist())
        hits = {one.name: [g for g in one.genes if g in called] for one in kept}
        if not any(hits.values()):
            continue
        table = _table(kept, hits).assign(direction=direction)
        found = _enrich(sorted(called), _members(kept), universe)
        table["p_value"] = found["P-value"].reindex(table["gene_set"]).fillna(1.0).to_numpy(float)
        table["score"] = found["Odds Ratio"].reindex(table["gene_set"]).fillna(0.0).to_numpy(float)
        table["fdr"] = false_discovery_control(table["p_value"])
        tables.append(table)
    return _ordered(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame(columns=list(COLUMNS))


def ranked(
    genes: Sequence[str], values: NDArray[np.floating], sets: Sequence[GeneSet], least: int = LEAST,
    permutations: int = PERMUTATIONS, seed: int = 42,
) -> pd.DataFrame:  # fmt: skip
    """Return whether the genes of sets stand at one end of all genes, ordered by a value such as the log2 fold change.

    Columns: those of `COLUMNS`. score is the normalised enrichment score, p_value its share of permutations of the genes (0: none did as well),
    fdr its q value over all sets, genes the leading edge, n_found how many these are.

    Args:
        genes, values: (g,) names and values; a name that repeats counts once, at its first place.
        permutations, seed: of the null.

    Raises:
        GeneError: no set is left, or values are not finite.
    """
    import gseapy

    row = _unique(genes, np.asarray(values, float)[:, None], ["value"])["value"]
    kept = _within(among(sets, list(row.index), least), len(row))
    with _quiet():
        done = gseapy.prerank(
            row,
            _members(kept),
            outdir=None,
            no_plot=True,
            min_size=1,
            max_size=_NO_LIMIT,
            permutation_num=permutations,
            seed=seed,
            threads=1,
        )
    found = done.res2d.set_index("Term")
    edge = {str(term): [g for g in str(text).split(";") if g] for term, text in found["Lead_genes"].items()}
    table = _table([one for one in kept if one.name in edge], edge)
    at = table["gene_set"].tolist()
    table["score"] = found.loc[at, "NES"].to_numpy(float)
    table["p_value"] = found.loc[at, "NOM p-val"].to_numpy(float)
    table["fdr"] = found.loc[at, "FDR q-val"].to_numpy(float)
    table["direction"] = np.where(table["score"] < 0, "down", "up")
    return _ordered(table)


def scores(profiles: pd.DataFrame, sets: Sequence[GeneSet], method: Scoring = "mean", least: int = LEAST) -> pd.DataFrame:
    """Return a score of each set in each group of cells, (s, k).

    Args:
        profiles: (g, k) mean log1p expression of each group.
        method: "mean", of the genes of the set; "ssgsea", the enrichment score of the set in the group's own order of genes, divided by the range of
            all scores.

    Raises:
        GeneError: no set is left, or values are not finite.
    """
    table = _unique(list(map(str, profiles.index)), profiles.to_numpy(float), list(map(str, profiles.columns)))
    kept = among(sets, list(table.index), least)
    if method == "mean":
        return pd.DataFrame({one.name: table.loc[list(one.genes)].mean() for one in kept}).T
    import gseapy

    kept = _within(kept, len(table))
    with _quiet():
        done = gseapy.ssgsea(
            table, _members(kept), outdir=None, no_plot=True, min_size=1, max_size=_NO_LIMIT, sample_norm_method="rank", threads=1
        )
    found = done.res2d.pivot(index="Term", columns="Name", values="NES").astype(float)
    return found.loc[[one.name for one in kept], list(table.columns)].rename_axis(index=None, columns=None)


def _within(sets: Sequence[GeneSet], n_genes: int) -> tuple[GeneSet, ...]:
    """Leave out sets that hold every gene: such a set stands at no end of them.

    Raises:
        GeneError: no set is left.
    """
    kept = tuple(one for one in sets if len(one.genes) < n_genes)
    if not kept:
        raise GeneError(
            "No gene set can stand at one end of the genes.",
            f"Each holds all {n_genes:,} genes that are here, '{sets[0].name}' for one.",
            "Give sets of some of the genes, or ask for the mean.",
        )
    return kept


def _enrich(called: list[str], members: dict[str, list[str]], universe: list[str]) -> pd.DataFrame:
    import gseapy

    with _quiet():
        done = gseapy.enrich(called, members, background=universe, outdir=None, no_plot=True)
    return pd.DataFrame(done.results).set_index("Term")


@contextmanager
def _quiet() -> Iterator[None]:
    """The library warns of ties through a logger of its own, once for each call; a table of genes always has some."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _members(sets: Sequence[GeneSet]) -> dict[str, list[str]]:
    return {one.name: list(one.genes) for one in sets}


def _unique(genes: Sequence[str], values: NDArray[np.float64], columns: list[str]) -> pd.DataFrame:
    """Values with each gene once, a row a gene."""
    places = first_places(genes)
    if not np.isfinite(values).all():
        raise GeneError("The genes cannot be ordered: values are missing or infinite.", "", "Choose cells that have them.")
    return pd.DataFrame(values[list(places.values())], index=list(places), columns=columns)


def _table(sets: Sequence[GeneSet], behind: dict[str, list[str]]) -> pd.DataFrame:
    """What is known of sets beside the test, and the genes behind their scores."""
    rows = [(one.name, len(one.genes), len(behind[one.name]), ", ".join(behind[one.name]), one.source) for one in sets]
    return pd.DataFrame(rows, columns=["gene_set", "n_genes", "n_found", "genes", "source"])


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """The most certain first, then the largest."""
    keys = (
        table["gene_set"].to_numpy(str),
        -table["score"].abs().to_numpy(float),
        table["p_value"].to_numpy(float),
        table["fdr"].to_numpy(float),
    )
    return table.iloc[np.lexsort(keys)][list(COLUMNS)].reset_index(drop=True)
