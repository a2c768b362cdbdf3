"""A table of how many cells of each perturbation are predicted: columns `perturbation` and `num_cells`, as `state tx infer` takes it.

Boundary: text in, counts out. Whether a model knows the perturbations is for the request to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from state_engine.data.files.text import decode_text, read_text_file, rows_of
from state_engine.errors import RequestError
from state_engine.prediction.request import CellCount

NAME, COUNT = "perturbation", "num_cells"
FIX: Final = f"Give a table with the columns {NAME} and {COUNT}, separated by tabs or commas."


def read_cell_counts(path: Path) -> tuple[CellCount, ...]:
    """Return the counts of a .tsv or .csv file.

    Raises:
        RequestError: it is not there, no text in UTF-8, or no such table; see `cell_counts`.
    """
    return cell_counts(read_text_file(path, RequestError), path.name)


def counts_of(raw: bytes, name: str) -> tuple[CellCount, ...]:
    """Return the counts of an uploaded list where it is such a table, and nothing where it is a list of names.

    Raises:
        RequestError: no text in UTF-8, or a table that cannot be used.
    """
    text = decode_text(raw, name, RequestError)
    return cell_counts(text, name) if COUNT in text.partition("\n")[0].casefold() else ()


def cell_counts(text: str, name: str) -> tuple[CellCount, ...]:
    """Return the counts of a table.

    Args:
        text: tab, comma or semicolon between its columns; other columns are passed over.
        name: how the user calls it, for messages.

    Raises:
        RequestError: a column is missing, a number is none, or a perturbation is counted twice.
    """
    rows = [row for row in rows_of(text, name, kind=RequestError) if any(cell.strip() for cell in row)]
    header = [cell.strip().casefold() for cell in rows[0]] if rows else []
    if missing := [column for column in (NAME, COUNT) if column not in header]:
        raise RequestError(f"{name} has no column {' and no column '.join(missing)}.", f"It has: {', '.join(header)}.", FIX)
    at, of = header.index(NAME), header.index(COUNT)
    found: dict[str, CellCount] = {}
    for number, row in enumerate(rows[1:], 2):
        label, words = (row[i].strip() if i < len(row) else "" for i in (at, of))
        if not label or label in found:
            why = "It names no perturbation." if not label else f"{label} is counted above as well."
            raise RequestError(f"Line {number:,} of {name} cannot be used.", why, "Name each perturbation once.")
        # whole numbers, also as R and pandas write them where others are missing (12.0)
        digits = words.removesuffix(".0").lstrip("0")
        if not digits.isdecimal() or len(digits) > 9:
            why = f"The number of cells of {label} is {words[:40]!r}."
            raise RequestError(f"Line {number:,} of {name} cannot be used.", why, "Give whole numbers, 1 or more.")
        found[label] = CellCount(label, int(digits))
    if not found:
        raise RequestError(f"{name} has no perturbations.", "There is no line below its header.", FIX)
    return tuple(found.values())
