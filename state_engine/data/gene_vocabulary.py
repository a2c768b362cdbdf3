"""From the genes of a data set to the gene vocabulary of a State Embedding model: symbols, Ensembl, versioned Ensembl.

Every column of names is tried as it is and translated (`ensembl`); the one that matches most of the vocabulary is used. Decided once
for a data set, with numbers; too little overlap is an error and not an embedding of next to nothing.

Notation: g genes of the file, v genes of the vocabulary, k kept genes (those in both).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from state_engine.data.ensembl import RELEASE, identifiers_of, symbols_of
from state_engine.data.genes import GeneColumn, GeneMatch, GeneNames, kind_of, match_names
from state_engine.errors import GeneError

LEAST_OVERLAP = 0.2  # less is an error
GOOD_OVERLAP = 0.6  # less is a warning
OTHER_SPECIES = 0.5  # so many matches by ignoring case are a warning: Actb of a mouse is not ACTB


@dataclass(frozen=True, eq=False)
class GeneMap:
    """Which genes of a data set a model knows.

    Args:
        columns: (k,) columns of the file, in the order of the vocabulary.
        rows: (k,) their rows in the vocabulary, ascending.
        n_file, n_vocabulary: g and v.
        column: the column of names that was used; "" is the var index.
        how: what was compared and found, a sentence.
        example: a name from the file.
        by_case: how many of the matches hold only when case is ignored.
    """

    columns: np.ndarray
    rows: np.ndarray
    n_file: int
    n_vocabulary: int
    column: str
    how: str
    example: str = ""
    by_case: int = 0

    @property
    def overlap(self) -> float:
        """Matched genes as a part of those that could match: the smaller of file and vocabulary. 0 to 1."""
        return len(self.rows) / max(1, min(self.n_file, self.n_vocabulary))

    @property
    def numbers(self) -> str:
        """For people: "900 of 1,000 genes of the file are among the 19,790 of the model (90.0 % of those that could match)"."""
        return (
            f"{len(self.rows):,} of {self.n_file:,} genes of the file are among the {self.n_vocabulary:,} of the model "
            f"({100 * self.overlap:.1f} % of those that could match)"
        )

    @property
    def warning(self) -> str:
        """What a person must know, or ""."""
        if self.overlap < GOOD_OVERLAP:
            return f"Few genes match: {self.numbers}. {self.how}"
        if self.by_case > OTHER_SPECIES * len(self.rows):
            return f"Most genes match only when case is ignored, as those of another species do: {self.numbers}. {self.how}"
        return ""

    def require(self) -> GeneMap:
        """Itself, when enough genes match.

        Raises:
            GeneError: fewer than `LEAST_OVERLAP` of those that could.
        """
        if len(self.rows) and self.overlap >= LEAST_OVERLAP:
            return self
        raise GeneError(
            f"{self.numbers}: too few for an embedding.",
            f"{self.how} A name in the file is '{self.example}'.",
            "Choose the column with the gene names (--gene-column), or a model made for these genes.",
        )


def map_genes(genes: GeneNames, vocabulary: tuple[str, ...], column: str | None = None) -> GeneMap:
    """Find the vocabulary's genes in a data set.

    Args:
        genes: names of the data set's genes, all columns.
        vocabulary: the model's genes, in the order of its table.
        column: the user's word on the column; None takes the one that matches most.
    """
    candidates = [c for c in genes.alternatives if column is None or c.column == column]
    first = sorted(candidates, key=lambda c: c.column != genes.column)
    vocabulary_kind = kind_of(vocabulary)
    tried: list[tuple[GeneMatch, GeneColumn, str]] = []
    for one in first:
        tried.append((_match(one, vocabulary), one, ""))
        translated = _translated(one, vocabulary_kind)
        if translated is not None:
            tried.append((_match(translated, vocabulary), translated, f"{one.words} looked up in {RELEASE}: "))
    match, names, before = max(tried, key=lambda one: one[0].n_matched)
    rows = np.flatnonzero(match.columns >= 0)
    columns = match.columns[rows]
    pairs = [(names.names[c], vocabulary[r]) for c, r in zip(columns.tolist(), rows.tolist(), strict=True)]
    by_case = sum(one != other and one.upper() == other.upper() for one, other in pairs)
    example = next(c for c in genes.alternatives if c.column == match.column).example
    how = (before[0].upper() + before[1:] if before else "") + match.how
    return GeneMap(columns, rows, len(names.names), len(vocabulary), match.column, how, example, by_case)


def _match(column: GeneColumn, vocabulary: tuple[str, ...]) -> GeneMatch:
    return match_names(GeneNames(column.names, column.kind, column.column, (column,)), vocabulary)


def _translated(column: GeneColumn, wanted: str) -> GeneColumn | None:
    """The column in the vocabulary's kind of name, or None when there is nothing to look up."""
    is_ensembl, wants_ensembl = column.kind.startswith("ensembl"), wanted.startswith("ensembl")
    if is_ensembl == wants_ensembl:
        return None
    names = identifiers_of(column.names) if wants_ensembl else symbols_of(column.names)
    return GeneColumn(column.column, "ensembl" if wants_ensembl else "symbol", names) if any(names) else None
