"""Where embedded cells are kept to be searched: tables in a LanceDB folder, and a small list of what is in them.

LanceDB is embedded (a folder of files, no server) and is imported only when it is used: it takes a second and 100 MB.
Cells of one table are of one embedding model: vectors of two models cannot be compared, so the model's hash names the table.

    DIR/cells_HASH_WIDTH.lance   a row a cell: data (hash), cell, row, name (of the data set), labels (JSON), added, vector
    DIR/tables.json              which data sets are in which table (`TableFacts`), for pages

Notation: m cells, e columns of the embedding.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from state_engine.data.embedding_record import EmbeddingFacts
from state_engine.errors import ConfigError, DataError, RequestError, UnreadableFileError
from state_engine.files import read_json, write_json
from state_engine.plain import distinct, from_plain, to_plain
from state_engine.progress import OnProgress, Progress, silent

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.db import DBConnection
    from lancedb.table import Table

    from state_engine.config import Settings
    from state_engine.data.dataset import Choices, Dataset

FORMAT = 1
TABLES = "tables.json"
INDEX_FROM = 100_000  # rows; below, every cell is compared
BLOCK_BYTES = 64 << 20
KEPT = timedelta(minutes=10)  # old versions of a table, for those who read while it is written


@dataclass(frozen=True)
class StoredData:
    """A data set in a table. `hash` is that of the cells that were embedded; `labels` are the obs columns kept with them."""

    hash: str
    name: str
    cells: int
    labels: tuple[str, ...]
    added: str


@dataclass(frozen=True)
class TableFacts:
    """A table: the model whose embeddings it holds ("" when not known), how wide they are, and of which data sets."""

    name: str
    model: str
    model_name: str
    width: int
    datasets: tuple[StoredData, ...]

    @property
    def cells(self) -> int:
        """Cells of all its data sets."""
        return sum(d.cells for d in self.datasets)

    @property
    def labels(self) -> tuple[str, ...]:
        """Obs columns that at least one of its data sets has, by name."""
        return tuple(sorted({label for d in self.datasets for label in d.labels}))


@dataclass(frozen=True)
class Added:
    """What an addition did: `added` are new cells, `updated` were there before, `left_out` have no embedding (empty cells)."""

    table: str
    added: int
    updated: int
    left_out: int
    cells: int
    indexed: bool


@dataclass(frozen=True, eq=False)
class Embedded:
    """A data set with an embedding, as the search sees it. Only the cell part of an embedding is compared: `width` columns."""

    dataset: Dataset
    representation: str
    facts: EmbeddingFacts
    width: int

    @property
    def table(self) -> str:
        """Name of the table its cells belong to."""
        return f"cells_{self.facts.model[:12] or 'unknown'}_{self.width}"

    @property
    def data_hash(self) -> str:
        """Hash of the cells that were embedded: the same for every embedding of one file."""
        return self.facts.data_hash or self.dataset.hash()

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors (m, e) float32 of some cells; NaN where a cell has no embedding."""
        return self.dataset.read(self.representation, rows)[:, : self.width]


def open_embedded(path: Path, key: str, choices: Choices | None = None, settings: Settings | None = None) -> Embedded:
    """Open a data set with its embedding `obsm/KEY`.

    Raises:
        RepresentationError: it has no such embedding.
        DataError: the file cannot be read.
    """
    from state_engine.data.dataset import open_dataset

    dataset = open_dataset(path, choices, settings)
    name = key if key.startswith("obsm/") else f"obsm/{key}"
    matrix = dataset.representation(name)
    facts = dataset.embeddings.get(name.removeprefix("obsm/"), EmbeddingFacts())
    return Embedded(dataset, name, facts, facts.cell_width or matrix.width)


def tables(folder: Path) -> tuple[TableFacts, ...]:
    """Return what is in a folder, by name of the table; nothing when there is none yet. Light: reads a small file.

    Raises:
        UnreadableFileError: the list is damaged.
    """
    path = folder / TABLES
    if not path.is_file():
        return ()
    try:
        plain = read_json(path)
        if plain.get("format") != FORMAT:
            raise ConfigError(f"It has format {plain.get('format')!r}.")
        return tuple(from_plain(TableFacts, table) for table in plain["tables"])
    except (ValueError, KeyError, AttributeError, ConfigError) as error:
        raise UnreadableFileError(f"{path} cannot be read.", str(error), "Add the data sets again to a new folder.") from error


