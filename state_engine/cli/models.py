"""The commands `convert` and `demo`: models that come from elsewhere, and the demo's."""

from __future__ import annotations

import argparse

from state_engine.cli.options import CHECKPOINT, Write, path, takes, word, yes
from state_engine.progress import OnProgress


@takes(
    CHECKPOINT,
    {
        "--model": path("ARC_DIR", "run directory of arc-state, or a State Embedding checkpoint", required=True),
        "--output": path("DIR", "folder of the converted model", required=True),
        "--name": word("NAME", "name of the model; default: the directory's name"),
    },
)
def run_convert(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Convert a model of either kind."""
    from state_engine.checkpoints.arc.read import convert
    from state_engine.checkpoints.embedding_store import convert_embedding, is_embedding

    if is_embedding(options.model):
        embedding = convert_embedding(options.model, options.output, options.name, options.checkpoint)
        lines = [f"{embedding.name}, {len(embedding.vocabulary):,} genes, {embedding.width:,} columns", *embedding.notes]
    else:
        card = convert(options.model, options.output, options.name, options.checkpoint)
        lines = [f"{card.name}, {len(card.perturbations):,} perturbations, attention {card.attention}", card.attention_source]
        lines += card.notes
    write("\n  ".join([f"{options.output}: {lines[0]}", *lines[1:]]))


@takes(
    {
        "--rebuild": yes("needed, because it trains the model again, which takes minutes", required=True),
        "--output": path("DIR", "default: where the app looks for it"),
    }
)
def run_demo(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Rebuild the demo's data set and model."""
    from state_engine.demo.transition import rebuild
    from state_engine.library.datasets import DEMO_PATH

    output = options.output or DEMO_PATH.parent
    card = rebuild(output, on_progress).card
    write(f"{output}: {card.name}")
    for name, value in card.training.flat().items():
        write(f"  {name}: {value:.4f}")
