"""What the steps and validations of a pretraining tell its curves (`train.watcher`).

Boundary: a Lightning callback; it changes no weights and no learning rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from state_engine.pretrain.mini_batches import Cells
from state_engine.pretrain.module import CellBatch, EmbeddingTraining, cell_batch
from state_engine.progress import OnProgress
from state_engine.train.curves import Curve
from state_engine.train.trainer import check_finite
from state_engine.train.watcher import Watcher

STAGE = "Pretraining"


class Watch(Watcher):
    """See the module.

    Args:
        folder, on_progress: as of a `Watcher`.
        validation: the validation cells, some at a time; may be empty.
        training: whose steps are watched.
    """

    stage = STAGE

    def __init__(self, folder: Path, on_progress: OnProgress, validation: Sequence[Cells], training: EmbeddingTraining) -> None:
        more = ("dataset",) if training.classifier is not None else ()
        running = training.request.running
        columns = ("loss", "decoding", *more, "learning_rate", "gradient_norm")
        super().__init__(
            folder, on_progress, training.request.schedule.steps, running.checkpoint_every, running.validate_every, columns,
            ("loss", *more) if validation else (),
        )  # fmt: skip
        self.validation, self.training = validation, training

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        """Remember the learning rate that the step takes."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def note(self, log: Curve, step: int, now: bool) -> None:
        """Write the numbers of a step."""
        row = {name: float(value) for name, value in self.training.parts.items()}
        row |= {"step": step, "learning_rate": self._rate, "gradient_norm": float(self.training.gradient_norm)}
        log.add([row | {"seconds": self.seconds}])
        check_finite([row])

    def measure(self) -> dict[str, float]:
        """Return the parts of the loss over the validation cells."""
        return validation_losses(self.training, self.validation)

    def loss(self) -> float:
        """Return the loss of the step that was done last."""
        return float(self.training.parts["loss"])


@torch.no_grad()
def validation_losses(training: EmbeddingTraining, cells: Sequence[Cells]) -> dict[str, float]:
    """Return the parts of the loss over the validation cells without dropout: "loss" (of decoding), and "dataset"."""
    total, n = dict[str, float](), 0
    training.eval()
    try:
        for part in cells:
            batch = CellBatch(*(t.to(training.device) for t in cell_batch(part)))
            for name, value in training.terms(batch).items():
                total[name] = total.get(name, 0.0) + float(value) * len(part.rows)
            n += len(part.rows)
    finally:
        training.train()
    means = {name: value / n for name, value in total.items()}
    return {"loss": means.pop("decoding"), **means}
