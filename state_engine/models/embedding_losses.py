"""What a pretraining step of a State Embedding network minimises: decoded beside measured log expression of some genes of each cell.

Sources: bioRxiv 2025.06.26.661135; the formulas are those of arc-state's `state emb fit`, found by comparing numbers (parity test).

Notation: b cells, k genes of a cell's task: first those of its own, then the last `shared` ones, which all cells of the mini-batch
have in common; r neighbouring cells that are taken as one set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from state_engine.errors import ConfigError
from state_engine.models.distances import energy_distance
from state_engine.models.embedding_config import EmbeddingConfig, TaskLossName

TaskLoss = Callable[[Tensor, Tensor], Tensor]
CLASSIFIER_DROPOUT = 0.1


def build_task_loss(name: TaskLossName, shared: int, together: int = 1) -> TaskLoss:
    """Return a loss of decoded and measured values: (b, k), (b, k) -> ().

    Args:
        name: which one.
        shared: genes at the end that all cells have in common; `tabular` alone tells them apart.
        together: r, for the energy distances.

    Raises:
        ConfigError: no loss of that name.
    """
    losses: dict[str, TaskLoss] = {
        "tabular": partial(tabular, shared=shared, together=together),
        "mmd": partial(over_cells, together=together),
        "mse": functional.mse_loss,
        "cross_entropy": expressed,
        "wasserstein": wasserstein,
    }
    if name not in losses:
        raise ConfigError(f"There is no loss called '{name}'.", f"Known: {', '.join(get_args(TaskLossName))}.")
    chosen = losses[name]

    def loss(decoded: Tensor, measured: Tensor) -> Tensor:
        with torch.autocast(decoded.device.type, enabled=False):
            return chosen(decoded.float(), measured.float())

    return loss


def tabular(decoded: Tensor, measured: Tensor, shared: int, together: int = 1) -> Tensor:
    """Return the energy distance of cells over all their genes, plus that of the shared genes over all cells.

    The table (cells x shared genes) is compared along both its sides. With r = 1 each set is one point, and its energy distance to
    another is their Euclidean distance.
    """
    rows = over_cells(decoded, measured, together)
    # one set for each shared gene: r points, whose coordinates are the sets of cells
    columns = [x.unflatten(0, (-1, together))[:, :, -shared:].permute(2, 1, 0) for x in (decoded, measured)]
    return rows + energy_distance(columns[0], columns[1]).mean()


def over_cells(decoded: Tensor, measured: Tensor, together: int = 1) -> Tensor:
    """Return the mean energy distance between sets of r neighbouring cells."""
    sets = (-1, together)
    return energy_distance(decoded.unflatten(0, sets), measured.unflatten(0, sets)).mean()


def expressed(decoded: Tensor, measured: Tensor) -> Tensor:
    """Return the cross entropy of "this gene is expressed", the decoded value being its logit."""
    return functional.binary_cross_entropy_with_logits(decoded, (measured > 0).float())


def wasserstein(decoded: Tensor, measured: Tensor) -> Tensor:
    """Return the distance between the two as distributions over the genes (softmax), in their order: the mean over cells."""
    return (decoded.softmax(-1).cumsum(-1) - measured.softmax(-1).cumsum(-1)).abs().sum(-1).mean()


def read_depths(measured: Tensor) -> Tensor:
    """Return what the decoder is told as the read depth: the mean of each cell's values above 0, and 0 without any. (b, k) -> (b,)."""
    return measured.sum(1) / (measured > 0).sum(1).clamp_min(1)


class DatasetClassifier(nn.Module):
    """Tell the data set of a cell from its decoded data set token; used in training only. (b, e) -> logits (b, n)."""

    def __init__(self, config: EmbeddingConfig, datasets: int) -> None:
        super().__init__()
        self.up = nn.Linear(config.output_dim, config.hidden)
        self.norm = nn.LayerNorm(config.hidden)
        self.drop = nn.Dropout(CLASSIFIER_DROPOUT)
        self.out = nn.Linear(config.hidden, datasets)

    def forward(self, hidden: Tensor) -> Tensor:
        """(b, e) -> (b, n)."""
        return self.out(self.drop(self.norm(functional.silu(self.up(hidden)))))
