"""Measured effects that people hand in: a CSV of genes and log2 fold changes. Lists of genes and gene sets are read by `gene_sets.text`.

Boundary: text in, names and numbers out. Which genes a model has is for `screening.signature` to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from state_engine.data.files.text import decode_text, read_text_file, rows_of
from state_engine.errors import RequestError
from state_engine.gene_sets.text import GENE_COLUMNS
from state_engine.screening.request import GeneChange

CHANGE_COLUMNS: Final = (
    "log2_fold_change", "log2fc", "log2foldchange", "logfc", "avg_log2fc", "logfoldchanges", "lfc", "log2_fc", "effect",
)  # fmt: skip


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
