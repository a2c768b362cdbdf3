"""What happens between the steps of a pretraining: curves are written, checkpoints saved, validation cells decoded, a wish to stop heard.

Boundary: a Lightning callback; it changes no weights and no learning rate. Only the first process of several writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from state_engine.errors import JobCancelled
from state_engine.pretrain.mini_batches import Cells
from state_engine.pretrain.module import CellBatch, EmbeddingTraining, cell_batch
from state_engine.progress import OnProgress, Progress
from state_engine.train.curves import LOG, VALIDATION, Curve, seconds_so_far
from state_engine.train.trainer import CHECKPOINTS, check_finite, due, save_checkpoint

STAGE = "Pretraining"


class Watch(pl.Callback):
    """See the module.

    Args:
        folder: of the run.
        on_progress: told every step; may raise `JobCancelled`, then a checkpoint is saved first.
        validation: the validation cells, some at a time; may be empty.
        training: whose steps are watched.
    """

    def __init__(self, folder: Path, on_progress: OnProgress, validation: Sequence[Cells], training: EmbeddingTraining) -> None:
        self.folder, self.on_progress, self.validation, self.training = folder, on_progress, validation, training
        self.names = ("decoding", "dataset") if training.classifier is not None else ("decoding",)
        self._log: Curve | None = None
        self._curve: Curve | None = None
        # of a pretraining that was stopped behind its last step none is done any more, and no clock starts
        self.seconds_before = seconds_so_far(folder)
        self._began: float | None = None
        self._ended: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the curves at the step where the training goes on."""
        start = trainer.global_step
        if not trainer.is_global_zero:
            return
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        columns = ("step", "loss", *self.names, "learning_rate", "gradient_norm", "seconds")
        self._log = Curve(self.folder / LOG, columns, start)
        self.seconds_before = self._log.seconds
        if self.validation:
            self._curve = Curve(self.folder / VALIDATION, ("step", "loss", *self.names[1:], "seconds"), start)
        self._began = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int) -> None:
        """Remember the learning rate that the step takes."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write curves, validate, save a checkpoint and report, each when it is due."""
        running, steps, step = self.training.request.running, self.training.request.schedule.steps, trainer.global_step
        save, measure = (due(step, steps, every) for every in (running.checkpoint_every, running.validate_every))
        if trainer.is_global_zero and self._log is not None:
            row = {name: float(value) for name, value in self.training.parts.items()}
            row |= {"step": step, "learning_rate": self._rate, "gradient_norm": float(self.training.gradient_norm)}
            self._log.add([row | {"seconds": self.seconds}])
            check_finite([row])
            if measure and self._curve is not None:
                self._curve.add([{"step": step, **validation_losses(self.training, self.validation), "seconds": self.seconds}])
        if save:
            save_checkpoint(trainer, self.folder, step)
        if trainer.is_global_zero:
            milestone = step % max(1, steps // 10) == 0
            remark = f"Step {step:,}: loss {float(self.training.parts['loss']):.4f}" if milestone else ""
            try:
                self.on_progress(Progress(STAGE, step, steps, remark))
            except JobCancelled:
                if not save:
                    save_checkpoint(trainer, self.folder, step)
                raise

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Computing time since the start, over all resumptions."""
        if self._began is None:
            return self.seconds_before
        return self.seconds_before + (self._ended or time.perf_counter()) - self._began


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
