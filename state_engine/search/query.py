"""Similar cells: the nearest stored cells to others, and labels by their vote.

Cells are stored with `add_embeddings` (see `search_tables`). Only the part of an embedding that describes the cell is compared.

Notation: m cells asked about, k neighbours of each, e columns of the embedding. Similarity is the cosine, -1 to 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from state_engine.errors import RequestError, RunError, listed, may_be, near_each
from state_engine.files import read_json, replacing, write_json
from state_engine.progress import OnProgress, Progress, silent
from state_engine.search.tables import (
    Added,
    Embedded,
    StoredData,
    TableFacts,
    add_embeddings,
    connect,
    forget,
    hex_only,
    open_embedded,
    tables,
    unique_names,
)

if TYPE_CHECKING:
    import pandas as pd
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table

    from state_engine.config import Settings
    from state_engine.data.dataset import Choices

__all__ = ["Added", "Embedded", "Neighbours", "StoredData", "TableFacts", "add_embeddings", "forget", "load", "open_embedded",
           "query", "save", "tables", "transfer"]  # fmt: skip

PROBES, REFINE = 40, 4  # parts of the index looked at; candidates a result that are compared exactly
QUERIES = 256
FIXED = ("cell", "rank", "similar_cell", "data_set", "similarity")


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest cells of each cell asked about.

    Args:
        table: a row a pair: cell, rank (1 is nearest), similar_cell, data_set, similarity, then the labels of the similar cell.
        asked: (m,) names of the cells asked about that have an embedding, in the order of the data set.
        left_out: cells without an embedding.
        k: neighbours asked for.
        stored: cells that were compared with.
    """

    table: pd.DataFrame
    asked: tuple[str, ...]
    left_out: int
    k: int
    stored: int


def query(
    folder: Path,
    data: Path,
    key: str,
    k: int = 5,
    rows: np.ndarray | None = None,
    *,
    others_only: bool = False,
    on_progress: OnProgress = silent,
    choices: Choices | None = None,
    settings: Settings | None = None,
) -> Neighbours:
    """Return the k most similar stored cells of each cell; a cell is never its own neighbour.

    Args:
        folder: of the LanceDB tables.
        data, key: the cells asked about, `obsm/KEY` of an .h5ad.
        k: neighbours of each.
        rows: (m,) cells asked about; all by default.
        others_only: only cells of other data sets are compared.

    Raises:
        RequestError: nothing there is from the same embedding model, k is not positive, or no cell is left to compare with.
        RepresentationError: no such embedding.
    """
    if k < 1:
        raise RequestError(f"{k} neighbours cannot be found.", "", "Ask for 1 or more.")
    found = open_embedded(data, key, choices, settings)
    facts = _table_for(folder, found)
    stored = facts.cells - (sum(d.cells for d in facts.datasets if d.hash == found.data_hash) if others_only else 0)
    if not stored:
        why = f"The table holds only {data.name} itself." if others_only else "The table is empty."
        raise RequestError("There are no cells to compare with.", why, "Add another data set.")
    rows = np.arange(found.dataset.n_cells) if rows is None else np.asarray(rows, np.int64)
    table = connect(folder).open_table(facts.name)
    names = unique_names(found.dataset.obs_names)
    parts: list[pd.DataFrame] = []
    asked: list[str] = []
    for start in range(0, len(rows), QUERIES):
        on_progress(Progress("Finding similar cells", start, len(rows)))
        part = rows[start : start + QUERIES]
        vectors = found.vectors(part)
        there = np.isfinite(vectors).all(axis=1)
        if there.any():
            parts.append(_nearest(table, found, vectors[there], names[part[there]], k, others_only))
            asked += names[part[there]].tolist()
    on_progress(Progress("Finding similar cells", len(rows), len(rows)))
    return Neighbours(_with_labels(parts, k), tuple(asked), len(rows) - len(asked), k, stored)


def save(neighbours: Neighbours, path: Path) -> None:
    """Write the pairs as CSV and the rest beside it as JSON, for `load`."""
    with replacing(path) as beside:
        neighbours.table.to_csv(beside, index=False)
    rest = {"asked": list(neighbours.asked), "left_out": neighbours.left_out, "k": neighbours.k, "stored": neighbours.stored}
    write_json(path.with_suffix(".json"), rest)


def load(path: Path) -> Neighbours:
    """Read what `save` wrote.

    Raises:
        RunError: it is missing or damaged.
    """
    import pandas as pd

    try:
        rest = read_json(path.with_suffix(".json"))
        table = pd.read_csv(path, dtype=str, keep_default_na=False).astype({"rank": int, "similarity": float})
        return Neighbours(table, tuple(rest["asked"]), int(rest["left_out"]), int(rest["k"]), int(rest["stored"]))
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path.name} cannot be read.", "It is missing or damaged.", "Ask again.") from error


