"""Signatures that people hand in: lists of genes (text, CSV, GMT) and measured effects (CSV of gene and log2 fold change).

Boundary: text in, names and numbers out. Which genes a model has is for `screening.signature` to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from state_engine.data.files.text import HEADINGS, decode_text, read_text_file, rows_of
from state_engine.errors import RequestError, listed, may_be, near_each
from state_engine.plain import plural
from state_engine.screening.request import GeneChange

GENE_COLUMNS: Final = ("gene", "gene_name", "gene_symbol", "symbol", "genes", "names", "name", "feature", "")
CHANGE_COLUMNS: Final = (
    "log2_fold_change", "log2fc", "log2foldchange", "logfc", "avg_log2fc", "logfoldchanges", "lfc", "log2_fc", "effect",
)  # fmt: skip
_BETWEEN = re.compile(r"[\s,;]+")


def read_genes(path: Path, name: str = "") -> tuple[str, ...]:
    """Return the genes of a file, see `genes_of`."""
    return genes_of(read_text_file(path, RequestError), path.name, name)


def genes_of(text: str, file: str = "The list", name: str = "") -> tuple[str, ...]:
    """Return the genes of a text, each once.

    A GMT has a set a line: name, description, genes, with tabs between. Of a table of several columns the first is read; of a list, names
    one a line, or with commas, semicolons or blanks between.

    Args:
        text: as it was read or pasted.
        file: how the user calls it, for messages.
        name: of the set of a GMT; "" for its only one.

    Raises:
        RequestError: several sets and none named, no such set, or no genes.
    """
    lines = [line.strip("\r\n") for line in text.splitlines() if line.strip()]
    sets = {cells[0].strip(): cells[2:] for line in lines if len(cells := line.split("\t")) > 2} if _is_gmt(file, lines) else {}
    if name and name not in sets:
        near = may_be(near_each([name], tuple(sets)))
        raise RequestError(f"{file} has no gene set '{name}'.", f"It has {listed(tuple(sets)) or 'none: it is no GMT'}.", near)
    if len(sets) > 1 and not name:
        raise RequestError(
            f"{file} has {plural(len(sets), 'gene set')}.", f"They are {listed(tuple(sets))}.", "Name one of them."
        )
    if sets:
        words = sets[name] if name else next(iter(sets.values()))
    elif len(lines) > 1 and all("," in line or "\t" in line or ";" in line for line in lines) and _same_columns(lines):
        words = [re.split(r"[,;\t]", line)[0] for line in lines]
    else:
        words = [word for line in lines for word in _BETWEEN.split(line)]
    found = list(dict.fromkeys(filter(None, (w.strip().strip("\"'") for w in words))))
    if found and found[0].casefold() in HEADINGS:
        found = found[1:]
    if not found:
        raise RequestError(f"{file} has no genes.", "There are no names in it.", "Give one gene a line, a CSV or a GMT.")
    return tuple(found)


def changes_of(raw: bytes | str, file: str = "The table") -> tuple[GeneChange, ...]:
    """Return a measured effect: a table with a column of genes and one of log2 fold changes; the largest change of a gene named twice.

    Raises:
        RequestError: a column is missing, or no line can be used.
    """
    text = raw if isinstance(raw, str) else decode_text(raw, file, RequestError)
    rows = [row for row in rows_of(text, file, kind=RequestError) if any(cell.strip() for cell in row)]
    header = [cell.strip().casefold().replace(" ", "_") for cell in rows[0]] if rows else []
    gene = next((header.index(c) for c in GENE_COLUMNS if c in header), None)
    change = next((header.index(c) for c in CHANGE_COLUMNS if c in header), None)
    if gene is None or change is None:
        raise RequestError(
            f"{file} has no columns of genes and log2 fold changes.",
            f"It has: {', '.join(header) or 'nothing'}.",
            "Give a table with the columns gene and log2_fold_change, as the Genes page and `de` write it.",
        )
    found: dict[str, float] = {}
    for row in rows[1:]:
        name, number = (row[i].strip() if i < len(row) else "" for i in (gene, change))
        value = _number(number)
        if name and value is not None and abs(value) > abs(found.get(name, 0.0)):
            found[name] = value
    if not found:
        raise RequestError(
            f"{file} has no gene that changes.", "No line has a gene and a number other than 0.", "Give another table."
        )
    return tuple(GeneChange(name, value) for name, value in found.items())


def read_changes(path: Path) -> tuple[GeneChange, ...]:
    """Return the measured effect of a file, see `changes_of`."""
    return changes_of(read_text_file(path, RequestError), path.name)


def _number(text: str) -> float | None:
    """A finite number; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e6 else None


def _is_gmt(file: str, lines: Sequence[str]) -> bool:
    return file.lower().endswith(".gmt") or (
        bool(lines) and all(line.count("\t") > 3 for line in lines) and not _same_columns(lines)
    )


def _same_columns(lines: Sequence[str]) -> bool:
    """Whether every line has equally many separators, as the lines of a table have."""
    return len({(line.count(","), line.count(";"), line.count("\t")) for line in lines}) == 1
