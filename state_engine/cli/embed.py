"""The commands `embed` and `decode`: arguments, and what was made in a few lines."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state_engine.data.dataset import Choices
from state_engine.device import DEVICE_NAMES, PRECISIONS
from state_engine.embedding.request import EmbedRequest, EmbedSummary
from state_engine.errors import RequestError
from state_engine.progress import OnProgress, silent

Write = Callable[[str], None]
Subparsers = Any  # argparse has no public name for what add_subparsers returns


def add_embed_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `embed`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "embed",
        help="embed cells with a State Embedding model",
        description="Embed every cell of a data set with a State Embedding model.",
    )
    parser.add_argument(
        "--model", type=Path, required=True, metavar="PATH", help="model folder, ours or arc-state's, or a checkpoint"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="X.h5ad")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="Y", help=".h5ad (a copy with the embedding) or .npy (alone)"
    )
    parser.add_argument("--key", default="X_state", metavar="K", help="name of the embedding in obsm (default X_state)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="cells a forward pass; it does not change the result")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the genes that fill short sentences (default 0)")
    parser.add_argument("--lancedb", type=Path, metavar="DIR", help="also store the cells there, for `query`")
    parser.add_argument(
        "--attention", type=Path, metavar="A", help="also average what CLS attends to: .npz, or .csv of the top genes"
    )
    parser.add_argument("--group-key", metavar="C", help="with --attention: obs column of the groups; default: all cells")
    _add_common(parser)
    return parser


def add_decode_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """The arguments of `decode`."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "decode",
        help="log expression of chosen genes from embeddings",
        description="Decode log expression of chosen genes from the embedding of each cell, with the model that made it.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="the model that made the embedding")
    parser.add_argument("--data", type=Path, required=True, metavar="Y.h5ad", help="embedded cells")
    parser.add_argument("--output", type=Path, required=True, metavar="Z", help=".h5ad or .npy, cells x genes")
    parser.add_argument("--key", default="X_state", metavar="K", help="the embedding in obsm (default X_state)")
    parser.add_argument("--gene", action="append", default=[], metavar="NAME", help="may be given several times")
    parser.add_argument("--genes-file", type=Path, metavar="F", help="one name a line")
    parser.add_argument(
        "--read-depth", type=float, metavar="R", help="the same for all cells; default: from each cell's expression"
    )
    parser.add_argument("--allow-other", action="store_true", help="decode an embedding that is recorded as another model's")
    _add_common(parser)
    return parser


def run_embed(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Embeds, and stores or averages attention when asked. Returns 0.

    Raises:
        RequestError: arguments that make no sense.
        DataError, ModelError, DeviceError: what each says.
    """
    from state_engine.checkpoints.embedding_store import load_embedding
    from state_engine.device import choose_device, dtype_of
    from state_engine.embedding.embed import embed

    if options.lancedb and options.output.suffix != ".h5ad":
        raise RequestError("--lancedb needs cells with their labels.", f"{options.output.name} has none.", "Write an .h5ad.")
    if options.group_key and not options.attention:
        raise RequestError("--group-key says how attention is averaged.", "", "Give --attention FILE too.")
    request = EmbedRequest(
        data=str(options.data),
        model=str(options.model),
        choices=_choices(options),
        key=options.key,
        device=options.device,
        precision=options.precision,
        batch_size=options.batch_size,
        seed=options.seed,
        checkpoint=options.checkpoint,
    )
    loaded = load_embedding(options.model, choose_device(options.device).kind, dtype_of(options.precision), options.checkpoint)
    for line in summary_lines(options.output, embed(request, options.output, on_progress, loaded)):
        write(line)
    if options.attention:
        from state_engine.embedding.gene_attention import cls_attention

        seen = cls_attention(request, options.group_key, options.attention, on_progress, loaded)
        write(
            f"{options.attention}: {len(seen.genes):,} genes, {seen.layers} layers x {seen.heads} heads, {len(seen.groups)} groups"
        )
    if options.lancedb:
        from state_engine.search.query import add_embeddings

        added = add_embeddings(options.lancedb, options.output, options.key, on_progress)
        write(f"{options.lancedb}: {added.added:,} cells added, {added.updated:,} brought up to date")
    return 0


def run_decode(options: argparse.Namespace, write: Write, on_progress: OnProgress = silent) -> int:
    """Decodes. Returns 0.

    Raises:
        RequestError: arguments that make no sense, or genes that the model does not know.
        DataError, ModelError, DeviceError: what each says.
    """
    from state_engine.embedding.decode import DecodeRequest, decode

    names = list(options.gene)
    if options.genes_file:
        names += [line.strip() for line in options.genes_file.read_text(encoding="utf-8").splitlines() if line.strip()]
    request = DecodeRequest(
        data=str(options.data),
        model=str(options.model),
        genes=tuple(dict.fromkeys(names)),
        choices=_choices(options),
        key=options.key,
        read_depth=options.read_depth,
        device=options.device,
        precision=options.precision,
        allow_other=options.allow_other,
        checkpoint=options.checkpoint,
    )
    made = decode(request, options.output, on_progress)
    write(f"{options.output}: {made.genes:,} genes of {made.cells:,} cells, log1p, on {made.device}")
    for remark in made.remarks:
        write(f"  {remark}")
    return 0


def summary_lines(output: Path, made: EmbedSummary) -> list[str]:
    """What was embedded, for people, a line each."""
    speed = made.cells / made.seconds if made.seconds else 0.0
    waiting = 100 * made.waited_seconds / made.seconds if made.seconds else 0.0
    return [
        f"{output}: {made.cells - made.empty:,} of {made.cells:,} cells, {made.width:,} columns "
        f"({made.cell_width:,} for the cell), from {made.scale}, on {made.device}",
        f"  {made.genes}",
        f"  {speed:,.0f} cells a second, {made.batch_size:,} a pass; {waiting:.1f} % of the time waiting for cell sentences.",
        *(f"  {remark}" for remark in made.remarks),
    ]


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", choices=("auto", "counts", "log1p"), default="auto", help="of the values; default: from them")
    parser.add_argument("--gene-column", metavar="C", help="var column with the gene names; default: the best match")
    parser.add_argument("--expression", metavar="PLACE", help="X or layers/NAME; default: X")
    parser.add_argument("--checkpoint", metavar="FILE", help="which file, when the folder has several")
    parser.add_argument("--device", choices=DEVICE_NAMES, default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")


def _choices(options: argparse.Namespace) -> Choices:
    scale = None if options.scale == "auto" else options.scale
    return Choices(scale=scale, gene_column=options.gene_column, expression=options.expression)
