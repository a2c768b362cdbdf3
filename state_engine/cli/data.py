"""The commands `inspect`, `fetch` and `label`: what is in a data set, public ones, and labels given by hand."""

from __future__ import annotations

import argparse
import json

from state_engine.cli.options import CHECKPOINT, JSON, Write, data_set, h5ad_of, named_checkpoint, path, request, takes, word, yes
from state_engine.data.dataset import Choices, open_dataset
from state_engine.errors import RequestError
from state_engine.files import free_output
from state_engine.progress import OnProgress


@takes({"data": path("X.h5ad", "data set"), "--model": path("DIR", "check this model against it")}, CHECKPOINT, JSON, Choices)
def run_inspect(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> int:
    """Describe a data set. Returns 1 when the model does not fit it."""
    from state_engine.data.describe import describe, summary_lines
    from state_engine.plain import to_plain

    dataset = open_dataset(data_set(options.data), request(Choices, options))
    facts, lines, blocked = describe(dataset), list(summary_lines(dataset)), False
    if options.model:
        from state_engine.checkpoints.load import card_of
        from state_engine.prediction.compatibility import check_compatibility

        card = card_of(named_checkpoint(options.model, options.checkpoint))
        report = check_compatibility(dataset, card)
        facts["compatibility"] = to_plain(report.findings)
        lines += ["", f"With the model {card.name}:"]
        lines += [f"  [{f.severity}] {f.title}: {f.detail} {f.fix}".rstrip(" :") for f in report.findings]
        blocked = bool(report.blocking)
    write(json.dumps(facts, indent=2) if options.json else "\n".join(lines))
    return int(blocked)


@takes(
    {
        "name": word("NAME", "see --list", nargs="?"),
        "--output": path("DIR", "default: a folder of its own in STATE_EXPLORER_HOME"),
        "--list": yes("list the data sets with sizes and licences, and download nothing"),
    }
)
def run_fetch(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """List public data sets, or download one; it continues where it stopped."""
    from state_engine.config import load_settings
    from state_engine.public_data.catalogue import catalogue, find, size_words, terms
    from state_engine.public_data.fetch import fetch, home_of

    if options.list:
        for data in catalogue():
            write(f"{data.name}: {data.title} ({size_words(data.size)}, licence {data.licence})")
            write(f"  {data.what}. {data.source}".replace("  . ", "  "))
        return
    if not options.name:
        raise RequestError("Which data set?", "No name was given.", "See fetch --list.")
    data, settings = find(options.name), load_settings()
    for line in terms(data):
        write(line)
    folder = options.output or home_of(data.name, settings)
    fetched = fetch(data, folder, on_progress, settings)
    for arrived in fetched.arrived:
        write(f"{arrived.name}: {arrived.size:,} bytes, sha256 {arrived.sha256}\n  {arrived.checked}")
    for what, names in (("cells", fetched.data), ("split plan", fetched.plans)):
        for name in names:
            write(f"  {what}: {folder / name}")


@takes(
    {
        "--data": path("X.h5ad", "data set", required=True),
        "--labels": path("L.csv", "table of labels: columns cell or row, label, and perhaps term", required=True),
        "--column": word("NAME", "name of the new column of obs (default cell_label)", default="cell_label"),
        "--output": path("Y", "a copy of the data set with the labels (.h5ad or .zarr)", required=True),
    },
    Choices,
)
def run_label(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Write labels given by hand into a copy of a data set, as the Explore and Embed pages do."""
    from state_engine.library.hand_labels import labelled_copy, labels_of_table

    with h5ad_of(options.output, on_progress) as place:
        free_output(place, options.data, options.labels)
        dataset = open_dataset(data_set(options.data), request(Choices, options))
        labels = labels_of_table(options.labels, dataset)
        labelled_copy(options.data.name, dataset, labels, place, options.column, on_progress)
    write(f"{options.output}: {options.column} of {int(labels.counts()['cells'].sum()):,} of {dataset.n_cells:,} cells")


@takes(
    {
        "--data": path("X.h5ad", "data set", required=True),
        "--gene": word("NAME", "gene; repeatable", action="append", default=[], required=True),
        "--output": path("G", ".npy (genes x cells, float32, log1p) or .csv (a row for each cell)", required=True),
    },
    Choices,
)
def run_gene(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Read genes of all cells, in STATE_EXPLORER_HOME ordered by gene, which is done once for each data set."""
    from state_engine.config import load_settings
    from state_engine.data.gene_columns import write_genes
    from state_engine.library.gene_cache import make_columns

    free_output(options.output, options.data)
    dataset = open_dataset(data_set(options.data), request(Choices, options))
    place = make_columns(load_settings(), dataset, on_progress)
    write_genes(dataset, place, tuple(options.gene), options.output)
    write(f"{options.output}: {len(options.gene):,} genes of {dataset.n_cells:,} cells, log1p")
