"""What a State Embedding model is pretrained on, and how: every choice as one frozen value. No torch: pages make and show it.

Source of the values: bioRxiv 2025.06.26.661135 and the configuration of arc-state's `state emb fit`; sizes are for a CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from state_engine.data.dataset import Choices
from state_engine.device import DeviceName, Precision
from state_engine.errors import RequestError, listed
from state_engine.models.embedding_config import TaskLossName
from state_engine.options import about, check, option, part


@dataclass(frozen=True)
class Sizes:
    """The network, where it starts without weights of another."""

    hidden: int = option(128, "width of the transformer", label="Width", above=0, offered=8192)
    layers: int = option(2, "layers of the transformer", above=0, offered=96)
    heads: int = option(4, "attention heads of the transformer", above=0)
    feed_forward: int = option(256, "width within the feed-forward part", above=0)
    output_dim: int = option(64, "columns of the embedding that describe the cell", label="Columns of the embedding", above=0)
    tokens: int = option(512, "positions of a cell sentence: CLS and the genes with the highest expression", least=2)
    gene_width: int = option(128, "width of gene vectors that are learnt from co-expression", above=0, offered=8192)
    dropout: float = option(0.0, "dropout of the transformer (0.1 in released models; slow on a CPU)", least=0, below=1)

    def __post_init__(self) -> None:
        check(self, RequestError)
        if self.hidden % self.heads:
            raise RequestError(f"{self.heads} heads cannot share a width of {self.hidden}.", "It must divide evenly.")


@dataclass(frozen=True)
class Task:
    """What is decoded from the embedding of each cell in a step."""

    expressed: int = option(64, "genes of each cell that it expresses (P)", label="Expressed genes", above=0)
    unexpressed: int = option(64, "genes of each cell that it does not express (N)", label="Unexpressed genes", above=0)
    shared: int = option(64, "genes that all cells of a step are asked for (S)", label="Shared genes", above=0)
    loss: TaskLossName = option("tabular", "distance between decoded and measured values")

    def __post_init__(self) -> None:
        check(self, RequestError)

    @property
    def genes(self) -> int:
        """Genes of one cell's task (k)."""
        return self.expressed + self.unexpressed + self.shared


@dataclass(frozen=True)
class Schedule:
    """Steps and learning rate: a linear rise, then a cosine that falls to a part of the largest rate at the last step."""

    steps: int = option(2000, "optimiser steps", above=0, offered=10_000_000)
    cells_per_step: int = option(32, "cells of a step, over all devices", label="Cells per step", above=0, offered=65536)
    learning_rate: float = option(2e-3, "largest learning rate", above=0)
    warmup: float = option(0.03, "part of the steps in which the learning rate rises", least=0, below=1)
    start: float = option(0.33, "part of the largest learning rate at the first step", above=0, most=1)
    lowest: float = option(0.3, "part of the largest learning rate at the last step", least=0, most=1)
    weight_decay: float = option(0.01, "weight decay of AdamW", least=0)
    gradient_clip: float = option(0.8, "largest norm of the gradient; 0: any", least=0)

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class Running:
    """Where and how it runs; of these only the seed and the validation part shape the numbers."""

    name: str = option("SE", "name of the model", metavar="NAME")
    licence: str = option("unknown", "licence of the model", metavar="L")
    simulated: bool = option(False, "the cells are simulated")
    seed: int = option(42, "of all random numbers", metavar="S", least=0, offered=2**31 - 1)
    validation: float = option(0.05, "part of the cells that is not trained on, 512 at most", least=0, most=0.5)
    validate_every: int = option(250, "steps between validations; 0: at the end only", least=0)
    checkpoint_every: int = option(500, "steps between checkpoints; 0: at the end only", least=0)
    test: bool = option(True, "the embedding is not tested at the end")
    device: DeviceName = option("auto", "where to compute; auto takes a GPU when there is one")
    precision: Precision = option("fp32", "bf16 is faster and slightly less exact")
    devices: int = option(1, "devices of each node; several train with DDP", above=0)
    nodes: int = option(1, "nodes", above=0)

    def __post_init__(self) -> None:
        check(self, RequestError)


@dataclass(frozen=True)
class PretrainRequest:
    """A pretraining, complete: together with the files it names it determines the model."""

    VERB: ClassVar = "pretrain"
    data: tuple[str, ...] = field(metadata=about("data set (.h5ad, or what is converted to it)", metavar="X.h5ad", data=True))
    choices: Choices = part(Choices())
    genes: str = option(
        "",
        "vectors of the genes: .pt (as ESM2's), .csv, .tsv, or .npy with the names in a .txt beside it; default: learnt from "
        "co-expression in the data",
        metavar="VECTORS",
    )
    init_from: str = option("", "go on from the weights, genes and sizes of this State Embedding model", metavar="MODEL")
    evaluate: tuple[str, ...] = option(
        (), "obs column whose labels the embedding is tested on; default: contexts, perturbations and batches", metavar="COLUMN"
    )
    sizes: Sizes = part(Sizes())
    task: Task = part(Task())
    schedule: Schedule = part(Schedule())
    running: Running = part(Running())
    variable_genes: int = option(
        0,
        "read only so many genes: the most variable ones, over all data sets together; 0: every gene that is known",
        metavar="N",
        least=0,
        offered=100_000,
    )

    def __post_init__(self) -> None:
        check(self, RequestError)
        twice = sorted({path for path in self.data if self.data.count(path) > 1})
        if twice:
            raise RequestError(f"A data set is named twice: {listed(twice)}.", "Its cells would count twice.", "Name each once.")
        if self.genes and self.init_from:
            raise RequestError(
                "Gene vectors and a model to start from are both named.", "The model has its own gene vectors.", "Leave one out."
            )
        if self.variable_genes and self.init_from:
            raise RequestError(
                "Variable genes and a model to start from are both named.", "The model has its own genes.", "Leave one out."
            )
        share = self.running.devices * self.running.nodes
        if self.schedule.cells_per_step % share:
            raise RequestError(
                f"{share} devices cannot share {self.schedule.cells_per_step} cells per step.", "It must divide evenly."
            )

    @property
    def all_devices(self) -> int:
        """Devices of all nodes."""
        return self.running.devices * self.running.nodes


def learning_rate(schedule: Schedule, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    With w = warmup x steps, rounded down: from `start` to 1 in w steps, then (lowest + (1 - lowest) (1 + cos(pi t)) / 2) with t from 0
    to 1 at the last step, all times the largest rate.
    """
    rise = int(schedule.warmup * schedule.steps)
    if step < rise:
        return schedule.learning_rate * (schedule.start + (1 - schedule.start) * step / rise)
    t = min(1.0, (step - rise) / max(1, schedule.steps - 1 - rise))
    return schedule.learning_rate * (schedule.lowest + (1 - schedule.lowest) * (1 + math.cos(math.pi * t)) / 2)
