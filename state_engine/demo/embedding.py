"""The demo's State Embedding model: pretrained on the demo's own simulated cells, on a CPU in under a minute.

It knows genes that vary between the simulated cells, by vectors that are learnt from their co-expression. It shows the pages; what it says
of real cells means nothing. Its sizes and steps were chosen by looking at whether neighbours share a cell type in these cells.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from state_engine.checkpoints.embedding_card import EmbeddingCard
from state_engine.data.dataset import Dataset, open_dataset
from state_engine.data.expression import hvg_choice
from state_engine.files import write_bytes
from state_engine.pretrain.co_expression import gene_vectors
from state_engine.pretrain.fit import pretrain_embedding
from state_engine.pretrain.request import PretrainRequest, Running, Schedule, Sizes, Task
from state_engine.pretrain.run_folder import MODEL
from state_engine.pretrain.sources import survey
from state_engine.progress import OnProgress, silent
from state_engine.train.curves import LOG, read_curve

GENES = 300
# high in every cell: they would drown the others
EVERYWHERE = ("RPL", "RPS", "MT-", "EEF", "ACTB", "GAPDH", "TUB")
LOSSES = "losses.csv"  # of the steps, beside the model
NAME = "Demo SE (simulated PBMC)"
SIZES = Sizes(hidden=64, layers=2, heads=4, feed_forward=128, output_dim=64, tokens=64, gene_width=64, dropout=0.0)
TASK = Task(expressed=24, unexpressed=24, shared=24)
SCHEDULE = Schedule(steps=500, cells_per_step=32, learning_rate=3e-3)
# CPU and float32: anyone can repeat it
RUNNING = Running(NAME, licence="MIT", simulated=True, test=False, device="cpu", validate_every=100, checkpoint_every=0)


def demo_request(data: Path, vectors: Path, schedule: Schedule = SCHEDULE) -> PretrainRequest:
    """Return what the demo's model is pretrained on, and how."""
    return PretrainRequest((str(data),), genes=str(vectors), sizes=SIZES, task=TASK, schedule=schedule, running=RUNNING)


def demo_genes(dataset: Dataset) -> tuple[str, ...]:
    """Return the genes of the demo's model: the most variable ones of its data set, without those that are high in every cell."""
    chosen = hvg_choice(dataset, min(GENES, dataset.n_genes)).names
    return tuple(gene for gene in chosen if not gene.startswith(EVERYWHERE))


def demo_vectors(dataset: Dataset, genes: tuple[str, ...], on_progress: OnProgress = silent) -> np.ndarray:
    """Return the vectors of the genes, (genes, width), learnt from their co-expression in all cells."""
    sources = survey((dataset,), genes, on_progress)
    return gene_vectors(sources, [sources[0].rows], SIZES.gene_width, RUNNING.seed, on_progress)


def write_vectors(folder: Path, genes: tuple[str, ...], values: np.ndarray) -> Path:
    """Write vectors as a file that `pretrain --genes` reads, and return its place."""
    place = folder / "co-expression.npy"
    np.save(place, values)
    write_bytes(place.with_suffix(".txt"), "\n".join(genes).encode())
    return place


def make_demo_embedding(
    data: Path, work: Path, folder: Path, on_progress: OnProgress = silent, schedule: Schedule = SCHEDULE
) -> EmbeddingCard:
    """Pretrain the model on the demo's cells, with files in the new folder `work`, and put it into `folder`, new too."""
    dataset = open_dataset(data)
    genes = demo_genes(dataset)
    work.mkdir()
    vectors = write_vectors(work, genes, demo_vectors(dataset, genes, on_progress))
    card = pretrain_embedding(demo_request(data, vectors, schedule), work / "run", on_progress).card
    shutil.copytree(work / "run" / MODEL, folder)
    log = read_curve(work / "run" / LOG)
    lines = [f"{int(step)},{loss:.6g}" for step, loss in zip(log["step"], log["loss"], strict=True)]
    write_bytes(folder / LOSSES, "\n".join(["step,loss", *lines, ""]).encode())
    return card
