"""What happens between the steps of any training: curves are written, checkpoints saved, a validation measured, a wish to stop heard.

Boundary: a Lightning callback; it changes no weights. What a step and a validation tell is for each kind of training to say. Only the first
process of several writes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import lightning.pytorch as pl

from state_engine.errors import JobCancelled
from state_engine.progress import OnProgress, Progress
from state_engine.train.curves import LOG, VALIDATION, Curve, seconds_so_far
from state_engine.train.trainer import CHECKPOINTS, due, save_checkpoint


class Watcher(pl.Callback, ABC):
    """See the module.

    Args:
        folder: of the run.
        on_progress: told every step; may raise `JobCancelled`, then a checkpoint is saved first.
        steps: of the training.
        checkpoint_every, validate_every: steps; both happen at the last step too.
        columns: of the curve of steps, between "step" and "seconds".
        validation_columns: the same of the validation curve; () for no validation.
    """

    stage: ClassVar[str]

    def __init__(
        self, folder: Path, on_progress: OnProgress, steps: int, checkpoint_every: int, validate_every: int, columns: tuple[str, ...],
        validation_columns: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.folder, self.on_progress = folder, on_progress
        self._steps, self._every = steps, (checkpoint_every, validate_every)
        self._columns, self._validation_columns = columns, validation_columns
        self._log: Curve | None = None
        self._curve: Curve | None = None
        # of a training that was stopped behind its last step none is done any more, and no clock starts
        self.seconds_before = seconds_so_far(folder)
        self._began: float | None = None
        self._ended: float | None = None

    @abstractmethod
    def note(self, log: Curve, step: int, now: bool) -> None:
        """Write the numbers of a step into the curve; `now`: and of those before it that wait."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Return the numbers of a validation, named as its columns."""

    @abstractmethod
    def loss(self) -> float:
        """Return the loss of the step that was done last."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the curves at the step where the training goes on."""
        start = trainer.global_step
        if not trainer.is_global_zero:
            return
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        self._log = Curve(self.folder / LOG, ("step", *self._columns, "seconds"), start)
        self.seconds_before = self._log.seconds
        if self._validation_columns:
            self._curve = Curve(self.folder / VALIDATION, ("step", *self._validation_columns, "seconds"), start)
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Write curves, validate, save a checkpoint and report, each when it is due."""
        step = trainer.global_step
        save, measure = (due(step, self._steps, every) for every in self._every)
        if self._log is not None:
            self.note(self._log, step, save or measure)
            if measure and self._curve is not None:
                self._curve.add([{"step": step, **self.measure(), "seconds": self.seconds}])
        if save:
            save_checkpoint(trainer, self.folder, step)
        if self._log is None:
            return
        try:
            self._report(step)
        except JobCancelled:
            if not save:
                self.write_rest(self._log)
                save_checkpoint(trainer, self.folder, step)
            raise

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._ended = time.perf_counter()

    def write_rest(self, log: Curve) -> None:
        """Write the steps whose numbers wait; none do where `note` writes each at once."""

    @property
    def seconds(self) -> float:
        """Computing time since the start, over all resumptions."""
        if self._began is None:
            return self.seconds_before
        return self.seconds_before + (self._ended or time.perf_counter()) - self._began

    def _report(self, step: int) -> None:
        """Tell how far it is; a message is kept in the log: ten of them say how it went."""
        milestone = step % max(1, self._steps // 10) == 0
        self.on_progress(Progress(self.stage, step, self._steps, f"Step {step:,}: loss {self.loss():.4f}" if milestone else ""))
