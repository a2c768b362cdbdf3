"""The demo: a simulated data set and a model trained on it, both made here and nowhere else.

    assets/demo/demo.h5ad   the data set (`state_engine.demo.cells`)
    assets/demo/model       the model, in our store
    assets/demo/embedding   a State Embedding model, pretrained on the same cells (`state_engine.demo.embedding`)
    assets/demo/README.md   what they are, and the model's scores as measured when they were made

The same machine gives the same data, byte for byte, and the model within rounding of its arithmetic.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from state_engine.checkpoints.card import ModelCard
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.splits.apply import Split, apply_plan
from state_engine.data.splits.plan import FewShot, SplitPlan
from state_engine.demo.cells import HELD_OUT, TITLE, Design, write_simulated
from state_engine.demo.embedding import SCHEDULE, make_demo_embedding
from state_engine.files import write_bytes
from state_engine.pretrain.request import Schedule
from state_engine.progress import OnProgress, Progress, silent
from state_engine.train.fit import train_transition
from state_engine.train.request import Network, Optimiser, Run, Sets, TrainRequest
from state_engine.train.run_folder import MODEL as TRAINED
from state_engine.train.tested_bands import add_tested_bands

DATA = "demo.h5ad"
MODEL = "model"
EMBEDDING = "embedding"
RUN, EMBEDDING_RUN = "training", "pretraining"
README = "README.md"

# CPU and float32: anyone can repeat it
TRAINING = TrainRequest(
    network=Network(hvgs=0, hidden=128, intermediate=256, layers=4, heads=4),
    optimiser=Optimiser(steps=2000, learning_rate=1e-3),
    sets=Sets(set_size=32, sets_per_step=8),
    run=Run("Demo ST (simulated PBMC)", seed=42, device="cpu", licence="MIT", data_name=TITLE, simulated=True),
)


@dataclass(frozen=True)
class Demo:
    """Where the demo lies, and the card of its model."""

    data: Path
    model: Path
    card: ModelCard


def rebuild(
    output: Path, on_progress: OnProgress = silent, design: Design | None = None, training: TrainRequest = TRAINING,
    pretraining: Schedule = SCHEDULE,
) -> Demo:  # fmt: skip
    """Make data set, model and README in `output`; what is there under these names is replaced when all is done.

    Args:
        output: a folder, made when missing.
        on_progress: told every training step; may raise `JobCancelled`, then `output` stays as it was.
        design: of the data set; the demo's by default.
        training: of the model; the demo's by default.
        pretraining: of the State Embedding model; the demo's by default.

    Raises:
        SplitError: a held-out block is not in the data set of `design`.
    """
    output.mkdir(parents=True, exist_ok=True)
    beside = output / ".rebuild"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        on_progress(Progress("Simulating cells"))
        dataset = open_dataset(write_simulated(beside / DATA, design))
        card = train_transition(demo_split(dataset), training, beside / RUN, on_progress)
        (beside / RUN / TRAINED).replace(beside / MODEL)
        card = add_tested_bands(beside / MODEL, demo_split(dataset), training.run.seed)
        make_demo_embedding(beside / DATA, beside / EMBEDDING_RUN, beside / EMBEDDING, on_progress, pretraining)
        write_bytes(beside / README, readme(dataset.n_cells, dataset.n_genes, card).encode())
        for name in (MODEL, EMBEDDING):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in (DATA, MODEL, EMBEDDING, README):
            (beside / name).replace(output / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Demo(output / DATA, output / MODEL, card)


def demo_split(dataset: Dataset) -> Split:
    """Return the split that trains on everything but the held-out blocks, which are tested."""
    name = "demo"
    blocks = tuple(FewShot(name, context, test=(perturbation,)) for context, perturbation in HELD_OUT)
    return apply_plan(SplitPlan(((name, str(dataset.path)),), (name,), fewshot=blocks), [(name, dataset)])


def readme(n_cells: int, n_genes: int, card: ModelCard) -> str:
    """Return the README of the folder, with the scores of this model."""
    training, config = card.training, card.config
    by_name = {condition.name: condition.scores for condition in training.conditions}
    lines = [
        "# The demo: simulated data, and a small model trained on it",
        "",
        f"`{DATA}` is **simulated**: {n_cells:,} cells x {n_genes:,} genes, five PBMC cell types, two batches, a control and",
        f"{len(card.perturbations) - 1} perturbations. The gene symbols are real; the numbers are not measurements. Programs, rest",
        "levels and responses are in `programs.tsv` and `responses.tsv` (general immunological knowledge), further symbols in",
        "`genes.txt`; `state_engine/demo/cells.py` draws negative binomial counts from them.",
        "",
        f"`{MODEL}/` is a State Transition model: hidden {config.backbone.hidden}, {config.backbone.layers} layers, sets of "
        f"{config.set_size}, {card.training.steps:,} steps with the energy",
        f"distance, trained on all of it but {len(card.training.held_out)} blocks of (cell type x perturbation).",
        "",
        f"`{EMBEDDING}/` is a State Embedding model, pretrained on these cells in a minute or two (`state_engine/demo/embedding.py`). It shows",
        "the pages; it knows no real cell.",
        "",
        "All are made by `python -m state_engine demo --rebuild`.",
        "",
        "## The held-out blocks, as measured on these files",
        "",
        "MAE of the mean cell and Pearson r of the effect, over all genes, log1p of depth 10,000. corrected: each control cell plus",
        "its own effect (predicted under the perturbation minus under the control). mean: control plus the mean effect of the other",
        "cell types. none: nothing changes. Small blocks are noisy: an MAE of 0 is out of reach for any prediction. Steps, learning",
        "rate and dropout were chosen among a handful of settings by looking at these same blocks, so the numbers flatter a little.",
        "",
        "| held out | MAE raw | MAE corrected | MAE mean | MAE none | r raw | r paired | r mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    blocks = [(str(held), by_name.get(str(held), {})) for held in training.held_out]
    for name, scores in [*blocks, ("mean of the blocks", training.scores)]:
        cells = [_number(scores, f"mae_{m}", 4) for m in ("raw", "corrected", "mean", "none")]
        cells += [_number(scores, f"r_{m}", 3) for m in ("raw", "paired", "mean")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(scores: dict[str, float], name: str, digits: int) -> str:
    return f"{scores[name]:.{digits}f}" if name in scores else "not defined"
