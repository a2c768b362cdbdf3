"""What happens between the steps of a training: curves are written, checkpoints saved, validation sets measured, a wish to stop heard.

Boundary: a Lightning callback; it changes no weights. Only the first process of several writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from state_engine.effects.apply import paired_cells
from state_engine.errors import JobCancelled
from state_engine.models.losses import MiniBatch, set_means
from state_engine.progress import OnProgress, Progress
from state_engine.train.curves import LOG, VALIDATION, Curve, seconds_so_far
from state_engine.train.mini_batches import SetCells
from state_engine.train.module import TransitionTraining, added_parts, learning_rate
from state_engine.train.trainer import CHECKPOINTS, check_finite, due, save_checkpoint

STAGE = "Training"
LOG_SECONDS = 0.5  # on a GPU reading a loss waits for the device, so losses are read together
VALIDATION_COLUMNS = ("step", "loss", "mae_raw", "mae_corrected", "mae_none", "seconds")


class Watch(pl.Callback):
    """See the module.

    Args:
        folder: of the run.
        on_progress: told every step; may raise `JobCancelled`, then a checkpoint is saved first.
        validation: the validation sets, some at a time; may be empty.
        training: whose steps are watched.
    """

    def __init__(
        self, folder: Path, on_progress: OnProgress, validation: Sequence[SetCells], training: TransitionTraining
    ) -> None:
        self.folder, self.on_progress, self.validation, self.training = folder, on_progress, validation, training
        self._pending: list[tuple[int, dict[str, torch.Tensor], torch.Tensor, float]] = []
        added = tuple(added_parts(training.request))
        self._parts = ("distance", *added) if added else ()
        self._log: Curve | None = None
        self._curve: Curve | None = None
        self._began: float | None = None
        self._flushed = 0.0
        # of a training that was stopped behind its last step none is done any more, and no clock starts
        self.seconds_before = seconds_so_far(folder)
        self._ended: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the curves at the step where the training goes on."""
        start = trainer.global_step
        if not trainer.is_global_zero:
            return
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        columns = ("step", "loss", *self._parts, "learning_rate", "gradient_norm", "seconds")
        self._log = Curve(self.folder / LOG, columns, start)
        self.seconds_before = self._log.seconds
        if self.validation:
            self._curve = Curve(self.folder / VALIDATION, VALIDATION_COLUMNS, start)
        self._began = self._flushed = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write curves, validate, save a checkpoint and report, each when it is due."""
        training = self.training
        run, steps = training.request.run, training.request.optimiser.steps
        step = trainer.global_step
        training.follow(step)
        save, measure = (due(step, steps, every) for every in (run.checkpoint_every, run.validate_every))
        if trainer.is_global_zero:
            self._pending.append((step, training.parts, training.gradient_norm, self.seconds))
            self._flush(save or measure)
            if measure and self._curve is not None:
                scores = validation_scores(training, self.validation)
                self._curve.add([{"step": step, **scores, "seconds": self.seconds}])
        if save:
            save_checkpoint(trainer, self.folder, step)
        if trainer.is_global_zero:
            # a message is kept in the log: ten of them say how it went
            milestone = step % max(1, steps // 10) == 0
            remark = f"Step {step:,}: loss {float(training.parts['loss']):.4f}" if milestone else ""
            try:
                self.on_progress(Progress(STAGE, step, steps, remark))
            except JobCancelled:
                self._flush(True)
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

    def _flush(self, now: bool) -> None:
        """Write the steps that wait: at once on a CPU, every `LOG_SECONDS` elsewhere, or `now`."""
        due = now or self.training.device.type == "cpu" or time.perf_counter() - self._flushed > LOG_SECONDS
        if not self._pending or self._log is None or not due:
            return
        names = ("loss", *self._parts)
        # one tensor, so that the device is waited for once however many steps it is
        values = torch.stack(
            [torch.stack([*(parts[n] for n in names), norm.to(parts["loss"])]) for _, parts, norm, _ in self._pending]
        )
        optimiser = self.training.request.optimiser
        rows = []
        for (step, _, _, seconds), numbers in zip(self._pending, values.tolist(), strict=True):
            row = dict(zip((*names, "gradient_norm"), numbers, strict=True))
            rows.append({"step": step, **row, "learning_rate": learning_rate(optimiser, step - 1), "seconds": seconds})
        self._log.add(rows)
        self._pending.clear()
        self._flushed = time.perf_counter()
        check_finite(rows)


@torch.no_grad()
def validation_scores(training: TransitionTraining, cells: Sequence[SetCells]) -> dict[str, float]:
    """Return means over the validation sets: the distance that is trained on, and MAE of the mean cell raw, corrected and for no change."""
    total, n = torch.zeros(4, dtype=torch.float64), 0
    with training.final_weights():
        for part in cells:
            batch = on_device(mini_batch(part, False), training.device)
            predicted = training.predict(batch).predicted.float()
            control = training.predict(batch._replace(perturbations=torch.zeros_like(batch.perturbations))).predicted.float()
            corrected = paired_cells(batch.basal, predicted, control)
            if training.network.config.final_relu:
                corrected = corrected.clamp_min(0)
            truth = set_means(batch.observed, batch.sizes)
            errors = [(set_means(x, batch.sizes) - truth).abs().mean(1) for x in (predicted, corrected, batch.basal)]
            # float64 on the CPU: sums of sets of all passes
            total += (
                torch.stack([training.objective.distances(predicted, batch.observed, batch.sizes), *errors]).sum(1).double().cpu()
            )
            n += len(batch.sizes)
    names = ("loss", "mae_raw", "mae_corrected", "mae_none")
    return dict(zip(names, (total / n).tolist(), strict=True))


def mini_batch(cells: SetCells, pin: bool) -> MiniBatch:
    """Return cells as tensors; pinned, so that they travel to a GPU while it computes."""
    targets = cells.targets if cells.targets is not None else cells.perturbations[:0]
    arrays = (cells.perturbations, cells.basal, cells.observed, cells.batches, targets)
    tensors = [torch.from_numpy(a) for a in arrays]
    return MiniBatch(tuple(cells.sizes.tolist()), *(t.pin_memory() if pin else t for t in tensors))


def on_device(batch: MiniBatch, device: torch.device) -> MiniBatch:
    """Return the mini-batch on a device."""
    return MiniBatch(batch.sizes, *(t.to(device) for t in batch[1:]))
