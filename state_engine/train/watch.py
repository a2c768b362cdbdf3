"""What the steps and validations of a training of State Transition tell its curves (`train.watcher`).

Boundary: a Lightning callback; it changes no weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch

from state_engine.effects.apply import paired_cells
from state_engine.models.losses import MiniBatch, set_means
from state_engine.progress import OnProgress
from state_engine.train.curves import Curve
from state_engine.train.mini_batches import SetCells
from state_engine.train.module import TransitionTraining, added_parts, learning_rate
from state_engine.train.trainer import check_finite
from state_engine.train.watcher import Watcher

STAGE = "Training"
LOG_SECONDS = 0.5  # on a GPU reading a loss waits for the device, so losses are read together
MEASURED = ("loss", "mae_raw", "mae_corrected", "mae_none")  # by a validation


class Watch(Watcher):
    """See the module.

    Args:
        folder, on_progress: as of a `Watcher`.
        validation: the validation sets, some at a time; may be empty.
        training: whose steps are watched.
    """

    stage = STAGE

    def __init__(
        self, folder: Path, on_progress: OnProgress, validation: Sequence[SetCells], training: TransitionTraining
    ) -> None:
        added, run = tuple(added_parts(training.request)), training.request.run
        self._parts = ("loss", "distance", *added) if added else ("loss",)
        columns = (*self._parts, "learning_rate", "gradient_norm")
        super().__init__(
            folder, on_progress, training.request.optimiser.steps, run.checkpoint_every, run.validate_every, columns,
            MEASURED if validation else (),
        )  # fmt: skip
        self.validation, self.training = validation, training
        self._pending: list[tuple[int, dict[str, torch.Tensor], torch.Tensor, float]] = []
        self._flushed = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Have the running mean of the weights follow, then watch."""
        self.training.follow(trainer.global_step)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def note(self, log: Curve, step: int, now: bool) -> None:
        """Write the steps that wait: at once on a CPU, every `LOG_SECONDS` elsewhere, or `now`."""
        self._pending.append((step, self.training.parts, self.training.gradient_norm, self.seconds))
        if now or self.training.device.type == "cpu" or time.perf_counter() - self._flushed > LOG_SECONDS:
            self.write_rest(log)

    def write_rest(self, log: Curve) -> None:
        """Write the steps that wait."""
        if not self._pending:
            return
        # one tensor, so that the device is waited for once however many steps it is
        values = torch.stack(
            [torch.stack([*(parts[n] for n in self._parts), norm.to(parts["loss"])]) for _, parts, norm, _ in self._pending]
        )
        optimiser = self.training.request.optimiser
        rows = []
        for (step, _, _, seconds), numbers in zip(self._pending, values.tolist(), strict=True):
            row = dict(zip((*self._parts, "gradient_norm"), numbers, strict=True))
            rows.append({"step": step, **row, "learning_rate": learning_rate(optimiser, step - 1), "seconds": seconds})
        log.add(rows)
        self._pending.clear()
        self._flushed = time.perf_counter()
        check_finite(rows)

    def measure(self) -> dict[str, float]:
        """Return the means over the validation sets."""
        return validation_scores(self.training, self.validation)

    def loss(self) -> float:
        """Return the loss of the step that was done last."""
        return float(self.training.parts["loss"])


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
    return dict(zip(MEASURED, (total / n).tolist(), strict=True))


def mini_batch(cells: SetCells, pin: bool) -> MiniBatch:
    """Return cells as tensors; pinned, so that they travel to a GPU while it computes."""
    targets = cells.targets if cells.targets is not None else cells.perturbations[:0]
    arrays = (cells.perturbations, cells.basal, cells.observed, cells.batches, targets)
    tensors = [torch.from_numpy(a) for a in arrays]
    return MiniBatch(tuple(cells.sizes.tolist()), *(t.pin_memory() if pin else t for t in tensors))


def on_device(batch: MiniBatch, device: torch.device) -> MiniBatch:
    """Return the mini-batch on a device."""
    return MiniBatch(batch.sizes, *(t.to(device) for t in batch[1:]))