def transfer(neighbours: Neighbours, label: str) -> pd.DataFrame:
    """Return the label that most neighbours of a cell carry, and how many of them do.

    Returns:
        A row a cell: cell, label ("" when no neighbour has one), support (votes / k, 0 to 1), votes, labelled (neighbours that
        have the label), similarity (mean of those that voted for it). A tie goes to the label whose neighbours are more similar.

    Raises:
        RequestError: no neighbour has this label.
    """
    import pandas as pd

    table = neighbours.table
    if label not in table or label in FIXED:
        known = [c for c in table.columns if c not in FIXED]
        raise RequestError(
            f"No similar cell has '{label}'.",
            f"There is: {listed(known, 12) or 'no label'}.",
            may_be(near_each([label], known)) or "Choose one.",
        )
    voting = table[table[label] != ""]
    votes = voting.groupby(["cell", label], sort=False)["similarity"].agg(["size", "mean"]).reset_index()
    order = votes.sort_values(["size", "mean", label], ascending=[False, False, True], kind="stable")
    best = order.drop_duplicates("cell").set_index("cell")
    labelled = voting.groupby("cell").size()
    cells = pd.Index(neighbours.asked, name="cell")
    best, labelled = best.reindex(cells), labelled.reindex(cells, fill_value=0)
    count = best["size"].fillna(0).astype(int)
    return pd.DataFrame(
        {
            "cell": cells,
            "label": best[label].fillna("").to_numpy(),
            "support": (count / neighbours.k).to_numpy(),
            "votes": count.to_numpy(),
            "labelled": labelled.to_numpy(),
            "similarity": best["mean"].to_numpy(),
        }
    )


# Behind


def _nearest(table: Table, found: Embedded, vectors: np.ndarray, names: np.ndarray, k: int, others_only: bool) -> pd.DataFrame:
    """The k nearest of each vector: a frame with cell, rank, similar_cell, data_set, similarity, labels (JSON)."""
    search = cast("LanceVectorQueryBuilder", table.search(list(vectors), vector_column_name="vector")).distance_type("cosine")
    search = search.select(["data", "cell", "name", "labels", "_distance"]).limit(k + 1)
    if others_only:
        search = search.where(f"data != '{hex_only(found.data_hash)}'", prefilter=True)
    frame = search.nprobes(PROBES).refine_factor(REFINE).to_pandas()
    # of one vector LanceDB gives no number of the query
    which = frame["query_index"].to_numpy() if "query_index" in frame else np.zeros(len(frame), int)
    frame = frame.assign(asked=names[which], query=which).sort_values(["_distance", "cell"], kind="stable")
    frame = frame[(frame["cell"] != frame["asked"]) | (frame["data"] != found.data_hash)]
    frame["rank"] = frame.groupby("query", sort=False).cumcount() + 1
    frame = frame[frame["rank"] <= k].sort_values(["query", "rank"], kind="stable")
    frame["similarity"] = 1 - frame["_distance"]
    frame = frame.rename(columns={"cell": "similar_cell", "asked": "cell", "name": "data_set"})
    return frame[[*FIXED, "labels"]].reset_index(drop=True)


def _with_labels(parts: Sequence[pd.DataFrame], k: int) -> pd.DataFrame:
    """One table, the labels as columns; "" where a data set lacks one."""
    import pandas as pd

    if not parts:
        return pd.DataFrame({name: [] for name in FIXED})
    whole = pd.concat(parts, ignore_index=True)
    texts, places = np.unique(whole["labels"].to_numpy(str), return_inverse=True)
    labels = pd.DataFrame([json.loads(t) for t in texts]).iloc[places].reset_index(drop=True).fillna("")
    labels = labels.rename(columns={c: f"{c} (label)" for c in labels.columns if c in FIXED})
    return pd.concat([whole[list(FIXED)], labels], axis=1)


def _table_for(folder: Path, found: Embedded) -> TableFacts:
    there = tables(folder)
    for facts in there:
        if facts.name == found.table:
            return facts
    if not there:
        raise RequestError(f"There are no cells in {folder.name} yet.", "", "Add an embedded data set first.")
    known = listed([f"{t.model_name or t.model[:12] or 'a model not recorded'} ({t.width:,} wide)" for t in there])
    mine = found.facts.model_name or found.facts.model[:12] or "a model that is not recorded"
    raise RequestError(
        "These embeddings cannot be compared with those that are stored.",
        f"They are of {mine} ({found.width:,} wide); stored are {known}. Embeddings of two models have nothing in common.",
        "Embed both with the same model.",
    )
