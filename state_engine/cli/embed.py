"""The commands of State Embedding models: `embed`, `decode`, and `query` for similar cells."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import EXECUTOR, Write, add_names, h5ad_of, path, request, takes, word, yes
from state_engine.config import load_settings
from state_engine.data.dataset import open_dataset
from state_engine.embedding.cost import remember_speed
from state_engine.embedding.request import DecodeRequest, EmbedRequest, summary_lines
from state_engine.errors import RequestError
from state_engine.progress import OnProgress
from state_engine.search.request import QueryRequest


@takes(
    EmbedRequest,
    EXECUTOR,
    {
        "--output": path("Y", ".h5ad or .zarr (a copy with the embedding), or .npy (alone)"),
        "--calibrate": yes("embed nothing, but measure how long a cell takes on this machine's CPU; the Embed page then says it"),
        "--lancedb": path("DIR", "also store the cells there, for `query`"),
        "--attention": path("A", "also average what CLS attends to: .npz, or .csv of the top genes"),
        "--group-key": word("C", "with --attention: obs column of the groups; default: all cells"),
    },
)
def run_embed(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Embed cells, and store them or average attention where wanted."""
    from state_engine.checkpoints.embedding_store import load_embedding
    from state_engine.device import choose_device, dtype_of
    from state_engine.embedding.embed import embed
    from state_engine.shards.run import beside

    if options.lancedb and options.output.suffix != ".h5ad":
        raise RequestError("--lancedb needs cells with their labels.", f"{options.output.name} has none.", "Write an .h5ad.")
    if options.group_key and not options.attention:
        raise RequestError("--group-key says how attention is averaged.", "", "Give --attention FILE too.")
    asked = request(EmbedRequest, options)
    if options.calibrate:
        _calibrate(asked, write, on_progress)
        return
    if options.output is None:
        raise RequestError(
            "There is no place for the embedding.", "--output is missing.", "Give --output Y.h5ad, or --calibrate."
        )
    loaded = load_embedding(Path(asked.model), choose_device(asked.device).kind, dtype_of(asked.precision), asked.checkpoint)
    with h5ad_of(options.output, on_progress) as place:
        summary = embed(asked, place, on_progress, loaded, beside(options.output, options.executor))
    write("\n".join(summary_lines(options.output, summary)))
    if options.attention:
        from state_engine.embedding.gene_attention import cls_attention

        seen = cls_attention(asked, options.group_key, options.attention, on_progress, loaded)
        size = f"{len(seen.genes):,} genes, {seen.layers} layers x {seen.heads} heads, {len(seen.groups)} groups"
        write(f"{options.attention}: {size}")
    if options.lancedb:
        from state_engine.search.query import add_embeddings

        added = add_embeddings(options.lancedb, options.output, asked.key, on_progress)
        write(f"{options.lancedb}: {added.added:,} cells added, {added.updated:,} updated")


def _calibrate(asked: EmbedRequest, write: Write, on_progress: OnProgress) -> None:
    """Measure how long a cell takes with the model of a request, remember it, and say what that is for its data set."""
    from state_engine.checkpoints.embedding_store import load_embedding
    from state_engine.embedding.speed import measure_speed

    cells = open_dataset(Path(asked.data), asked.choices).n_cells
    loaded = load_embedding(Path(asked.model), "cpu", checkpoint=asked.checkpoint)
    seconds = measure_speed(loaded.module, on_progress)
    remember_speed(load_settings().root, loaded.card.config, seconds)
    write(
        f"A cell takes {1000 * seconds:,.3g} ms with '{loaded.card.name}' on this machine's CPU: {seconds * cells:,.1f} s for {cells:,} cells."
    )


@takes(
    DecodeRequest,
    {
        "--output": path("Z", ".h5ad, .zarr or .npy, cells x genes", required=True),
        "--genes-file": path("F", "genes, one name per line"),
    },
)
def run_decode(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Decode expression from embeddings."""
    from state_engine.embedding.decode import decode

    add_names(options, "genes", options.genes_file)
    with h5ad_of(options.output, on_progress) as place:
        summary = decode(request(DecodeRequest, options), place, on_progress)
    line = f"{options.output}: {summary.genes:,} genes of {summary.cells:,} cells, log1p, on {summary.device}"
    write("\n  ".join([line, *summary.remarks]))


@takes(
    QueryRequest,
    {
        "--output": path("S.csv", "one line for each pair of cells", required=True),
        "--transfer": word("COLUMN", "label each cell by the vote of its similar cells"),
        "--labels": path("L.csv", "where these labels go, with their support"),
    },
)
def run_query(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Write the similar cells of each cell as CSV, and labels by their vote."""
    from state_engine.files import free_output, replacing
    from state_engine.search.query import query, transfer

    if bool(options.transfer) != bool(options.labels):
        raise RequestError("--transfer COLUMN and --labels FILE belong together.", "", "Give both or none.")
    asked = request(QueryRequest, options)
    for output in filter(None, (options.output, options.labels)):
        free_output(Path(output), asked.data, asked.folder)
    found = query(
        Path(asked.folder), Path(asked.data), asked.key, asked.k,
        others_only=asked.others_only, on_progress=on_progress, choices=asked.choices,
    )  # fmt: skip
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
