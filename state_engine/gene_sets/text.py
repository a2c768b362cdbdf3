"""Gene sets and lists of genes as text: GMT, CSV, and lists that people paste.

A GMT has a set a line: name, description, genes, with tabs between. A CSV of sets has a row for each gene, with columns of the set and of the
gene. A list has genes alone. Boundary: text in, names out, and back. Foreign text: a page reads it in a child process (`library.foreign`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from state_engine.data.files.text import HEADINGS, decode_text, read_text_file, rows_of
from state_engine.errors import RequestError, listed, may_be, near_each
from state_engine.gene_sets.sets import MOST_NAME, GeneSet, check_number, check_sets
from state_engine.plain import csv_for_people, plural, visible

GENE_COLUMNS: Final = ("gene", "gene_name", "gene_symbol", "symbol", "genes", "names", "name", "feature", "target", "")
SET_COLUMNS: Final = ("gene_set", "set", "geneset", "gs_name", "term", "source", "pathway")
_BETWEEN = re.compile(r"[\s,;]+")


def read_genes(path: Path, name: str = "") -> tuple[str, ...]:
    """Return the genes of a file, see `genes_of`."""
    return genes_of(read_text_file(path, RequestError), path.name, name)


def read_sets(path: Path) -> tuple[GeneSet, ...]:
    """Return the gene sets of a file, see `sets_of`."""
    return sets_of(read_text_file(path, RequestError), path.name)


def sets_of(raw: bytes | str, file: str = "The list") -> tuple[GeneSet, ...]:
    """Return the gene sets of a text: those of a GMT, of a table with a column of sets, or one set of a list.

    Args:
        raw: as it was read or pasted.
        file: how the user calls it, for messages; a list's set has its name.

    Raises:
        RequestError: no sets, too many, or two of one name.
    """
    text = raw if isinstance(raw, str) else decode_text(raw, file, RequestError)
    lines = _lines(text)
    if _is_gmt(file, lines):
        return check_sets(_gmt(lines, file), file)
    table = _table_of_sets(text, file)
    if table is not None:
        return check_sets(table, file)
    name = Path(file).stem if "." in file else file
    return check_sets([GeneSet(_name(name), genes_of(text, file))], file)


def genes_of(text: str, file: str = "The list", name: str = "") -> tuple[str, ...]:
    """Return the genes of a text, each once.

    Of a table of several columns the first is read; of a list, names one a line, or with commas, semicolons or blanks between.

    Args:
        text: as it was read or pasted.
        file: how the user calls it, for messages.
        name: of the set of a GMT; "" for its only one.

    Raises:
        RequestError: several sets and none named, no such set, or no genes.
    """
    lines = _lines(text)
    sets = {one.name: one.genes for one in _gmt(lines, file)} if _is_gmt(file, lines) else {}
    if name and name not in sets:
        near = may_be(near_each([name], tuple(sets)))
        raise RequestError(f"{file} has no gene set '{name}'.", f"It has {listed(tuple(sets)) or 'none: it is no GMT'}.", near)
    if len(sets) > 1 and not name:
        raise RequestError(
            f"{file} has {plural(len(sets), 'gene set')}.", f"They are {listed(tuple(sets))}.", "Name one of them."
        )
    words: Sequence[str]
    if sets:
        words = sets[name] if name else next(iter(sets.values()))
    elif len(lines) > 1 and all("," in line or "\t" in line or ";" in line for line in lines) and _same_columns(lines):
        words = [re.split(r"[,;\t]", line)[0] for line in lines]
    else:
        words = [word for line in lines for word in _BETWEEN.split(line)]
    found = list(_once(words))
    if found and found[0].casefold() in HEADINGS:
        found = found[1:]
    if not found:
        raise RequestError(f"{file} has no genes.", "There are no names in it.", "Give one gene a line, a CSV or a GMT.")
    return tuple(found)


def gmt_text(sets: Sequence[GeneSet]) -> str:
    """Return sets as a GMT. Tabs and unseen characters of names become escapes, so that a line stays a line."""
    rows = ([one.name, one.source or "na", *one.genes] for one in sets)
    return "".join("\t".join(visible(cell, most=None) for cell in row) + "\n" for row in rows)


def csv_text(sets: Sequence[GeneSet]) -> str:
    """Return sets as a CSV to take home, a row for each gene; names that a spreadsheet would run get an apostrophe."""
    rows = [(one.name, gene, one.source) for one in sets for gene in one.genes]
    return csv_for_people(pd.DataFrame(rows, columns=["gene_set", "gene", "source"]))


def _gmt(lines: Sequence[str], file: str) -> list[GeneSet]:
    found, members = list[GeneSet](), 0
    for line in lines:
        cells = line.split("\t")
        genes = _once(cells[2:])
        if cells[0].strip() and genes:
            found.append(GeneSet(_name(cells[0]), genes, visible(cells[1].strip(), most=MOST_NAME)))
            members += len(genes)
            check_number(len(found), members, file)  # at once: one of many millions would be read for minutes
    return found


def _table_of_sets(text: str, file: str) -> list[GeneSet] | None:
    """Sets of a table with a heading for the set and one for the gene; None where it is no such table."""
    lines = text.splitlines()
    if not lines or not any(c in lines[0] for c in ",;\t"):
        return None
    rows = [row for row in rows_of(text, file, kind=RequestError) if any(cell.strip() for cell in row)]
    header = [cell.strip().casefold().replace(" ", "_") for cell in rows[0]]
    at = next((header.index(c) for c in SET_COLUMNS if c in header), None)
    gene = next((header.index(c) for c in GENE_COLUMNS if c in header), None)
    if at is None or gene is None or at == gene:
        return None
    source = header.index("source") if "source" in header and header.index("source") != at else None
    sets: dict[str, list[str]] = {}
    sources: dict[str, str] = {}
    for row in rows[1:]:
        if len(row) > max(at, gene) and row[at].strip():
            name = _name(row[at])
            sets.setdefault(name, []).append(row[gene])
            check_number(len(sets), 0, file)
            if source is not None and len(row) > source:
                sources.setdefault(name, visible(row[source].strip(), most=MOST_NAME))
    return [GeneSet(name, genes, sources.get(name, "")) for name, members in sets.items() if (genes := _once(members))]


def _lines(text: str) -> list[str]:
    return [line.strip("\r\n") for line in text.splitlines() if line.strip()]


def _once(words: Sequence[str]) -> tuple[str, ...]:
    """Names without quotes and blanks around them, each once."""
    return tuple(dict.fromkeys(filter(None, (word.strip().strip("\"'") for word in words))))


def _name(text: str) -> str:
    return visible(text.strip(), most=MOST_NAME)


def _is_gmt(file: str, lines: Sequence[str]) -> bool:
    return file.lower().endswith(".gmt") or (
        bool(lines) and all(line.count("\t") > 3 for line in lines) and not _same_columns(lines)
    )


def _same_columns(lines: Sequence[str]) -> bool:
    """Whether every line has equally many separators, as the lines of a table have."""
    return len({(line.count(","), line.count(";"), line.count("\t")) for line in lines}) == 1
