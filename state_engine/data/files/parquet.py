"""Parquet tables: each text is read once, however many rows share it.

A dictionary of one long text and a short code for each row is a small file; a string for each row of it is more than any memory. Columns
of text are therefore read as categories, and stay so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from state_engine.errors import UnreadableFileError

if TYPE_CHECKING:
    import pandas as pd


def parquet_columns(path: Path, most_values: float) -> list[str]:
    """Return the names of the columns of a table.

    Raises:
        UnreadableFileError: it has more rows x columns than `most_values`.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows, columns, names = file.metadata.num_rows, file.metadata.num_columns, list(file.schema_arrow.names)
    if rows * columns > most_values:
        raise UnreadableFileError(f"{path.name} is too large.", f"{rows:,} rows, {columns:,} columns.")
    return names


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a table, or some columns of it and its index; columns of text are categorical."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        texts = [one.name for one in file.schema_arrow if pa.types.is_string(one.type) or pa.types.is_large_string(one.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        return file.read(columns, use_pandas_metadata=True).to_pandas()
