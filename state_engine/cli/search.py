"""The command `query`: the nearest stored cells of each cell of a data set, as CSV, and labels by their vote."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.errors import RequestError
from state_engine.files import replacing
from state_engine.progress import OnProgress, silent
from state_engine.search.query import query, transfer

Write = Callable[[str], None]
Subparsers = Any  # argparse has no public name for what add_subparsers returns


def add_query_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `query`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "query",
        help="find the most similar stored cells of each cell",
        description="Compare the embedding of each cell with those stored by `embed --lancedb DIR`, and write the most similar as CSV.",
    )
    parser.add_argument("--lancedb", type=Path, required=True, metavar="DIR", help="folder of the stored cells")
    parser.add_argument("--data", type=Path, required=True, metavar="Y.h5ad", help="embedded cells")
    parser.add_argument("--key", default="X_state", metavar="K", help="their embedding in obsm (default X_state)")
    parser.add_argument("--k", type=int, default=5, metavar="N", help="similar cells of each (default 5)")
    parser.add_argument("--output", type=Path, required=True, metavar="S.csv", help="a line a pair of cells")
    parser.add_argument("--others-only", action="store_true", help="leave stored cells of the same data set out")
    parser.add_argument("--transfer", metavar="COLUMN", help="label each cell by the vote of its similar cells")
    parser.add_argument("--labels", type=Path, metavar="L.csv", help="where these labels go, with their support")
    return parser


def run_query(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Writes the CSV files and says what they hold. Returns 0.

    Raises:
        RequestError: arguments that make no sense, or nothing to compare with.
        DataError: the data cannot be read, or has no such embedding.
    """
    if bool(options.transfer) != bool(options.labels):
        raise RequestError("--transfer COLUMN and --labels FILE belong together.", "", "Give both or none.")
    found = query(options.lancedb, options.data, options.key, options.k, others_only=options.others_only, on_progress=on_progress)
    with replacing(options.output) as beside:
        found.table.to_csv(beside, index=False)
    write(f"{options.output}: {len(found.table):,} similar cells of {len(found.asked):,} cells, out of {found.stored:,} stored")
    if found.left_out:
        write(f"{found.left_out:,} cells have no embedding and were left out.")
    if options.transfer:
        labels = transfer(found, options.transfer)
        with replacing(options.labels) as beside:
            labels.to_csv(beside, index=False)
        named = int((labels["label"] != "").sum())
        write(f"{options.labels}: '{options.transfer}' of {named:,} cells, mean support {labels['support'].mean():.2f}")
    return 0
