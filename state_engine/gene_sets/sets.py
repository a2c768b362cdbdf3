"""A gene set, and which of its genes a data set has.

Boundary: names. What is done with a set is for `gene_sets.enrich`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from state_engine.errors import GeneError, RequestError, listed

MOST_SETS: Final = 50_000
MOST_MEMBERS: Final = 2_000_000  # genes of all sets together; all of MSigDB has about that many
MOST_NAME: Final = 300  # characters of a name


@dataclass(frozen=True)
class GeneSet:
    """Genes with a name.

    Args:
        name: of the set.
        genes: each once, as they were given.
        source: where the set is from: a citation, an address, or "".
    """

    name: str
    genes: tuple[str, ...]
    source: str = ""


def check_number(sets: int, members: int, file: str) -> None:
    """Make sure that there are no more sets, with no more genes in all, than may be read; readers ask after each set.

    Raises:
        RequestError: there are.
    """
    if sets > MOST_SETS or members > MOST_MEMBERS:
        raise RequestError(
            f"{file} has too many gene sets.",
            f"Up to {MOST_SETS:,} sets with {MOST_MEMBERS:,} genes are read, and it has more.",
            "Give a part of it.",
        )


def check_sets(sets: Sequence[GeneSet], file: str) -> tuple[GeneSet, ...]:
    """Return sets that may be worked with.

    Raises:
        RequestError: none, too many, or two of one name.
    """
    if not sets:
        raise RequestError(f"{file} has no gene sets.", "No line has a name and a gene.", "Give a GMT, a CSV or a list of genes.")
    check_number(len(sets), sum(len(one.genes) for one in sets), file)
    seen: set[str] = set()
    for one in sets:
        if one.name in seen:
            raise RequestError(f"{file} has two gene sets called '{one.name}'.", "", "Give each a name of its own.")
        seen.add(one.name)
    return tuple(sets)


def match_names(names: Iterable[str], genes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (names as the genes are written, names that are not there). Upper and lower case are the same where the exact name is not there."""
    as_written, found, missing = _speller(genes), list[str](), list[str]()
    for name in names:
        gene = as_written(name)
        (found if gene else missing).append(gene or name)
    return tuple(dict.fromkeys(found)), tuple(missing)


def _speller(genes: Sequence[str]) -> Callable[[str], str]:
    """Return what gives a name as the genes are written, "" where it is not there; case counts where the exact name is there."""
    known, by_upper = set(genes), dict[str, str]()
    for gene in genes:
        by_upper.setdefault(gene.upper(), gene)
    return lambda name: name if name in known else by_upper.get(name.upper(), "")


def among(sets: Sequence[GeneSet], genes: Sequence[str], least: int) -> tuple[GeneSet, ...]:
    """Return the sets with the genes that a data set has, as it writes them; those with fewer than `least` are left out.

    Raises:
        GeneError: no set is left.
    """
    as_written, kept, most, there = _speller(genes), list[GeneSet](), sets[0], 0
    for one in sets:
        found = dict.fromkeys(map(as_written, one.genes))
        found.pop("", None)
        if len(found) > there:
            most, there = one, len(found)
        if len(found) >= least:
            kept.append(GeneSet(one.name, tuple(found), one.source))
    if not kept:
        raise GeneError(
            f"No gene set has {least:,} or more genes here.",
            f"The largest, '{most.name}', has {there:,} of its {len(most.genes):,} genes among {len(genes):,}, such as {listed(list(genes[:3]))}.",
            "Give sets with the same kind of names, or ask for fewer genes of a set.",
        )
    return tuple(kept)
