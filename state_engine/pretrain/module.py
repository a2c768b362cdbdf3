"""A State Embedding network in pretraining as a Lightning module: the loss of a step, the optimiser, the learning rate.

Random numbers of a step (dropout) depend on the seed, the step and the device's rank alone, as its cells do. The learning rate is set
from the formula of `request.learning_rate` and the optimiser's own step: validation does not move it.

Boundary: tensors; no files. Imported only where a training starts, since Lightning takes seconds to import.

Notation: b cells, p positions of a sentence, k genes of a task, u different genes of a mini-batch, g genes of the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from state_engine.device import dtype_of
from state_engine.models.embedding import EmbeddingModel, EmbeddingOutput
from state_engine.models.embedding_losses import DatasetClassifier, build_task_loss, read_depths
from state_engine.pretrain.mini_batches import Cells
from state_engine.pretrain.request import PretrainRequest, learning_rate


class CellBatch(NamedTuple):
    """`Cells` as tensors."""

    rows: Tensor
    counts: Tensor
    genes: Tensor
    values: Tensor
    datasets: Tensor


def cell_batch(cells: Cells, pin: bool = False) -> CellBatch:
    """Return cells as tensors; pinned, so that they travel to a GPU while it computes."""
    tensors = [torch.from_numpy(a) for a in (cells.rows, cells.counts, cells.genes, cells.values, cells.datasets)]
    return CellBatch(*(t.pin_memory() if pin else t for t in tensors))


class EmbeddingTraining(pl.LightningModule):
    """A network in training.

    Args:
        request: the pretraining.
        network: what is trained.
        vectors: (g, token_dim) gene vectors.
        datasets: how many; of one alone no data set is learnt.
    """

    vectors: Tensor

    def __init__(self, request: PretrainRequest, network: EmbeddingModel, vectors: Tensor, datasets: int) -> None:
        super().__init__()
        self.request, self.network = request, network
        self.register_buffer("vectors", vectors, persistent=False)
        self.classifier = DatasetClassifier(network.config, datasets) if datasets > 1 and network.config.dataset_token else None
        self.loss = build_task_loss(request.task.loss, request.task.shared)
        self.parts: dict[str, Tensor] = {}
        self.gradient_norm = torch.zeros(())

    def training_step(self, batch: CellBatch, index: int) -> Tensor:
        """Return the loss of a step; `parts` then holds it and its terms, detached."""
        # each step and device has a seed of its own, so that a training that was cut off goes on as if it had not been
        world, rank = self.trainer.world_size, self.trainer.global_rank
        torch.manual_seed(((self.request.running.seed * 1_000_003 + self.trainer.global_step) * world + rank) % 2**63)
        terms = self.terms(batch)
        total = torch.stack(list(terms.values())).sum()
        self.parts = {name: value.detach() for name, value in {"loss": total, **terms}.items()}
        return total

    def terms(self, batch: CellBatch) -> dict[str, Tensor]:
        """Return the parts of the loss by name: "decoding", and "dataset" where there are several data sets."""
        dtype = dtype_of(self.request.running.precision)
        with torch.autocast(batch.counts.device.type, dtype, enabled=dtype != torch.float32):
            output = self.embed(batch)
            decoded = self.decode(batch, output)
        terms = {"decoding": self.loss(decoded, batch.values)}
        if self.classifier is not None:
            assert output.dataset_hidden is not None
            terms["dataset"] = functional.cross_entropy(self.classifier(output.dataset_hidden).float(), batch.datasets)
        return terms

    def embed(self, batch: CellBatch) -> EmbeddingOutput:
        """Embed the cells; only the genes that they hold are encoded."""
        # each gene is encoded once, however many cells hold it: the gradient adds up in the gather
        used, places = batch.rows[:, 1:].unique(return_inverse=True)
        table = self.network.token_table(self.vectors[used])
        cls = torch.full((len(places), 1), len(used), device=places.device)
        return self.network(torch.cat([cls, places], dim=1), batch.counts, table=table)

    def decode(self, batch: CellBatch, output: EmbeddingOutput) -> Tensor:
        """Decode the genes of the cells' tasks, (b, k)."""
        used, places = batch.genes.unique(return_inverse=True)
        genes = functional.embedding(places, self.network.encoder(self.vectors[used]))
        # binary targets of one loss tell as much of the depth as the reference's: how many are expressed, not how much
        told = (batch.values > 0).float() if self.request.task.loss == "cross_entropy" else batch.values
        return self.network.decode_pairs(genes, output.cell, output.dataset, read_depths(told))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with the learning rates of the schedule."""
        s = self.request.schedule
        optimiser = torch.optim.AdamW(self.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate(s, step) / s.learning_rate)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer | LightningOptimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip to the request's norm, and remember the norm before."""
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        most = self.request.schedule.gradient_clip or float("inf")
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(weights, most).detach()
