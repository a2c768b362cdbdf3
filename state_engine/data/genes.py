"""The names of a data set's genes: which column, which kind of identifier, and where the genes that a model wants are.

Source: Ensembl's identifier format; column names in use (`keys.GENE_COLUMN_ALIASES`). Boundary: strings only, no values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from state_engine import keys
from state_engine.errors import GeneError, listed
from state_engine.plain import plural

Kind = Literal["symbol", "ensembl", "ensembl_versioned", "other"]
INDEX = ""  # the name of the var index among the columns
_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(_PAR_Y)?$", re.IGNORECASE)
_VERSIONED = re.compile(r"ENS[A-Z]{0,6}G\d{11}\.\d+(_PAR_Y)?$", re.IGNORECASE)
_SYMBOL = re.compile(r"[A-Za-z][A-Za-z0-9._\-/@:()]*$")
_WORDS: dict[Kind, str] = {
    "symbol": "symbols",
    "ensembl": "Ensembl identifiers",
    "ensembl_versioned": "Ensembl identifiers with versions",
    "other": "identifiers of an unknown kind",
}


@dataclass(frozen=True)
class GeneColumn:
    """One column of names. `column` is "" for the var index; `repeated` counts names beyond the first of each."""

    column: str
    kind: Kind
    names: tuple[str, ...]

    @property
    def repeated(self) -> int:
        return len(self.names) - len(set(self.names))

    @property
    def example(self) -> str:
        return self.names[0] if self.names else ""

    @property
    def words(self) -> str:
        """For people: "symbols in the var index"."""
        return f"{_WORDS[self.kind]} in {f'the var column {self.column!r}' if self.column else 'the var index'}"

    @property
    def notes(self) -> list[str]:
        """What a person may want to know before trusting a result."""
        notes = []
        if self.repeated:
            notes.append(
                f"{plural(self.repeated, 'gene name repeats', 'gene names repeat')} an earlier one; the first of each is used."
            )
        if self.kind == "other":
            notes.append(f"The gene names (such as '{self.example}') are neither symbols nor Ensembl identifiers.")
        return notes


@dataclass(frozen=True)
class GeneNames:
    """The genes of a data set.

    Args:
        names: (g,) in file order, from the column that was chosen.
        kind: of those names.
        column: the column; "" is the var index.
        alternatives: every column of names there is, the chosen one included.
    """

    names: tuple[str, ...]
    kind: Kind
    column: str
    alternatives: tuple[GeneColumn, ...]

    @property
    def chosen(self) -> GeneColumn:
        return next(c for c in self.alternatives if c.column == self.column)


@dataclass(frozen=True, eq=False)
class GeneMatch:
    """Where wanted genes are in a data set.

    Args:
        columns: (w,) the gene's position in the file, -1 when it is not there.
        n_matched: how many were found.
        how: a sentence on what was compared, with everything out of the ordinary.
        column: the column of names that was used; "" is the var index.
        missing: the wanted genes that were not found.
        by_case: how many were found only when case is ignored: Gapdh of a mouse is not GAPDH.
    """

    columns: np.ndarray
    n_matched: int
    how: str
    column: str
    missing: tuple[str, ...]
    by_case: int = 0

    @property
    def other_species(self) -> bool:
        """Most matches ignore case: the names may be those of another species."""
        return self.by_case > self.n_matched / 2


def kind_of(names: tuple[str, ...]) -> Kind:
    """The kind of identifier that at least four fifths of (up to 2,000, evenly spread) names are."""
    sample = names[:: max(1, len(names) // 2000)]
    if not sample:
        return "other"
    tests: tuple[tuple[Kind, re.Pattern[str]], ...] = (
        ("ensembl", _ENSEMBL),
        ("ensembl_versioned", _VERSIONED),
        ("symbol", _SYMBOL),
    )
    for kind, pattern in tests:
        if sum(bool(pattern.match(n)) for n in sample) >= 0.8 * len(sample):
            return kind
    return "other"


def gene_names(columns: dict[str, tuple[str, ...]], wanted: str | None = None) -> GeneNames:
    """Choose the column of gene names: the user's word, else symbols (index first), else the index.

    Args:
        columns: column -> (g,) names; "" is the index and must be there.
        wanted: the user's word; "" is the index.

    Raises:
        GeneError: the wanted column is not there.
    """
    alternatives = tuple(GeneColumn(c, kind_of(names), names) for c, names in columns.items())
    if wanted is None:
        symbols = [c for c in alternatives if c.kind == "symbol"]
        chosen = symbols[0] if symbols else alternatives[0]
    else:
        found = [c for c in alternatives if c.column == wanted]
        if not found:
            known = [c.column or "(the index)" for c in alternatives]
            raise GeneError(
                f"There is no column '{wanted}' of gene names.", f"There are: {listed(known, 10)}.", "Choose one of them."
            )
        chosen = found[0]
    return GeneNames(chosen.names, chosen.kind, chosen.column, alternatives)


def match_names(genes: GeneNames, wanted: tuple[str, ...]) -> GeneMatch:
    """Find the wanted genes by the column of names that matches most of them (the chosen column on a tie).

    Names are compared as they are; where that fails, Ensembl versions are left out, then case is ignored, and `how` says so. A
    name that the file has several times is taken at its first place.
    """
    order = sorted(genes.alternatives, key=lambda c: c.column != genes.column)
    matches = [_match(c, wanted) for c in order]
    return max(matches, key=lambda m: m.n_matched)


def _match(column: GeneColumn, wanted: tuple[str, ...]) -> GeneMatch:
    exact = _first_places(column.names, str)
    columns = np.array([exact.get(w, -1) for w in wanted], dtype=np.int64)
    remarks, by_case = [], 0
    for simplify, remark in ((_without_version, "once Ensembl versions are left out"), (str.upper, "only when case is ignored")):
        open_places = np.flatnonzero(columns < 0)
        if not len(open_places):
            break
        places = _first_places(column.names, simplify)
        found = np.array([places.get(simplify(wanted[i]), -1) for i in open_places], dtype=np.int64)
        found[np.isin(found, columns[columns >= 0])] = -1  # a gene that already answers to its exact name answers to no other
        columns[open_places] = found
        if (found >= 0).any():
            by_case = int((found >= 0).sum()) if simplify is str.upper else 0
            remarks.append(f"{int((found >= 0).sum()):,} of them {remark}")
    n_matched = int((columns >= 0).sum())
    repeats = _repeats(column.names, columns)
    if repeats:
        remarks.append(f"{len(repeats):,} stand there more than once and are taken at their first place ({listed(repeats, 3)})")
    how = "; ".join([f"{n_matched:,} of {len(wanted):,} genes found by {column.words}", *remarks]) + "."
    missing = tuple(w for w, c in zip(wanted, columns, strict=True) if c < 0)
    return GeneMatch(columns, n_matched, how, column.column, missing, by_case)


def _without_version(name: str) -> str:
    return name.split(".", 1)[0] if _VERSIONED.match(name) else name


def _first_places(names: tuple[str, ...], simplify: Callable[[str], str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for i, name in enumerate(names):
        if name:
            places.setdefault(simplify(name), i)
    return places


def _repeats(names: tuple[str, ...], columns: np.ndarray) -> list[str]:
    if len(set(names)) == len(names):
        return []
    unique, counts = np.unique(np.array(names), return_counts=True)
    several = set(unique[counts > 1].tolist())
    return [names[c] for c in columns[columns >= 0] if names[c] in several]


def is_gene_column(name: str) -> bool:
    """A var column that, by its name, holds gene names."""
    return name.lower() in {a.lower() for a in keys.GENE_COLUMN_ALIASES}
