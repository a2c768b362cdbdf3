"""The commands `download`, `convert` and `demo`: models that come from elsewhere, and the demo's."""

from __future__ import annotations

import argparse
from pathlib import Path

from state_engine.cli.options import CHECKPOINT, Write, path, takes, word, yes
from state_engine.errors import RequestError
from state_engine.progress import OnProgress


@takes(
    CHECKPOINT,
    {
        "repo": word("OWNER/NAME", "see --list", nargs="?"),
        "--folder": word("FOLDER", "which of the models in the repository; they are named when there are several"),
        "--revision": word("R", "branch, tag or commit; default: the commit that is known here, else the newest", default=""),
        "--accept-licence": yes("I accept the licence of the weights, which is shown without it"),
        "--output": path("DIR", "folder of the converted model"),
        "--list": yes("list the published models that are known here, and download nothing"),
    },
)
def run_download(options: argparse.Namespace, write: Write, on_progress: OnProgress) -> None:
    """Download a published model and convert it; it continues where it stopped."""
    from state_engine.config import load_settings
    from state_engine.library import hub

    if options.list:
        write("\n".join(_published()))
        return
    if not options.repo or not options.output:
        raise RequestError("Which model, and where to?", "OWNER/NAME or --output is missing.", "See download --list.")
    folder = hub.download(
        options.repo, options.revision, load_settings(), options.accept_licence, options.folder, on_progress, options.checkpoint
    )
    _convert(folder, options.output, options.repo.split("/")[-1], options.checkpoint, write)
    card = hub.credit(options.output, folder)
    if card is not None:
        write("\n".join(f"  {line}" for line in (card.source, f"Licence: {card.licence}", *card.limits)))


def _published() -> list[str]:
    """Return what is known of each published model, in lines."""
    from state_engine.library.published import PUBLISHED

    lines = []
    for model in PUBLISHED:
        what = f"{model.reads} -> {model.writes}; {model.data}, {model.perturbed_by}" if model.writes else model.reads
        lines += [f"{model.repo}: {what}", f"  commit {model.revision or 'that of the first download'}; {model.licence}"]
        lines += [f"  {fold.folder}: left out of training: {fold.unseen.format(line='<line>')}" for fold in model.folds]
    return lines


def _convert(model: Path, output: Path, name: str | None, checkpoint: str | None, write: Write) -> None:
    """Convert a model of either kind, and say what it is."""
    from state_engine.checkpoints.arc.read import convert
    from state_engine.checkpoints.embedding_store import convert_embedding, is_embedding

    if is_embedding(model):
        embedding = convert_embedding(model, output, name, checkpoint)
        lines = [f"{embedding.name}, {len(embedding.vocabulary):,} genes, {embedding.width:,} columns", *embedding.notes]
    else:
        card = convert(model, output, name, checkpoint)
        lines = [f"{card.name}, {len(card.offered):,} perturbations, attention {card.attention}", card.attention_source]
        lines += card.notes
    write("\n  ".join([f"{output}: {lines[0]}", *lines[1:]]))


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
    _convert(options.model, options.output, options.name, options.checkpoint, write)


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
