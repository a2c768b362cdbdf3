"""Lightning as every training here uses it: the trainer, its checkpoints, its silence, and which process writes.

Boundary: nothing of what is trained. Lightning takes seconds to import, so it is imported where a training starts.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from state_engine.device import Device
from state_engine.errors import ConfigError
from state_engine.files import replacing
from state_engine.train.curves import LOG

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer

CHECKPOINTS, LAST = "checkpoints", "last.ckpt"


def new_trainer(device: Device, devices: int, nodes: int, steps: int, watch: Callback, folder: Path) -> Trainer:
    """Return a trainer for so many optimiser steps; several devices train with DDP."""
    import lightning.pytorch as pl

    return pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device.kind, device.kind),
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        max_steps=steps,
        max_epochs=-1,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )


def save_checkpoint(trainer: Trainer, folder: Path, step: int) -> None:
    """Write checkpoints/step=N.ckpt, and the same as last.ckpt."""
    named = folder / CHECKPOINTS / f"step={step}.ckpt"
    if not trainer.is_global_zero:
        trainer.save_checkpoint(named)  # all take part, the first writes
        return
    with replacing(named) as beside:
        trainer.save_checkpoint(beside)
    with replacing(folder / CHECKPOINTS / LAST) as beside:
        try:
            os.link(named, beside)
        except OSError:  # no links here
            shutil.copyfile(named, beside)


def due(step: int, steps: int, every: int) -> bool:
    """Return whether a step is one of every so many (0: none), or the last one."""
    return step >= steps or bool(every and step % every == 0)


def check_finite(rows: Sequence[Mapping[str, float]]) -> None:
    """Raise a `ConfigError` where a loss is not finite: the training has diverged, and nothing after it is worth computing."""
    lost = next((row for row in rows if not math.isfinite(row["loss"])), None)
    if lost is not None:
        raise ConfigError(
            f"The training diverged: the loss of step {lost['step']:,} is not finite.",
            f"The learning rate was {lost['learning_rate']:g}, the gradient's norm {lost['gradient_norm']:.3g}.",
            f"Train again with a smaller learning rate; {LOG} shows how the loss went.",
        )


def is_first() -> bool:
    """Return whether this is the process that writes; Lightning starts the others with these variables set."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK"))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning: a training reports by callback here, and its own remarks would say again what is known."""
    names = ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            # autocast hands RMSNorm bf16 values and float32 weights: right, only not the fastest kernel
            warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