def add_embeddings(
    folder: Path,
    data: Path,
    key: str,
    on_progress: OnProgress = silent,
    *,
    name: str = "",
    choices: Choices | None = None,
    settings: Settings | None = None,
) -> Added:
    """Add the cells of an embedded data set, or bring those that are there up to date: never twice.

    Args:
        folder: of the LanceDB tables; made when missing.
        data: an .h5ad with `obsm/KEY`.
        key: name of the embedding.
        name: what the data set is called in results; its file name by default.
        choices, settings: as for `open_dataset`.

    Raises:
        RepresentationError: no such embedding.
        RequestError: not one cell has an embedding.
        JobCancelled: by the callback; cells are then partly added, and adding again completes them.
    """
    found = open_embedded(data, key, choices, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        first = TableFacts(found.table, found.facts.model, found.facts.model_name, found.width, ())
        known = next((t for t in tables(folder) if t.name == found.table), first)
        before = next((d.cells for d in known.datasets if d.hash == found.data_hash), 0)
        table = connect(folder).create_table(found.table, schema=_schema(found.width), exist_ok=True)
        stamp = datetime.now(UTC)
        new, updated, left_out = _write(table, found, name or data.name, stamp, before > 0, on_progress)
        if not new + updated:
            raise RequestError(f"No cell of {data.name} has an embedding in '{key}'.", "All its values are missing.", "")
        table.delete(f"data = '{found.data_hash}' AND added != {_number(stamp)}")
        indexed = _index(table, on_progress)
        cells = int(table.count_rows(f"data = '{found.data_hash}'"))
        stored = StoredData(found.data_hash, name or data.name, cells, tuple(found.dataset.columns), stamp.isoformat())
        _save(folder, replace(known, datasets=(*(d for d in known.datasets if d.hash != stored.hash), stored)))
    return Added(found.table, new, updated, left_out, int(table.count_rows()), indexed)


def forget(folder: Path, table: str, data_hash: str) -> int:
    """Remove a data set from a table; return how many cells went.

    Raises:
        RequestError: it is not there.
    """
    with _alone(folder):
        known = {t.name: t for t in tables(folder)}
        if table not in known or all(d.hash != data_hash for d in known[table].datasets):
            raise RequestError("This data set is not among the reference cells.", "", "Reload the page.")
        opened = connect(folder).open_table(table)
        before = opened.count_rows()
        opened.delete(f"data = '{hex_only(data_hash)}'")
        opened.optimize(cleanup_older_than=KEPT)
        left = tuple(d for d in known[table].datasets if d.hash != data_hash)
        _save(folder, replace(known[table], datasets=left))
        return int(before - opened.count_rows())


# Behind


def connect(folder: Path) -> DBConnection:
    """Open the database of a folder."""
    import lancedb

    logging.getLogger("lance").setLevel(logging.ERROR)
    return lancedb.connect(str(folder))


def _schema(width: int) -> pa.Schema:
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    columns = [("data", text), ("cell", text), ("row", whole), ("name", text), ("labels", text), ("added", whole)]
    return pa.schema([*columns, ("vector", pa.list_(pa.float32(), width))])


def _write(
    table: Table, found: Embedded, name: str, stamp: datetime, there: bool, on_progress: OnProgress
) -> tuple[int, int, int]:
    """Cells that are new, brought up to date, and left out."""
    import pyarrow as pa

    dataset = found.dataset
    step = max(1, BLOCK_BYTES // (4 * found.width))
    cells, labels = unique_names(dataset.obs_names), _label_texts(dataset)
    new = updated = left_out = 0
    there = there or bool(table.count_rows(f"data = '{hex_only(found.data_hash)}'"))
    for start in range(0, dataset.n_cells, step):
        on_progress(Progress("Adding cells to the search", start, dataset.n_cells))
        rows = np.arange(start, min(start + step, dataset.n_cells))
        vectors = found.vectors(rows)
        keep = np.isfinite(vectors).all(axis=1)
        left_out += int((~keep).sum())
        rows, vectors = rows[keep], vectors[keep]
        if not len(rows):
            continue
        columns = [
            pa.array([found.data_hash] * len(rows)), pa.array(cells[rows].tolist()), pa.array(rows),
            pa.array([name] * len(rows)), pa.array(labels(rows)), pa.array(np.full(len(rows), _number(stamp))),
            pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), found.width),
        ]  # fmt: skip
        block = pa.Table.from_arrays(columns, schema=_schema(found.width))
        if there:
            merge = table.merge_insert(["data", "cell"]).when_matched_update_all().when_not_matched_insert_all().execute(block)
            new, updated = new + merge.num_inserted_rows, updated + merge.num_updated_rows
        else:
            table.add(block)
            new += len(rows)
    on_progress(Progress("Adding cells to the search", dataset.n_cells, dataset.n_cells))
    return new, updated, left_out


def _index(table: Table, on_progress: OnProgress) -> bool:
    """Keep the index of a large table complete; small tables need none. Return whether there is one."""
    there = any("vector" in index.columns for index in table.list_indices())
    if not there and table.count_rows() >= INDEX_FROM:
        from lancedb.index import IvfSq

        on_progress(Progress("Indexing"))
        table.create_index("vector", config=IvfSq(distance_type="cosine"))
        there = True
    table.optimize(cleanup_older_than=KEPT)
    return there


def _label_texts(dataset: Dataset) -> Callable[[np.ndarray], list[str]]:
    """rows -> the labels of each as JSON; equal ones are written once."""
    names = list(dataset.columns)
    codes = np.column_stack([np.asarray(dataset.columns[n].codes, np.int64) for n in names] or [np.zeros(dataset.n_cells, int)])
    kinds, place = np.unique(codes, axis=0, return_inverse=True)
    texts = [
        json.dumps({n: str(dataset.columns[n].categories[c]) for n, c in zip(names, kind, strict=False) if names and c >= 0})
        for kind in kinds.tolist()
    ]
    place = place.ravel()
    return lambda rows: [texts[i] for i in place[rows]]


def unique_names(names: np.ndarray) -> np.ndarray:
    """Return barcodes, (n,) objects; those that repeat get their row behind, so that each cell has a name of its own."""
    return np.array(distinct(map(str, names), "row"), object)


def _save(folder: Path, changed: TableFacts) -> None:
    """Write the list of tables, by name, with this one in place of that of its name."""
    known = [*(t for t in tables(folder) if t.name != changed.name), changed]
    write_json(folder / TABLES, {"format": FORMAT, "tables": to_plain(sorted(known, key=lambda t: t.name))})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _number(stamp: datetime) -> int:
    return int(stamp.timestamp() * 1e6)


def hex_only(value: str) -> str:
    """Return the value, when it may stand in a filter.

    Raises:
        DataError: it is no hash.
    """
    if not re.fullmatch(r"[0-9a-f]{8,128}", value):
        raise DataError(f"{value[:40]!r} is not a hash.", "The file's record of its embedding is damaged.", "Embed it again.")
    return value
